//! `scripts/bench`: how long things take, beside the peers, in one run.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "a benchmark prints its table")]

mod cluster;
mod cni;
mod overlay_peers;
mod policy;
mod process;
mod report;
mod services;

use std::path::PathBuf;

use anyhow::{Result, bail};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let what = arguments.next().unwrap_or_default();
    let mut runs = None;
    let mut output = PathBuf::from("docs/benchmarks");
    let mut mode = String::from("nftables");
    while let Some(option) = arguments.next() {
        let value = arguments.next().unwrap_or_default();
        match option.as_str() {
            "--runs" => runs = Some(value.parse()?),
            "--output" => output = value.into(),
            "--mode" => mode = value,
            _ => bail!(
                "unknown option {option}: --runs N, --output FOLDER, --mode nftables|iptables|ipvs"
            ),
        }
    }
    match what.as_str() {
        "cni" => {
            let (mut report, runs) = (report::Report::default(), runs.unwrap_or(50));
            cni::measure(&mut report, runs)?;
            overlay_peers::measure(&mut report, runs)?;
            report.finish(&output, "cni")
        }
        "services" => {
            services::check()?;
            let mut report = report::Report::default();
            match mode.as_str() {
                "nftables" => services::measure(&mut report, runs.unwrap_or(5))?,
                "iptables" => {
                    services::iptables::measure(&mut report, runs.unwrap_or(3))?;
                    return report.finish(&output, "services-iptables");
                }
                "ipvs" => {
                    services::ipvs::measure(&mut report, runs.unwrap_or(3))?;
                    return report.finish(&output, "services-ipvs");
                }
                _ => bail!("--mode is nftables, iptables or ipvs"),
            }
            report.finish(&output, "services")
        }
        "cluster" => {
            cluster::check()?;
            let (mut report, runs) = (report::Report::default(), runs.unwrap_or(5));
            match mode.as_str() {
                "nftables" => cluster::measure(&mut report, runs)?,
                "iptables" => {
                    cluster::iptables(&mut report, runs)?;
                    return report.finish(&output, "cluster-iptables");
                }
                _ => bail!("--mode is nftables or iptables"),
            }
            report.finish(&output, "cluster")
        }
        "policy" => {
            let mut report = report::Report::default();
            policy::measure(&mut report, runs.unwrap_or(5))?;
            report.finish(&output, "policy")
        }
        _ => bail!("what to measure: cni, services, policy or cluster"),
    }
}
