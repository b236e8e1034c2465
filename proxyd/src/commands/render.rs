//! `proxyd render`.

#![allow(clippy::print_stderr, reason = "the command's output")]

use std::io::Write;

use anyhow::{Context, Result, bail};

use super::check::{Planned, plan_source};
use crate::config::{Config, Mode};
use crate::daemon::node;
use crate::dataplane::{iptables, ipvs, nftables};
use crate::source::Problem;

/// Prints what would be programmed, as `nft -f`, `iptables-restore` or `ipvsadm -R` takes it; what is wrong with
/// the source goes to standard error.
pub(super) fn render(config: &Config) -> Result<()> {
    let Planned { table, cluster, problems, .. } = plan_source(config)?;
    // `run` sets what is configured before it asks.
    let be_liberal = config.conntrack.tcp_be_liberal || node::be_liberal();
    let mut nodes = node::tables(config, &cluster, be_liberal);
    if config.mode == Mode::Ipvs {
        // The node's own addresses are not asked for: it may be another machine's manifests.
        let own = cluster.this_node().map_or(&[][..], |node| &node.addresses);
        let own = own.iter().copied().collect();
        let scheduler = config.ipvs.scheduler.name();
        return print(&ipvs::render(table.frontends(), scheduler, &own, &nodes), &problems);
    }
    if config.mode == Mode::Iptables {
        let checks = table.plans().filter_map(|(_, plan)| plan.health_check.as_ref());
        let mut ports: Vec<u16> = checks.map(|check| check.port).collect();
        ports.sort_unstable();
        ports.dedup();
        for node in &mut nodes {
            node.health_check_ports.clone_from(&ports);
        }
        let frontends: Vec<_> = table.frontends().collect();
        return print(&iptables::render(frontends.iter().copied(), &nodes), &problems);
    }
    print(&nftables::render(table.frontends(), &nodes), &problems)
}

fn print(ruleset: &str, problems: &[Problem]) -> Result<()> {
    let printed = std::io::stdout().lock().write_all(ruleset.as_bytes());
    printed.context("print the ruleset")?;
    for problem in problems {
        eprintln!("{problem}");
    }
    if !problems.is_empty() {
        bail!("{} problems", problems.len());
    }
    Ok(())
}
