//! What every policy agent must do.

use serde_json::json;
use testnet::manifest::documents;
use testnet::{Host, eventually};

use super::world::{SOON, World};

#[test]
fn only_those_may_come_in_who_are_allowed() {
    let world = World::new();
    let _daemons = world.daemons("backend: host-gw\n");
    let isolate = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {
            "podSelector": {"matchLabels": {"app": "web"}},
            "ingress": [{
                "from": [{"podSelector": {"matchLabels": {"role": "friend"}}}],
                "ports": [{"port": "web"}],
            }],
        },
    });
    world.write("policy", &documents(&[&isolate]));
    world.tell("web", &world.n1, &json!({"app": "web"}), None);
    world.tell("near", &world.n1, &json!({"role": "friend"}), None);
    world.tell("far", &world.n2, &json!({"role": "friend"}), None);
    world.tell("stranger", &world.n1, &json!({}), None);
    let web = world.pod(&world.n1, "web");
    let near = world.pod(&world.n1, "near");
    let far = world.pod(&world.n2, "far");
    let stranger = world.pod(&world.n1, "stranger");
    let _servers = [web.serve_tcp(8080), web.serve_tcp(8081)];
    world.tell("far", &world.n2, &json!({"role": "friend"}), Some(&far));
    for ip in web.ips() {
        assert!(near.tcp((ip, 8080)).is_ok(), "{ip}");
        eventually("a friend on another node is let in", SOON, || far.tcp((ip, 8080)).is_ok());
        assert!(stranger.tcp((ip, 8080)).is_err(), "{ip}");
        assert!(near.tcp((ip, 8081)).is_err(), "{ip}: another port");
        assert!(world.n1.tcp((ip, 8081)).is_ok(), "{ip}: the pod's own node");
        assert!(world.n2.tcp((ip, 8080)).is_err(), "{ip}: another node");
    }
    // What is taken away from one that is connected.
    let ip = web.v4();
    let mut live = near.connect((ip, 8080)).unwrap();
    live.ask("before").unwrap();
    world.tell("near", &world.n1, &json!({}), Some(&near));
    eventually("the connection is cut", SOON, || live.ask("after").is_err());
    world.remove("policy");
    eventually("everybody is let in", SOON, || stranger.tcp((ip, 8080)).is_ok());
}
