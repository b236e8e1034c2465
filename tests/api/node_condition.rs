//! The Node's condition `NetworkUnavailable` and events where other nodes have no route.

use serde_json::{Value, json};
use testnet::{Host, Lan, Node, Proxyd, eventually};

use super::SOON;
use super::fake::{Fake, NODES};

fn node(name: &str, address: &str, cidr: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "resourceVersion": "1"},
        "spec": {"podCIDRs": [cidr]},
        "status": {"addresses": [{"type": "InternalIP", "address": address}]},
    })
}

fn spawn<'n>(fake: &Fake, node: &'n Node) -> Proxyd<'n> {
    let settings = "policies: false\nsourceAddressCheck: false\nbackend: host-gw\n";
    let settings = node.agent_settings(settings);
    let kubeconfig = fake.kubeconfig(node, "").display().to_string();
    Proxyd::spawn(node, &["--kubeconfig", &kubeconfig, "--network-config", &settings])
}

/// The conditions that were set, and the events with their notes, in order.
fn reported(fake: &Fake) -> (Vec<Value>, Vec<(String, String)>) {
    let written = fake.written();
    let conditions = written.iter().filter_map(|body| body["status"]["conditions"].get(0));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let events = written.iter().filter(|body| body.get("note").is_some());
    let events = events.map(|event| (text(&event["reason"]), text(&event["note"])));
    (conditions.cloned().collect(), events.collect())
}

#[test]
fn a_node_without_route_is_in_condition_and_event() {
    let lan = Lan::new();
    let n1 = lan.node("n1");
    let fake = Fake::on(&n1);
    let far = node("far", "172.31.5.9", "10.244.3.0/24");
    let own = node("n1", "192.168.0.1", "10.244.1.0/24");
    let near = node("n2", "192.168.0.2", "10.244.2.0/24");
    fake.list(NODES, vec![own, near, far.clone()]);
    let daemon = spawn(&fake, &n1);
    eventually("condition and event", SOON, || {
        let (conditions, events) = reported(&fake);
        let condition = conditions.last().ok_or("no condition")?;
        let right = condition["status"] == "False"
            && condition["reason"] == "NodesNotRouted"
            && condition["message"].as_str().is_some_and(|message| message.contains("far"))
            && events
                .iter()
                .any(|(reason, note)| reason == "NodesNotRouted" && note.contains("far"));
        if right { Ok(()) } else { Err(format!("{conditions:?} {events:?} {}", daemon.log())) }
    });
    let (conditions, events) = reported(&fake);
    for text in conditions.iter().map(Value::to_string).chain(events.into_iter().map(|e| e.1)) {
        assert!(!text.contains("all nodes"), "{text}");
    }
    fake.await_watched(NODES);
    fake.event(NODES, "DELETED", &far);
    eventually("the end of both", SOON, || {
        let (conditions, events) = reported(&fake);
        conditions.last().is_some_and(|condition| condition["reason"] == "ViaductIsReady")
            && events.iter().any(|(reason, _)| reason == "NetworkReady")
    });
}

#[test]
fn an_event_that_was_refused_is_created_later() {
    let lan = Lan::new();
    let n1 = lan.node("n1");
    let fake = Fake::on(&n1);
    let far = node("far", "172.31.5.9", "10.244.3.0/24");
    fake.list(NODES, vec![node("n1", "192.168.0.1", "10.244.1.0/24"), far]);
    fake.read_only(true);
    let daemon = spawn(&fake, &n1);
    eventually("an attempt", SOON, || daemon.log().contains("no writes now"));
    std::thread::sleep(std::time::Duration::from_secs(1));
    fake.read_only(false);
    eventually("the event", SOON, || {
        let (conditions, events) = reported(&fake);
        !conditions.is_empty() && events.iter().any(|(reason, _)| reason == "NodesNotRouted")
    });
    let routes = n1.namespace().ip("route show proto 86");
    assert_eq!(routes, "", "no other node is in reach");
}
