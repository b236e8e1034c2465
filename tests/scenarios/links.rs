//! The link between pod and node, in both modes: packets, MTU, MAC addresses, CHECK.

use std::time::{Duration, Instant};

use serde_json::json;
use testnet::{Host, Lan, Network, skip};

use super::{MODES, dual_stack};

#[test]
fn pods_of_a_node_reach_each_other_and_the_node() {
    let lan = Lan::new();
    let node = lan.node("n1");
    for mode in MODES {
        let network = dual_stack(mode, &node);
        let (a, b) = (node.pod(&network, "a"), node.pod(&network, "b"));
        let (_tcp, _udp) = (b.serve_tcp(8080), b.serve_udp(8080));
        for (from, to) in [(a.v4(), b.v4()), (a.v6(), b.v6())] {
            a.ping(to).unwrap_or_else(|e| panic!("{mode}: ping {to}: {e}"));
            assert_eq!(a.tcp((to, 8080)).unwrap().peer, from, "{mode}");
            assert_eq!(a.udp((to, 8080)).unwrap().peer, from, "{mode}");
            node.ping(to).unwrap();
        }
        a.ping(node.v4()).unwrap();
        a.ping(node.v6()).unwrap();
        a.delete();
        b.delete();
    }
}

#[test]
fn a_pod_is_usable_the_moment_add_returns() {
    let lan = Lan::new();
    let node = lan.node("n1");
    for mode in MODES {
        let network = dual_stack(mode, &node);
        let pod = node.pod(&network, "a");
        for gateway in ["10.244.1.1", "fd00:10:1::1"] {
            let start = Instant::now();
            pod.ping(gateway.parse().unwrap()).unwrap_or_else(|e| panic!("{mode} {gateway}: {e}"));
            assert!(start.elapsed() < Duration::from_millis(500), "{mode}: lost first packets");
        }
        let addresses = pod.namespace().ip("addr show dev eth0 scope global");
        assert!(!addresses.contains("tentative"), "{addresses}");
        pod.delete();
    }
}

#[test]
fn duplicate_address_detection_waits_when_asked_for() {
    let lan = Lan::new();
    let node = lan.node("n1");
    let network = dual_stack("bridge", &node).set("enabledad", true);
    let first = node.pod(&network, "a");
    first.ping("fd00:10:1::1".parse().unwrap()).unwrap();
    // Somebody who is no pod has the address that comes next.
    let thief = node.container("thief");
    node.namespace().ip(&format!(
        "link add thief master viaduct0 up type veth peer name eth0 netns {}",
        thief.path().display()
    ));
    thief.ip("addr add fd00:10:1::3/64 dev eth0 nodad");
    thief.ip("link set eth0 up");
    std::thread::sleep(Duration::from_millis(100));
    let (code, message) = node.try_pod(&network, "b").err().expect("a conflict").error();
    assert!(code == 113 && message.contains("fd00:10:1::3"), "{message}");
    assert_eq!(node.leases("bridge").len(), 2, "only the first pod's");
}

#[test]
fn the_mtu_is_derived_or_set() {
    let lan = Lan::with_mtu(9000);
    let node = lan.node("n1");
    let mtu = |host: &dyn Fn(&str) -> serde_json::Value, link: &str| {
        host(&format!("link show dev {link}"))[0]["mtu"].as_u64().unwrap()
    };
    for mode in MODES {
        for (network, expected) in [
            (dual_stack(mode, &node), 9000),
            (dual_stack(mode, &node).set("mtu", 1400), 1400),
            (dual_stack(mode, &node).set("overlay", json!({"type": "vxlan"})), 8950),
            (dual_stack(mode, &node).set("overlay", json!({"type": "host-gw"})), 9000),
        ] {
            let pod = node.pod(&network, "a");
            let inside = |a: &str| pod.namespace().ip_json(a);
            let outside = |a: &str| node.namespace().ip_json(a);
            assert_eq!(mtu(&inside, "eth0"), expected, "{mode}");
            assert_eq!(mtu(&outside, &pod.host_link()), expected, "{mode}");
            assert_eq!(pod.result()["interfaces"][0]["mtu"], expected);
            pod.delete();
        }
    }
    // Without any way out there is the usual MTU; with IPv6 alone the outer header is larger.
    node.namespace().ip("route del default");
    let pod = node.pod(&dual_stack("bridge", &node).set("overlay", json!({"type": "vxlan"})), "b");
    assert_eq!(pod.result()["interfaces"][0]["mtu"], 8930);
    pod.delete();
    node.namespace().ip("-6 route del default");
    let pod = node.pod(&dual_stack("bridge", &node), "c");
    assert_eq!(pod.result()["interfaces"][0]["mtu"], 1500);
}

