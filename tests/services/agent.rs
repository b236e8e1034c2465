//! The node agent: what it makes of Nodes is what pods of several nodes need.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use testnet::manifest::{NodeObject, documents};
use testnet::{Cni, Host, Manifests, Network, Node, Proxyd, eventually};

use super::world::World;
use super::{SOON, soon};

const ROUTED_WITHIN: Duration = Duration::from_secs(1);
const REPAIRED_WITHIN: Duration = Duration::from_secs(10);

fn conflist_path(node: &Node) -> PathBuf {
    node.folder().join("net.d").join("10-viaduct.conflist")
}

fn conflist(node: &Node) -> Option<Value> {
    let text = std::fs::read(conflist_path(node)).ok()?;
    Some(serde_json::from_slice(&text).expect("a file that is whole"))
}

/// The daemon with the agent; it is not waited for.
fn spawn<'n>(node: &'n Node, settings: &str) -> Proxyd<'n> {
    Proxyd::spawn(node, &["--network-config", &node.agent_settings(settings)])
}

#[track_caller]
fn await_conflist(node: &Node) -> Value {
    eventually("the plugin's configuration", SOON, || conflist(node))
}

fn status(node: &Node) -> Result<(), Value> {
    let mut config = conflist(node).expect("a configuration")["plugins"][0].clone();
    config["name"] = json!("viaduct");
    config["cniVersion"] = json!("1.1.0");
    config["ipam"]["dataDir"] = json!(node.data_dir());
    let output = Cni::new("STATUS", &config).run(node.namespace());
    if output.status.success() { Ok(()) } else { Err(json!(output.error())) }
}

fn pods_reach_each_other(settings: &str) {
    let world = World::new();
    let daemons = [&world.n1, &world.n2].map(|node| spawn(node, settings));
    let pods = [&world.n1, &world.n2].map(|node| {
        let list = await_conflist(node);
        soon("the daemon serves pods", || status(node).is_ok());
        node.pod(&Network::of_conflist(&list, node), "pod")
    });
    for (from, to) in [(&pods[0], &pods[1]), (&pods[1], &pods[0])] {
        for address in to.ips() {
            from.ping(address).unwrap_or_else(|error| panic!("{settings}: {address}: {error}"));
            let server = to.serve_tcp(8080);
            let seen = from.tcp((address, 8080)).unwrap().peer;
            assert!(from.ips().contains(&seen), "{settings}: {seen} is no address of the pod");
            drop(server);
        }
    }
    for daemon in daemons {
        assert_eq!(daemon.http_get(10256, "/readyz").unwrap().status, 200);
    }
}

#[test]
fn pods_of_two_nodes_reach_each_other_through_the_tunnel() {
    pods_reach_each_other("backend: vxlan\n");
}

#[test]
fn pods_of_two_nodes_reach_each_other_by_routes() {
    pods_reach_each_other("backend: host-gw\nmode: routed\n");
}

#[test]
fn other_nodes_come_go_and_are_renumbered() {
    let world = World::new();
    let daemon = spawn(&world.n1, "backend: host-gw\n");
    await_conflist(&world.n1);
    let third = |cidr: &str| {
        json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": "n3"},
            "spec": {"podCIDRs": [cidr]},
            "status": {"addresses": [{"type": "InternalIP", "address": "192.168.0.77"}]},
        })
    };
    let routes = || world.n1.namespace().ip("route show proto 86");
    let await_routes = |what: &str, there: &str, not: &str| {
        eventually(what, ROUTED_WITHIN, || {
            let routes = routes();
            let right = (there.is_empty() || routes.contains(there)) && !routes.contains(not);
            if right { Ok(()) } else { Err(routes) }
        });
    };
    daemon.write("n3", &documents(&[&third("10.244.77.0/24")]));
    await_routes("a route to the new node", "10.244.77.0/24 via 192.168.0.77", "nothing");
    daemon.write("n3", &documents(&[&third("10.244.78.0/24")]));
    await_routes("a route to its new pods", "10.244.78.0/24 via 192.168.0.77", "10.244.77.0/24");
    daemon.remove("n3");
    await_routes("no route to a node that is gone", "", "192.168.0.77");
    assert!(routes().contains(&world.n2.pod_cidr()), "the others stay: {}", routes());
}

