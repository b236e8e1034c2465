//! The node agent: routes to every other node's pods, and the plugin's configuration on this node.
//!
//! - `config`: `network.yaml`; `peers`: nodes as the overlay takes them
//! - `conflist`: what the plugin is told; `install`: files on the host
//! - `socket`: answers the plugin
//!
//! One thread owns all of it. It is told of all nodes whenever one changes, and looks for itself every few
//! seconds whether somebody else changed the routes.

mod config;
mod conflist;
pub mod install;
pub mod node_state;
mod peers;
mod socket;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use attachment::Records;
use netlink::{Family, Prefix, RouteSocket};
use overlay::{Overlay, Underlay};

pub use config::{Backend, Network};
pub use conflist::conflist;

use crate::cluster::Node;
use crate::daemon::policies::ToPolicies;
use crate::daemon::status::Status;
use crate::reporter::{NetworkState, Reason, Reporter};
use crate::server::{Health, Metrics};

/// How often the kernel is compared in full.
const CHECK: Duration = Duration::from_secs(5);
/// A failed attempt is repeated after this time.
const RETRY: Duration = Duration::from_secs(2);

/// All nodes of the cluster, by name.
pub type Nodes = BTreeMap<Arc<str>, Node>;

/// Tells the agent of nodes.
pub type ToAgent = Sender<Nodes>;

/// What the agent needs to know besides the nodes.
pub struct Settings {
    /// `network.yaml`.
    pub network: Network,
    /// Who lets pods start, if policies are enforced.
    pub policies: Option<ToPolicies>,
    /// This node's name.
    pub node_name: Arc<str>,
    /// Addresses of all pods, which are not masqueraded.
    pub cluster_cidrs: Vec<Prefix>,
    /// What `/status` tells.
    pub status: Arc<Status>,
    /// What `/readyz` tells.
    pub health: Health,
    /// What the API server is told.
    pub reporter: Reporter,
    /// `/metrics`.
    pub metrics: Metrics,
}

/// Starts the agent in the calling thread's network namespace.
pub fn start(settings: Settings) -> Result<ToAgent> {
    let routes = RouteSocket::open()?;
    settings.health.set_part("network", Err("the nodes are not known yet".to_owned()));
    let ready = socket::Ready::default();
    socket::serve(&settings.network.daemon_socket, ready.clone(), settings.policies.clone())
        .with_context(|| format!("listen at {}", settings.network.daemon_socket.display()))?;
    let (nodes, queue) = channel();
    let agent = Agent {
        settings,
        routes,
        overlay: Overlay::default(),
        ready,
        reported: NetworkState::Unavailable("not compared yet".to_owned()),
        other: None,
        nodes: None,
        records: Records::of_current_namespace()?,
        removed_former: false,
    };
    std::thread::Builder::new()
        .name("agent".into())
        .spawn(move || agent.run(&queue))
        .context("start the agent's thread")?;
    Ok(nodes)
}

struct Agent {
    settings: Settings,
    routes: RouteSocket,
    overlay: Overlay,
    ready: socket::Ready,
    /// The state that was reported last.
    reported: NetworkState,
    /// Somebody else's configuration, if the runtime takes it before ours.
    other: Option<PathBuf>,
    nodes: Option<Nodes>,
    records: Records,
    /// Whether overlays of former settings were removed once.
    removed_former: bool,
}

impl Agent {
    fn run(mut self, queue: &Receiver<Nodes>) {
        // However often nodes change, the kernel is compared in time: that deadline is its own.
        let mut compare_at = Instant::now() + CHECK;
        let mut retry_at: Option<Instant> = None;
        loop {
            let next = retry_at.map_or(compare_at, |retry_at| retry_at.min(compare_at));
            match queue.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(nodes) => self.nodes = Some(queue.try_iter().last().unwrap_or(nodes)),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let compares = compare_at <= Instant::now();
            if compares {
                self.overlay.forget();
                compare_at = Instant::now() + CHECK;
            }
            let Some(nodes) = self.nodes.take() else { continue };
            let state = match self.converge(&nodes, compares) {
                Ok(problems) if problems.is_empty() => NetworkState::Ready,
                Ok(problems) => NetworkState::Partial(problems),
                Err(error) => NetworkState::Unavailable(format!("{error:#}")),
            };
            let failed = matches!(state, NetworkState::Unavailable(_));
            retry_at = failed.then(|| Instant::now() + RETRY);
            let own = nodes.get(&self.settings.node_name);
            self.report(state, own.and_then(|own| own.network_unavailable));
            self.nodes = Some(nodes);
        }
    }

