//! The daemon: cold start, restart, changes, churn.

use std::fs;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use netlink::nftables::NftMonitor;
use testnet::Namespace;

use super::daemon::Daemon;
use super::objects::{self, Size, documents, file_of, other_endpoint, put};
use super::writer::Writer;
use crate::report::{Report, quantile};

/// A change that is not seen after this time was lost.
const SEEN_WITHIN: Duration = Duration::from_secs(10);
/// Pause between changes that are measured one at a time.
const PAUSE: Duration = Duration::from_millis(20);
const CHURN: Duration = Duration::from_secs(30);
const CHURN_EVERY: Duration = Duration::from_millis(10);

/// Figures of cold starts and restarts, a value for each round.
#[derive(Default)]
pub(super) struct Starts {
    pub(super) cold_wall: Vec<f64>,
    pub(super) cold_sync: Vec<f64>,
    pub(super) restart_wall: Vec<f64>,
    pub(super) restart_sync: Vec<f64>,
    pub(super) restart_elements: Vec<f64>,
    pub(super) others: Vec<f64>,
    cpu: Vec<f64>,
    memory: Vec<f64>,
    kernel: Vec<f64>,
    sent: Vec<f64>,
}

impl Starts {
    /// One cold start and one restart, in a fresh namespace.
    pub(super) fn round(&mut self, folder: &Path) -> Result<()> {
        let namespace = Namespace::new("bench");
        let before = settled_kernel_memory()?;
        let writer = Writer::start(&namespace);
        let daemon = Daemon::start(&namespace, folder)?;
        self.others.extend(writer.finish()?);
        self.cold_wall.push(daemon.first.wall);
        self.cold_sync.push(daemon.first.sync);
        self.cpu.push(daemon.cpu()?);
        self.memory.push(daemon.peak_memory()?);
        self.kernel.push(kernel_memory()? - before);
        self.sent.push(daemon.metric(&namespace, "viaduct_sync_bytes_total")? / 1e6);
        daemon.stop()?;
        let daemon = Daemon::start(&namespace, folder)?;
        self.restart_wall.push(daemon.first.wall);
        self.restart_sync.push(daemon.first.sync);
        self.restart_elements.push(daemon.first.elements as f64);
        daemon.stop()
    }

    /// Hands everything to the report.
    pub(super) fn tell(&self, report: &mut Report, size: Size) {
        let case = |what: &str| format!("{}: {what}", size.name());
        report.add(&case("cold, start to programmed"), "viaduct", self.cold_wall.clone());
        report.add(&case("cold, plan + apply"), "viaduct", self.cold_sync.clone());
        report.add(&case("restart, start to compared"), "viaduct", self.restart_wall.clone());
        report.add(&case("restart, compare"), "viaduct", self.restart_sync.clone());
        report.add(&case("cold, another writer waits"), "another nft writer", self.others.clone());
        report.figure(&case("cold, processor time"), "viaduct", &self.cpu, "ms");
        report.figure(&case("cold, peak memory"), "viaduct", &self.memory, "MB");
        report.figure(&case("cold, kernel memory"), "viaduct", &self.kernel, "MB");
        report.figure(&case("cold, netlink messages"), "viaduct", &self.sent, "MB");
    }

    pub(super) fn peak_memory(&self) -> f64 {
        quantile(&self.memory, 1.0)
    }
}

/// Memory of nftables objects and their tables, and of everything else of the kernel's, in MB.
fn kernel_memory() -> Result<f64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let kilobytes = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let number = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
        number.with_context(|| format!("/proc/meminfo has no {name}"))
    };
    Ok((kilobytes("SUnreclaim")? + kilobytes("VmallocUsed")?) * 1024.0 / 1e6)
}

/// The same once the kernel has freed what the last round left, which it does in the background.
fn settled_kernel_memory() -> Result<f64> {
    let mut before = kernel_memory()?;
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(200));
        let now = kernel_memory()?;
        if (now - before).abs() < 0.2 {
            return Ok(now);
        }
        before = now;
    }
    Ok(before)
}

/// Sees the commits to our tables.
struct Commits(Receiver<Instant>);

