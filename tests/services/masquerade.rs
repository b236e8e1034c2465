//! Whose address a server sees.

use testnet::Host;
use testnet::manifest::Endpoint;

use super::world::{
    Addressed, PORT, World, both, external, gateway, node_port_service, service, vip, with_slices,
};
use super::{FAMILIES, PROTOCOLS, served};

#[test]
fn a_pod_reaches_itself_through_its_service() {
    let world = World::new();
    let a = world.backend(&world.n1, "a");
    let proxyd = world.start(&[]);
    for policy in ["Cluster", "Local"] {
        let web = node_port_service("web", 10, 30080)
            .load_balancer(&both(external, 1))
            .spec("externalTrafficPolicy", policy);
        proxyd.apply("web", &with_slices(&web, "web", &[Endpoint::of(&a)]));
        for family in FAMILIES {
            for to in
                [(vip(family, 10), PORT), (world.n1.ip(family), 30080), (external(family, 1), PORT)]
            {
                for protocol in PROTOCOLS {
                    let answer = protocol.probe(&*a, to);
                    let answer = answer.unwrap_or_else(|e| panic!("{protocol:?} {to:?}: {e}"));
                    assert_eq!((&*answer.server, answer.peer), ("a", gateway(family)), "{to:?}");
                }
            }
        }
    }
}

/// What a daemon with these arguments takes for a pod's traffic.
fn pods_are_told_from_others(mode: &[&str]) {
    let world = World::new();
    let (near, far) = (world.backend(&world.n1, "near"), world.backend(&world.n2, "far"));
    let client = world.pod(&world.n1, "client");
    let proxyd = world.start(mode);
    world.route_all(&both(vip, 10));
    for (pod, name) in [(&near, "near"), (&far, "far")] {
        proxyd.apply("web", &with_slices(&service("web", 10), "web", &[Endpoint::of(pod)]));
        for family in FAMILIES {
            let to = (vip(family, 10), PORT);
            let node = if name == "near" { gateway(family) } else { world.n1.ip(family) };
            assert_eq!(served(&client, to), (name.to_owned(), client.ip(family)), "{mode:?}");
            assert_eq!(served(&world.lan, to), (name.to_owned(), node), "{mode:?} outside");
            assert_eq!(client.udp(to).unwrap().peer, client.ip(family), "{mode:?}");
            assert_eq!(world.lan.udp(to).unwrap().peer, node, "{mode:?} outside");
        }
    }
}

#[test]
fn a_cluster_ip_keeps_a_pods_address_and_hides_others() {
    pods_are_told_from_others(&[]);
    pods_are_told_from_others(&["--detect-local-mode", "NodeCIDR"]);
}

#[test]
fn pods_are_told_by_the_interface_they_come_from() {
    let bridge = ["--detect-local-mode", "BridgeInterface", "--pod-bridge-interface", "viaduct0"];
    pods_are_told_from_others(&bridge);
    let prefix = ["--detect-local-mode", "InterfaceNamePrefix", "--pod-interface-name-prefix"];
    pods_are_told_from_others(&[&prefix[..], &["viaduct"]].concat());
}

#[test]
fn masquerade_all_hides_pods_too() {
    let world = World::new();
    let (near, far) = (world.backend(&world.n1, "near"), world.backend(&world.n2, "far"));
    let client = world.pod(&world.n1, "client");
    let proxyd = world.start(&["--masquerade-all"]);
    for (pod, name) in [(&near, "near"), (&far, "far")] {
        proxyd.apply("web", &with_slices(&service("web", 10), "web", &[Endpoint::of(pod)]));
        for family in FAMILIES {
            let node = if name == "near" { gateway(family) } else { world.n1.ip(family) };
            assert_eq!(served(&client, (vip(family, 10), PORT)), (name.to_owned(), node));
        }
    }
    // What does not go through a service stays as it is.
    for family in FAMILIES {
        let to = (far.ip(family), super::world::TARGET);
        assert_eq!(served(&client, to), ("far".to_owned(), client.ip(family)));
    }
}

#[test]
fn a_node_that_serves_is_reached_through_a_service() {
    let world = World::new();
    let client = world.pod(&world.n1, "client");
    let (_here, _there) = (world.n1.serve_tcp(8080), world.n2.serve_tcp(8080));
    let proxyd = world.start(&[]);
    for node in [&world.n1, &world.n2] {
        let host = Endpoint::at(&[node.v4(), node.v6()]).field("nodeName", node.name());
        let web = node_port_service("web", 10, 30080);
        proxyd.apply("web", &with_slices(&web, "web", &[host]));
        for family in FAMILIES {
            for to in [(vip(family, 10), PORT), (world.n1.ip(family), 30080)] {
                assert_eq!(served(&client, to).0, node.name(), "pod to {to:?}");
                assert_eq!(served(&world.n1, to).0, node.name(), "node to {to:?}");
            }
            assert_eq!(served(&world.lan, (world.n1.ip(family), 30080)).0, node.name());
        }
    }
}