    /// Routes first: no pod starts on a node that cannot reach the others.
    ///
    /// Returns a sentence for each node that is left out.
    fn converge(&mut self, nodes: &Nodes, compares: bool) -> Result<Vec<String>> {
        let Settings { network, node_name, cluster_cidrs, .. } = &self.settings;
        let own = nodes.get(node_name).with_context(|| {
            format!("there is no Node {node_name}: is --hostname-override the node's name?")
        })?;
        anyhow::ensure!(
            !own.pod_cidrs.is_empty(),
            "Node {node_name}: spec.podCIDRs is empty: does the controller manager run with --allocate-node-cidrs?"
        );
        let kept = cluster_cidrs.iter().chain(&network.non_masquerade_cidrs);
        let kept: Vec<Family> = kept.map(|cidr| cidr.family()).collect();
        for family in own.pod_cidrs.iter().map(|cidr| cidr.family()) {
            anyhow::ensure!(
                !network.masquerade || kept.contains(&family),
                "clusterCIDR (--cluster-cidr) of {family} is needed to tell what is not masqueraded; or set masquerade: false"
            );
        }
        let problems = match network.overlay() {
            Some(backend) => self.converge_overlay(backend, nodes, compares)?,
            None => {
                self.remove_overlay(&BTreeSet::new(), compares)?;
                Vec::new()
            }
        };
        let Settings { network, node_name, cluster_cidrs, .. } = &self.settings;
        let text = conflist(network, node_name, own, cluster_cidrs);
        let path = network.conf_dir.join(&network.conf_name);
        // Whoever removed or changed it gets it back, as with the routes.
        if install::write_if_changed(&path, text.as_bytes(), 0o644)? {
            tracing::info!("wrote {}", path.display());
        }
        let other = install::taken_before(&path)?;
        if other != self.other {
            if let Some(other) = &other {
                let text = format!(
                    "{} comes before {} and is what the runtime uses: remove it to use this pod network",
                    other.display(),
                    path.display()
                );
                tracing::warn!("{text}");
                self.settings.reporter.event(Reason::OtherNetworkFirst, text);
            }
            self.other = other;
        }
        Ok(problems)
    }

    /// Returns a sentence for each node that is left out.
    fn converge_overlay(
        &mut self,
        backend: overlay::Backend,
        nodes: &Nodes,
        compares: bool,
    ) -> Result<Vec<String>> {
        let Settings { network, node_name, metrics, .. } = &self.settings;
        let config = overlay::Config {
            backend,
            node_name: node_name.to_string(),
            device: network.device.clone(),
        };
        let (peers, mut problems) = peers::peers(nodes, network);
        let underlay = Underlay::observe(&mut self.routes, &config, &peers)?;
        let plan = overlay::plan(&config, &peers, &underlay)?;
        let overlay::Converged { changes, unhardened } =
            self.overlay.converge(&mut self.routes, &plan)?;
        if let Some(error) = unhardened {
            tracing::warn!("pod network: {error}; the network works");
        }
        if !changes.is_empty() {
            let entries = changes.entries();
            tracing::info!(
                "pods of {} other nodes: {entries} routes and entries changed",
                plan.routed
            );
            if compares {
                metrics.node_repaired("overlay");
            }
        }
        let device = plan.desired.device.map(|device| device.name);
        self.remove_overlay(&device.into_iter().collect(), compares)?;
        problems.extend(plan.problems);
        Ok(problems)
    }

    /// Removes the tunnel devices of former settings, and without an overlay its routes. Overlays that the
    /// plugin keeps for other networks stay.
    fn remove_overlay(&mut self, devices: &BTreeSet<String>, compares: bool) -> Result<()> {
        if !compares && self.removed_former {
            return Ok(());
        }
        let (mut keep, kept_direct) = self.records.overlays_except("");
        keep.extend(devices.iter().cloned());
        let keep_direct = kept_direct || self.settings.network.overlay().is_some();
        for line in overlay::remove(&mut self.routes, &keep, keep_direct)? {
            tracing::info!("removed {line}");
        }
        self.removed_former = true;
        Ok(())
    }

    /// `unavailable` is the condition `NetworkUnavailable` of the Node, if it has one.
    fn report(&mut self, state: NetworkState, unavailable: Option<bool>) {
        let Settings { health, status, reporter, metrics, .. } = &self.settings;
        let part = match &state {
            NetworkState::Unavailable(error) => Err(error.clone()),
            _ => Ok(()),
        };
        health.set_part("network", part.clone());
        self.ready.set(part.clone());
        let problems = match &state {
            NetworkState::Partial(problems) => problems.clone(),
            _ => Vec::new(),
        };
        status.set(
            "network",
            match &part {
                Err(error) => error.clone(),
                Ok(()) if problems.is_empty() => "in place".to_owned(),
                Ok(()) => format!("in place, but for {} problems", problems.len()),
            },
        );
        metrics.network_problems("overlay", problems.len());
        status.set_problems("network", problems.clone());
        if state != self.reported || Some(part.is_err()) != unavailable {
            reporter.network(state.clone());
        }
        if state == self.reported {
            return;
        }
        let before = match &self.reported {
            NetworkState::Partial(problems) => problems.clone(),
            _ => Vec::new(),
        };
        for problem in problems.iter().filter(|problem| !before.contains(problem)) {
            tracing::warn!("pod network: {problem}");
        }
        for problem in before.iter().filter(|problem| !problems.contains(problem)) {
            tracing::info!("pod network: no longer so: {problem}");
        }
        match &state {
            NetworkState::Ready => {
                reporter.event(Reason::NetworkReady, "pods reach all nodes");
                tracing::info!("pod network: in place");
            }
            NetworkState::Partial(problems) => {
                reporter.event(Reason::NodesNotRouted, problems.join("; "));
            }
            NetworkState::Unavailable(error) => {
                reporter.event(Reason::NetworkNotReady, error.clone());
                tracing::error!("pod network: {error}; the next attempt is in {RETRY:?}");
            }
        }
        self.reported = state;
    }
}

/// Addresses of a node that the overlay can use: the annotated one first.
fn underlay_addresses(node: &Node) -> impl Iterator<Item = IpAddr> {
    node.overlay_address.into_iter().chain(node.addresses.iter().copied())
}
