//! The node's side of attachments: damaged by hand, repaired by the next ADD or by GC without a daemon.

use std::time::Duration;

use serde_json::json;
use testnet::{Cni, Family, Host, Lan, Network, Node, Pod, eventually};

use super::{MODES, dual_stack, gc};

fn serving(mode: &str, node: &Node, port: u16) -> Network {
    dual_stack(mode, node).masquerade(&["10.244.0.0/16", "fd00:10::/32"]).host_port(port, 80, "tcp")
}

/// A pod whose host port and way out work.
#[track_caller]
fn assert_served(lan: &Lan, pod: &Pod<'_>, port: u16, when: &str) {
    let node = pod.node();
    for (family, address) in [(Family::V4, node.v4()), (Family::V6, node.v6())] {
        let answer = lan.tcp((address, port));
        assert!(answer.is_ok(), "{when}: host port {port} by {family:?}: {answer:?}");
        let out = pod.tcp((lan.outside(family), 8080));
        assert!(out.is_ok_and(|answer| answer.peer == address), "{when}: way out by {family:?}");
    }
}

#[test]
fn next_add_repairs_rules_and_elements_of_all_pods() {
    for mode in MODES {
        let lan = Lan::new();
        let node = lan.node("n1");
        let old = node.pod(&serving(mode, &node, 8081), "old");
        let _servers = (old.serve_tcp(80), lan.serve_tcp(8080));
        assert_served(&lan, &old, 8081, mode);
        node.namespace().command("nft", &["flush", "ruleset"]);
        assert!(lan.tcp((node.v4(), 8081)).is_err(), "{mode}: the damage does nothing");
        let new = node.pod(&serving(mode, &node, 8082), "new");
        assert_served(&lan, &old, 8081, mode);
        let _server = new.serve_tcp(80);
        assert_served(&lan, &new, 8082, mode);
        old.check().result();
        old.delete();
        new.delete();
        assert!(!node.namespace().ruleset().contains(&format!("{mode}/")), "elements are left");
    }
}

#[test]
fn gc_repairs_what_valid_attachments_need() {
    for mode in MODES {
        let lan = Lan::new();
        let node = lan.node("n1");
        let network = serving(mode, &node, 8081);
        let pod = node.pod(&network, "a");
        let _servers = (pod.serve_tcp(80), lan.serve_tcp(8080));
        let repair = |damage: &[&str]| {
            node.namespace().command(damage[0], &damage[1..]);
            assert!(!pod.check().status.success(), "{mode} {damage:?}: CHECK notices nothing");
            gc(&node, &network, Some(&[pod.id()])).result();
            let check = pod.check();
            assert!(check.status.success(), "{mode} {damage:?}: {}", check.stdout);
            assert_served(&lan, &pod, 8081, &format!("{mode} {damage:?}"));
        };
        repair(&["nft", "flush", "ruleset"]);
        repair(&["nft", "flush", "set", "inet", "viaduct-host", "masquerade-4"]);
        repair(&["nft", "flush", "map", "inet", "viaduct-host", "hostports-any-6"]);
        repair(&["nft", "flush", "set", "inet", "viaduct-host", "masquerade-exclude-4"]);
        repair(&["nft", "flush", "chain", "inet", "viaduct-host", "hostports"]);
        repair(&["sysctl", "-qw", "net.ipv4.ip_forward=0"]);
        let link = pod.host_link();
        repair(&["ip", "link", "set", &link, "down"]);
        if mode == "routed" {
            repair(&["ip", "addr", "flush", "dev", &link]);
            repair(&["ip", "route", "flush", "dev", &link]);
            continue;
        }
        repair(&["ip", "link", "set", "viaduct0", "down"]);
        repair(&["ip", "addr", "flush", "dev", "viaduct0"]);
        repair(&["ip", "link", "set", &link, "nomaster"]);
        repair(&["ip", "link", "del", "viaduct0"]);
        repair(&["ip", "link", "set", &link, "type", "bridge_slave", "hairpin", "off"]);
    }
}

#[test]
fn ports_return_to_a_bridge_that_was_deleted() {
    let lan = Lan::new();
    let node = lan.node("n1");
    let network = dual_stack("bridge", &node);
    let (old, other) = (node.pod(&network, "old"), node.pod(&network, "other"));
    node.namespace().ip("link del viaduct0");
    assert!(old.ping(other.v4()).is_err());
    let new = node.pod(&network, "new");
    for address in [other.v4(), other.v6(), new.v4(), new.v6()] {
        // The kernel lets a port forward a moment after it was added.
        eventually(&format!("{address} answers"), Duration::from_secs(5), || old.ping(address));
        node.ping(address).unwrap();
    }
    old.check().result();
}

