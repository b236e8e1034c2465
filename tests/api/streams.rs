//! Streams that say odd things: what is true in the end is in force, and nobody else suffers.

use serde_json::{Value, json};
use testnet::manifest::Endpoint;
use testnet::{Family, eventually};

use super::SOON;
use super::fake::{SERVICES, SLICES};
use super::site::{Site, at, numbered, slice_of};
use super::world::{service, slice};

fn slice_at(version: u64, number: u8, endpoints: &[Endpoint]) -> Value {
    at(version, &slice(&format!("s{number}"), Family::V4, endpoints))
}

#[test]
fn events_that_come_twice_or_again_end_in_the_last_state() {
    let site = Site::new();
    let (a, b, client) = (site.backend("a"), site.backend("b"), site.pod("client"));
    site.serve(&[60, 61], &a);
    let _daemon = site.start();
    let prober = site.probe(&client, 60);
    let (one, two) = ([Endpoint::of(&a)], [Endpoint::of(&b)]);
    for _ in 0..3 {
        site.fake.event(SERVICES, "ADDED", &numbered(60));
        site.fake.event(SERVICES, "MODIFIED", &numbered(60));
        site.fake.event(SLICES, "MODIFIED", &slice_at(1010, 61, &two));
        site.fake.event(SLICES, "MODIFIED", &slice_at(1009, 61, &one));
        site.fake.event(SLICES, "MODIFIED", &slice_at(1010, 61, &two));
    }
    site.await_served(&client, 61, "b");
    // Gone, and gone again, and back.
    for kind in ["DELETED", "DELETED", "ADDED", "ADDED", "DELETED"] {
        site.fake.event(SERVICES, kind, &at(1020, &service("s62", 62)));
        site.fake.event(SLICES, kind, &slice_at(1020, 62, &two));
    }
    site.fake.event(SERVICES, "ADDED", &at(1021, &service("s63", 63)));
    site.fake.event(SLICES, "ADDED", &slice_at(1021, 63, &one));
    site.await_served(&client, 63, "a");
    site.await_gone(62);
    prober.assert_undisturbed();
}

#[test]
fn a_change_of_what_is_not_known_is_taken_for_new_and_the_end_of_it_for_nothing() {
    let site = Site::new();
    let (a, client) = (site.backend("a"), site.pod("client"));
    site.serve(&[60], &a);
    let mut daemon = site.start();
    let prober = site.probe(&client, 60);
    for plural in [SERVICES, SLICES] {
        let other = if plural == SERVICES { numbered(70) } else { slice_of(70, &[]) };
        site.fake.event(plural, "DELETED", &other);
    }
    site.fake.event(SLICES, "MODIFIED", &slice_of(61, &[Endpoint::of(&a)]));
    site.fake.event(SERVICES, "MODIFIED", &numbered(61));
    site.await_served(&client, 61, "a");
    assert!(daemon.is_running());
    prober.assert_undisturbed();
}

#[test]
fn a_bookmark_changes_nothing_but_where_the_next_watch_begins() {
    let site = Site::new();
    let (a, client) = (site.backend("a"), site.pod("client"));
    site.serve(&[60], &a);
    let _daemon = site.start();
    let prober = site.probe(&client, 60);
    let bookmark = json!({
        "kind": "Service", "apiVersion": "v1", "metadata": {"resourceVersion": "5000"},
    });
    site.fake.event(SERVICES, "BOOKMARK", &bookmark);
    // It has been read when what comes after it is in force.
    site.fake.event(SLICES, "ADDED", &slice_of(61, &[Endpoint::of(&a)]));
    site.fake.event(SERVICES, "ADDED", &at(5001, &service("s61", 61)));
    site.await_served(&client, 61, "a");
    site.fake.event(
        SERVICES,
        "BOOKMARK",
        &json!({
            "kind": "Service", "apiVersion": "v1", "metadata": {"resourceVersion": "6000"},
        }),
    );
    let lists = site.fake.asked(SERVICES).0;
    site.fake.cut(SERVICES);
    site.fake.await_watched(SERVICES);
    let requests = site.fake.requests();
    let last = requests.iter().rfind(|request| request.plural == SERVICES).unwrap();
    assert_eq!(last.query.get("resourceVersion").map(String::as_str), Some("6000"), "{last:?}");
    assert_eq!(site.fake.asked(SERVICES).0, lists, "a stream that ends is no reason to list");
    assert!(site.is_programmed(60) && site.is_programmed(61));
    prober.assert_undisturbed();
}

