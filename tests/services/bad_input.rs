//! Bad objects are reported and nobody else suffers.

use serde_json::{Value, json};
use testnet::manifest::{Endpoint, EndpointSlice, Service, documents};
use testnet::{Family, Proxyd};

use super::world::{Addressed, PORT, TARGET, World, both, service, slices, vip, with_slices};
use super::{FAMILIES, served, servers, soon};

/// The report of a file: a line of the log with `FILE:LINE`.
#[track_caller]
fn assert_reported(proxyd: &Proxyd<'_>, file: &str, words: &[&str]) {
    soon(&format!("a report of {file} with {words:?}"), || {
        let log = proxyd.log();
        let about = |line: &str| {
            let place = line.split_once(&format!("{file}:")).map(|(_, rest)| rest);
            let numbered = place.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
            numbered && words.iter().all(|word| line.to_lowercase().contains(word))
        };
        if log.lines().any(about) { Ok(()) } else { Err(log) }
    });
    soon("the metric counts it", || {
        proxyd.metric("viaduct_source_errors", "").filter(|errors| *errors > 0.0)
    });
}

/// A service `good` that works, in its own file.
#[track_caller]
fn good(proxyd: &Proxyd<'_>, pod: &testnet::Pod<'_>) {
    proxyd.apply("good", &with_slices(&service("good", 20), "good", &[Endpoint::of(pod)]));
}

#[track_caller]
fn assert_good(world: &World) {
    for family in FAMILIES {
        assert_eq!(served(&world.n1, (vip(family, 20), PORT)).0, "a", "{family:?}");
    }
}

#[test]
fn a_broken_document_stands_beside_good_ones() {
    let world = World::new();
    let a = world.backend(&world.n1, "a");
    let proxyd = world.start(&[]);
    assert_eq!(proxyd.metric("viaduct_source_errors", "").unwrap_or(0.0), 0.0);
    let broken = "---\napiVersion: v1\nkind: Service\nmetadata: {name: broken\nspec: [\n";
    let text = documents(&[&service("first", 10)])
        + broken
        + &with_slices(&service("last", 11), "last", &[Endpoint::of(&a)])
        + &slices("first", &[Endpoint::of(&a)]);
    proxyd.write("mixed", &text);
    good(&proxyd, &a);
    assert_reported(&proxyd, "mixed.yaml", &[]);
    assert_good(&world);
    for family in FAMILIES {
        assert_eq!(served(&world.n1, (vip(family, 10), PORT)).0, "a", "the document before it");
        assert_eq!(served(&world.n1, (vip(family, 11), PORT)).0, "a", "the document after it");
    }
    proxyd.remove("mixed");
    soon("no errors are left", || {
        proxyd.metric("viaduct_source_errors", "").is_none_or(|errors| errors == 0.0)
    });
}

#[test]
fn the_last_good_state_stays_in_force() {
    let world = World::new();
    let a = world.backend(&world.n1, "a");
    let proxyd = world.start(&[]);
    proxyd.write("slices", &slices("web", &[Endpoint::of(&a)]));
    let wrong = service("web", 10).port("more", "TCP", 70_000);
    let broken = ["kind: [".to_owned(), documents(&[&wrong]), "just text".to_owned()];
    for text in broken {
        proxyd.apply("web", &documents(&[&service("web", 10)]));
        proxyd.write("web", &text);
        proxyd.await_sync();
        assert_reported(&proxyd, "web.yaml", &[]);
        for family in FAMILIES {
            assert_eq!(served(&world.n1, (vip(family, 10), PORT)).0, "a", "{text}");
        }
    }
    // The daemon goes on listening.
    proxyd.apply("web", &documents(&[&service("web", 11)]));
    for family in FAMILIES {
        assert_eq!(served(&world.n1, (vip(family, 11), PORT)).0, "a");
    }
}

