//! What is inside a ServiceCIDR belongs to Services alone.
//!
//! The outside world has addresses there too, and answers at them: who gets no answer was stopped.

use serde_json::json;
use testnet::manifest::Endpoint;
use testnet::{Host, Pod};

use super::world::{PORT, World, both, service, vip, with_slices};
use super::{FAMILIES, assert_dropped, assert_refused, served};

/// Nobody's number, and one that becomes a Service's.
const FREE: u8 = 77;
const LATER: u8 = 78;

fn service_cidr(name: &str, cidrs: &[&str]) -> String {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
        "metadata": {"name": name}, "spec": {"cidrs": cidrs},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    })
    .to_string()
}

/// Addresses of cluster IPs in the outside world.
fn add_outside(world: &World, number: u8) {
    for address in both(vip, number) {
        let (length, way) = if address.is_ipv4() { (32, "") } else { (128, "nodad") };
        world.lan.namespace().ip(&format!("addr add {address}/{length} dev lo {way}"));
        world.lan.namespace().await_address_of(address);
    }
}

#[track_caller]
fn assert_all_served(world: &World, client: &Pod<'_>, number: u8, by: &str) {
    for family in FAMILIES {
        let to = (vip(family, number), PORT);
        assert_eq!(served(client, to).0, by, "a pod to {to:?}");
        assert_eq!(served(&world.n1, to).0, by, "the node to {to:?}");
        let udp = client.udp(to).map(|answer| answer.server);
        assert_eq!(udp.ok().as_deref(), Some(by), "a pod to {to:?}, UDP");
    }
}

#[track_caller]
fn assert_all_dropped(world: &World, client: &Pod<'_>, number: u8) {
    for family in FAMILIES {
        assert_dropped(client, (vip(family, number), PORT));
        assert_dropped(&world.n1, (vip(family, number), PORT));
    }
}

#[test]
fn what_is_for_no_service_inside_a_service_cidr_is_dropped() {
    let world = World::new();
    let a = world.backend(&world.n1, "a");
    let client = world.pod(&world.n1, "client");
    [FREE, LATER].iter().for_each(|number| add_outside(&world, *number));
    let _outside = [world.lan.serve_tcp(PORT), world.lan.serve_udp(PORT)];
    let proxyd = world.start(&[]);
    let endpoints = [Endpoint::of(&a)];
    proxyd.apply("web", &with_slices(&service("web", 10), "web", &endpoints));

    // Without a range the rest is the outside world's.
    assert_all_served(&world, &client, FREE, "outside");
    let mut kept = FAMILIES.map(|family| client.connect((vip(family, FREE), PORT)).unwrap());
    proxyd.apply("cidr", &service_cidr("kubernetes", &["10.96.0.0/24", "fd00:96::/112"]));
    assert_all_dropped(&world, &client, FREE);
    assert_all_dropped(&world, &client, LATER);
    for connection in &mut kept {
        assert_eq!(connection.ask("later").unwrap().server, "outside", "it was there before");
    }

    // A Service answers, and refuses the ports that it lacks; what is beyond the range is let through.
    assert_all_served(&world, &client, 10, "a");
    for family in FAMILIES {
        assert_refused(&client, (vip(family, 10), PORT + 1));
        assert_refused(&world.n1, (vip(family, 10), PORT + 1));
        assert_eq!(served(&client, (world.lan.outside(family), PORT)).0, "outside");
    }

    // An address becomes a Service's, and nobody's again.
    proxyd.apply("later", &with_slices(&service("later", LATER), "later", &endpoints));
    assert_all_served(&world, &client, LATER, "a");
    proxyd.remove("later");
    proxyd.await_sync();
    assert_all_dropped(&world, &client, LATER);
}

#[test]
fn service_cidrs_come_and_go() {
    let world = World::new();
    let client = world.pod(&world.n1, "client");
    [FREE, LATER].iter().for_each(|number| add_outside(&world, *number));
    let _outside = [world.lan.serve_tcp(PORT), world.lan.serve_udp(PORT)];
    let mut proxyd = world.start(&[]);
    // Numbers 77 and 78, one each; another ServiceCIDR that holds both.
    proxyd.apply("one", &service_cidr("one", &["10.96.0.77/32", "fd00:96::77/128"]));
    assert_all_dropped(&world, &client, FREE);
    assert_all_served(&world, &client, LATER, "outside");
    proxyd.apply("more", &service_cidr("more", &["10.96.0.64/26", "fd00:96::/64"]));
    assert_all_dropped(&world, &client, FREE);
    assert_all_dropped(&world, &client, LATER);
    proxyd.remove("more");
    proxyd.await_sync();
    assert_all_dropped(&world, &client, FREE);
    assert_all_served(&world, &client, LATER, "outside");
    // One goes while the daemon is away.
    proxyd.kill();
    proxyd.remove("one");
    proxyd.start_again();
    assert_all_served(&world, &client, FREE, "outside");
}