#[test]
fn a_mac_address_is_requested_by_three_channels_in_order() {
    let lan = Lan::new();
    let node = lan.node("n1");
    let by_args = json!({"cni": {"mac": "02:00:00:00:00:02"}});
    for mode in MODES {
        let plain = dual_stack(mode, &node);
        let args = plain.clone().set("args", &by_args);
        let runtime = args.clone().runtime("mac", json!("02:00:00:00:00:01"));
        for (network, environment, expected) in [
            (&runtime, "MAC=02:00:00:00:00:03", "02:00:00:00:00:01"),
            (&args, "MAC=02:00:00:00:00:03", "02:00:00:00:00:02"),
            (&plain, "MAC=02:00:00:00:00:03", "02:00:00:00:00:03"),
            (&plain, "IgnoreUnknown=1", "0a:58:0a:f4:01:"),
        ] {
            let container = node.container("a");
            let config = network.to_json(&node);
            let cni = |verb| testnet::Cni::new(verb, &config).container("a", container.path());
            let add = cni("ADD").env("CNI_ARGS", environment);
            let result = add.run(node.namespace()).result();
            let shown = container.ip_json("link show dev eth0")[0]["address"].clone();
            assert!(shown.as_str().unwrap().starts_with(expected), "{shown} {expected}");
            let interfaces = result["interfaces"].as_array().unwrap();
            assert_eq!(interfaces.last().unwrap()["mac"], shown);
            cni("DEL").run(node.namespace()).result();
        }
    }
}

#[test]
fn a_reused_address_is_reached_at_once() {
    let lan = Lan::new();
    let node = lan.node("n1");
    for mode in MODES {
        let network = dual_stack(mode, &node);
        // The same addresses, each with another partner and another MAC address than before.
        let reuses = [
            network.clone().runtime("ips", json!(["10.244.1.77", "fd00:10:1::77"])),
            network.clone().runtime("ips", json!(["10.244.1.77", "fd00:10:1::78"])),
            network.clone().runtime("ips", json!(["10.244.1.78", "fd00:10:1::77"])),
            network
                .clone()
                .runtime("ips", json!(["10.244.1.77", "fd00:10:1::77"]))
                .runtime("mac", json!("02:00:00:00:00:55")),
            network.clone().runtime("ips", json!(["10.244.1.77", "fd00:10:1::77"])),
        ];
        let other = node.pod(&network, "other");
        for (at, reuse) in reuses.iter().enumerate() {
            let pod = node.pod(reuse, "a");
            for address in [pod.v4(), pod.v6()] {
                let start = Instant::now();
                other.ping(address).unwrap_or_else(|e| panic!("{mode} {at} {address}: {e}"));
                let elapsed = start.elapsed();
                assert!(elapsed < Duration::from_millis(500), "{mode} {address}: {elapsed:?}");
            }
            pod.delete();
        }
        other.delete();
    }
}

#[test]
fn routes_of_the_configuration_reach_the_pod() {
    let lan = Lan::new();
    let node = lan.node("n1");
    for mode in MODES {
        let network = Network::of_mode(mode, mode).set("isDefaultGateway", false).set(
            "ipam",
            json!({"type": "host-local", "dataDir": node.data_dir(), "subnet": "10.244.1.0/24",
                "routes": [{"dst": "10.50.0.0/16"}, {"dst": "10.60.0.0/16", "gw": "10.244.1.1",
                    "mtu": 1300, "priority": 77, "table": 1234}]}),
        );
        let pod = node.pod(&network, "a");
        let routes = pod.namespace().ip("route show table all");
        assert!(routes.contains("10.50.0.0/16 via 10.244.1.1"), "{mode}: {routes}");
        let line = routes.lines().find(|l| l.contains("10.60.0.0/16")).expect("the second route");
        for word in ["table 1234", "metric 77", "mtu 1300"] {
            assert!(line.contains(word), "{line}");
        }
        assert_eq!(pod.result()["routes"][1]["mtu"], 1300);
        pod.check().result();
        pod.namespace().ip("route del 10.50.0.0/16");
        assert!(pod.check().error().1.contains("10.50.0.0/16"));
        pod.delete();
    }
}

