//! Keeps the node's side of the pod network as the records of its attachments say.
//!
//! A thread compares it at the start, a moment after the kernel reports a change, and every few seconds.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use attachment::{Converger, Report};
use netlink::nftables::NftMonitor;
use netlink::{Errno, Prefix, RouteMonitor};

use crate::daemon::node::needed_sysctls;
use crate::daemon::status::Status;
use crate::reporter::{Reason, Reporter};
use crate::server::{Health, Metrics};
use crate::text::some_of;

/// Interval of comparisons while the kernel reports nothing.
const INTERVAL: Duration = Duration::from_secs(5);
/// Delay after a report: changes come in groups.
const DELAY: Duration = Duration::from_millis(200);
/// Minimum time between two comparisons, so that a stream of changes does not keep the thread busy.
const MINIMUM: Duration = Duration::from_secs(1);
/// The table of the plugin's netfilter state.
const TABLE: &str = "viaduct-host";

/// Where the thread reports.
pub struct NodeStateSettings {
    /// Whether the pod network is ours, so that pods cannot be served while it is damaged.
    pub has_pod_network: bool,
    /// Whether packets between two pods of one bridge must pass the IP layer's hooks.
    pub needs_bridge_hooks: bool,
    /// The networks of all pods of the cluster.
    pub cluster_cidrs: Vec<Prefix>,
    /// `/status`.
    pub status: Arc<Status>,
    /// `/readyz`.
    pub health: Health,
    /// `/metrics`.
    pub metrics: Metrics,
    /// The API server.
    pub reporter: Reporter,
}

/// Starts the thread in the calling thread's network namespace.
pub fn start(settings: NodeStateSettings) -> Result<()> {
    let converger = Converger::open().context("open a connection to the kernel")?;
    let (changes, queue) = channel();
    listen(changes);
    let keeper = NodeStateKeeper { settings, converger, reported: BTreeSet::new() };
    std::thread::Builder::new()
        .name("node-state".into())
        .spawn(move || keeper.run(&queue))
        .context("start the thread that keeps the node's state")?;
    Ok(())
}

/// Sends a message for each group of changes. Comparisons at intervals go on where the kernel cannot report.
fn listen(changes: Sender<()>) {
    let nft_changes = changes.clone();
    let routes = RouteMonitor::open().map(|mut monitor| {
        spawn("route-events", move || {
            while matches!(
                monitor.wait(),
                Ok(()) | Err(netlink::Error { errno: Errno::NOBUFS, .. })
            ) {
                if changes.send(()).is_err() {
                    return;
                }
            }
        });
    });
    let nftables = NftMonitor::open().map(|mut monitor| {
        spawn("nft-events", move || {
            loop {
                let mut is_ours = false;
                match monitor.wait(|event| is_ours |= event.table == TABLE) {
                    Ok(()) => {}
                    Err(error) if error.errno == Errno::NOBUFS => is_ours = true,
                    Err(_) => return,
                }
                if is_ours && nft_changes.send(()).is_err() {
                    return;
                }
            }
        });
    });
    for error in [routes.err(), nftables.err()].into_iter().flatten() {
        tracing::warn!("{error}: damage to the pod network is found every {INTERVAL:?}");
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) {
    if let Err(error) = std::thread::Builder::new().name(name.into()).spawn(work) {
        tracing::warn!("cannot listen for changes of the node's state: {error}");
    }
}

struct NodeStateKeeper {
    settings: NodeStateSettings,
    converger: Converger,
    /// Problems and failures that were logged.
    reported: BTreeSet<String>,
}

impl NodeStateKeeper {
    fn run(mut self, queue: &Receiver<()>) {
        loop {
            let compared = Instant::now();
            self.compare();
            match queue.recv_timeout(INTERVAL) {
                Ok(()) => {
                    let earliest = (compared + MINIMUM).max(Instant::now() + DELAY);
                    std::thread::sleep(earliest.saturating_duration_since(Instant::now()));
                    while queue.try_recv().is_ok() {}
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => std::thread::sleep(INTERVAL),
            }
        }
    }

    fn compare(&mut self) {
        let sysctls = needed_sysctls(self.settings.needs_bridge_hooks);
        let report = self
            .converger
            .converge(&sysctls, &self.settings.cluster_cidrs)
            .unwrap_or_else(|error| Report {
                failures: vec![format!("cannot compare the node's state: {error}")],
                ..Report::default()
            });
        report.repairs.iter().for_each(|repair| self.settings.metrics.node_repaired(repair.kind));
        if !report.repairs.is_empty() {
            let damages: Vec<String> =
                report.repairs.iter().map(|repair| repair.damage.clone()).collect();
            tracing::warn!("repaired the node's state: {}", some_of(&damages));
        }
        self.report(report);
    }

    fn report(&mut self, report: Report) {
        let NodeStateSettings { status, health, metrics, reporter, has_pod_network, .. } =
            &self.settings;
        status.set("attachments", report.attachments);
        if *has_pod_network {
            let why = report.failures.join("; ");
            if report.failures.iter().any(|failure| !self.reported.contains(failure)) {
                reporter.event(Reason::NodeNotRepaired, why.clone());
            }
            health.set_part("node", if why.is_empty() { Ok(()) } else { Err(why) });
        }
        let problems: Vec<String> = report.problems.into_iter().chain(report.failures).collect();
        let current: BTreeSet<String> = problems.iter().cloned().collect();
        for problem in current.difference(&self.reported) {
            tracing::warn!("the node's state: {problem}");
        }
        for problem in self.reported.difference(&current) {
            tracing::info!("the node's state: no longer so: {problem}");
        }
        metrics.network_problems("node", problems.len());
        status.set_problems("node", problems);
        self.reported = current;
    }
}