impl Commits {
    fn watch(namespace: &Namespace) -> Commits {
        let (sender, commits) = channel();
        // Ends with the first commit after nobody listens any more, or with the process.
        namespace.spawn(move || -> netlink::Result<()> {
            let mut monitor = NftMonitor::open()?;
            loop {
                let mut ours = false;
                let waited = monitor.wait(|event| ours |= event.table == "viaduct");
                let now = Instant::now();
                // More than can be held means that much was committed.
                if (waited.is_err() || ours) && sender.send(now).is_err() {
                    return Ok(());
                }
            }
        });
        Commits(commits)
    }

    /// Waits until nothing has been committed for a while.
    fn settle(&self) {
        while self.0.recv_timeout(Duration::from_millis(300)).is_ok() {}
    }

    fn next(&self, since: Instant) -> Result<f64> {
        loop {
            let at = self.0.recv_timeout(SEEN_WITHIN).context("a change was not committed")?;
            if at > since {
                return Ok((at - since).as_secs_f64() * 1e3);
            }
        }
    }
}

/// What single changes cost, in milliseconds from the renaming of the file to the commit.
pub(super) struct Changes {
    pub(super) endpoint: Vec<f64>,
    pub(super) service: Vec<f64>,
}

/// Changes one at a time, then many a second.
pub(super) fn changes(report: &mut Report, size: Size, count: u32) -> Result<Changes> {
    let folder = tempfile::tempdir()?;
    objects::write_files(size, folder.path())?;
    let namespace = Namespace::new("bench");
    let daemon = Daemon::start(&namespace, folder.path())?;
    let commits = Commits::watch(&namespace);
    std::thread::sleep(Duration::from_millis(200));
    commits.settle();
    let mut changes = Changes { endpoint: Vec::new(), service: Vec::new() };
    // Spread over all Services.
    let pick = |number: u32| (number * 7919) % size.services;
    for number in 0..count {
        let service = pick(number);
        let text = documents(size, service, Some(other_endpoint(number)));
        let started = Instant::now();
        put(folder.path(), &file_of(service), &text)?;
        changes.endpoint.push(commits.next(started)?);
        std::thread::sleep(PAUSE);
    }
    commits.settle();
    for number in 0..count {
        let new = size.services + number / 2;
        let started = Instant::now();
        if number % 2 == 0 {
            put(folder.path(), &file_of(new), &documents(size, new, None))?;
        } else {
            fs::remove_file(folder.path().join(file_of(new)))?;
        }
        changes.service.push(commits.next(started)?);
        std::thread::sleep(PAUSE);
    }
    commits.settle();
    report.add(
        &format!("{}: one endpoint changes", size.name()),
        "viaduct",
        changes.endpoint.clone(),
    );
    report.add(
        &format!("{}: one Service comes or goes", size.name()),
        "viaduct",
        changes.service.clone(),
    );
    churn(report, size, &daemon, &commits, folder.path())?;
    daemon.stop()?;
    Ok(changes)
}

fn churn(
    report: &mut Report,
    size: Size,
    daemon: &Daemon,
    commits: &Commits,
    folder: &Path,
) -> Result<()> {
    let before = daemon.cpu()?;
    let start = Instant::now();
    let mut changed = Vec::new();
    let mut number: u32 = 0;
    while start.elapsed() < CHURN {
        let due = start + CHURN_EVERY * number;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let service = (number * 104_729) % size.services;
        let text = documents(size, service, Some(other_endpoint(100_000 + number)));
        changed.push(Instant::now());
        put(folder, &file_of(service), &text)?;
        number += 1;
    }
    let cpu = daemon.cpu()? - before;
    std::thread::sleep(Duration::from_secs(1));
    let seen: Vec<Instant> = commits.0.try_iter().collect();
    let mut waits = Vec::new();
    for at in changed {
        let next = seen.iter().find(|commit| **commit > at).context("churn: a change was lost")?;
        waits.push((*next - at).as_secs_f64() * 1e3);
    }
    ensure!(!waits.is_empty(), "churn: nothing was changed");
    report.add(&format!("{}: 100 changes a second, 30 s", size.name()), "viaduct", waits);
    let share = cpu / CHURN.as_secs_f64() / 10.0;
    report.figure(
        &format!("{}: churn, processor", size.name()),
        "viaduct",
        &[share],
        "% of a core",
    );
    Ok(())
}