#[test]
fn check_notices_every_damage() {
    let lan = Lan::new();
    let node = lan.node("n1");
    for mode in MODES {
        let network = dual_stack(mode, &node).masquerade(&[]).host_port(8080, 80, "tcp");
        let lease = |pod: &testnet::Pod<'_>| node.data_dir().join(mode).join(pod.v4().to_string());
        type Damage = (&'static str, &'static str, &'static str);
        let damages: Vec<Damage> = vec![
            ("pod", "ip link set eth0 down", "down"),
            ("pod", "ip addr flush dev eth0 scope global", "lacks"),
            ("pod", "ip -6 route del default", "route to ::/0"),
            ("pod", "ip link set eth0 address 02:00:00:00:00:77", "MAC"),
            ("node", "ip link set HOST down", "down"),
            ("node", "ip link del HOST", "missing"),
            ("node", "nft flush set inet viaduct-host masquerade-4", "masquerade-4"),
            ("node", "nft flush map inet viaduct-host hostports-any-4", "hostports-any-4"),
            (
                "node",
                "nft flush set inet viaduct-host masquerade-exclude-6",
                "masquerade-exclude-6",
            ),
            ("node", "nft flush chain inet viaduct-host postrouting", "rules"),
            ("node", "nft delete table inet viaduct-host", "rules"),
            ("lease", "", "no address"),
        ];
        for (place, command, words) in damages {
            let pod = node.pod(&network, "a");
            pod.check().result();
            let command = command.replace("HOST", &pod.host_link());
            let mut parts = command.split_whitespace();
            let program = parts.next().unwrap_or_default().to_owned();
            let arguments: Vec<&str> = parts.collect();
            match place {
                "pod" => drop(pod.namespace().command(&program, &arguments)),
                "node" => drop(node.namespace().command(&program, &arguments)),
                _ => std::fs::remove_file(lease(&pod))
                    .and_then(|()| {
                        std::fs::remove_file(node.data_dir().join(mode).join(pod.v6().to_string()))
                    })
                    .unwrap(),
            }
            let (code, message) = pod.check().error();
            assert_eq!(code, 112, "{mode} {command}: {message}");
            assert!(message.contains(words), "{mode} {command}: {message}");
            pod.delete();
        }
    }
}

#[test]
fn add_repairs_the_rules_that_somebody_removed() {
    let lan = Lan::new();
    let node = lan.node("n1");
    let network = dual_stack("bridge", &node).masquerade(&[]);
    let first = node.pod(&network, "a");
    node.namespace().command("nft", &["flush", "chain", "inet", "viaduct-host", "postrouting"]);
    assert!(!first.check().status.success());
    let second = node.pod(&network, "b");
    second.check().result();
    first.check().result();
}

#[test]
fn ipv6_switched_off_by_the_runtime_is_switched_on_for_a_pod_with_an_address() {
    let lan = Lan::new();
    let node = lan.node("n1");
    for mode in MODES {
        let container = node.container("a");
        if container.sysctl("net/ipv6/conf/all/disable_ipv6").is_empty() {
            skip("this kernel has no IPv6");
            return;
        }
        for which in ["all", "default"] {
            container.set_sysctl(&format!("net/ipv6/conf/{which}/disable_ipv6"), "1");
        }
        let pod = node
            .try_attach(&dual_stack(mode, &node), container, "a")
            .unwrap_or_else(|o| panic!("{o:?}"));
        pod.ping("fd00:10:1::1".parse().unwrap()).unwrap();
        pod.delete();
    }
}

#[test]
fn a_pod_has_ipv6_if_it_has_an_address_of_it_and_believes_no_router() {
    let lan = Lan::new();
    let node = lan.node("n1");
    for mode in MODES {
        let v4 = node.pod(&Network::of_mode(mode, mode).subnet(&node.pod_cidr()), "v4");
        assert_eq!(v4.namespace().ip("-6 addr show dev eth0"), "", "{mode}: no link-local address");
        v4.ping("10.244.1.1".parse().unwrap()).unwrap();
        v4.delete();
        let v6 = node.pod(&Network::of_mode(mode, mode).subnet(&node.pod_cidr_v6()), "v6");
        assert_eq!(v6.namespace().sysctl("net/ipv6/conf/eth0/accept_ra"), "0", "{mode}");
        v6.ping("fd00:10:1::1".parse().unwrap()).unwrap();
        v6.delete();
    }
}
