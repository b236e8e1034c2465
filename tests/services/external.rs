//! Node ports, load balancers, external IPs.

use std::net::IpAddr;

use serde_json::json;
use testnet::{Host, Proxyd};

use super::manifests::{service, slice};
use super::{
    BOTH, World, address, assert_dropped, assert_refused, node_address, serve, spread, vip,
};

#[test]
fn a_node_port_answers_on_the_nodes_own_address_by_the_nodes_address() {
    let world = World::new();
    let (client, server) = (world.pod(0, "client"), world.pod(1, "a"));
    let _server = serve(&server, 8080);
    world.node().namespace().ip("addr add 192.168.0.100/24 dev eth0");
    let proxyd = Proxyd::start(world.node(), &[]);
    for family in BOTH {
        let text = service("web", vip(family, 96, 10)).node_port(80, 30080).text()
            + &slice("web", 8080).ready(address(&server, family), "n2").text();
        proxyd.apply("web.yaml", &(world.objects() + &text));
        let node = node_address(world.node(), family);
        let to = (node, 30080);
        assert_eq!(world.lan.tcp(to).unwrap().peer, node, "masqueraded");
        assert_eq!(world.lan.udp(to).unwrap().peer, node);
        assert_eq!(client.tcp(to).unwrap().server, "a");
        assert_eq!(world.node().tcp(to).unwrap().server, "a");
    }
    let second: IpAddr = "192.168.0.100".parse().unwrap();
    assert!(!world.lan.can_reach((second, 30080)), "not the primary address");
}

#[test]
fn the_addresses_of_node_ports_can_be_chosen() {
    let world = World::new();
    let (_routes, server) = (world.pod(0, "client"), world.pod(1, "a"));
    let _server = serve(&server, 8080);
    world.node().namespace().ip("addr add 192.168.0.100/24 dev eth0");
    let text = service("web", vip(BOTH[0], 96, 10)).node_port(80, 30080).text()
        + &slice("web", 8080).ready(server.v4(), "n2").text();
    let second: IpAddr = "192.168.0.100".parse().unwrap();
    let first = world.node().v4();
    for (setting, on_first, on_second) in [
        ("192.168.0.100/32", false, true),
        ("192.168.0.0/24", true, true),
        ("primary", true, false),
        ("0.0.0.0/0", true, true),
    ] {
        let proxyd = Proxyd::start(world.node(), &["--nodeport-addresses", setting]);
        proxyd.apply("web.yaml", &(world.objects() + &text));
        assert_eq!(world.lan.can_reach((first, 30080)), on_first, "{setting}");
        assert_eq!(world.lan.can_reach((second, 30080)), on_second, "{setting}");
        assert!(!world.node().can_reach("127.0.0.1:30080"), "{setting}");
    }
}

#[test]
fn node_ports_on_loopback_are_relayed_if_asked_for() {
    let world = World::new();
    let (_routes, server) = (world.pod(0, "client"), world.pod(1, "a"));
    let _server = serve(&server, 8080);
    let proxyd = Proxyd::start(world.node(), &["--nodeport-addresses", "localhost,primary"]);
    for (family, loopback) in BOTH.into_iter().zip(["127.0.0.1:30080", "[::1]:30080"]) {
        let text = service("web", vip(family, 96, 10)).node_port(80, 30080).text()
            + &slice("web", 8080).ready(address(&server, family), "n2").text();
        proxyd.apply("web.yaml", &(world.objects() + &text));
        testnet::eventually("the relay listens", testnet::IN_FORCE, || world.node().tcp(loopback));
        assert!(world.lan.can_reach((node_address(world.node(), family), 30080)));
        assert_eq!(
            world.node().udp(loopback).unwrap_err().kind(),
            std::io::ErrorKind::ConnectionRefused
        );
    }
}