#[test]
fn a_dead_holder_gives_up_its_host_port() {
    for (mode, first, second) in [
        (
            "bridge",
            json!({"hostPort": 8080, "containerPort": 80}),
            json!({"hostPort": 8080, "containerPort": 80}),
        ),
        (
            "routed",
            json!({"hostPort": 8080, "containerPort": 80}),
            json!({"hostPort": 8080, "containerPort": 80, "hostIP": "192.168.0.1"}),
        ),
        (
            "bridge",
            json!({"hostPort": 8080, "containerPort": 80, "hostIP": "192.168.0.1"}),
            json!({"hostPort": 8080, "containerPort": 80}),
        ),
        (
            "routed",
            json!({"hostPort": 53, "containerPort": 53, "protocol": "udp"}),
            json!({"hostPort": 53, "containerPort": 53, "protocol": "udp"}),
        ),
    ] {
        let lan = Lan::new();
        let node = lan.node("n1");
        let network =
            |mapping: &serde_json::Value| dual_stack(mode, &node).port_mapping(mapping.clone());
        let holder = node.pod(&network(&first), "holder");
        let refused = node.try_pod(&network(&second), "b").err().expect("a conflict").error();
        assert!(refused.0 == 113 && refused.1.contains(holder.id()), "{refused:?}");
        // The runtime has forgotten it: no DEL comes.
        node.namespace().ip(&format!("link del {}", holder.host_link()));
        let heir = node.pod(&network(&second), "b");
        if second.get("protocol").is_some() {
            let _server = heir.serve_udp(53);
            assert_eq!(lan.udp((node.v4(), 53)).unwrap().server, "b", "{mode}");
        } else {
            let _server = heir.serve_tcp(80);
            assert_eq!(lan.tcp((node.v4(), 8080)).unwrap().server, "b", "{mode}");
        }
        // A late DEL of the dead one takes nothing from its heir.
        holder.delete();
        heir.check().result();
    }
}

#[test]
fn nested_pod_subnets_are_masqueraded_as_they_should() {
    let orders = [
        ["10.88.0.0/16", "10.88.7.0/24"],
        ["10.88.7.0/24", "10.88.0.0/16"],
        ["10.88.6.0/23", "10.88.7.0/24"],
    ];
    for same_network in [true, false] {
        for [first, second] in orders {
            let lan = Lan::new();
            let node = lan.node("n1");
            let _outside = lan.serve_tcp(8080);
            let of = |name: &str, subnet: &str, excluded: &[&str]| {
                let bridge = if same_network { "br0".to_owned() } else { format!("br-{name}") };
                Network::bridge(if same_network { "net" } else { name })
                    .set("bridge", bridge)
                    .subnet(subnet)
                    .masquerade(excluded)
            };
            let old = node.pod(&of("w", first, &["172.20.0.0/16"]), "a");
            if same_network {
                old.delete();
            }
            let new = node.pod(&of("x", second, &["172.16.0.0/12"]), "b");
            let out = new.tcp((lan.outside(Family::V4), 8080)).expect("a way out");
            assert_eq!(out.peer, node.v4(), "{first} then {second}");
            new.check().result();
            if !same_network {
                let out = old.tcp((lan.outside(Family::V4), 8080)).expect("a way out");
                assert_eq!(out.peer, node.v4(), "{first} then {second}");
                old.check().result();
                old.delete();
            }
            new.delete();
            node.pod(&of("x", second, &[]), "c").check().result();
        }
    }
}

#[test]
fn a_changed_subnet_moves_the_gateway_of_our_bridge() {
    let lan = Lan::new();
    let node = lan.node("n1");
    let of = |subnet: &str| Network::bridge("net").subnet(subnet);
    let first = node.pod(&of("10.244.1.0/24"), "a");
    // Older pods of the network keep their gateway beside the new one.
    let second = node.pod(&of("10.244.9.0/24"), "b");
    node.ping(first.v4()).unwrap();
    node.ping(second.v4()).unwrap();
    first.ping(second.v4()).expect("pods of both subnets reach each other");
    first.delete();
    let third = node.pod(&of("10.244.9.0/24"), "c");
    second.delete();
    third.delete();
    node.pod(&of("10.244.8.0/25"), "d");
    let shown = node.namespace().ip("addr show dev viaduct0");
    assert!(shown.contains("10.244.8.1/25"), "{shown}");
    assert!(!shown.contains("10.244.1.1") && !shown.contains("10.244.9.1"), "{shown}");
}

