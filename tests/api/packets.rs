//! What is written to the API reaches the kernel, and packets pass.

use std::time::{Duration, Instant};

use testnet::manifest::{Endpoint, documents};
use testnet::{Host, eventually};

use super::world::{PORT, World, service, slices, vip};
use super::{FAMILIES, SOON, say};

/// From the answer of the API server to the first packet.
const IN_FORCE_WITHIN: Duration = Duration::from_secs(5);

#[test]
fn a_service_made_through_the_api_carries_packets_until_it_is_deleted() {
    let Some(world) = World::with_nodes() else { return };
    let (a, b) = (world.backend(&world.n1, "a"), world.backend(&world.n2, "b"));
    let client = world.pod(&world.n1, "client");
    let _daemon = world.start();
    let everything = documents(&[&service("web", 10)]) + &slices("web", &[Endpoint::of(&a)]);
    world.server.apply(&everything);
    let written = Instant::now();
    for family in FAMILIES {
        let to = (vip(family, 10), PORT);
        let served =
            eventually("packets by way of the cluster IP", IN_FORCE_WITHIN, || client.tcp(to));
        assert_eq!(served.server, "a");
        assert!(client.ips().contains(&served.peer), "the client's own address: {}", served.peer);
        assert_eq!(world.n1.tcp(to).unwrap().server, "a", "from the node itself");
    }
    say(&format!("packets {:?} after the API server had the Service", written.elapsed()));

    world.server.apply(&slices("web", &[Endpoint::of(&b)]));
    for family in FAMILIES {
        eventually("the other endpoint serves", IN_FORCE_WITHIN, || {
            client.tcp((vip(family, 10), PORT)).is_ok_and(|answer| answer.server == "b")
        });
    }

    world.server.apply(&slices("web", &[]));
    for family in FAMILIES {
        eventually("nobody serves", SOON, || client.tcp((vip(family, 10), PORT)).is_err());
    }
    world.server.apply(&slices("web", &[Endpoint::of(&a)]));
    for family in FAMILIES {
        eventually("it serves again", IN_FORCE_WITHIN, || client.tcp((vip(family, 10), PORT)));
    }

    world.server.delete(&everything);
    for family in FAMILIES {
        let address = vip(family, 10).to_string();
        eventually("nothing of it is left in the kernel", IN_FORCE_WITHIN, || {
            !world.n1.namespace().ruleset().contains(&address)
        });
    }
}

#[test]
fn what_was_there_before_the_daemon_is_in_force_once_it_is_ready() {
    let Some(world) = World::with_nodes() else { return };
    let (a, client) = (world.backend(&world.n2, "a"), world.pod(&world.n1, "client"));
    world.server.apply(&(documents(&[&service("web", 11)]) + &slices("web", &[Endpoint::of(&a)])));
    let _daemon = world.start();
    for family in FAMILIES {
        assert_eq!(client.tcp((vip(family, 11), PORT)).unwrap().server, "a", "{family:?}");
    }
    // The server's own Service is there too.
    let rules = world.n1.namespace().ruleset();
    assert!(rules.contains("10.96.0.1"), "default/kubernetes: {rules}");
}
