//! What is wrong with the nodes' list, their devices or their settings, and what the overlay makes of it.

use serde_json::{Value, json};
use testnet::{Cni, CniOutput, Family, Host, Lan, Network, Node, NodeRecord, Pod};

use super::dual_stack;

/// ADD of a new container, whatever comes of it.
fn add(node: &Node, network: &Network, id: &str) -> CniOutput {
    let container = node.container(id);
    Cni::new("ADD", &network.to_json(node)).container(id, container.path()).run(node.namespace())
}

fn record(value: Value) -> NodeRecord {
    NodeRecord(value)
}

fn tunnels(node: &Node) -> Vec<String> {
    let links = node.namespace().links().into_iter();
    links.filter(|link| link.starts_with("vdvxlan")).collect()
}

fn assert_reach(a: &Pod<'_>, b: &Pod<'_>, what: &str) {
    for (from, to) in [(a, b), (b, a)] {
        from.ping(to.v4()).unwrap_or_else(|error| panic!("{what}: IPv4: {error}"));
        from.ping(to.v6()).unwrap_or_else(|error| panic!("{what}: IPv6: {error}"));
    }
}

#[test]
fn a_node_left_out_is_reported_at_every_add() {
    let lan = Lan::new();
    let node = lan.node("n1");
    let far = json!({"name": "far", "address": "10.9.9.9", "podCIDRs": ["10.244.88.0/24"]});
    let network = dual_stack("bridge", &node).host_gw(&node, &[node.record(), record(far)]);
    for id in ["first", "second"] {
        let output = add(&node, &network, id);
        assert!(output.status.success(), "{}", output.stdout);
        let said = output.stderr.matches("\"far\" is left out").count();
        assert_eq!(said, 1, "{id}: {}", output.stderr);
    }
}

#[test]
fn lists_in_any_order_agree_on_the_underlay() {
    // Whether each node names its IPv6 address first, and the family that follows: IPv4, if they differ.
    let cases = [
        ([false, true, false], Family::V4),
        ([true, false, false], Family::V4),
        ([false, true, true], Family::V4),
        ([true, true, true], Family::V6),
    ];
    for (ipv6_first, family) in cases {
        let lan = Lan::new();
        let nodes = lan.nodes(["n1", "n2", "n3"]);
        let records = nodes.iter().zip(ipv6_first);
        let list: Vec<NodeRecord> = records
            .map(|(node, ipv6)| if ipv6 { node.record_v6() } else { node.record() })
            .collect();
        let [a, b, c] = [0, 1, 2].map(|at| {
            let node = &nodes[at];
            node.pod(&dual_stack("bridge", node).vxlan(node, &list), "pod")
        });
        for (from, to) in [(&a, &b), (&b, &c), (&a, &c)] {
            assert_reach(from, to, &format!("{ipv6_first:?}"));
        }
        let device = nodes[0].namespace().ip("-d link show vdvxlan1");
        let (local, other) = match family {
            Family::V4 => (nodes[0].v4(), nodes[0].v6()),
            Family::V6 => (nodes[0].v6(), nodes[0].v4()),
        };
        assert!(device.contains(&format!("local {local} ")), "{ipv6_first:?}: {device}");
        assert!(!device.contains(&other.to_string()), "{ipv6_first:?}: {device}");
    }
}

#[test]
fn an_overlay_that_ends_leaves_neither_routes_nor_tunnel() {
    for (backend, more) in
        [("vxlan", json!({})), ("vxlan", json!({"directRouting": true})), ("host-gw", json!({}))]
    {
        for removed in [true, false] {
            let lan = Lan::new();
            let [n1, n2] = lan.nodes(["n1", "n2"]);
            let list = [n1.record(), n2.record()];
            let before = |node: &Node| {
                dual_stack("bridge", node).overlay(node, backend, &list, more.clone())
            };
            let pods = [&n1, &n2].map(|node| node.pod(&before(node), "a"));
            assert_reach(&pods[0], &pods[1], backend);
            // The routes of a cloud, which serve as soon as nothing beats them.
            for (node, other) in [(&n1, &n2), (&n2, &n1)] {
                let (cidr, via) = (other.pod_cidr(), other.v4());
                node.namespace().ip(&format!("route add {cidr} via {via} metric 100"));
            }
            let [a, b] = [&n1, &n2].map(|node| {
                let network = dual_stack("bridge", node);
                let network = match removed {
                    true => network,
                    false => network.set("overlay", json!({"type": "none"})),
                };
                node.pod(&network, "b")
            });
            assert_eq!(tunnels(&n1), [] as [String; 0], "{backend} {more}");
            let left = n1.namespace().ip("route show proto 86")
                + &n1.namespace().ip("-6 route show proto 86");
            assert_eq!(left, "", "{backend} {more}");
            a.ping(b.v4()).unwrap_or_else(|error| panic!("{backend} {more}: {error}"));
        }
    }
}

