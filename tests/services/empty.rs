//! Services without endpoints are refused, on every address and to everybody.

use testnet::Host;
use testnet::manifest::{Endpoint, documents};

use super::world::{
    Addressed, PORT, World, both, external, node_port_service, service, vip, with_slices,
};
use super::{FAMILIES, assert_refused, served};

#[test]
fn without_endpoints_every_address_refuses_everybody() {
    let world = World::new();
    let client = world.pod(&world.n1, "client");
    let proxyd = world.start(&[]);
    let everywhere = node_port_service("empty", 10, 30080)
        .load_balancer(&both(external, 1))
        .spec("externalIPs", both(external, 2));
    world.route_all(&both(vip, 10));
    world.route_all(&both(external, 1));
    world.route_all(&both(external, 2));
    // A Service that has no slice at all, and one whose slices are empty.
    for text in [documents(&[&everywhere]), with_slices(&everywhere, "empty", &[])] {
        proxyd.apply("empty", &text);
        for family in FAMILIES {
            for to in [
                (vip(family, 10), PORT),
                (external(family, 1), PORT),
                (external(family, 2), PORT),
                (world.n1.ip(family), 30080),
            ] {
                assert_refused(&client, to);
                assert_refused(&world.n1, to);
                assert_refused(&world.lan, to);
            }
        }
    }
}

#[test]
fn a_service_is_refused_while_its_endpoints_are_away() {
    let world = World::new();
    let a = world.backend(&world.n1, "a");
    let client = world.pod(&world.n1, "client");
    let proxyd = world.start(&[]);
    let full = with_slices(&service("web", 10), "web", &[Endpoint::of(&a)]);
    for _ in 0..2 {
        proxyd.apply("web", &full);
        for family in FAMILIES {
            assert_eq!(served(&client, (vip(family, 10), PORT)).0, "a");
        }
        proxyd.apply("web", &with_slices(&service("web", 10), "web", &[]));
        for family in FAMILIES {
            assert_refused(&client, (vip(family, 10), PORT));
        }
    }
    // Nothing of the rejection outlives the Service.
    proxyd.remove("web");
    proxyd.await_sync();
    let rules = world.n1.namespace().ruleset();
    assert!(!rules.contains("10.96.0.10"), "{rules}");
}
