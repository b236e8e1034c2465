//! A thousand nodes: from the start of the daemon until the routes to all of them are in place.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use netlink::{Family, RouteFilter, RouteSocket};
use testnet::Host;

use super::control_plane::ControlPlane;
use super::load;
use super::proxy::{Mode, Proxy, Who};
use crate::report::Report;

/// Routes of this protocol are the overlay's.
const PROTOCOL: u8 = 86;
const PEERS: u32 = 1000;

/// `rounds` starts, each on a fresh node.
pub(super) fn measure(report: &mut Report, plane: &ControlPlane, rounds: usize) -> Result<()> {
    load::nodes(plane, 1..PEERS + 1)?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("network.yaml");
    let path = folder.path().display();
    std::fs::write(
        &file,
        format!("backend: vxlan\nconfDir: {path}\ndaemonSocket: {path}/cni.sock\n"),
    )?;
    let mut routed = Vec::new();
    for _ in 0..rounds {
        let started = Instant::now();
        let proxy = Proxy::start(
            plane,
            Who::Viaduct,
            Mode::Nftables,
            &[format!("--network-config={}", file.display())],
        )?;
        loop {
            let routes = proxy.node.namespace().run(routes)?;
            if routes >= PEERS as usize {
                break;
            }
            ensure!(started.elapsed() < Duration::from_secs(60), "{routes} of {PEERS} are routed");
            std::thread::sleep(Duration::from_millis(5));
        }
        routed.push(started.elapsed().as_secs_f64() * 1e3);
        proxy.stop()?;
    }
    let middle = report.add("1,000 nodes: start to all routed", "viaduct", routed);
    report.bar("1,000 nodes: start to all routed", middle, 1000.0, "ms");
    Ok(())
}

/// How many routes of the overlay's are there.
fn routes() -> netlink::Result<usize> {
    let filter = RouteFilter { family: Family::V4, link: None, protocol: Some(PROTOCOL) };
    Ok(RouteSocket::open()?.routes(filter)?.len())
}
