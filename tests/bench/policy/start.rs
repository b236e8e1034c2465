//! Pods that start: what the gate costs ADD, and what of their first packets gets through.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::json;
use testnet::{Family, Host, Node, Pod};

use super::node::World;
use super::objects::object;
use crate::report::{Report, median};

/// Started against a policy that denies everything.
const PODS: usize = 500;
const ADDS: usize = 60;
const PORT: u16 = 9;

/// An attachment and what it took, in milliseconds; the container was there before.
fn add<'a>(node: &'a Node, network: &testnet::Network, name: &str) -> Result<(Pod<'a>, f64)> {
    let container = node.container(name);
    let started = Instant::now();
    let pod = node.try_attach(network, container, name);
    let took = started.elapsed().as_secs_f64() * 1e3;
    let pod = pod.map_err(|output| anyhow::anyhow!("ADD of {name}: {}", output.stdout))?;
    Ok((pod, took))
}

pub(super) fn measure(report: &mut Report) -> Result<()> {
    let world = World::new();
    world.put(
        "default",
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}}),
    );
    world.put(
        "deny",
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": "deny", "namespace": "default"},
            "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}}),
    );
    let daemon = world.daemon()?;
    let gated = world.network()?.set("ipam", ipam(&world.node));
    let alone = gated.clone().set("daemonSocket", "");
    let outside = SocketAddr::from((world.lan.outside(Family::V4), PORT));
    let sink = world.lan.namespace().run(move || UdpSocket::bind(outside))?;
    sink.set_read_timeout(Some(Duration::from_secs(1)))?;

    // The API server knows a pod before the runtime does.
    let tell = |name: &str| {
        world.put(name, object("default", name, world.node.name(), None, |_| {}));
    };
    let names: Vec<String> = (0..PODS).map(|number| format!("pod-{number}")).collect();
    names.iter().for_each(|name| tell(name));
    std::thread::sleep(Duration::from_secs(2));
    let (mut with, mut without, mut pods) = (Vec::new(), Vec::new(), Vec::new());
    for (number, name) in names.iter().enumerate() {
        let (pod, took) = add(&world.node, &gated, name)?;
        // The first thing it does.
        pod.namespace().run(move || {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.send_to(&[1], outside)
        })?;
        pods.push(pod);
        if number < ADDS {
            with.push(took);
            let (free, took) = add(&world.node, &alone, &format!("free-{number}"))?;
            without.push(took);
            free.delete();
        }
    }
    let mut leaked = 0;
    while sink.recv(&mut [0; 8]).is_ok() {
        leaked += 1;
    }
    // That packets can get there at all.
    let (free, _) = add(&world.node, &alone, "free")?;
    free.namespace().run(move || UdpSocket::bind("0.0.0.0:0")?.send_to(&[1], outside))?;
    anyhow::ensure!(sink.recv(&mut [0; 8]).is_ok(), "nobody's packets get to the sink");
    drop(daemon);
    report.bar("ADD with the gate, above ADD without", median(&with) - median(&without), 3.0, "ms");
    report.add("ADD", "with the gate", with);
    report.add("ADD", "without", without);
    report.figure(
        "first packets of 500 isolated pods that got out",
        "viaduct",
        &[f64::from(leaked)],
        "",
    );
    report.bar("first packets of 500 isolated pods that got out", f64::from(leaked), 0.0, "");
    Ok(())
}

/// Room for all of them.
fn ipam(node: &Node) -> serde_json::Value {
    json!({"type": "host-local", "dataDir": node.data_dir(), "ranges": [[{"subnet": "10.244.0.0/20"}]]})
}
