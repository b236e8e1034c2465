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
mod peers;
mod socket;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use netlink::{Family, Prefix, RouteSocket};
use overlay::{Overlay, Underlay};

pub use config::{Backend, Network};
pub use conflist::conflist;

use crate::cluster::Node;
use crate::daemon::policies::ToPolicies;
use crate::daemon::status::Status;
use crate::reporter::{Reason, Reporter};
use crate::server::Health;

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
        told: Some("not looked at yet".to_owned()),
        other: None,
        nodes: None,
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
    /// What is wrong, as it was told last.
    told: Option<String>,
    /// Somebody else's configuration, if the runtime takes it before ours.
    other: Option<PathBuf>,
    nodes: Option<Nodes>,
}

impl Agent {
    fn run(mut self, queue: &Receiver<Nodes>) {
        let mut next = None;
        loop {
            let now = Instant::now();
            let wait = next.map_or(CHECK, |at: Instant| at.saturating_duration_since(now));
            match queue.recv_timeout(wait) {
                Ok(nodes) => self.nodes = Some(queue.try_iter().last().unwrap_or(nodes)),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            // However often nodes change: what somebody else did is looked for in time.
            if next.is_some_and(|at| at <= Instant::now()) {
                self.overlay.forget();
            }
            let Some(nodes) = self.nodes.take() else { continue };
            let outcome = self.converge(&nodes);
            next = Some(Instant::now() + if outcome.is_ok() { CHECK } else { RETRY });
            let own = nodes.get(&self.settings.node_name);
            self.tell(outcome, own.is_none_or(|own| own.network_unavailable != Some(false)));
            self.nodes = Some(nodes);
        }
    }

    /// Routes first: no pod starts on a node that cannot reach the others.
    fn converge(&mut self, nodes: &Nodes) -> Result<()> {
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
        if let Some(backend) = network.overlay() {
            let config = overlay::Config {
                backend,
                node_name: node_name.to_string(),
                device: network.device.clone(),
            };
            let peers = peers::peers(nodes, network);
            let underlay = Underlay::observe(&mut self.routes, &config, &peers)?;
            let plan = overlay::plan(&config, &peers, &underlay)?;
            let changes = self.overlay.converge(&mut self.routes, &plan)?;
            if !changes.is_empty() {
                let entries = changes.entries();
                tracing::info!(
                    "pods of {} other nodes: {entries} routes and entries changed",
                    peers.len() - 1
                );
            }
        }
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
        Ok(())
    }

    /// `unavailable` is what the Node says of its network, or does not.
    fn tell(&mut self, outcome: Result<()>, unavailable: bool) {
        let error = outcome.err().map(|error| format!("{error:#}"));
        let part = match &error {
            None => Ok(()),
            Some(error) => Err(error.clone()),
        };
        self.settings.health.set_part("network", part.clone());
        self.ready.set(part);
        let state = error.as_deref().unwrap_or("in place");
        self.settings.status.set("network", state);
        let reporter = &self.settings.reporter;
        if error != self.told || error.is_some() != unavailable {
            reporter.network(error.clone().map_or(Ok(()), Err));
        }
        if error != self.told {
            match &error {
                Some(error) => reporter.event(Reason::NetworkNotReady, error.clone()),
                None => reporter.event(Reason::NetworkReady, "pods reach all nodes"),
            }
            match &error {
                Some(error) => tracing::error!("pod network: {error}; tried again every {RETRY:?}"),
                None => tracing::info!("pod network: in place"),
            }
            self.told = error;
        }
    }
}

/// Addresses of a node that the overlay can use: the annotated one first.
fn underlay_addresses(node: &Node) -> impl Iterator<Item = IpAddr> {
    node.overlay_address.into_iter().chain(node.addresses.iter().copied())
}