#[test]
fn external_policy_local_keeps_the_client_and_stays_on_the_node() {
    let world = World::new();
    let client = world.pod(0, "client");
    let (here, there) = (world.pod(0, "here"), world.pod(1, "there"));
    let _servers = (serve(&here, 8080), serve(&there, 8080));
    let proxyd = Proxyd::start(world.node(), &[]);
    for family in BOTH {
        let (ip, balancer) = (vip(family, 96, 10), vip(family, 113, 1));
        let web = service("web", ip)
            .node_port(80, 30080)
            .load_balancer(json!({"ip": balancer}))
            .set("externalTrafficPolicy", json!("Local"))
            .text();
        let node = node_address(world.node(), family);
        let frontends = [(node, 30080), (balancer, 80)];
        let both = slice("web", 8080)
            .ready(address(&here, family), "n1")
            .ready(address(&there, family), "n2");
        proxyd.apply("web.yaml", &(world.objects() + &web + &both.text()));
        for to in frontends {
            assert_eq!(spread(&world.lan, to, 20, &["here"]), [20]);
            let seen = world.lan.tcp(to).unwrap().peer;
            assert_ne!(seen, node, "the client's own address is seen");
            // Pods and the node itself are not outside: all endpoints are theirs.
            let counts = spread(&client, to, 40, &["here", "there"]);
            assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
            let counts = spread(world.node(), to, 40, &["here", "there"]);
            assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
        }
        let elsewhere = slice("web", 8080).ready(address(&there, family), "n2");
        proxyd.apply("web.yaml", &(world.objects() + &web + &elsewhere.text()));
        for to in frontends {
            assert_dropped(&world.lan, to);
            assert_eq!(client.tcp(to).unwrap().peer, address(&client, family));
            assert_eq!(world.node().tcp(to).unwrap().server, "there");
        }
        proxyd.apply("web.yaml", &(world.objects() + &web));
        for to in frontends {
            assert_refused(&world.lan, to);
            assert_refused(&client, to);
            assert_refused(world.node(), to);
        }
    }
}

#[test]
fn load_balancers_and_external_ips_are_captured_but_not_those_of_mode_proxy() {
    let world = World::new();
    let (client, server) = (world.pod(0, "client"), world.pod(1, "a"));
    let _server = serve(&server, 8080);
    for allowed in [true, false] {
        let setting = format!("--external-ips={allowed}");
        let proxyd = Proxyd::start(world.node(), &[&setting]);
        for family in BOTH {
            let ip = |number| vip(family, 113, number);
            let text = service("web", vip(family, 96, 10))
                .port(80)
                .load_balancer(json!({"ip": ip(1), "ipMode": "VIP"}))
                .load_balancer(json!({"ip": ip(2), "ipMode": "Proxy"}))
                .load_balancer(json!({"hostname": "somewhere"}))
                .set("externalIPs", json!([ip(3)]))
                .text()
                + &slice("web", 8080).ready(address(&server, family), "n2").text();
            proxyd.apply("web.yaml", &(world.objects() + &text));
            let node = node_address(world.node(), family);
            assert_eq!(world.lan.tcp((ip(1), 80)).unwrap().peer, node);
            assert!(client.can_reach((ip(1), 80)) && world.node().can_reach((ip(1), 80)));
            assert!(!client.can_reach((ip(2), 80)), "{family:?}");
            assert_eq!(client.can_reach((ip(3), 80)), allowed, "{family:?}");
        }
    }
}

#[test]
fn source_ranges_let_in_only_whom_they_name() {
    let world = World::new();
    let (client, server) = (world.pod(0, "client"), world.pod(0, "a"));
    let _server = serve(&server, 8080);
    let proxyd = Proxyd::start(world.node(), &[]);
    for family in BOTH {
        let balancer = vip(family, 113, 1);
        let node = node_address(world.node(), family);
        let bits = if node.is_ipv4() { 32 } else { 128 };
        let (pod_range, other) = match node {
            IpAddr::V4(_) => ("10.244.0.0/16", "fd00::/8"),
            IpAddr::V6(_) => ("fd00:10::/32", "10.0.0.0/8"),
        };
        let inner = format!("{}/{bits}", address(&client, family));
        let check = |ranges: &[&str], pod: bool, outside: bool, own: bool| {
            let text = service("web", vip(family, 96, 10))
                .node_port(80, 30080)
                .load_balancer(json!({"ip": balancer}))
                .set("loadBalancerSourceRanges", json!(ranges))
                .text()
                + &slice("web", 8080).ready(address(&server, family), "n1").text();
            proxyd.apply("web.yaml", &(world.objects() + &text));
            let short = std::time::Duration::from_millis(600);
            let to = (balancer, 80);
            assert_eq!(client.tcp_within(to, short).is_ok(), pod, "{ranges:?}: pod");
            assert_eq!(world.lan.tcp_within(to, short).is_ok(), outside, "{ranges:?}: outside");
            assert_eq!(world.node().tcp_within(to, short).is_ok(), own, "{ranges:?}: node");
            assert!(world.lan.can_reach((node, 30080)), "node ports are not restricted");
        };
        check(&[" 203.0.113.99/32 ", other], !node.is_ipv4(), !node.is_ipv4(), !node.is_ipv4());
        // Ranges within others, and in no order.
        check(&[&inner, pod_range], true, false, false);
        check(&[&format!("{node}/{bits}")], false, false, true);
        check(&[other], true, true, true);
    }
}
