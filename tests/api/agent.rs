//! The node agent on an API server: its routes follow the Nodes.

use std::time::Duration;

use serde_json::{Value, json};
use testnet::manifest::NodeObject;
use testnet::{Host, Node, Proxyd, eventually};

use super::server;
use super::world::{World, await_ready};

/// Routes follow within this time; the machine may be busy.
const ROUTED_WITHIN: Duration = Duration::from_secs(5);

fn start<'n>(world: &World, node: &'n Node, settings: &str) -> Proxyd<'n> {
    let settings = node.agent_settings(settings);
    let kubeconfig = world.kubeconfig_at(node, server::PORT).display().to_string();
    let daemon = Proxyd::spawn(node, &["--kubeconfig", &kubeconfig, "--network-config", &settings]);
    await_ready(&daemon);
    daemon
}

/// A node that is nowhere but in the API.
fn node(name: &str, cidr: &str, address: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
        "spec": {"podCIDR": cidr, "podCIDRs": [cidr]},
        "status": {"addresses": [{"type": "InternalIP", "address": address}]},
    })
}

/// What the kernel has of other nodes: routes, and with a tunnel its neighbours and forwarding entries.
fn learnt(node: &Node) -> String {
    let namespace = node.namespace();
    let tunnel = namespace.links().into_iter().find(|name| name.starts_with("vdvxlan"));
    let mut all = namespace.ip("route show proto 86") + &namespace.ip("-6 route show proto 86");
    if let Some(tunnel) = tunnel {
        all += &namespace.ip(&format!("neighbour show dev {tunnel}"));
        all += &namespace.command("bridge", &["fdb", "show", "dev", &tunnel]);
    }
    all
}

/// Waits until every text of `there` is among what the kernel has, and none of `gone`.
#[track_caller]
fn await_learnt(world: &World, what: &str, there: &[&str], gone: &[&str]) {
    eventually(what, ROUTED_WITHIN, || {
        let all = learnt(&world.n1);
        // A space after each, so that no address is the beginning of another.
        let has = |text: &&&str| {
            all.lines().any(|line| {
                line.split([' ', '/']).any(|word| word == **text) || line.contains(**text)
            })
        };
        let right = there.iter().all(|text| has(&text)) && !gone.iter().any(|text| has(&text));
        if right { Ok(()) } else { Err(format!("{there:?} without {gone:?} in\n{all}")) }
    });
}

fn nodes_come_change_and_go(settings: &str, tunnel: bool) {
    let Some(world) = World::with_nodes() else { return };
    let _daemon = start(&world, &world.n1, settings);
    let (n2_pods, n2_address) = (world.n2.pod_cidr(), world.n2.v4().to_string());
    let n2 = [&*n2_pods, &*n2_address];
    await_learnt(&world, "the other node", &n2, &["192.168.0.77"]);

    world.apply(&[&node("n77", "10.244.77.0/24", "192.168.0.77")]);
    await_learnt(
        &world,
        "a new node",
        &[&n2[..], &["10.244.77.0/24", "192.168.0.77"]].concat(),
        &[],
    );

    // An address is the node's status, which is a resource of its own.
    let status =
        json!({"status": {"addresses": [{"type": "InternalIP", "address": "192.168.0.78"}]}});
    world.server.kubectl(&[
        "patch",
        "node",
        "n77",
        "--subresource=status",
        "--type=merge",
        "-p",
        &status.to_string(),
    ]);
    let there = [&n2[..], &["10.244.77.0/24", "192.168.0.78"]].concat();
    await_learnt(&world, "its new address", &there, &["192.168.0.77"]);

    // Pod addresses do not change but with the Node.
    world.delete(&[&node("n77", "10.244.77.0/24", "192.168.0.78")]);
    world.apply(&[&node("n77", "10.244.79.0/24", "192.168.0.78")]);
    let there = [&n2[..], &["10.244.79.0/24", "192.168.0.78"]].concat();
    await_learnt(&world, "its new pods", &there, &["10.244.77.0/24"]);

    world.delete(&[&node("n77", "10.244.79.0/24", "192.168.0.78")]);
    await_learnt(&world, "a node that is gone", &n2, &["10.244.79.0/24", "192.168.0.78"]);

    world.delete(&[&NodeObject::of(&world.n2)]);
    await_learnt(&world, "the other node is gone", &[], &n2);
    assert_eq!(world.n1.namespace().links().iter().any(|l| l.starts_with("vdvxlan")), tunnel);
}

#[test]
fn nodes_come_change_and_go_with_tunnels() {
    nodes_come_change_and_go("backend: vxlan\n", true);
}

#[test]
fn nodes_come_change_and_go_with_routes() {
    nodes_come_change_and_go("backend: host-gw\n", false);
}
