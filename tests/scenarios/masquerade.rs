//! Masquerade: pods reach beyond the cluster by the node's address, and only there.

use testnet::{Family, Host, Lan};

use super::{MODES, dual_stack};

#[test]
fn the_outside_sees_the_node_and_the_cluster_sees_the_pod() {
    for mode in MODES {
        let lan = Lan::new();
        let [n1, n2] = lan.nodes(["n1", "n2"]);
        let cluster = ["10.244.0.0/16", "fd00:10::/32", "192.168.0.2/32"];
        let network = dual_stack(mode, &n1).masquerade(&cluster);
        let pod = n1.pod(&network, "a");
        let (_outside, _other) = (lan.serve_tcp(8080), n2.serve_tcp(8080));
        let outside = |family| (lan.outside(family), 8080);
        assert_eq!(pod.tcp(outside(Family::V4)).unwrap().peer, n1.v4(), "{mode}");
        assert_eq!(pod.tcp(outside(Family::V6)).unwrap().peer, n1.v6(), "{mode}");
        pod.ping(lan.outside(Family::V4)).unwrap();
        // Excluded: the other node's IPv4 address. It needs a route back to answer at all.
        n2.namespace().ip(&format!("route add {} via {}", n1.pod_cidr(), n1.v4()));
        assert_eq!(pod.tcp((n2.v4(), 8080)).unwrap().peer, pod.v4(), "{mode}");
        assert_eq!(pod.tcp((n2.v6(), 8080)).unwrap().peer, n1.v6(), "{mode}: not excluded");
        pod.check().result();
        pod.delete();
        assert!(!n1.namespace().ruleset().contains(&format!("{mode}/")), "elements are left");
    }
}

#[test]
fn without_masquerade_the_outside_has_no_way_back() {
    let lan = Lan::new();
    let node = lan.node("n1");
    let pod = node.pod(&dual_stack("bridge", &node), "a");
    assert!(pod.ping(lan.outside(Family::V4)).is_err());
    assert!(pod.ping(lan.outside(Family::V6)).is_err());
    assert!(!node.namespace().ruleset().contains("viaduct"), "no table for nothing");
}

#[test]
fn changed_exclusions_replace_those_of_before() {
    let lan = Lan::new();
    let node = lan.node("n1");
    let network = |exclude: &[&str]| dual_stack("bridge", &node).masquerade(exclude);
    let first = node.pod(&network(&["10.0.0.0/8", "198.51.100.0/24"]), "a");
    assert!(first.ping(lan.outside(Family::V4)).is_err(), "excluded");
    let second = node.pod(&network(&["10.244.0.0/16", "10.244.1.0/24", "10.96.0.0/12"]), "b");
    second.ping(lan.outside(Family::V4)).unwrap();
    first.ping(lan.outside(Family::V4)).expect("exclusions are the network's, not the pod's");
    let rules = node.namespace().ruleset();
    assert!(!rules.contains("10.0.0.0/8"), "{rules}");
    second.check().result();
}

#[test]
fn two_networks_keep_their_own_exclusions() {
    let lan = Lan::new();
    let node = lan.node("n1");
    let outside = ["198.51.100.0/24"];
    let closed = testnet::Network::bridge("closed")
        .set("bridge", "closed0")
        .subnet("10.1.0.0/24")
        .masquerade(&outside);
    let open = testnet::Network::bridge("open")
        .set("bridge", "open0")
        .subnet("10.2.0.0/24")
        .masquerade(&[]);
    let (a, b) = (node.pod(&closed, "a"), node.pod(&open, "b"));
    assert!(a.ping(lan.outside(Family::V4)).is_err());
    b.ping(lan.outside(Family::V4)).unwrap();
    a.delete();
    b.ping(lan.outside(Family::V4)).unwrap();
}

#[test]
fn an_element_of_a_forgotten_owner_does_not_outlive_the_address() {
    let lan = Lan::new();
    let node = lan.node("n1");
    let network = dual_stack("bridge", &node).masquerade(&[]);
    let first = node.pod(&network, "a");
    // The lease is lost, so that the address is given away again, and the old owner's DEL comes late.
    for ip in first.ips() {
        std::fs::remove_file(node.data_dir().join("bridge").join(ip.to_string())).unwrap();
    }
    let again = network.runtime("ips", serde_json::json!([first.v4(), first.v6()]));
    node.namespace().ip(&format!("link del {}", first.host_link()));
    let second = node.pod(&again, "b");
    first.delete();
    second.check().result();
    second.ping(lan.outside(Family::V4)).unwrap();
    assert_eq!(node.leases("bridge").len(), 2);
}

#[test]
fn the_tables_are_listed_as_they_were_meant() {
    let lan = Lan::new();
    let node = lan.node("n1");
    let network =
        dual_stack("bridge", &node).masquerade(&["10.244.0.0/16"]).host_port(8080, 80, "tcp");
    let pod = node.pod(&network, "a");
    let listed = node.namespace().command("nft", &["list", "table", "inet", "viaduct-host"]);
    let tag = format!("comment \"bridge/{}/eth0\"", pod.id());
    for line in [
        format!("{} {tag}", pod.v4()),
        format!("tcp . 8080 {tag} : {} . 80", pod.v4()),
        "10.244.1.0/24 . 10.244.0.0/16 comment \"network bridge\"".to_owned(),
        "elements = { \"viaduct0\" comment \"device viaduct0\" }".to_owned(),
        "fib daddr type local jump hostports".to_owned(),
        "ip saddr @masquerade-4 ip saddr . ip daddr != @masquerade-exclude-4 masquerade fully-random".to_owned(),
    ] {
        assert!(listed.contains(&line), "{line:?} is not in {listed}");
    }
}
