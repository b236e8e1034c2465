//! Pods on one node.

use testnet::{Host, Lan, Network};

#[test]
fn pods_of_a_node_reach_each_other() {
    let lan = Lan::new();
    let node = lan.node("n1");
    for mode in ["bridge", "routed"] {
        let network = Network::of_mode(mode, mode).subnet("10.244.1.0/24").subnet("fd00:10:1::/64");
        let (a, b) = (node.pod(&network, "a"), node.pod(&network, "b"));
        let (_tcp, _udp) = (b.serve_tcp(8080), b.serve_udp(8080));
        for (from, to) in [(a.v4(), b.v4()), (a.v6(), b.v6())] {
            a.ping(to).unwrap_or_else(|e| panic!("{mode}: ping {to}: {e}"));
            assert_eq!(a.tcp((to, 8080)).unwrap().peer, from, "{mode}");
            assert_eq!(a.udp((to, 8080)).unwrap().peer, from, "{mode}");
        }
        a.delete();
        b.delete();
    }
}