#[test]
fn a_port_that_cannot_be_is_reported_with_its_value() {
    let world = World::new();
    let a = world.backend(&world.n1, "a");
    let proxyd = world.start(&[]);
    let bad = Service::new("bad").cluster_ips(&both(vip, 10)).port("tcp", "TCP", 70_000);
    proxyd.write("bad", &documents(&[&bad]));
    good(&proxyd, &a);
    assert_reported(&proxyd, "bad.yaml", &["70000"]);
    assert_good(&world);
}

#[test]
fn an_unknown_kind_is_reported() {
    let world = World::new();
    let a = world.backend(&world.n1, "a");
    let proxyd = world.start(&[]);
    let text = "apiVersion: example.org/v1\nkind: Gizmo\nmetadata: {name: x, namespace: default}\n";
    proxyd.write("gizmo", text);
    good(&proxyd, &a);
    assert_reported(&proxyd, "gizmo.yaml", &["gizmo"]);
    assert_good(&world);
}

#[test]
fn an_address_of_the_wrong_family_is_skipped() {
    let world = World::new();
    let [a, b] = ["a", "b"].map(|name| world.backend(&world.n1, name));
    let proxyd = world.start(&[]);
    let mut text = documents(&[&service("web", 10)]);
    for (family, other) in [(Family::V4, Family::V6), (Family::V6, Family::V4)] {
        let slice = EndpointSlice::new("web", family, &[Endpoint::of(&a), Endpoint::of(&b)]);
        let slice = slice.port("tcp", "TCP", TARGET.into());
        let mut slice: Value = serde_json::from_str(&slice.to_string()).unwrap();
        slice["endpoints"][1]["addresses"] = json!([b.ip(other)]);
        text += &documents(&[&slice]);
    }
    proxyd.write("web", &text);
    good(&proxyd, &a);
    for family in FAMILIES {
        assert_eq!(servers(&world.n1, (vip(family, 10), PORT)), ["a"], "{family:?}");
    }
    soon("a word of it in the log", || {
        let log = proxyd.log();
        log.contains(&b.v4().to_string()) || log.contains(&b.v6().to_string())
    });
}

#[test]
fn a_slice_of_no_service_is_reported() {
    let world = World::new();
    let a = world.backend(&world.n1, "a");
    let proxyd = world.start(&[]);
    let slice = EndpointSlice::new("web", Family::V4, &[Endpoint::of(&a)]);
    let mut slice: Value = serde_json::from_str(&slice.to_string()).unwrap();
    slice["metadata"]["labels"] = json!({"app": "web"});
    proxyd.write("stray", &documents(&[&slice]));
    good(&proxyd, &a);
    assert_reported(&proxyd, "stray.yaml", &["service-name"]);
    assert_good(&world);
}

#[test]
fn an_object_that_is_there_twice_is_reported() {
    let world = World::new();
    let a = world.backend(&world.n1, "a");
    let proxyd = world.start(&[]);
    good(&proxyd, &a);
    proxyd.write("zz-again", &documents(&[&service("good", 21)]));
    proxyd.await_sync();
    assert_reported(&proxyd, "zz-again.yaml", &["default/good", "good.yaml"]);
    assert_good(&world);
}

#[test]
fn an_object_of_no_concern_breaks_nothing() {
    let world = World::new();
    let a = world.backend(&world.n1, "a");
    let proxyd = world.start(&[]);
    // An empty file, only comments, a slice of names, a Service without ports, one with addresses
    // that are none.
    proxyd.write("empty", "");
    proxyd.write("comment", "# nothing\n---\n# nothing either\n");
    let names = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "FQDN",
        "metadata": {"name": "fqdn", "namespace": "default",
                     "labels": {"kubernetes.io/service-name": "good"}},
        "ports": [{"name": "tcp", "port": 80}], "endpoints": [{"addresses": ["example.org"]}],
    });
    proxyd.write("fqdn", &names.to_string());
    proxyd.write("portless", &Service::new("portless").cluster_ips(&both(vip, 15)).to_string());
    let odd = service("odd", 16).spec("externalIPs", ["not-an-address", "203.0.113.300"]);
    proxyd.write("odd", &odd.to_string());
    good(&proxyd, &a);
    assert_good(&world);
}
