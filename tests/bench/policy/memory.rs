//! What the daemon keeps of each pod of other nodes.

use anyhow::Result;
use testnet::Proxyd;

use super::node::World;
use super::objects::{self, NAMESPACES, lines};
use crate::process;
use crate::report::Report;

const PODS: usize = 50_000;

/// MB in use by a daemon that knows so many pods and 1,000 policies.
fn daemon_with(pods: usize) -> Result<f64> {
    let world = World::new();
    let namespaces = (0..NAMESPACES).map(|n| objects::namespace(n, &objects::team(n)));
    world.write("namespaces", &lines(namespaces));
    let policies = (0..1000).map(|number| objects::policy(number, &objects::role(number)));
    world.write("policies", &lines(policies));
    // In files of some size, as pages of a list are.
    const FILE: usize = 500;
    for first in (0..pods).step_by(FILE) {
        let those = first..(first + FILE).min(pods);
        let pod = |number| objects::pod(number, "elsewhere", &objects::role(number));
        world.write(&format!("pods-{first}"), &lines(those.map(pod)));
    }
    let daemon: Proxyd<'_> = world.daemon()?;
    process::memory(daemon.pid())
}

pub(super) fn measure(report: &mut Report) -> Result<()> {
    let (none, all) = (daemon_with(0)?, daemon_with(PODS)?);
    report.figure("memory, 1,000 policies, 50,000 pods", "viaduct", &[all], "MB");
    report.figure("memory, 1,000 policies, no pods", "viaduct", &[none], "MB");
    let each = (all - none) * 1e6 / PODS as f64;
    report.bar("memory of each of 50,000 pods", each, 400.0, "bytes");
    Ok(())
}