#[test]
fn another_networks_gateway_is_not_taken_away() {
    let lan = Lan::new();
    let node = lan.node("n1");
    let pod = node.pod(&Network::bridge("one").subnet("10.1.0.0/24"), "a");
    let refused = node.try_pod(&Network::bridge("two").subnet("10.2.0.0/24"), "b");
    let (code, message) = refused.err().expect("a conflict").error();
    assert!(code == 113 && message.contains("10.1.0.1/24"), "{message}");
    node.ping(pod.v4()).unwrap();
}

#[test]
fn host_ports_leave_addresses_of_others_alone() {
    for mode in MODES {
        let lan = Lan::new();
        let node = lan.node("n1");
        // This kernel may have neither IPVS nor dummies: a bridge of that name stands for the device.
        node.namespace().ip("link add kube-ipvs0 type bridge");
        for (address, device) in [
            ("10.96.0.1/32", "kube-ipvs0"),
            ("fd00:96::1/128", "kube-ipvs0"),
            ("10.97.0.1/32", "lo"),
            ("fd00:97::1/128", "lo"),
        ] {
            let detection = if address.contains(':') { "nodad" } else { "" };
            node.namespace().ip(&format!("addr add {address} dev {device} {detection}"));
        }
        node.namespace().ip("link set kube-ipvs0 up");
        node.namespace().ip("addr add 192.168.0.201/24 dev eth0");
        let ingress = node.pod(&dual_stack(mode, &node).host_port(443, 443, "tcp"), "ingress");
        let client = node.pod(&dual_stack(mode, &node), "client");
        let _server = ingress.serve_tcp(443);
        let own = ["10.96.0.1:443", "[fd00:96::1]:443", "10.97.0.1:443", "[fd00:97::1]:443"];
        let _virtual = own.map(|address| node.serve_tcp(address));
        for address in own {
            assert_eq!(client.tcp(address).unwrap().server, "n1", "{mode}: a pod to {address}");
            assert_eq!(node.tcp(address).unwrap().server, "n1", "{mode}: the node to {address}");
        }
        let gateways = ["10.244.1.1:443", "[fd00:10:1::1]:443"];
        for address in ["192.168.0.1:443", "192.168.0.201:443"].into_iter().chain(gateways) {
            assert_eq!(client.tcp(address).unwrap().server, "ingress", "{mode}: {address}");
            assert_eq!(node.tcp(address).unwrap().server, "ingress", "{mode}: {address}");
        }
        assert_eq!(node.tcp("127.0.0.1:443").unwrap().server, "ingress", "{mode}");
        for address in ["192.168.0.1:443", "192.168.0.201:443"] {
            assert_eq!(lan.tcp(address).unwrap().server, "ingress", "{mode}: outside to {address}");
        }
        // An address that the node gets later answers from outside at once.
        node.namespace().ip("addr add 192.168.0.202/24 dev eth0");
        assert_eq!(lan.tcp("192.168.0.202:443").unwrap().server, "ingress", "{mode}");
    }
}

#[test]
fn a_bridge_is_not_larger_than_its_smallest_port() {
    let lan = Lan::with_mtu(9000);
    let node = lan.node("n1");
    let mtu = |device: &str| {
        node.namespace().ip_json(&format!("link show dev {device}"))[0]["mtu"].as_u64().unwrap()
    };
    node.namespace().ip("link set eth0 mtu 1500");
    let small = node.pod(&dual_stack("bridge", &node), "small");
    node.namespace().ip("link set eth0 mtu 9000");
    let late = node.pod(&dual_stack("bridge", &node), "late");
    assert_eq!(mtu("viaduct0"), 1500);
    for to in [small.v4(), small.v6()] {
        late.ping_size(to, 3000, false).unwrap();
        node.ping_size(to, 3000, false).unwrap();
    }
    // An adopted bridge keeps what its administrator gave it.
    node.namespace().ip("link add br1 type bridge");
    node.namespace().ip("link set br1 mtu 8000");
    let adopting = Network::bridge("adopted").set("bridge", "br1").set("mtu", 1400);
    node.pod(&adopting.subnet("10.5.0.0/24"), "vm");
    assert_eq!(mtu("br1"), 8000);
}

#[test]
fn ipv6_is_switched_on_for_our_devices_only() {
    for mode in MODES {
        let lan = Lan::new();
        let node = lan.node("n1");
        node.namespace().ip("link add other0 type bridge");
        node.namespace().set_sysctl("net/ipv6/conf/other0/disable_ipv6", "1");
        node.namespace().set_sysctl("net/ipv6/conf/default/disable_ipv6", "1");
        let pod = node.pod(&dual_stack(mode, &node), "a");
        pod.ping("fd00:10:1::1".parse().unwrap()).unwrap();
        node.ping(pod.v6()).unwrap();
        assert_eq!(node.namespace().sysctl("net/ipv6/conf/other0/disable_ipv6"), "1");
    }
}

