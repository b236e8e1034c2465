//! `proxyd check`.

#![allow(clippy::print_stdout, reason = "the command's output")]

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use netpol::World;
use netpol::compile::Compiler;

use crate::cluster::Cluster;
use crate::config::Config;
use crate::daemon::{node, open_source, take_judged};
use crate::service::table::Delta;
use crate::service::{Resolution, Table, plan};
use crate::source::Problem;

/// What a source has, and what follows from it.
pub(super) struct Planned {
    pub(super) table: Table,
    pub(super) cluster: Cluster,
    /// What policies are about.
    pub(super) world: World,
    pub(super) problems: Vec<Problem>,
}

/// Reads the source once and plans it, without the kernel.
pub(super) fn plan_source(config: &Config) -> Result<Planned> {
    let mut update = open_source(config)?.read()?;
    let mut compiler = Compiler::new(node::name(config));
    take_judged(&mut update.changes).into_iter().for_each(|change| compiler.apply(change));
    let mut cluster = Cluster::new(node::name(config));
    for change in update.changes {
        cluster.apply(change);
    }
    let rules = node::rules(config, &cluster);
    let mut table = Table::default();
    for (name, service) in cluster.services() {
        let plan = plan::plan(name, service, cluster.slices(name), &rules);
        table.replace(name, Some(plan), &mut Delta::new());
    }
    let world = compiler.world().clone();
    Ok(Planned { table, cluster, world, problems: update.problems.unwrap_or_default() })
}

/// Prints what would be programmed, in numbers, and what is wrong.
pub(super) fn check(config: &Config) -> Result<()> {
    let Planned { table, problems, .. } = plan_source(config)?;
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    let mut endpoints = 0;
    for (_, frontend) in table.frontends() {
        let kind = match frontend.resolution {
            Resolution::Cluster(_) | Resolution::Local => "balanced",
            Resolution::ByOrigin => "balanced by origin (Local policy)",
            Resolution::Reject => "rejected: no endpoints",
            Resolution::Drop => "dropped: no endpoint on this node",
        };
        *kinds.entry(kind).or_default() += 1;
        endpoints += frontend.lists.cluster.len();
    }
    println!("services: {}", table.plans().count());
    println!("frontends: {}", kinds.values().sum::<usize>());
    for (kind, count) in kinds {
        println!("  {kind}: {count}");
    }
    println!("endpoints, counted once per frontend: {endpoints}");
    for (key, owner, other) in table.conflicts() {
        println!("conflict: {key} is wanted by {owner}, which has it, and by {other}");
    }
    for problem in &problems {
        println!("{problem}");
    }
    if !problems.is_empty() {
        bail!("{} problems", problems.len());
    }
    Ok(())
}