#[test]
fn a_network_without_overlay_spares_that_of_another() {
    for backend in ["vxlan", "host-gw"] {
        let lan = Lan::new();
        let [n1, n2] = lan.nodes(["n1", "n2"]);
        let list = [n1.record(), n2.record()];
        let with =
            |node: &Node| dual_stack("bridge", node).overlay(node, backend, &list, json!({}));
        let pods = [&n1, &n2].map(|node| node.pod(&with(node), "a"));
        let plain = Network::bridge("plain").set("bridge", "plain0").subnet("10.99.0.0/24");
        n1.pod(&plain, "b");
        n1.pod(&plain.set("overlay", json!({"type": "none"})), "c");
        assert_reach(&pods[0], &pods[1], backend);
        pods[0].check().result();
    }
}

#[test]
fn a_former_tunnel_goes_though_no_peer_is_left() {
    let lan = Lan::new();
    let node = lan.node("n1");
    let list = [node.record()];
    let network = |more: Value| dual_stack("bridge", &node).overlay(&node, "vxlan", &list, more);
    let _first = node.pod(&network(json!({})), "a");
    assert_eq!(tunnels(&node), ["vdvxlan1"]);
    // A failed attempt does not make it forgotten.
    node.namespace().ip("link add rival type vxlan id 7 dstport 8472 dev eth0 nolearning");
    add(&node, &network(json!({"vni": 7})), "refused").error();
    node.namespace().ip("link del rival");
    node.pod(&network(json!({"vni": 7})), "b");
    assert_eq!(tunnels(&node), ["vdvxlan7"], "another VNI");
    // The tunnel of another network has neither this node's addresses nor a route of the plan.
    node.namespace().ip("link add vdvxlan9 type vxlan id 9 dstport 8472 dev eth0 nolearning");
    node.pod(&dual_stack("bridge", &node).host_gw(&node, &list), "c").check().result();
    assert_eq!(tunnels(&node), ["vdvxlan9"], "host-gw");
}

#[test]
fn a_rival_tunnel_is_named_and_nothing_stays() {
    let rivals = [
        ("flannel.1", "id 1 dstport 8472 dev eth0 local 192.168.0.1 nolearning", "VNI 1"),
        ("cilium_vxlan", "external dstport 8472", "8472"),
    ];
    for (name, settings, words) in rivals {
        let lan = Lan::new();
        let [n1, n2] = lan.nodes(["n1", "n2"]);
        n1.namespace().ip(&format!("link add {name} type vxlan {settings}"));
        n1.namespace().ip(&format!("link set {name} up"));
        let list = [n1.record(), n2.record()];
        let network = |more: Value| dual_stack("bridge", &n1).overlay(&n1, "vxlan", &list, more);
        let (code, message) = add(&n1, &network(json!({})), "a").error();
        assert_eq!(code, 113, "{message}");
        for word in [name, words, "8472", "vni", "port"] {
            assert!(message.contains(word), "{word}: {message}");
        }
        assert_eq!(tunnels(&n1), [] as [String; 0], "{name}");
        // What the message advises helps.
        n1.pod(&network(json!({"vni": 7, "port": 4790})), "b");
        n1.namespace().ip(&format!("link del {name}"));
        n1.pod(&network(json!({})), "c");
    }
}

#[test]
fn a_port_in_use_is_named_and_nothing_stays() {
    for made_before in [false, true] {
        let lan = Lan::new();
        let node = lan.node("n1");
        let network = dual_stack("bridge", &node).vxlan(&node, &[node.record()]);
        if made_before {
            node.pod(&network, "before");
            node.namespace().ip("link set vdvxlan1 down");
        }
        let _socket = node.serve_udp(8472);
        let (code, message) = add(&node, &network, "a").error();
        assert!(code == 113 && message.contains("port 8472"), "{code} {message}");
        assert_eq!(tunnels(&node), [] as [String; 0], "{made_before}");
    }
}

