//! Services: the daemon beside kube-proxy's two shapes, `nft -f` of the same maps, and the bare messages.

mod daemon;
pub(crate) mod iptables;
pub(crate) mod ipvs;
mod latency;
pub(crate) mod objects;
mod peers;
mod program;
mod writer;

use anyhow::{Context, Result};
use testnet::Namespace;

use crate::report::{Report, median, quantile};
use objects::Size;
use program::Starts;

const SMALL: Size = Size { services: 1000, endpoints: 10 };
const MIDDLE: Size = Size { services: 5000, endpoints: 10 };
const LARGE: Size = Size { services: 10_000, endpoints: 10 };
const WIDE: Size = Size { services: 45_000, endpoints: 1 };
const DEEP: Size = Size { services: 5000, endpoints: 50 };

/// `rounds` of every start; twenty times as many changes.
pub(crate) fn measure(report: &mut Report, rounds: usize) -> Result<()> {
    eprintln!("cold starts, restarts, and the same by others:");
    for size in [SMALL, MIDDLE, LARGE, WIDE, DEEP] {
        starts(report, size, rounds)?;
    }
    eprintln!("changes:");
    for size in [SMALL, LARGE, WIDE, DEEP] {
        let changes = program::changes(report, size, rounds as u32 * 20)?;
        if size == LARGE {
            for (what, values) in [("endpoint", changes.endpoint), ("Service", changes.service)] {
                let bar = |share: f64| quantile(&values, share);
                report.bar(&format!("10k x 10: one {what} changes, median"), bar(0.5), 2.0, "ms");
                report.bar(&format!("10k x 10: one {what} changes, p99"), bar(0.99), 10.0, "ms");
            }
        }
    }
    more_services(report)?;
    eprintln!("connecting:");
    latency::measure(report)
}

fn starts(report: &mut Report, size: Size, rounds: usize) -> Result<()> {
    let folder = tempfile::tempdir()?;
    objects::write_one_file(size, folder.path())?;
    let mut ours = Starts::default();
    let (mut floor, mut text) = (Vec::new(), Vec::new());
    let rendered = peers::rendered(folder.path())?;
    // In turn, so that whatever else the machine does concerns everybody.
    for _ in 0..rounds {
        ours.round(folder.path())?;
        floor.push(peers::floor(size)?);
        let (took, ended) = peers::run(&["nft", "-f", "-"], &rendered)?;
        anyhow::ensure!(ended, "nft -f did not end");
        text.push(took);
    }
    ours.tell(report, size);
    let name = size.name();
    let cold = median(&ours.cold_sync);
    let floor = report.add(&format!("{name}: cold"), "bare netlink messages", floor);
    let text = report.add(&format!("{name}: cold"), "nft -f, same maps", text);
    if size == LARGE {
        report.bar("10k x 10 cold, plan + apply, of the bare messages", cold / floor, 2.0, "x");
        report.bar("10k x 10 cold, plan + apply, of nft -f", cold / text, 0.7, "x");
        report.bar("10k x 10 restart, from its start", median(&ours.restart_wall), 1000.0, "ms");
        let written = quantile(&ours.restart_elements, 1.0);
        report.bar("10k x 10 restart, elements written", written, 0.0, "");
        report.bar(
            "10k x 10 cold: another writer waits, p99",
            quantile(&ours.others, 0.99),
            50.0,
            "ms",
        );
        report.bar("10k x 10: peak memory", ours.peak_memory(), 80.0, "MB");
    }
    if size == WIDE || size == DEEP {
        report.bar(&format!("{name} cold, from its start"), median(&ours.cold_wall), 3000.0, "ms");
    }
    if size.endpoints == 10 {
        kube_proxy(report, size, cold)?;
    }
    Ok(())
}

/// kube-proxy's shapes, once: they take long.
fn kube_proxy(report: &mut Report, size: Size, ours: f64) -> Result<()> {
    let name = size.name();
    let shapes: [(&'static str, &[&str], String); 2] = [
        ("nft -f, chain per Service", &["nft", "-f", "-"], peers::chain_per_service(size)),
        ("iptables-restore", &["iptables-restore", "--noflush"], peers::iptables(size)),
    ];
    for (who, program, input) in shapes {
        if size == LARGE && who == "iptables-restore" {
            continue; // at 5k x 10 it does not end in time
        }
        let (took, ended) = peers::run(program, &input)?;
        let case = if ended { "cold" } else { "cold, stopped after two minutes" };
        report.add(&format!("{name}: {case}"), who, vec![took]);
        if size == MIDDLE && program[0] == "nft" {
            // What was stopped would have taken longer.
            report.bar("5k x 10 cold, of chain per Service", ours / took, 0.01, "x");
        }
    }
    Ok(())
}

/// Chains and rules that 10,000 more Services add.
fn more_services(report: &mut Report) -> Result<()> {
    let count = |services: u32| -> Result<f64> {
        let folder = tempfile::tempdir()?;
        objects::write_one_file(Size { services, endpoints: 10 }, folder.path())?;
        let namespace = Namespace::new("bench");
        let daemon = daemon::Daemon::start(&namespace, folder.path())?;
        // Without the elements: of them there are as many as there are endpoints.
        let text = namespace.command("nft", &["-t", "-a", "list", "table", "ip", "viaduct"]);
        daemon.stop()?;
        let handles = text.lines().filter(|line| line.contains("# handle"));
        Ok(handles.filter(|line| !line.contains("map ") && !line.contains("set ")).count() as f64)
    };
    let (few, many) = (count(10)?, count(10_010)?);
    anyhow::ensure!(few > 10.0, "the table was not listed");
    report.bar("chains and rules that 10,000 more Services add", many - few, 99.0, "");
    Ok(())
}

/// What the daemon needs to be there.
pub(crate) fn check() -> Result<()> {
    for program in ["nft", "iptables-restore"] {
        testnet::programs::installed(program)
            .with_context(|| format!("{program} is not installed"))?;
    }
    Ok(())
}
