//! Pods on different nodes.

use std::net::IpAddr;

use serde_json::{Value, json};
use testnet::{Cni, Host, Lan, Network, Node, NodeRecord};

use super::{MODES, dual_stack};

fn records(nodes: &[&Node]) -> Vec<NodeRecord> {
    nodes.iter().map(|node| node.record()).collect()
}

/// Every pair of pods, both families, three protocols, and the pod's own address as source.
fn assert_all_reach_all(pods: &[(&str, &testnet::Pod<'_>)]) {
    for (to_name, to) in pods {
        let (_tcp, _udp) = (to.serve_tcp(8080), to.serve_udp(8080));
        for (from_name, from) in pods.iter().filter(|(name, _)| name != to_name) {
            for (source, target) in [(from.v4(), to.v4()), (from.v6(), to.v6())] {
                let what = format!("{from_name} to {to_name} ({target})");
                from.ping(target).unwrap_or_else(|e| panic!("ping {what}: {e}"));
                let tcp = from.tcp((target, 8080)).unwrap_or_else(|e| panic!("TCP {what}: {e}"));
                let udp = from.udp((target, 8080)).unwrap_or_else(|e| panic!("UDP {what}: {e}"));
                assert_eq!((tcp.peer, udp.peer), (source, source), "{what}");
            }
        }
    }
}

#[test]
fn three_nodes_by_every_backend_and_mode() {
    for mode in MODES {
        for backend in ["vxlan", "vxlan-v6", "direct", "host-gw"] {
            let lan = Lan::new();
            let [n1, n2, n3] = lan.nodes(["n1", "n2", "n3"]);
            let all = [&n1, &n2, &n3];
            let list: Vec<NodeRecord> = match backend {
                "vxlan-v6" => all.iter().map(|node| node.record_v6()).collect(),
                _ => records(&all),
            };
            let pods: Vec<_> = all
                .iter()
                .map(|node| {
                    let network =
                        dual_stack(mode, node).masquerade(&["10.244.0.0/16", "fd00:10::/32"]);
                    let network = match backend {
                        "host-gw" => network.host_gw(node, &list),
                        "direct" => {
                            network.overlay(node, "vxlan", &list, json!({"directRouting": true}))
                        }
                        _ => network.vxlan(node, &list),
                    };
                    (node.name(), node.pod(&network, "pod"))
                })
                .collect();
            let pods: Vec<(&str, &testnet::Pod<'_>)> =
                pods.iter().map(|(name, pod)| (*name, pod)).collect();
            assert_all_reach_all(&pods);
            // A node reaches the pods of others too, with an address they can answer.
            n1.ping(pods[1].1.v4()).unwrap_or_else(|e| panic!("{mode} {backend}: {e}"));
            n1.ping(pods[1].1.v6()).unwrap_or_else(|e| panic!("{mode} {backend}: {e}"));
            let mtu = match backend {
                "vxlan" | "direct" => 1450,
                "vxlan-v6" => 1430,
                _ => 1500,
            };
            let (a, b) = (pods[0].1, pods[1].1);
            for target in [b.v4(), b.v6()] {
                assert!(a.fits(target, mtu), "{mode} {backend}: {mtu} bytes to {target}");
                assert!(
                    !a.fits(target, mtu + 1),
                    "{mode} {backend}: {} bytes to {target}",
                    mtu + 1
                );
            }
            a.check().result();
            let tunnels = n1.namespace().links().contains(&"vdvxlan1".to_owned());
            assert_eq!(tunnels, backend != "host-gw", "{backend}");
            let by_tunnel = n1.namespace().ip("route show proto 86").contains("dev vdvxlan1");
            assert_eq!(by_tunnel, backend.starts_with("vxlan"), "{backend}");
        }
    }
}

#[test]
fn a_pod_of_another_node_is_not_masqueraded_and_beyond_the_cluster_is() {
    let lan = Lan::new();
    let [n1, n2] = lan.nodes(["n1", "n2"]);
    let list = records(&[&n1, &n2]);
    let network = |node: &Node| {
        dual_stack("bridge", node).masquerade(&["10.244.0.0/16", "fd00:10::/32"]).vxlan(node, &list)
    };
    let (a, b) = (n1.pod(&network(&n1), "a"), n2.pod(&network(&n2), "b"));
    let (_inside, _outside) = (b.serve_tcp(80), lan.serve_tcp(80));
    assert_eq!(a.tcp((b.v4(), 80)).unwrap().peer, a.v4());
    assert_eq!(a.tcp((lan.outside(testnet::Family::V4), 80)).unwrap().peer, n1.v4());
}

#[test]
fn a_node_that_leaves_takes_its_entries_along_and_strangers_stay() {
    for backend in ["vxlan", "host-gw"] {
        let lan = Lan::new();
        let [n1, n2, n3] = lan.nodes(["n1", "n2", "n3"]);
        let network =
            |list: &[NodeRecord]| dual_stack("bridge", &n1).overlay(&n1, backend, list, json!({}));
        let _before = n1.pod(&network(&records(&[&n1, &n2, &n3])), "a");
        n1.namespace().ip("route add 10.99.0.0/24 via 192.168.0.9");
        n1.namespace().ip("route add 10.98.0.0/24 via 192.168.0.9 proto static");
        let routes = || n1.namespace().ip("route show") + &n1.namespace().ip("-6 route show");
        assert!(routes().contains(&n3.pod_cidr()) && routes().contains(&n3.pod_cidr_v6()));
        let after = n1.pod(&network(&records(&[&n1, &n2])), "b");
        let left = routes();
        assert!(!left.contains(&n3.pod_cidr()) && !left.contains(&n3.pod_cidr_v6()), "{left}");
        assert!(left.contains(&n2.pod_cidr()), "{left}");
        assert!(
            left.contains("10.99.0.0/24") && left.contains("10.98.0.0/24"),
            "strangers: {left}"
        );
        if backend == "vxlan" {
            let entries = n1.namespace().command("bridge", &["fdb", "show", "dev", "vdvxlan1"]);
            assert!(
                !entries.contains(&n3.v4().to_string()) && entries.contains(&n2.v4().to_string())
            );
            let neighbours = n1.namespace().ip("neigh show dev vdvxlan1 nud permanent");
            assert!(!neighbours.contains("10.244.3.0"), "{neighbours}");
        }
        after.check().result();
    }
}

#[test]
fn a_deleted_tunnel_comes_back_with_all_its_peers() {
    let lan = Lan::new();
    let [n1, n2] = lan.nodes(["n1", "n2"]);
    let list = records(&[&n1, &n2]);
    let network = |node: &Node| dual_stack("routed", node).vxlan(node, &list);
    let (a, b) = (n1.pod(&network(&n1), "a"), n2.pod(&network(&n2), "b"));
    a.ping(b.v4()).unwrap();
    n1.namespace().ip("link del vdvxlan1");
    let (code, message) = a.check().error();
    assert!(code == 112 && message.contains("overlay"), "{message}");
    let again = n1.pod(&network(&n1), "again");
    a.check().result();
    a.ping(b.v4()).unwrap();
    again.ping(b.v6()).unwrap();
}

#[test]
fn a_tunnel_of_an_older_configuration_is_mended_or_replaced() {
    let lan = Lan::new();
    let [n1, n2] = lan.nodes(["n1", "n2"]);
    let list = records(&[&n1, &n2]);
    let network =
        |node: &Node, more: Value| dual_stack("bridge", node).overlay(node, "vxlan", &list, more);
    let device = || n1.namespace().ip_json("link show dev vdvxlan1")[0].clone();
    // What an earlier version, or somebody else, may have left: other port, learning, no MAC of ours.
    n1.namespace().ip("link add vdvxlan1 type vxlan id 1 dstport 4789 dev eth0 local 192.168.0.1");
    let before = device()["ifindex"].clone();
    let a = n1.pod(&network(&n1, json!({})), "a");
    let b = n2.pod(&network(&n2, json!({})), "b");
    assert_ne!(device()["ifindex"], before, "a tunnel that learns is made anew");
    assert_eq!(device()["linkinfo"]["info_data"]["port"], 8472);
    a.ping(b.v4()).unwrap();
    // What can be changed is changed in place.
    let before = device()["ifindex"].clone();
    n1.namespace().ip("link set vdvxlan1 mtu 1300");
    n1.namespace().ip("link set vdvxlan1 address 02:00:00:00:00:01");
    n1.namespace().ip("addr add 10.244.77.0/32 dev vdvxlan1");
    assert!(!a.check().status.success());
    let c = n1.pod(&network(&n1, json!({})), "c");
    assert_eq!((&device()["ifindex"], &device()["mtu"]), (&before, &json!(1450)));
    assert!(!n1.namespace().ip("addr show dev vdvxlan1").contains("10.244.77.0"));
    c.ping(b.v4()).unwrap();
    // A change of the VNI leaves no device of before, and host-gw leaves none at all.
    let d = n1.pod(&network(&n1, json!({"vni": 7, "port": 4789})), "d");
    let links = n1.namespace().links();
    assert!(links.contains(&"vdvxlan7".into()) && !links.contains(&"vdvxlan1".into()), "{links:?}");
    d.check().result();
    let e = n1.pod(&dual_stack("bridge", &n1).host_gw(&n1, &list), "e");
    assert!(!n1.namespace().links().iter().any(|link| link.starts_with("vdvxlan")));
    e.check().result();
}

#[test]
fn another_device_with_the_tunnels_name_is_refused_by_kind() {
    let lan = Lan::new();
    let [n1, n2] = lan.nodes(["n1", "n2"]);
    n1.namespace().ip("link add vdvxlan1 type bridge");
    let network = dual_stack("bridge", &n1).vxlan(&n1, &records(&[&n1, &n2]));
    let (code, message) = n1.try_pod(&network, "a").err().expect("a failure").error();
    assert!(code == 113 && message.contains("vdvxlan1") && message.contains("bridge"), "{message}");
}

#[test]
fn checksum_offload_is_left_alone_or_switched_as_asked() {
    let lan = Lan::new();
    let [n1, n2] = lan.nodes(["n1", "n2"]);
    let list = records(&[&n1, &n2]);
    let network =
        |node: &Node, more: Value| dual_stack("bridge", node).overlay(node, "vxlan", &list, more);
    let off = json!({"txChecksumOffload": false});
    let a = n1.pod(&network(&n1, off.clone()), "a");
    let b = n2.pod(&network(&n2, off), "b");
    a.check().result();
    let _server = b.serve_tcp(80);
    assert_eq!(a.tcp((b.v4(), 80)).unwrap().peer, a.v4());
    if testnet::programs::installed("ethtool").is_some() {
        let shown = n1.namespace().command("ethtool", &["-k", "vdvxlan1"]);
        assert!(shown.contains("tx-checksumming: off"), "{shown}");
    }
    // Switched on again behind our back: CHECK sees it.
    let on = network(&n1, json!({"txChecksumOffload": true}));
    n1.pod(&on, "c").check().result();
    assert!(a.check().error().1.contains("overlay"));
}

#[test]
fn one_bad_node_does_not_stop_the_others() {
    let lan = Lan::new();
    let [n1, n2] = lan.nodes(["n1", "n2"]);
    let mut list = records(&[&n1, &n2]);
    list.push(NodeRecord(
        json!({"name": "thief", "address": "192.168.0.77", "podCIDRs": ["10.244.1.0/24"]}),
    ));
    list.insert(
        0,
        NodeRecord(json!({"name": "far", "address": "10.9.9.9", "podCIDRs": ["10.244.88.0/24"]})),
    );
    let network = |node: &Node| dual_stack("bridge", node).host_gw(node, &list);
    let (a, b) = (n1.pod(&network(&n1), "a"), n2.pod(&network(&n2), "b"));
    a.ping(b.v4()).unwrap();
    let again = n1.pod(&dual_stack("bridge", &n1).host_gw(&n1, &list[1..3]), "b");
    again.check().result();
}

#[test]
fn a_thousand_peers() {
    let lan = Lan::new();
    let node = lan.node("n1");
    let peers = |count: u32| -> Vec<NodeRecord> {
        let peer = |n: u32| {
            let (high, low) = (n / 250, n % 250);
            NodeRecord(json!({
                "name": format!("p{n}"),
                "address": format!("172.16.{high}.{}", low + 1),
                "podCIDRs": [format!("10.{}.{low}.0/24", 100 + high), format!("fd00:{high:x}:{low:x}::/64")],
            }))
        };
        std::iter::once(node.record()).chain((0..count).map(peer)).collect()
    };
    let pod = node.pod(&dual_stack("bridge", &node).vxlan(&node, &peers(1000)), "a");
    let lines = |text: String| text.lines().count();
    assert_eq!(lines(node.namespace().ip("route show proto 86")), 1000);
    assert_eq!(lines(node.namespace().ip("-6 route show proto 86")), 1000);
    let entries = || lines(node.namespace().command("bridge", &["fdb", "show", "dev", "vdvxlan1"]));
    assert_eq!(entries(), 1000);
    assert_eq!(lines(node.namespace().ip("neigh show dev vdvxlan1 nud permanent")), 2000);
    pod.check().result();
    let fewer = node.pod(&dual_stack("bridge", &node).vxlan(&node, &peers(999)), "b");
    assert_eq!(entries(), 999);
    fewer.check().result();
}

#[test]
fn an_overlay_without_this_node_or_its_address_is_refused() {
    let lan = Lan::new();
    let [n1, n2] = lan.nodes(["n1", "n2"]);
    let with_device = |device: &str| {
        let more = json!({ "device": device });
        dual_stack("bridge", &n1).overlay(&n1, "vxlan", &records(&[&n1, &n2]), more)
    };
    let refused = |network: &Network, words: &str| {
        let (code, message) = n1.try_pod(network, "a").err().expect("a failure").error();
        assert!(code == 7 && message.contains(words), "{code} {message}");
        assert!(n1.leases("bridge").is_empty());
    };
    refused(&with_device("eth9"), "eth9");
    let elsewhere = NodeRecord(json!({"name": "n1", "address": "192.168.7.7", "podCIDRs": []}));
    refused(&dual_stack("bridge", &n1).vxlan(&n1, &[elsewhere]), "192.168.7.7");
    let pod = n1.pod(&with_device("eth0"), "a");
    let address: IpAddr = "10.244.2.0".parse().unwrap();
    assert!(n1.namespace().ip(&format!("route get {address}")).contains("vdvxlan1"));
    pod.check().result();
}

/// The first of two nodes and an overlay between them, in a network whose uplink has an MTU.
fn two_nodes(lan: &Lan) -> (Node, Node, Network) {
    let [n1, n2] = lan.nodes(["n1", "n2"]);
    let records = [n1.record(), n2.record()];
    let network = dual_stack("bridge", &n1).vxlan(&n1, &records);
    (n1, n2, network)
}

#[test]
fn a_small_uplink_leaves_ipv6_out() {
    for mtu in [1280, 1300, 1320] {
        let lan = Lan::with_mtu(mtu);
        let (n1, n2, network) = two_nodes(&lan);
        let other = dual_stack("bridge", &n2).vxlan(&n2, &[n1.record(), n2.record()]);
        let (a, b) = (n1.pod(&network, "a"), n2.pod(&other, "b"));
        assert!(a.ips().iter().all(|ip| ip.is_ipv4()), "{mtu}");
        a.ping(b.v4()).unwrap_or_else(|error| panic!("{mtu}: {error}"));
        let again = Cni::new("ADD", &network.to_json(&n1));
        let container = n1.container("c");
        let output = again.container("c", container.path()).run(n1.namespace());
        assert!(
            output.stderr.contains("1280") && output.stderr.contains("eth0"),
            "{}",
            output.stderr
        );
    }
}

#[test]
fn a_tunnel_has_ipv6_where_new_devices_have_none() {
    let lan = Lan::new();
    let (n1, n2, network) = two_nodes(&lan);
    let other = dual_stack("bridge", &n2).vxlan(&n2, &[n1.record(), n2.record()]);
    for node in [&n1, &n2] {
        node.namespace().set_sysctl("net/ipv6/conf/default/disable_ipv6", "1");
    }
    let (a, b) = (n1.pod(&network, "a"), n2.pod(&other, "b"));
    a.ping(b.v6()).unwrap();
}
