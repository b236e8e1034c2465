//! Host ports: every way in, and what must not be possible.

use std::net::IpAddr;
use std::time::Duration;

use serde_json::json;
use testnet::{Family, Host, Lan, Node, eventually};

use super::{MODES, dual_stack};

fn loopback() -> IpAddr {
    "127.0.0.1".parse().unwrap()
}

#[test]
fn a_host_port_answers_from_everywhere() {
    // A bridge with br_netfilter translates by itself, without it the node does.
    for (mode, bridge_netfilter) in [("bridge", "1"), ("bridge", "0"), ("routed", "0")] {
        let lan = Lan::new();
        let [n1, n2] = lan.nodes(["n1", "n2"]);
        for family in ["iptables", "ip6tables"] {
            n1.namespace()
                .set_sysctl(&format!("net/bridge/bridge-nf-call-{family}"), bridge_netfilter);
        }
        let network = dual_stack(mode, &n1).masquerade(&["10.244.0.0/16", "fd00:10::/32"]);
        let server = n1
            .pod(&network.clone().host_port(8080, 80, "TCP").host_port(5353, 53, "udp"), "server");
        let client = n1.pod(&network, "client");
        let (_tcp, _udp) = (server.serve_tcp(80), server.serve_udp(53));
        // From another node and from outside, with the source as it was.
        for (to, from) in [(n1.v4(), n2.v4()), (n1.v6(), n2.v6())] {
            assert_eq!(n2.tcp((to, 8080)).unwrap().peer, from, "{mode}");
            assert_eq!(n2.udp((to, 5353)).unwrap().peer, from, "{mode}");
            assert_eq!(lan.tcp((to, 8080)).unwrap().server, "server", "{mode}");
        }
        // From the node itself, by its address and by its loopback.
        for to in [n1.v4(), n1.v6(), loopback()] {
            assert_eq!(
                n1.tcp((to, 8080)).unwrap_or_else(|e| panic!("{mode} {to}: {e}")).server,
                "server"
            );
            assert_eq!(
                n1.udp((to, 5353)).unwrap_or_else(|e| panic!("{mode} {to}: {e}")).server,
                "server"
            );
        }
        // From another pod, and from the pod itself.
        for to in [n1.v4(), n1.v6(), "10.244.1.1".parse().unwrap()] {
            assert_eq!(
                client.tcp((to, 8080)).unwrap_or_else(|e| panic!("{mode} {to}: {e}")).server,
                "server"
            );
            assert_eq!(
                server.tcp((to, 8080)).unwrap_or_else(|e| panic!("{mode} {to}: {e}")).server,
                "server"
            );
            assert_eq!(
                client.udp((to, 5353)).unwrap_or_else(|e| panic!("{mode} {to}: {e}")).server,
                "server"
            );
        }
        server.check().result();
        server.delete();
        assert!(n2.tcp((n1.v4(), 8080)).is_err(), "{mode}: the port is closed after DEL");
        client.delete();
    }
}

#[test]
fn pods_do_not_reach_the_nodes_loopback() {
    for mode in MODES {
        let lan = Lan::new();
        let node = lan.node("n1");
        let pod = node.pod(&dual_stack(mode, &node).host_port(8080, 80, "tcp"), "a");
        let device = if mode == "bridge" { "viaduct0".to_owned() } else { pod.host_link() };
        assert_eq!(node.namespace().sysctl(&format!("net/ipv4/conf/{device}/route_localnet")), "1");
        assert_eq!(node.namespace().sysctl("net/ipv4/conf/all/route_localnet"), "0");
        assert_eq!(node.namespace().sysctl("net/ipv4/conf/eth0/route_localnet"), "0");
        let server = node.serve_udp(9999);
        // A pod that sends to 127.0.0.1 by the gateway, with its own address.
        pod.namespace().set_sysctl("net/ipv4/conf/all/route_localnet", "1");
        pod.namespace().ip("route del local 127.0.0.0/8 dev lo table local");
        pod.namespace().ip("route del local 127.0.0.1 dev lo table local");
        pod.namespace()
            .ip(&format!("route add 127.0.0.1 via 10.244.1.1 dev eth0 src {}", pod.v4()));
        let _ = pod.udp((loopback(), 9999));
        assert_eq!(server.answered(), 0, "{mode}: a pod reached the node's loopback");
        assert_eq!(pod.udp(("10.244.1.1".parse::<IpAddr>().unwrap(), 9999)).unwrap().server, "n1");
        pod.delete();
    }
}

#[test]
fn the_nodes_ipv6_loopback_stays_its_own() {
    let lan = Lan::new();
    let node = lan.node("n1");
    let pod = node.pod(&dual_stack("bridge", &node).host_port(8080, 80, "tcp"), "a");
    let (_pod, _node) = (pod.serve_tcp(80), node.serve_tcp(8080));
    let loopback_v6: IpAddr = "::1".parse().unwrap();
    assert_eq!(node.tcp((loopback_v6, 8080)).unwrap().server, "n1");
    assert_eq!(node.tcp((node.v6(), 8080)).unwrap().server, "a");
    assert_eq!(node.tcp((loopback(), 8080)).unwrap().server, "a");
}