#[test]
fn an_uplink_too_narrow_for_ipv6_serves_ipv4() {
    for mtu in [1280, 1320] {
        let lan = Lan::with_mtu(mtu);
        let [n1, n2] = lan.nodes(["n1", "n2"]);
        let list = [n1.record(), n2.record()];
        let network =
            |node: &Node| Network::bridge("v4").subnet(&node.pod_cidr()).vxlan(node, &list);
        let [a, b] = [&n1, &n2].map(|node| node.pod(&network(node), "pod"));
        a.ping(b.v4()).unwrap_or_else(|error| panic!("{mtu}: {error}"));
        assert!(a.fits(b.v4(), mtu as usize - 50), "{mtu}");
        let stderr = add(&n1, &network(&n1), "again").stderr;
        for word in ["eth0", &mtu.to_string(), &(mtu - 50).to_string(), "50 for", "1280"] {
            assert!(stderr.contains(word), "{word}: {stderr}");
        }
        assert_eq!(n1.namespace().ip("-6 route show proto 86"), "", "{mtu}");
        a.check().result();
    }
    let lan = Lan::with_mtu(1330);
    let node = lan.node("n1");
    let network = dual_stack("bridge", &node).vxlan(&node, &[node.record()]);
    let output = add(&node, &network, "enough");
    assert!(output.status.success() && output.stderr.is_empty(), "{}", output.stderr);
}

#[test]
fn the_tunnel_has_ipv6_where_the_default_is_off() {
    let lan = Lan::new();
    let [n1, n2] = lan.nodes(["n1", "n2"]);
    n1.namespace().set_sysctl("net/ipv6/conf/default/disable_ipv6", "1");
    let list = [n1.record(), n2.record()];
    let network = Network::bridge("v4").subnet(&n1.pod_cidr()).vxlan(&n1, &list);
    n1.pod(&network, "pod").check().result();
    let b = n2.pod(&dual_stack("bridge", &n2).vxlan(&n2, &list), "pod");
    n1.ping(b.v6()).unwrap();
    assert_eq!(n1.namespace().sysctl("net/ipv6/conf/vdvxlan1/disable_ipv6"), "0");
}

#[test]
fn a_read_only_proc_sys_costs_the_tunnel_a_warning() {
    let lan = Lan::new();
    let [n1, n2] = lan.nodes(["n1", "n2"]);
    let network = dual_stack("bridge", &n1).vxlan(&n1, &[n1.record(), n2.record()]);
    let container = n1.container("pod");
    let configuration = n1.folder().join("net.json");
    std::fs::write(&configuration, network.to_json(&n1).to_string()).unwrap();
    let plugin = testnet::programs::plugin("viaduct");
    let script = format!(
        "mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys && \
         CNI_COMMAND=ADD CNI_CONTAINERID=pod CNI_NETNS={} CNI_IFNAME=eth0 CNI_PATH=/nowhere {} < {} 2>&1; true",
        container.path().display(),
        plugin.display(),
        configuration.display()
    );
    let output = n1.namespace().command("unshare", &["-m", "sh", "-c", &script]);
    let warning = "conf/vdvxlan1/accept_ra: Read-only file system (os error 30); the network works";
    assert!(output.contains(warning), "{output}");
    let device = n1.namespace().ip("link show vdvxlan1");
    assert!(device.contains(",UP"), "{device}");
    assert!(n1.namespace().ip("route show proto 86").contains(&n2.pod_cidr()), "{output}");
}

#[test]
fn a_named_device_of_one_family_decides_the_underlay() {
    let lan = Lan::new();
    let nodes = lan.nodes(["n1", "n2"]);
    let list = [nodes[0].record(), nodes[1].record()];
    let [a, b] = [0, 1].map(|at| {
        let node = &nodes[at];
        // Its IPv4 address is elsewhere, and stands first in the list all the same.
        node.namespace().ip("-4 addr flush dev eth0");
        node.namespace().ip(&format!("addr add {}/32 dev lo", node.v4()));
        let network = dual_stack("bridge", node);
        node.pod(&network.overlay(node, "vxlan", &list, json!({"device": "eth0"})), "pod")
    });
    assert_reach(&a, &b, "device");
    let device = nodes[0].namespace().ip("-d link show vdvxlan1");
    assert!(device.contains(&format!("local {} ", nodes[0].v6())), "{device}");
}
