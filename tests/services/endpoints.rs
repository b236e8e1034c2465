//! Which endpoints are used: readiness, termination, duplicates.

use serde_json::json;
use testnet::Host;
use testnet::manifest::{Endpoint, EndpointSlice, documents};

use super::world::{Addressed, PORT, TARGET, World, service, slices, vip, with_slices};
use super::{FAMILIES, assert_refused, servers};

/// What a service with `endpoints` is answered by, in both families.
macro_rules! assert_served_by {
    ($proxyd:expr, $from:expr, $endpoints:expr, $names:expr) => {
        $proxyd.apply("web", &with_slices(&service("web", 10), "web", &$endpoints));
        for family in FAMILIES {
            assert_eq!(servers($from, (vip(family, 10), PORT)), $names, "{family:?}");
        }
    };
}

#[test]
fn only_ready_endpoints_are_used() {
    let world = World::new();
    let [a, b] = ["a", "b"].map(|name| world.backend(&world.n1, name));
    let proxyd = world.start(&[]);
    let (a, b) = (Endpoint::of(&a), Endpoint::of(&b));
    assert_served_by!(proxyd, &world.n1, [a.clone(), b.clone().not_ready()], ["a"]);
    assert_served_by!(proxyd, &world.n1, [a.clone(), b.clone().terminating()], ["a"]);
    // Ready says all: `serving` is not asked.
    let odd = b.clone().conditions(json!({"ready": true, "serving": false}));
    assert_served_by!(proxyd, &world.n1, [a.clone(), odd], ["a", "b"]);
    proxyd.apply("web", &with_slices(&service("web", 10), "web", &[a.not_ready(), b.not_ready()]));
    for family in FAMILIES {
        assert_refused(&world.n1, (vip(family, 10), PORT));
    }
}

#[test]
fn terminating_endpoints_serve_when_no_one_else_does() {
    let world = World::new();
    let [a, b, c] = ["a", "b", "c"].map(|name| world.backend(&world.n1, name));
    let proxyd = world.start(&[]);
    let (a, b, c) = (Endpoint::of(&a), Endpoint::of(&b), Endpoint::of(&c));
    let gone = c.conditions(json!({"ready": false, "serving": false, "terminating": true}));
    let all = [a.clone().terminating(), b.clone().terminating(), gone.clone()];
    assert_served_by!(proxyd, &world.n1, all, ["a", "b"]);
    let all = [a.clone().terminating(), b.not_ready(), gone.clone()];
    assert_served_by!(proxyd, &world.n1, all, ["a"]);
    // `serving` unset means that it serves.
    let unset = a.conditions(json!({"ready": false, "terminating": true}));
    assert_served_by!(proxyd, &world.n1, [unset, gone.clone()], ["a"]);
    proxyd.apply("web", &with_slices(&service("web", 10), "web", &[gone]));
    for family in FAMILIES {
        assert_refused(&world.n1, (vip(family, 10), PORT));
    }
}

#[test]
fn unknown_conditions_mean_ready() {
    let world = World::new();
    let [a, b, c] = ["a", "b", "c"].map(|name| world.backend(&world.n1, name));
    let proxyd = world.start(&[]);
    let (a, b, c) = (Endpoint::of(&a), Endpoint::of(&b), Endpoint::of(&c));
    let nothing = a.conditions(json!({}));
    let null = b.conditions(json!({"ready": null, "serving": null, "terminating": null}));
    let absent = c.conditions(json!(null));
    assert_served_by!(proxyd, &world.n1, [nothing, null, absent], ["a", "b", "c"]);
}

#[test]
fn an_endpoint_in_two_slices_is_one_endpoint() {
    let world = World::new();
    let [a, b] = ["a", "b"].map(|name| world.backend(&world.n1, name));
    let proxyd = world.start(&[]);
    let ready = [Endpoint::of(&a), Endpoint::of(&b)];
    let mut text = with_slices(&service("web", 10), "web", &ready);
    for family in FAMILIES {
        for copy in 0..3 {
            // The one that does not terminate wins, wherever it stands.
            let again = Endpoint::of(&a).terminating();
            let again = if copy == 0 { again } else { Endpoint::of(&a) };
            let slice = EndpointSlice::new("web", family, &[again])
                .named(&format!("{copy}-{family:?}").to_lowercase());
            text += &documents(&[&slice.port("tcp", "TCP", TARGET.into())]);
        }
    }
    proxyd.apply("web", &text);
    for family in FAMILIES {
        let to = (vip(family, 10), PORT);
        let of_b = (0..200).filter(|_| world.n1.tcp(to).unwrap().server == "b").count();
        assert!((60..=140).contains(&of_b), "{family:?}: {of_b} of 200 at b");
    }
}

#[test]
fn an_endpoint_moves_from_slice_to_slice() {
    let world = World::new();
    let a = world.backend(&world.n1, "a");
    let proxyd = world.start(&[]);
    proxyd.write("web", &service("web", 10).to_string());
    proxyd.apply("one", &slices("web", &[Endpoint::of(&a)]));
    for family in FAMILIES {
        assert_eq!(servers(&world.n1, (vip(family, 10), PORT)), ["a"]);
    }
    let mut text = String::new();
    for family in FAMILIES {
        let slice = EndpointSlice::new("web", family, &[Endpoint::of(&a)])
            .named(&format!("two-{family:?}").to_lowercase());
        text += &documents(&[&slice.port("tcp", "TCP", TARGET.into())]);
    }
    proxyd.write("two", &text);
    proxyd.remove("one");
    proxyd.await_sync();
    for family in FAMILIES {
        assert_eq!(servers(&world.n1, (vip(family, 10), PORT)), ["a"]);
    }
}

#[test]
fn only_the_first_address_of_an_endpoint_counts() {
    let world = World::new();
    let [a, b] = ["a", "b"].map(|name| world.backend(&world.n1, name));
    let proxyd = world.start(&[]);
    let mut text = documents(&[&service("web", 10)]);
    for family in FAMILIES {
        let slice = EndpointSlice::new("web", family, &[Endpoint::of(&a)]);
        let slice = slice.port("tcp", "TCP", TARGET.into());
        let mut slice: serde_json::Value = serde_json::from_str(&slice.to_string()).unwrap();
        slice["endpoints"][0]["addresses"] = json!([a.ip(family), b.ip(family)]);
        text += &documents(&[&slice]);
    }
    proxyd.apply("web", &text);
    for family in FAMILIES {
        assert_eq!(servers(&world.n1, (vip(family, 10), PORT)), ["a"]);
    }
}

#[test]
fn endpoints_without_a_usable_port_are_skipped() {
    let world = World::new();
    let [a, b] = ["a", "b"].map(|name| world.backend(&world.n1, name));
    let proxyd = world.start(&[]);
    let mut text = with_slices(&service("web", 10), "web", &[Endpoint::of(&a)]);
    for family in FAMILIES {
        for (number, port) in
            [json!({"name": "tcp", "protocol": "TCP"}), json!({"name": "tcp", "port": null})]
                .into_iter()
                .enumerate()
        {
            let slice = EndpointSlice::new("web", family, &[Endpoint::of(&b)])
                .named(&format!("{number}-{family:?}").to_lowercase());
            let mut slice: serde_json::Value = serde_json::from_str(&slice.to_string()).unwrap();
            slice["ports"] = json!([port]);
            text += &documents(&[&slice]);
        }
    }
    proxyd.apply("web", &text);
    for family in FAMILIES {
        assert_eq!(servers(&world.n1, (vip(family, 10), PORT)), ["a"]);
    }
}
