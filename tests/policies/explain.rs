//! What the daemon says of its policies.

use serde_json::{Value, json};
use testnet::manifest::documents;
use testnet::{Proxyd, eventually};

use super::world::{SOON, World};

fn explain(daemon: &Proxyd<'_>, from: &str, to: &str) -> Option<Value> {
    let response = daemon.http_get(10249, &format!("/explain?from={from}&to={to}"))?;
    serde_json::from_str(&response.body).ok()
}

#[test]
fn the_daemon_names_the_policy_that_decides() {
    let world = World::new();
    let daemons = world.daemons("backend: host-gw\n");
    let deny = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "deny", "namespace": "default"},
        "spec": {"podSelector": {"matchLabels": {"app": "web"}}},
    });
    world.write("policy", &documents(&[&deny]));
    world.tell("web", &world.n1, &json!({"app": "web"}), None);
    world.tell("client", &world.n1, &json!({}), None);
    let (web, client) = (world.attach(&world.n1, "web"), world.attach(&world.n1, "client"));
    world.tell("web", &world.n1, &json!({"app": "web"}), Some(&web));
    world.tell("client", &world.n1, &json!({}), Some(&client));
    let verdict = |from: &str, to: &str| {
        let found = explain(&daemons[0], from, to)?;
        Some((found["verdict"].as_str()?.to_owned(), found["reason"].as_str()?.to_owned()))
    };
    let (to, back) = ("pod/default/web:8080/TCP", "pod/default/client:8080/TCP");
    let expected = "ingress is denied, as NetworkPolicy default/deny isolates pod default/web and no rule matches";
    eventually("the policy is named", SOON, || {
        verdict("pod/default/client", to) == Some(("denied".to_owned(), expected.to_owned()))
    });
    assert_eq!(verdict("pod/default/web", back).unwrap().0, "allowed");
    assert_eq!(verdict("node/n1", to).unwrap().0, "allowed");
    world.remove("policy");
    eventually("the policy is gone", SOON, || {
        verdict("pod/default/client", to).is_some_and(|(verdict, _)| verdict == "allowed")
    });
}