#[test]
fn ipv6_is_left_out_where_the_mtu_is_too_small() {
    for mode in MODES {
        let lan = Lan::new();
        let node = lan.node("n1");
        let pod = node.pod(&dual_stack(mode, &node).set("mtu", 1200), "a");
        assert!(pod.ips().iter().all(|ip| ip.is_ipv4()) && !pod.ips().is_empty());
        node.ping(pod.v4()).unwrap();
        pod.check().result();
        pod.delete();
        assert!(node.leases(mode).is_empty(), "{mode}: {:?}", node.leases(mode));
        let alone = Network::of_mode(mode, "six").subnet("fd00:6::/64").set("mtu", 1200);
        let (code, message) = node.try_pod(&alone, "b").err().expect("a refusal").error();
        assert!(code == 7 && message.contains("1280") && message.contains("1200"), "{message}");
        assert!(node.leases("six").is_empty());
    }
}

#[test]
fn uplinks_that_live_by_advertisements_keep_them() {
    let lan = Lan::new();
    let node = lan.node("n1");
    node.namespace().ip("link add eth1 type veth peer name peer1");
    node.namespace().ip("link add lxbr0 type bridge");
    node.namespace().ip("link add tap9 type veth peer name peer9");
    node.namespace().ip("link set tap9 master lxbr0");
    for device in ["eth0", "eth1", "lxbr0", "tap9"] {
        node.namespace().set_sysctl(&format!("net/ipv6/conf/{device}/accept_ra"), "1");
    }
    let pod = node.pod(&dual_stack("routed", &node), "a");
    let accepts =
        |device: &str| node.namespace().sysctl(&format!("net/ipv6/conf/{device}/accept_ra"));
    assert_eq!(node.namespace().sysctl("net/ipv6/conf/all/forwarding"), "1");
    assert_eq!((accepts("eth0"), accepts("eth1")), ("2".into(), "2".into()));
    assert_eq!((accepts("lxbr0"), accepts("tap9")), ("1".into(), "1".into()), "links of others");
    assert_eq!(accepts(&pod.host_link()), "0");
}

#[test]
fn a_pod_starts_where_sysctls_are_read_only() {
    for mode in MODES {
        let lan = Lan::new();
        let node = lan.node("n1");
        node.namespace().set_sysctl("net/ipv4/ip_forward", "1");
        node.namespace().set_sysctl("net/ipv6/conf/all/forwarding", "1");
        let container = node.container("a");
        let config = serving(mode, &node, 8080).to_json(&node);
        let cni = Cni::new("ADD", &config).container("a", container.path());
        let output = cni.run_read_only(node.namespace());
        assert!(output.status.success(), "{mode}: {}", output.stdout);
        assert!(output.stderr.contains("Read-only file system"), "{mode}: {}", output.stderr);
        container.try_command("ping", &["-c1", "-W2", "10.244.1.1"]).unwrap();
        container.try_command("ping", &["-c1", "-W2", "fd00:10:1::1"]).unwrap();
    }
}

#[test]
fn a_dropping_policy_of_iptables_is_excepted_at_add() {
    for variant in ["nft", "legacy"] {
        let lan = Lan::new();
        let node = lan.node("n1");
        let lock = format!("XTABLES_LOCKFILE={}", node.namespace().xtables_lock().display());
        for family in ["iptables", "ip6tables"] {
            let program = format!("{family}-{variant}");
            node.namespace().command("env", &[&lock, &program, "-P", "FORWARD", "DROP"]);
        }
        let pod = node.pod(&serving("bridge", &node, 8081), "a");
        let _servers = (pod.serve_tcp(80), lan.serve_tcp(8080));
        assert_served(&lan, &pod, 8081, variant);
    }
}

