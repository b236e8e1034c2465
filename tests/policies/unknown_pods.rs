//! Addresses of a node's pods that no pod is known to have.

use serde_json::json;
use testnet::{Host, Proxyd, eventually};

use super::world::{SOON, WEB, World};

/// Packets that were denied so, in that direction.
fn denied(daemon: &Proxyd<'_>, direction: &str) -> f64 {
    let labels =
        format!("direction=\"{direction}\",policies=\"no pod is known to have this address\"");
    daemon.metric("viaduct_policy_denied_packets_total", &labels).unwrap_or_default()
}

#[test]
fn who_is_not_known_reaches_nobody_and_nobody_reaches_him() {
    for settings in ["backend: host-gw\n", "backend: vxlan\nmode: routed\n"] {
        let world = World::new();
        let daemons = world.daemons(settings);
        let known = world.pod(&world.n1, "known", &json!({}));
        let far = world.pod(&world.n2, "far", &json!({}));
        // Nobody told the daemon of it.
        let stranger = world.n1.pod(&world.network(&world.n1).set("daemonSocket", ""), "stranger");
        let _servers = [&known, &far, &stranger].map(|pod| pod.serve_tcp(WEB));
        let _udp = [&known, &stranger].map(|pod| pod.serve_udp(WEB));
        eventually("the pods that are known", SOON, || far.tcp((known.v4(), WEB)).is_ok());
        for (from, to) in known.ips().into_iter().zip(stranger.ips()) {
            assert!(known.tcp((to, WEB)).is_err(), "{settings}: to {to}");
            assert!(stranger.tcp((from, WEB)).is_err(), "{settings}: from {to}");
            assert!(known.udp((to, WEB)).is_err() && stranger.udp((from, WEB)).is_err(), "{to}");
            assert!(far.tcp((to, WEB)).is_err(), "{settings}: {to} from another node");
            assert!(world.n1.tcp((to, WEB)).is_ok(), "{settings}: {to} from its own node");
        }
        assert!(stranger.tcp((far.v4(), WEB)).is_err(), "{settings}: to another node");
        for direction in ["ingress", "egress"] {
            assert!(denied(&daemons[0], direction) > 0.0, "{settings}: {direction}");
        }
        let line = "no pod is known to have this address";
        eventually("the log", SOON, || daemons[0].log().contains(line));
        // As soon as the API server knows it, it is as any pod.
        world.tell("stranger", &world.n1, &json!({}), Some(&stranger));
        eventually("it is known", SOON, || stranger.tcp((known.v4(), WEB)).is_ok());
        assert!(far.tcp((stranger.v4(), WEB)).is_ok());
        // And a live connection does not outlive what is known of it.
        let mut live = known.connect((stranger.v4(), WEB)).expect("a connection");
        assert!(live.ask("there?").is_ok(), "{settings}");
        world.remove("pod-stranger");
        eventually("the connection is cut", SOON, || live.ask("still?").is_err());
    }
}

#[test]
fn it_can_be_switched_off() {
    let world = World::new();
    let _daemons = world.daemons("backend: host-gw\ndenyUnknownPods: false\n");
    let known = world.pod(&world.n1, "known", &json!({}));
    let stranger = world.n1.pod(&world.network(&world.n1).set("daemonSocket", ""), "stranger");
    let _servers = [&known, &stranger].map(|pod| pod.serve_tcp(WEB));
    for (from, to) in known.ips().into_iter().zip(stranger.ips()) {
        eventually("they reach each other", SOON, || known.tcp((to, WEB)).is_ok());
        assert!(stranger.tcp((from, WEB)).is_ok(), "{to}");
    }
}
