//! `proxyd render`.

#![allow(clippy::print_stderr, reason = "the command's output")]

use std::io::Write;

use anyhow::{Context, Result, bail};

use super::check::{Planned, plan_source};
use crate::config::Config;
use crate::daemon::{check_mode, node};
use crate::dataplane::nftables;

/// Prints what would be programmed, as `nft -f` takes it; what is wrong with the source goes to standard
/// error.
pub(super) fn render(config: &Config) -> Result<()> {
    check_mode(config)?;
    let Planned { table, cluster, problems, .. } = plan_source(config)?;
    // `run` sets what is configured before it asks.
    let be_liberal = config.conntrack.tcp_be_liberal || node::be_liberal();
    let nodes = node::tables(config, &cluster, be_liberal);
    let ruleset = nftables::render(table.frontends(), &nodes);
    let printed = std::io::stdout().lock().write_all(ruleset.as_bytes());
    printed.context("print the ruleset")?;
    for problem in &problems {
        eprintln!("{problem}");
    }
    if !problems.is_empty() {
        bail!("{} problems", problems.len());
    }
    Ok(())
}