#[test]
fn a_plain_network_needs_no_netfilter() {
    for mode in MODES {
        let lan = Lan::new();
        let node = lan.node("n1");
        let network = dual_stack(mode, &node);
        let config = network.to_json(&node);
        let container = node.container("a");
        let cni = |verb: &str| {
            let cni = Cni::new(verb, &config).container("a", container.path());
            cni.run_without_netfilter(node.namespace())
        };
        cni("ADD").result();
        container.try_command("ping", &["-c1", "-W2", "10.244.1.1"]).unwrap();
        let mut list = config.clone();
        list["cni.dev/valid-attachments"] = json!([{"containerID": "a", "ifname": "eth0"}]);
        Cni::new("GC", &list).run_without_netfilter(node.namespace()).result();
        assert_eq!(node.leases(mode).len(), 2, "{mode}");
        cni("DEL").result();
        assert!(node.leases(mode).is_empty() && container.links().is_empty(), "{mode}");
        let needing = network.masquerade(&[]).to_json(&node);
        let add = Cni::new("ADD", &needing).container("b", container.path());
        let (code, message) = add.run_without_netfilter(node.namespace()).error();
        assert!(code == 114 && message.contains("nftables"), "{mode}: {message}");
        assert!(node.leases(mode).is_empty(), "{mode}");
    }
}

#[test]
fn a_routed_pod_answers_at_once_where_detection_is_forced() {
    let lan = Lan::new();
    let node = lan.node("n1");
    node.namespace().set_sysctl("net/ipv6/conf/all/accept_dad", "2");
    let pod = node.pod(&dual_stack("routed", &node), "a");
    node.ping(pod.v6()).unwrap();
}

#[test]
fn gc_repairs_port_settings_limits_and_the_mac_check() {
    let lan = Lan::new();
    let node = lan.node("n1");
    let limits = json!({"ingressRate": 8_000_000, "ingressBurst": 800_000,
        "egressRate": 8_000_000, "egressBurst": 800_000});
    let network = dual_stack("bridge", &node)
        .set("macspoofchk", true)
        .set("portIsolation", true)
        .runtime("bandwidth", limits);
    let pod = node.pod(&network, "a");
    let link = pod.host_link();
    let shaper =
        node.namespace().links().into_iter().find(|name| name.starts_with("vd") && *name != link);
    let shaper = shaper.expect("a device that limits what the pod sends");
    for damage in [
        "nft delete table bridge viaduct-host".to_owned(),
        "nft flush set bridge viaduct-host mac-allowed".to_owned(),
        format!("ip link set {link} type bridge_slave isolated off"),
        format!("tc qdisc del dev {link} root"),
        format!("tc qdisc del dev {link} ingress"),
        format!("ip link del {shaper}"),
        format!("tc qdisc del dev {shaper} root"),
    ] {
        let words: Vec<&str> = damage.split(' ').collect();
        node.namespace().command(words[0], &words[1..]);
        assert!(!pod.check().status.success(), "{damage}: CHECK notices nothing");
        gc(&node, &network, Some(&[pod.id()])).result();
        let check = pod.check();
        assert!(check.status.success(), "{damage}: {}", check.stdout);
        pod.ping("10.244.1.1".parse().unwrap()).unwrap_or_else(|error| panic!("{damage}: {error}"));
    }
    pod.delete();
    assert!(!node.namespace().links().iter().any(|name| name.starts_with("vd")));
}

#[test]
fn gc_repairs_a_chained_attachment() {
    if testnet::programs::installed_plugin("ptp").is_none() {
        return testnet::skip(
            "the plugin `ptp` is not installed (package containernetworking-plugins)",
        );
    }
    let lan = Lan::new();
    let node = lan.node("n1");
    let container = node.container("a");
    let call = |verb: &str, config: &serde_json::Value| {
        Cni::new(verb, config).container("a", container.path()).run(node.namespace())
    };
    let ptp = json!({"cniVersion": "1.0.0", "name": "net", "type": "ptp", "ipam": {
        "type": "host-local", "dataDir": node.data_dir(), "subnet": "10.7.0.0/24",
        "routes": [{"dst": "0.0.0.0/0"}]}});
    let previous = call("ADD", &ptp).result();
    let mut ours = json!({"cniVersion": "1.1.0", "name": "net", "type": "viaduct", "ipMasq": true,
        "runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 80}]}});
    ours["prevResult"] = previous;
    call("ADD", &ours).result();
    node.namespace().command("nft", &["flush", "ruleset"]);
    assert!(!call("CHECK", &ours).status.success());
    let mut list = ours.clone();
    list["cni.dev/valid-attachments"] = json!([{"containerID": "a", "ifname": "eth0"}]);
    call("GC", &list).result();
    call("CHECK", &ours).result();
    // Another pod does not get its port while it lives, and gets it when its link is gone.
    let rival = dual_stack("bridge", &node).host_port(8080, 80, "tcp");
    assert_eq!(node.try_pod(&rival, "b").err().expect("a conflict").error().0, 113);
    container.ip("link del eth0");
    node.pod(&rival, "c").check().result();
}
