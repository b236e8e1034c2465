//! The daemon in iptables mode, beside what `iptables-restore` takes for kube-proxy's shape and for one chain.

use anyhow::{Context, Result};
use testnet::{Mode, Namespace};

use super::daemon::Daemon;
use super::objects::{self, Size};
use super::{MIDDLE, SMALL, latency, peers};
use crate::report::{Report, median};

/// Single changes of each variant.
const CHANGES: u32 = 12;

/// `rounds` of every start.
pub(crate) fn measure(report: &mut Report, rounds: usize) -> Result<()> {
    for size in [SMALL, MIDDLE] {
        for variant in ["legacy", "nft"] {
            cold(report, size, variant, rounds)?;
            changes(report, size, variant)?;
        }
    }
    ["legacy", "nft"].into_iter().try_for_each(|variant| latency::in_iptables_mode(report, variant))
}

fn cold(report: &mut Report, size: Size, variant: &'static str, rounds: usize) -> Result<()> {
    let folder = tempfile::tempdir()?;
    objects::write_one_file(size, folder.path())?;
    let (mut starts, mut restarts) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let namespace = Namespace::new("bench");
        let [cold, restart] =
            Daemon::start_twice(&namespace, folder.path(), Mode::Iptables(variant))?;
        starts.push(cold);
        restarts.push(restart);
    }
    let case = format!("{} {variant}", size.name());
    report.add(&format!("{case}: restart, compare"), "viaduct", restarts);
    let ours = median(&starts);
    report.add(&format!("{case}: cold, plan + apply"), "viaduct", starts);
    let program = format!("iptables-{variant}-restore");
    let (took, ended) = peers::run(&[&program, "--noflush"], &peers::iptables(size))?;
    let what = if ended { "cold" } else { "cold, stopped after two minutes" };
    report.add(&format!("{case}: {what}"), "iptables-restore, chain per endpoint", vec![took]);
    if size == MIDDLE && variant == "legacy" {
        report.bar("5k x 10 legacy cold, of chain per endpoint", ours / took, 0.1, "x");
    }
    Ok(())
}

fn changes(report: &mut Report, size: Size, variant: &'static str) -> Result<()> {
    let folder = tempfile::tempdir()?;
    objects::write_files(size, folder.path())?;
    let namespace = Namespace::new("bench");
    let daemon = Daemon::start_in_mode(&namespace, folder.path(), Mode::Iptables(variant))?;
    let program = format!("iptables-{variant}-restore");
    let raw =
        "*nat\n:BENCH - [0:0]\n-A BENCH -p tcp -j DNAT --to-destination 10.250.0.1:8080\nCOMMIT\n";
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for number in 0..CHANGES {
        ours.push(daemon.change_one_endpoint(&namespace, folder.path(), size, number)?);
        let (took, _) = peers::run_in(&namespace, &[&program, "--noflush", "--wait", "5"], raw)?;
        theirs.push(took);
    }
    daemon.stop().context("stop the daemon")?;
    let (own, raw) = (median(&ours), median(&theirs));
    let case = format!("{} {variant}: one endpoint changes", size.name());
    report.add(&case, "viaduct", ours);
    report.add(&case, "iptables-restore of one chain", theirs);
    if size == MIDDLE && variant == "legacy" {
        report.bar(
            "5k x 10 legacy: one endpoint changes, of one chain's restore",
            own / raw,
            1.1,
            "x",
        );
    }
    if size == MIDDLE && variant == "nft" {
        report.bar("5k x 10 nft: one endpoint changes", own, 50.0, "ms");
    }
    Ok(())
}
