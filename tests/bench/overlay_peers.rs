//! The overlay with 1,000 peers: from nothing, and one peer more or less.

use std::time::Instant;

use anyhow::Result;
use netlink::RouteSocket;
use overlay::{Backend, Config, Node, Overlay, Underlay, Vxlan, plan};
use testnet::{Host, Lan};

use crate::report::Report;

const PEERS: u32 = 1000;

pub(crate) fn measure(report: &mut Report, runs: usize) -> Result<()> {
    for backend in ["vxlan", "host-gw"] {
        let (cold, change, restart) = in_namespace(backend, runs.div_ceil(5).max(5))?;
        let cold =
            report.add(&format!("overlay {backend}, 1000 peers from nothing"), "viaduct", cold);
        let change =
            report.add(&format!("overlay {backend}, one of 1000 changes"), "viaduct", change);
        report.add(&format!("overlay {backend}, 1000 peers in place"), "viaduct", restart);
        report.bar(&format!("overlay {backend}: 1,000 peers from nothing"), cold, 200.0, "ms");
        report.bar(&format!("overlay {backend}: one peer changes"), change, 2.0, "ms");
    }
    Ok(())
}

fn nodes(count: u32) -> Vec<Node> {
    let node = |n: u32| {
        // Number 0 is this node, as `Lan` numbers it.
        let (high, low) = ((n + 1) / 250, (n + 1) % 250);
        Node {
            name: format!("n{n}"),
            address: match n {
                0 => [192, 168, 0, 1].into(),
                _ => [192, 168, 4 + high as u8, 1 + low as u8].into(),
            },
            addresses: Vec::new(),
            pod_cidrs: format!("10.{}.{low}.0/24", 100 + high).parse().into_iter().collect(),
            vtep_mac: None,
        }
    };
    (0..=count).map(node).collect()
}

type Milliseconds = Vec<f64>;

fn in_namespace(
    backend: &'static str,
    runs: usize,
) -> Result<(Milliseconds, Milliseconds, Milliseconds)> {
    let lan = Lan::new();
    let node = lan.node("n0");
    // A subnet wide enough for a thousand direct neighbours.
    node.namespace().ip("addr add 192.168.0.1/16 dev eth0");
    node.namespace().run(move || {
        let backend = match backend {
            "host-gw" => Backend::HostGw,
            _ => Backend::Vxlan(Vxlan {
                vni: 1,
                port: 8472,
                direct_routing: false,
                tx_checksum_offload: None,
            }),
        };
        let config = Config { backend, node_name: "n0".into(), device: None };
        let (mut cold, mut change, mut restart) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..runs {
            let mut socket = RouteSocket::open()?;
            let (all, fewer) = (nodes(PEERS), nodes(PEERS - 1));
            let mut overlay = Overlay::default();
            let mut converge = |overlay: &mut Overlay, nodes: &[Node]| -> Result<f64> {
                let start = Instant::now();
                let underlay = Underlay::observe(&mut socket, &config, nodes)?;
                let plan = plan(&config, nodes, &underlay)?;
                anyhow::ensure!(plan.problems.is_empty(), "{:?}", plan.problems);
                overlay.converge(&mut socket, &plan)?;
                Ok(start.elapsed().as_secs_f64() * 1000.0)
            };
            cold.push(converge(&mut overlay, &all)?);
            change.push(converge(&mut overlay, &fewer)?);
            change.push(converge(&mut overlay, &all)?);
            restart.push(converge(&mut Overlay::default(), &all)?);
            // From nothing again: the device goes, or all routes do.
            let alone = &all[..1];
            converge(&mut Overlay::default(), alone)?;
            socket.delete_link_by_name("vdvxlan1")?;
        }
        Ok((cold, change, restart))
    })
}