#[test]
fn a_line_that_is_no_event_is_outlasted() {
    let site = Site::new();
    let (a, client) = (site.backend("a"), site.pod("client"));
    site.serve(&[60], &a);
    let _daemon = site.start();
    let prober = site.probe(&client, 60);
    let lines = [
        "{\"type\": \"ADDED\", \"object\": {\"kind\": \"Serv",
        "not JSON at all",
        "{\"type\": \"EXPLODED\", \"object\": {}}",
        "[]",
    ];
    for (line, number) in lines.iter().zip(80..) {
        for plural in [SERVICES, SLICES] {
            site.fake.say(plural, line);
        }
        // Whether the daemon asks anew or goes on: what the server has is in force in the end.
        let all: Vec<u8> = [60].into_iter().chain(80..=number).collect();
        site.serve(&all, &a);
        eventually(&format!("a Service after {line}"), SOON, || {
            site.fake.event(SERVICES, "ADDED", &numbered(number));
            site.fake.event(SLICES, "ADDED", &slice_of(number, &[Endpoint::of(&a)]));
            site.is_programmed(number)
        });
        site.await_served(&client, number, "a");
    }
    prober.assert_undisturbed();
}

/// Objects with values, or of types, that cannot be.
fn garbage() -> Vec<(&'static str, Value)> {
    let mut port = numbered(90);
    port["spec"]["ports"][0]["port"] = json!(70_000);
    let mut address = numbered(91);
    address["spec"]["clusterIP"] = json!("banana");
    address["spec"]["clusterIPs"] = json!(["banana"]);
    let mut ports = numbered(92);
    ports["spec"]["ports"] = json!("many");
    let mut spec = numbered(93);
    spec["spec"] = json!(7);
    vec![("s90", port), ("s91", address), ("s92", ports), ("s93", spec)]
}

#[track_caller]
fn await_told_of(daemon: &testnet::Proxyd<'_>, name: &str) {
    eventually(&format!("a word of {name} in the log"), SOON, || {
        let log = daemon.log();
        if log.lines().any(|line| line.contains(name)) { Ok(()) } else { Err(log) }
    });
}

#[test]
fn an_object_of_garbage_in_the_stream_is_named_and_others_go_on() {
    let site = Site::new();
    let (a, client) = (site.backend("a"), site.pod("client"));
    site.serve(&[60], &a);
    let daemon = site.start();
    let prober = site.probe(&client, 60);
    for ((name, object), number) in garbage().into_iter().zip(61..) {
        site.fake.event(SERVICES, "ADDED", &object);
        site.fake.event(SERVICES, "ADDED", &numbered(number));
        site.fake.event(SLICES, "ADDED", &slice_of(number, &[Endpoint::of(&a)]));
        site.await_served(&client, number, "a");
        await_told_of(&daemon, &format!("default/{name}"));
    }
    prober.assert_undisturbed();
}

#[test]
fn an_object_of_garbage_in_a_list_is_named_and_others_go_on() {
    for (name, object) in garbage() {
        let site = Site::new();
        let a = site.backend("a");
        site.serve(&[60], &a);
        site.fake.list(SERVICES, vec![object, numbered(60)]);
        let daemon = site.start();
        site.await_served(&site.node, 60, "a");
        await_told_of(&daemon, &format!("default/{name}"));
    }
}
