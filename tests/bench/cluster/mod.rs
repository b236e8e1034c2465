//! Beside kube-proxy on a real API server: etcd and kube-apiserver, and one node after the other.
//!
//! There are no kubelets and no controllers: objects are written through the API.

mod api;
mod changes;
mod control_plane;
mod load;
mod notifications;
mod peers;
mod proxy;

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::report::{Report, quantile};
use crate::services::objects::Size;
use control_plane::{ControlPlane, kubernetes_program};
use proxy::{LIMIT, Mode, Proxy, Who};

const SMALL: Size = Size { services: 1000, endpoints: 10 };
const MIDDLE: Size = Size { services: 5000, endpoints: 10 };
const LARGE: Size = Size { services: 10_000, endpoints: 10 };
const MANY_ENDPOINTS: Size = Size { services: 5000, endpoints: 20 };

/// `rounds` starts of ours; twenty times as many changes.
pub(crate) fn measure(report: &mut Report, rounds: usize) -> Result<()> {
    for name in ["kube-proxy", "kube-apiserver", "etcd"] {
        let output = Command::new(kubernetes_program(name)?).arg("--version").output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        report.peer(&format!("{name} {}", text.lines().next().unwrap_or_default()));
    }
    thousand_nodes(report, rounds)?;
    beside_kube_proxy(report, SMALL, rounds)?;
    beside_kube_proxy(report, LARGE, rounds)?;
    let plane = loaded(MANY_ENDPOINTS)?;
    let last = starts(report, &plane, (Who::Viaduct, Mode::Nftables), MANY_ENDPOINTS, rounds)?;
    report.bar("5k x 20: start to programmed", last.start, 5000.0, "ms");
    last.proxy.stop()
}

/// Starts in iptables mode with both variants; with the nft variant 10,000 Services take kube-proxy too long.
pub(crate) fn iptables(report: &mut Report, rounds: usize) -> Result<()> {
    let name = "kube-proxy";
    let output = Command::new(kubernetes_program(name)?).arg("--version").output()?;
    report.peer(&format!("{name} {}", String::from_utf8_lossy(&output.stdout).trim()));
    for (size, variants) in [(MIDDLE, &["legacy", "nft"][..]), (LARGE, &["legacy"])] {
        let plane = loaded(size)?;
        let mut start = |who, variant, rounds| -> Result<f64> {
            let last = starts(report, &plane, (who, Mode::Iptables(variant)), size, rounds)?;
            last.proxy.stop()?;
            Ok(last.start)
        };
        let mut ratios = Vec::new();
        for variant in variants {
            let ours = start(Who::Viaduct, variant, rounds)?;
            let theirs = start(Who::KubeProxy, variant, 1)?;
            ratios.push((variant, ours / theirs));
        }
        for (variant, ratio) in ratios {
            let what = format!("{} {variant}: start, of kube-proxy's", size.name());
            match size {
                MIDDLE => report.bar(&what, ratio, 0.1, "x"),
                _ => report.figure(&what, "viaduct", &[ratio], "x"),
            }
        }
    }
    Ok(())
}

/// What must be there.
pub(crate) fn check() -> Result<()> {
    for program in ["openssl", "nft", "setpriv"] {
        testnet::programs::installed(program)
            .with_context(|| format!("{program} is not installed"))?;
    }
    let needed = ["etcd", "kube-apiserver", "kube-proxy"];
    needed.into_iter().try_for_each(|name| kubernetes_program(name).map(drop))
}

fn thousand_nodes(report: &mut Report, rounds: usize) -> Result<()> {
    let plane = ControlPlane::start()?;
    load::nodes(&plane, 0..1)?;
    peers::measure(report, &plane, rounds)
}

/// A control plane with one node and these Services.
fn loaded(size: Size) -> Result<ControlPlane> {
    let plane = ControlPlane::start()?;
    let started = Instant::now();
    load::nodes(&plane, 0..1)?;
    load::services(&plane, size)?;
    eprintln!("{}: written in {:.0} s", size.name(), started.elapsed().as_secs_f64());
    Ok(plane)
}

fn beside_kube_proxy(report: &mut Report, size: Size, rounds: usize) -> Result<()> {
    let plane = loaded(size)?;
    let count = rounds as u32 * 20;
    let ours = contest(report, &plane, Who::Viaduct, size, rounds, count)?;
    // It takes minutes where there is much.
    let peer_rounds = if size == LARGE { 1 } else { rounds.min(3) };
    let peer = contest(report, &plane, Who::KubeProxy, size, peer_rounds, count)?;
    if size == LARGE {
        let bar = |share: f64| quantile(&ours.single, share);
        report.bar("10k x 10: write to kernel, median", bar(0.5), 20.0, "ms");
        report.bar("10k x 10: write to kernel, p99", bar(0.99), 100.0, "ms");
        report.bar("10k x 10: start, of kube-proxy's", ours.start / peer.start, 0.05, "x");
        report.bar("10k x 10: peak memory", ours.memory, 80.0, "MB");
    }
    Ok(())
}

/// What the bars look at.
struct Outcome {
    start: f64,
    single: Vec<f64>,
    memory: f64,
}

/// Starts, and with the last of them everything else.
fn contest(
    report: &mut Report,
    plane: &ControlPlane,
    who: Who,
    size: Size,
    rounds: usize,
    count: u32,
) -> Result<Outcome> {
    let Last { proxy, start } = starts(report, plane, (who, Mode::Nftables), size, rounds)?;
    let single = changes::measure(report, plane, &proxy, size, count)?;
    let memory = proxy.peak_memory()?;
    report.figure(&format!("{}: peak memory", size.name()), who.name(), &[memory], "MB");
    proxy.stop()?;
    Ok(Outcome { start, single, memory })
}

/// The last start, still running, and the median of all.
struct Last {
    proxy: Proxy,
    start: f64,
}

fn starts(
    report: &mut Report,
    plane: &ControlPlane,
    (who, mode): (Who, Mode),
    size: Size,
    rounds: usize,
) -> Result<Last> {
    let (mut took, mut cpu, mut bytes, mut memory) = (vec![], vec![], vec![], vec![]);
    let mut last = None;
    for _ in 0..rounds {
        last.take().map_or(Ok(()), Proxy::stop)?;
        let mut proxy = Proxy::start(plane, who, mode, &[])?;
        took.push(proxy.programmed(size.services)?);
        cpu.push(proxy.cpu()?);
        bytes.push(proxy.received()? / 1e6);
        memory.push(proxy.nft_memory);
        last = Some(proxy);
    }
    let variant =
        if let Mode::Iptables(variant) = mode { format!(" {variant}") } else { String::new() };
    let case = |what: &str| format!("{}{variant}: {what}", size.name());
    let stopped = took.contains(&(LIMIT.as_secs_f64() * 1e3));
    let what = if stopped { "start, stopped before it was done" } else { "start to programmed" };
    let start = report.add(&case(what), who.name(), took);
    report.figure(&case("start, processor time"), who.name(), &cpu, "ms");
    report.figure(&case("start, received"), who.name(), &bytes, "MB");
    if (who, mode) == (Who::KubeProxy, Mode::Nftables) {
        report.figure(&case("start, peak memory of its nft"), who.name(), &memory, "MB");
    }
    Ok(Last { proxy: last.context("no round")?, start })
}
