//! Topology hints: the same node, the same zone, and when they do not count.

use serde_json::json;
use testnet::manifest::{Endpoint, NodeObject, documents};
use testnet::{Host, Proxyd};

use super::world::{Backend, PORT, World, service, vip, with_slices};
use super::{FAMILIES, servers};

const ZONE: &str = "topology.kubernetes.io/zone";

fn zoned<'a>(world: &'a World, zone: &str) -> Proxyd<'a> {
    let proxyd = world.start(&[]);
    set_zone(world, &proxyd, zone);
    proxyd
}

fn set_zone(world: &World, proxyd: &Proxyd<'_>, zone: &str) {
    let n1 = NodeObject::of(&world.n1).label(ZONE, zone);
    proxyd.apply("nodes", &documents(&[&n1, &NodeObject::of(&world.n2).label(ZONE, "east")]));
}

fn hinted(pod: &Backend<'_>, zones: &[&str], nodes: &[&str]) -> Endpoint {
    let named = |names: &[&str]| names.iter().map(|n| json!({"name": n})).collect::<Vec<_>>();
    let mut hints = json!({});
    if !zones.is_empty() {
        hints["forZones"] = named(zones).into();
    }
    if !nodes.is_empty() {
        hints["forNodes"] = named(nodes).into();
    }
    Endpoint::of(pod).field("hints", hints)
}

#[track_caller]
fn assert_used(world: &World, proxyd: &Proxyd<'_>, endpoints: &[Endpoint], names: &[&str]) {
    proxyd.apply("web", &with_slices(&service("web", 10), "web", endpoints));
    assert_still_used(world, names);
}

#[track_caller]
fn assert_still_used(world: &World, names: &[&str]) {
    for family in FAMILIES {
        assert_eq!(servers(&world.n1, (vip(family, 10), PORT)), names, "{family:?}");
    }
}

#[test]
fn endpoints_for_this_zone_are_used_if_all_have_hints() {
    let world = World::new();
    let (a, b) = (world.backend(&world.n1, "a"), world.backend(&world.n2, "b"));
    let _client = world.pod(&world.n1, "client");
    let proxyd = zoned(&world, "west");
    let both = [hinted(&a, &["west"], &[]), hinted(&b, &["east"], &[])];
    assert_used(&world, &proxyd, &both, &["a"]);
    let two = [hinted(&a, &["east"], &[]), hinted(&b, &["east", "west"], &[])];
    assert_used(&world, &proxyd, &two, &["b"]);
    // One without hints, or none for this zone: all are used.
    let one = [hinted(&a, &["west"], &[]), Endpoint::of(&b)];
    assert_used(&world, &proxyd, &one, &["a", "b"]);
    let elsewhere = [hinted(&a, &["east"], &[]), hinted(&b, &["north"], &[])];
    assert_used(&world, &proxyd, &elsewhere, &["a", "b"]);
    // One that is not ready need not have hints.
    let unready = [hinted(&a, &["west"], &[]), Endpoint::of(&b).not_ready()];
    assert_used(&world, &proxyd, &unready, &["a"]);
    // The zone is the node's label, and follows it.
    assert_used(&world, &proxyd, &both, &["a"]);
    set_zone(&world, &proxyd, "east");
    assert_still_used(&world, &["b"]);
    proxyd.apply("nodes", &documents(&[&NodeObject::of(&world.n1), &NodeObject::of(&world.n2)]));
    assert_still_used(&world, &["a", "b"]);
    assert_eq!(world.n1.namespace().name(), "n1");
}

#[test]
fn endpoints_for_this_node_come_before_those_for_its_zone() {
    let world = World::new();
    let [a, b] = ["a", "b"].map(|name| world.backend(&world.n1, name));
    let c = world.backend(&world.n2, "c");
    let proxyd = zoned(&world, "west");
    let all = [
        hinted(&a, &["west"], &["n1"]),
        hinted(&b, &["west"], &["n2"]),
        hinted(&c, &["east"], &["n2"]),
    ];
    assert_used(&world, &proxyd, &all, &["a"]);
    // Not all have hints for nodes: zones count.
    let some = [
        hinted(&a, &["west"], &["n1"]),
        hinted(&b, &["west"], &[]),
        hinted(&c, &["east"], &["n2"]),
    ];
    assert_used(&world, &proxyd, &some, &["a", "b"]);
    // None is for this node: zones count.
    let other = [
        hinted(&a, &["west"], &["n3"]),
        hinted(&b, &["west"], &["n2"]),
        hinted(&c, &["east"], &["n2"]),
    ];
    assert_used(&world, &proxyd, &other, &["a", "b"]);
    let only_nodes = [hinted(&a, &[], &["n2"]), hinted(&b, &[], &["n2"]), hinted(&c, &[], &["n2"])];
    assert_used(&world, &proxyd, &only_nodes, &["a", "b", "c"]);
}

#[test]
fn hints_do_not_apply_to_terminating_endpoints_and_local_policies() {
    let world = World::new();
    let [a, b] = ["a", "b"].map(|name| world.backend(&world.n1, name));
    let c = world.backend(&world.n2, "c");
    let proxyd = zoned(&world, "west");
    let terminating =
        [hinted(&a, &["west"], &[]).terminating(), hinted(&c, &["east"], &[]).terminating()];
    assert_used(&world, &proxyd, &terminating, &["a", "c"]);
    let hints =
        [hinted(&a, &["east"], &[]), hinted(&b, &["west"], &[]), hinted(&c, &["west"], &[])];
    assert_used(&world, &proxyd, &hints, &["b", "c"]);
    let local = service("web", 10).spec("internalTrafficPolicy", "Local");
    proxyd.apply("web", &with_slices(&local, "web", &hints));
    assert_still_used(&world, &["a", "b"]);
}
