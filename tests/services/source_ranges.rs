//! `loadBalancerSourceRanges`: who may use a load balancer's address.

use std::net::IpAddr;

use testnet::Host;
use testnet::manifest::Endpoint;

use super::world::{
    Addressed, Backend, PORT, World, both, external, node_port_service, with_slices,
};
use super::{FAMILIES, assert_dropped, served};
use testnet::{Family, Proxyd};

const NODE_PORT: u16 = 30080;

/// The second node, too, sends what is for the load balancer to the first.
fn routes(world: &World) {
    world.route_all(&both(external, 1));
    for (to, via) in
        [(external(Family::V4, 1), world.n1.v4()), (external(Family::V6, 1), world.n1.v6())]
    {
        world.n2.namespace().ip(&format!("route add {to} via {via}"));
    }
}

fn apply(proxyd: &Proxyd<'_>, pod: &Backend<'_>, ranges: &[&str]) {
    let web = node_port_service("web", 10, NODE_PORT)
        .load_balancer(&both(external, 1))
        .spec("externalIPs", both(external, 2))
        .spec("loadBalancerSourceRanges", ranges);
    proxyd.apply("web", &with_slices(&web, "web", &[Endpoint::of(pod)]));
}

fn to(family: Family) -> (IpAddr, u16) {
    (external(family, 1), PORT)
}

#[test]
fn only_sources_in_the_ranges_are_let_in() {
    let world = World::new();
    let a = world.backend(&world.n1, "a");
    let client = world.pod(&world.n1, "client");
    let proxyd = world.start(&[]);
    routes(&world);
    world.route_all(&both(external, 2));
    apply(&proxyd, &a, &["192.168.0.2/32", " fd00:192:168::2/128 "]);
    for family in FAMILIES {
        assert_eq!(served(&world.n2, to(family)).0, "a");
        assert_eq!(world.n2.udp(to(family)).unwrap().server, "a");
        assert_dropped(&world.lan, to(family));
        assert_dropped(&client, to(family));
        assert_dropped(&world.n1, to(family));
        // The ranges are for the load balancer's address alone.
        assert_eq!(served(&world.lan, (world.n1.ip(family), NODE_PORT)).0, "a");
        assert_eq!(served(&world.lan, (external(family, 2), PORT)).0, "a");
        assert_eq!(served(&client, (super::world::vip(family, 10), PORT)).0, "a");
    }
    // Pods, by their own address.
    apply(&proxyd, &a, &["10.244.0.0/16", "fd00:10::/32"]);
    for family in FAMILIES {
        assert_eq!(served(&client, to(family)).0, "a");
        assert_dropped(&world.lan, to(family));
    }
    apply(&proxyd, &a, &[]);
    for family in FAMILIES {
        assert_eq!(served(&world.lan, to(family)).0, "a");
    }
}

#[test]
fn ranges_may_overlap_and_repeat() {
    let world = World::new();
    let a = world.backend(&world.n1, "a");
    let client = world.pod(&world.n1, "client");
    let proxyd = world.start(&[]);
    routes(&world);
    let ranges = [
        "192.168.0.0/16",
        "192.168.0.0/24",
        "192.168.0.254/32",
        "192.168.0.254/32",
        "192.168.1.0/24",
        "fd00:192:168::/48",
        "fd00:192:168::/64",
        "fd00:192:168::254/128",
    ];
    apply(&proxyd, &a, &ranges);
    for family in FAMILIES {
        assert_eq!(served(&world.lan, to(family)).0, "a");
        assert_eq!(served(&world.n2, to(family)).0, "a");
        assert_dropped(&client, to(family));
    }
    apply(&proxyd, &a, &["0.0.0.0/0", "192.168.0.254/32", "::/0", "fd00::/16"]);
    for family in FAMILIES {
        assert_eq!(served(&client, to(family)).0, "a");
        assert_eq!(served(&world.lan, to(family)).0, "a");
    }
}

#[test]
fn ranges_of_the_other_family_restrict_nothing() {
    let world = World::new();
    let a = world.backend(&world.n1, "a");
    let proxyd = world.start(&[]);
    routes(&world);
    for (range, restricted, free) in
        [("10.1.2.0/24", Family::V4, Family::V6), ("fd77::/64", Family::V6, Family::V4)]
    {
        apply(&proxyd, &a, &[range]);
        assert_eq!(served(&world.lan, to(free)).0, "a", "{range}");
        assert_dropped(&world.lan, to(restricted));
    }
}

#[test]
fn a_node_in_the_ranges_reaches_the_address_that_it_has_itself() {
    let world = World::new();
    let a = world.backend(&world.n1, "a");
    let proxyd = world.start(&[]);
    routes(&world);
    apply(&proxyd, &a, &["192.168.0.1/32", "fd00:192:168::1/128"]);
    for family in FAMILIES {
        assert_eq!(served(&world.n1, to(family)).0, "a");
        assert_dropped(&world.lan, to(family));
    }
    // Some load balancers put the address on the node: then it is the source as well.
    for family in FAMILIES {
        world.n1.namespace().ip(&format!("addr add {} dev lo", external(family, 1)));
        world.n1.namespace().await_address_of(external(family, 1));
        assert_eq!(served(&world.n1, to(family)).0, "a");
        assert_dropped(&world.lan, to(family));
    }
    apply(&proxyd, &a, &["192.168.0.2/32", "fd00:192:168::2/128"]);
    for family in FAMILIES {
        assert_dropped(&world.n1, to(family));
    }
}