/// Else kubelet would start it again and again.
#[test]
fn without_services_no_change_of_a_node_waits_for_a_sync() {
    let world = World::new();
    let daemon = spawn(&world.n1, "services: false\n");
    await_conflist(&world.n1);
    let updated = || {
        let page = soon("an answer", || daemon.http_get(10256, "/livez")).body;
        serde_json::from_str::<Value>(&page).expect("JSON")["status"]["IPv4"]["lastUpdated"].clone()
    };
    let before = updated();
    let third = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "n3"},
        "spec": {"podCIDRs": ["10.244.77.0/24"]},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.168.0.77"}]},
    });
    daemon.write("n3", &documents(&[&third]));
    soon("nothing waits after the change", || updated() != before);
    let queued = "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds";
    assert_eq!(daemon.metric(queued, ""), None, "there are no syncs");
}

#[test]
fn without_services_nothing_that_the_mode_needs_is_missed_or_set_up() {
    let world = World::new();
    let network = world.n1.agent_settings("services: false\n");
    // This kernel may have no IPVS.
    let more = ["--network-config", &network, "--proxy-mode", "ipvs"];
    let daemon = Proxyd::spawn(&world.n1, &more);
    await_conflist(&world.n1);
    soon("it is ready", || daemon.log().contains("metrics: listening"));
    assert!(!daemon.log().contains("/vs/"), "{}", daemon.log());
    let links = world.n1.namespace().ip("link");
    assert!(!links.contains("kube-ipvs0"), "{links}");
}

#[test]
fn what_somebody_deletes_comes_back() {
    let world = World::new();
    let daemon = spawn(&world.n1, "backend: vxlan\n");
    await_conflist(&world.n1);
    let cidr = world.n2.pod_cidr();
    world.n1.namespace().ip(&format!("route del {cidr}"));
    eventually("the route is back", REPAIRED_WITHIN, || {
        world.n1.namespace().ip("route show proto 86").contains(&cidr)
    });
    assert!(daemon.log().matches("routes and entries changed").count() >= 2, "{}", daemon.log());
    std::fs::remove_file(conflist_path(&world.n1)).unwrap();
    eventually("the plugin's configuration is back", REPAIRED_WITHIN, || conflist(&world.n1));
}

#[test]
fn nothing_is_configured_before_the_node_can_serve_pods() {
    let world = World::new();
    let bare = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"},
        "status": {"addresses": [{"type": "InternalIP", "address": world.n1.v4()}]},
    });
    Manifests::of(&world.n1).write("nodes", &documents(&[&bare]));
    let mut daemon = spawn(&world.n1, "");
    let ready = || daemon.http_get(10256, "/readyz");
    soon("it says what is missing", || {
        ready().filter(|answer| answer.status == 503 && answer.body.contains("spec.podCIDRs"))
    });
    assert_eq!(conflist(&world.n1), None);
    let both = documents(&[&NodeObject::of(&world.n1), &NodeObject::of(&world.n2)]);
    daemon.write("nodes", &both);
    let list = await_conflist(&world.n1);
    let ranges = &list["plugins"][0]["ipam"]["ranges"];
    assert_eq!(ranges[0][0]["subnet"], world.n1.pod_cidr());
    soon("it is ready", || ready().filter(|answer| answer.status == 200));
    assert_eq!(status(&world.n1), Ok(()));
    // Without the daemon no pod starts, and STATUS says so.
    daemon.stop();
    assert!(status(&world.n1).is_err());
    daemon.start_again();
    soon("it is ready again", || status(&world.n1).is_ok());
}

#[test]
fn a_node_that_is_not_known_is_named() {
    let world = World::new();
    Manifests::of(&world.n1).write("nodes", &documents(&[&NodeObject::of(&world.n2)]));
    let daemon = spawn(&world.n1, "");
    soon("it says whose Node is missing", || {
        let answer = daemon.http_get(10256, "/readyz")?;
        (answer.status == 503 && answer.body.contains("no Node n1")).then_some(())
    });
    assert_eq!(conflist(&world.n1), None);
}