#[test]
fn a_host_port_of_one_address_answers_there_only() {
    let lan = Lan::new();
    let node = lan.node("n1");
    node.namespace().ip("addr add 192.168.0.100/24 dev eth0");
    let network = dual_stack("bridge", &node)
        .port_mapping(json!({"hostPort": 8080, "containerPort": 80, "hostIP": "192.168.0.100"}))
        .port_mapping(json!({"hostPort": 8081, "containerPort": 80, "hostIP": node.v6()}))
        .port_mapping(json!({"hostPort": 8082, "containerPort": 80, "hostIP": "0.0.0.0"}))
        .port_mapping(json!({"hostPort": 8083, "containerPort": 80, "hostIP": "::"}))
        .port_mapping(json!({"hostPort": 8084, "containerPort": 80, "hostIP": "127.0.0.1"}));
    let pod = node.pod(&network, "a");
    let _server = pod.serve_tcp(80);
    let second: IpAddr = "192.168.0.100".parse().unwrap();
    for (to, port, open) in [
        (second, 8080, true),
        (node.v4(), 8080, false),
        (node.v6(), 8080, false),
        (node.v6(), 8081, true),
        (node.v4(), 8081, false),
        (node.v4(), 8082, true),
        (second, 8082, true),
        (node.v6(), 8082, false),
        (node.v6(), 8083, true),
        (node.v4(), 8083, false),
        (node.v4(), 8084, false),
    ] {
        assert_eq!(lan.tcp((to, port)).is_ok(), open, "{to} port {port}");
    }
    assert!(node.tcp((loopback(), 8084)).is_ok());
    pod.check().result();
}

#[test]
fn a_port_that_is_held_is_refused_with_its_holder() {
    let lan = Lan::new();
    let node = lan.node("n1");
    let plain = dual_stack("bridge", &node);
    let any = plain.clone().host_port(8080, 80, "tcp");
    let one = |ip: IpAddr| {
        plain.clone().port_mapping(json!({"hostPort": 8080, "containerPort": 80, "hostIP": ip}))
    };
    let refused = |network: &testnet::Network, holder: &str| {
        let output = node.try_pod(network, "second").err().expect("the port is held");
        let (code, message) = output.error();
        assert_eq!(code, 113, "{message}");
        assert!(message.contains("8080/tcp") && message.contains(holder), "{message}");
        assert_eq!(node.leases("bridge").len(), 2, "the refused pod left a lease");
    };
    let first = node.pod(&any, "first");
    refused(&any, first.id());
    refused(&one(node.v4()), first.id());
    first.check().result();
    first.delete();
    let first = node.pod(&one(node.v4()), "first");
    refused(&any, first.id());
    refused(&one(node.v4()), first.id());
    let other = node.pod(&one("127.0.0.1".parse().unwrap()), "other");
    other.delete();
    first.delete();
    node.pod(&any, "third").delete();
    // Another protocol is another port.
    let tcp = node.pod(&any, "tcp");
    let udp = node.pod(&plain.host_port(8080, 80, "udp"), "udp");
    tcp.check().result();
    udp.check().result();
}

/// A client that never pauses keeps its conntrack entry; the flow must follow the port all the same.
fn udp_follows(lan: &Lan, node: &Node, family: Family) {
    let to = if family == Family::V4 { node.v4() } else { node.v6() };
    let network = dual_stack("bridge", node).host_port(5353, 53, "udp");
    let mut flow = lan.udp_flow((to, 5353), 40_000).unwrap();
    // Before there is any pod: the node itself answers that nobody is there, and conntrack remembers.
    let _ = flow.send("too early");
    for name in ["first", "second"] {
        let pod = node.pod(&network, name);
        let _server = pod.serve_udp(53);
        let answer = eventually("the flow reaches the new pod", Duration::from_secs(3), || {
            flow.ask("hello").ok().filter(|answer| answer.server == name)
        });
        assert_eq!(answer.server, name);
        pod.delete();
        let _ = flow.send("between the pods");
    }
}

#[test]
fn a_udp_flow_follows_the_port_to_the_next_pod() {
    for family in [Family::V4, Family::V6] {
        let lan = Lan::new();
        let node = lan.node("n1");
        // Conntrack is only at work once somebody translates.
        let _keeper = node.pod(&dual_stack("bridge", &node).host_port(1, 1, "tcp"), "keeper");
        udp_follows(&lan, &node, family);
    }
}

#[test]
fn many_ports_of_one_pod_are_one_transaction() {
    let lan = Lan::new();
    let node = lan.node("n1");
    let network =
        (0..300).fold(dual_stack("bridge", &node), |n, port| n.host_port(20_000 + port, 80, "tcp"));
    let pod = node.pod(&network, "a");
    let _server = pod.serve_tcp(80);
    for port in [20_000, 20_150, 20_299] {
        assert_eq!(lan.tcp((node.v4(), port)).unwrap().server, "a");
    }
    pod.delete();
    assert!(!node.namespace().ruleset().contains("bridge/"), "elements are left");
}
