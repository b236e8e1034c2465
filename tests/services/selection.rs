//! Which endpoints are used: readiness, termination, topology.

use serde_json::{Value, json};
use testnet::Proxyd;

use super::manifests::{service, slice};
use super::{BOTH, World, address, assert_refused, serve, spread, vip};

/// Servers a (n1), b and c (n2); for each case further fields of the endpoints, and who is reached.
fn cases(cases: &[([Value; 3], &[&str])]) {
    let world = World::new();
    let client = world.pod(0, "client");
    let pods = [world.pod(0, "a"), world.pod(1, "b"), world.pod(1, "c")];
    let _servers: Vec<_> = pods.iter().map(|pod| serve(pod, 8080)).collect();
    let proxyd = Proxyd::start(world.node(), &[]);
    for family in BOTH {
        let ip = vip(family, 96, 10);
        for (fields, reached) in cases {
            let mut slice = slice("web", 8080);
            for ((pod, node), more) in pods.iter().zip(["n1", "n2", "n2"]).zip(fields) {
                slice = slice.endpoint(address(pod, family), node, more.clone());
            }
            let text = service("web", ip).port(80).text() + &slice.text();
            proxyd.apply("web.yaml", &(world.objects() + &text));
            if reached.is_empty() {
                assert_refused(&client, (ip, 80));
                continue;
            }
            let counts = spread(&client, (ip, 80), 40, reached);
            assert!(counts.iter().all(|count| *count > 0), "{fields:?}: {counts:?}");
        }
    }
}

#[test]
fn only_ready_endpoints_are_used_unless_there_are_none() {
    let state = |ready: bool, serving: bool, terminating: bool| json!({"conditions": {"ready": ready, "serving": serving, "terminating": terminating}});
    let (ready, waiting) = (state(true, true, false), state(false, false, false));
    let (leaving, dead) = (state(false, true, true), state(false, false, true));
    cases(&[
        ([ready.clone(), waiting.clone(), leaving.clone()], &["a"]),
        ([waiting.clone(), leaving.clone(), leaving.clone()], &["b", "c"]),
        ([dead.clone(), leaving, waiting.clone()], &["b"]),
        ([waiting.clone(), dead.clone(), waiting], &[]),
        ([json!({}), json!({"conditions": {}}), dead], &["a", "b"]),
    ]);
}

#[test]
fn hints_narrow_the_choice_if_all_have_them() {
    let zone = |zone: &str| json!({"hints": {"forZones": [{"name": zone}]}});
    let node =
        |node: &str| json!({"hints": {"forNodes": [{"name": node}], "forZones": [{"name": "a"}]}});
    cases(&[
        ([zone("a"), zone("a"), zone("b")], &["a", "b"]),
        ([zone("a"), zone("b"), json!({})], &["a", "b", "c"]),
        ([zone("b"), zone("b"), zone("b")], &["a", "b", "c"]),
        ([node("n1"), node("n2"), node("n2")], &["a"]),
        ([node("n2"), node("n1"), node("n2")], &["b"]),
        ([node("n2"), node("n2"), node("n2")], &["a", "b", "c"]),
    ]);
}
