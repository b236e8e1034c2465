//! The running daemon: who does what, on which thread.
//!
//! - a source thread reads objects and sends [`Event::Update`]s
//! - the dataplane thread ([`engine`]) owns all kernel state: it plans, compares and commits
//! - the policy thread ([`policies`]) owns what judges connections of pods
//! - a thread listens to the kernel for changes that others make to our tables (`drift`)
//! - the main thread serves HTTP and waits for signals

mod attachments;
pub mod conntrack;
pub mod counters;
mod denials;
pub mod denied_packets;
mod drift;
pub mod engine;
mod leftovers;
pub mod node;
pub mod policies;
pub mod status;
mod unenforced;

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::agent::{self, Network, ToAgent};
use crate::cluster::{Change, ServicePortName};
use crate::config::{Config, Mode, SourceConfig};
use crate::dataplane;
use crate::dataplane::FAMILIES;
use crate::reporter::Reporter;
use crate::server::{Health, HealthCheckPorts, Metrics, NodePortRelay, http, notify};
use crate::service::FrontendKey;
use crate::source::{Access, Kubernetes, Manifests, Options, Source, Update, Wanted};
use engine::Engine;
use policies::{Judged, PolicyEvent, ToPolicies};
use status::Status;
use unenforced::UnenforcedPolicies;

/// What the dataplane thread is told.
#[derive(Debug)]
pub enum Event {
    /// Objects changed; the first one holds everything.
    Update(Update),
    /// Somebody else changed our tables, or that is not told any more.
    Drift(drift::Told),
    /// Somebody asks what becomes of a connection.
    Explain {
        /// Who connects.
        from: String,
        /// Where to.
        to: String,
        /// What policies are about; `None` where none are enforced.
        world: Option<netpol::World>,
        /// Where the answer goes.
        answer: Sender<serde_json::Value>,
    },
    /// Somebody asks whose frontends these are.
    Owners {
        /// The frontends.
        frontends: Vec<FrontendKey>,
        /// Service ports that were there before.
        services: Vec<ServicePortName>,
        /// Where the answer goes.
        answer: Sender<counters::Owners>,
    },
    /// The daemon ends.
    Stop,
}

/// The pieces that several threads use.
#[derive(Clone)]
pub struct Shared {
    /// Liveness and readiness.
    pub health: Health,
    /// Metrics.
    pub metrics: Metrics,
    /// Health-check node ports.
    pub health_checks: HealthCheckPorts,
    /// Node ports on the loopback addresses.
    pub relay: NodePortRelay,
    /// What `/status` tells.
    pub status: Arc<Status>,
    /// What the API server is told.
    pub reporter: Reporter,
}

impl Shared {
    /// The pieces of a daemon with these settings.
    pub fn new(config: &Config) -> Shared {
        let health = Health::new(&FAMILIES, config.sync_period);
        Shared {
            health_checks: HealthCheckPorts::new(health.clone()),
            health,
            metrics: Metrics::new(config.mode),
            relay: NodePortRelay::new(),
            status: Arc::new(Status::default()),
            reporter: Reporter::nobody(),
        }
    }
}

/// Who reads the source once does not wait longer for an API server.
const PATIENCE: Duration = Duration::from_secs(30);

/// Opens the source that is configured, to read it once.
pub fn open_source(config: &Config) -> Result<Box<dyn Source>> {
    let patience = Some(PATIENCE);
    let wanted =
        Wanted { services: true, policies: true, namespaces: true, unenforced_policies: false };
    let (reporter, metrics) = (Reporter::nobody(), Metrics::new(config.mode));
    open(config, Options { patience, wanted, reporter, metrics })
}

fn open(config: &Config, options: Options) -> Result<Box<dyn Source>> {
    match access(&config.source) {
        Ok(access) => {
            Ok(Box::new(Kubernetes::open(access, config.client.master.as_deref(), options)?))
        }
        Err(folder) => Ok(Box::new(Manifests::open(folder)?)),
    }
}

/// How an API server is reached, or else which folder has the objects.
fn access(source: &SourceConfig) -> Result<Access<'_>, &Path> {
    match source {
        SourceConfig::Manifests(folder) => Err(folder),
        SourceConfig::Kubeconfig(file) => Ok(Access::Kubeconfig(file)),
        SourceConfig::InCluster => Ok(Access::InCluster),
    }
}

fn start_reporter(config: &Config) -> Result<Reporter> {
    match access(&config.source) {
        Ok(access) => Reporter::start(access, config.client.master.as_deref(), &node::name(config)),
        Err(_) => Ok(Reporter::nobody()),
    }
}

/// Reads the source once, programs it, and returns.
pub fn oneshot(config: &Config) -> Result<()> {
    let shared = Shared::new(config);
    let mut source = open_source(config)?;
    let mut engine = Engine::new(config.clone(), shared, true)?;
    let update = std::thread::scope(|scope| {
        let reader = scope.spawn(|| source.read());
        engine.read_ahead();
        reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    let problems = update.problems.as_ref().map_or(0, Vec::len);
    engine.take(update);
    let spared = &config.ipvs.exclude_cidrs;
    leftovers::announce(spared);
    engine.sync().context("programming the kernel")?;
    let removal = dataplane::leftovers::remove_others(config.mode, engine.keep(), spared);
    leftovers::report(&removal, true);
    if problems > 0 {
        bail!("{problems} problems in the manifests; everything else is programmed");
    }
    Ok(())
}

/// Runs until a signal asks it to end. The rules stay.
pub fn run(config: &Config) -> Result<()> {
    netlink::keep_large_blocks_apart();
    let network = config.network_config.as_deref().map(Network::read).transpose()?;
    let services = network.as_ref().is_none_or(|network| network.services);
    let shared = Shared { reporter: start_reporter(config)?, ..Shared::new(config) };
    if services {
        shared.health.set_part("services", Err("not programmed yet".to_owned()));
    }
    node::prepare(config);
    let reporter = shared.reporter.clone();
    let wanted = Wanted {
        services,
        policies: network.as_ref().is_some_and(|network| network.policies),
        unenforced_policies: true,
        namespaces: network.as_ref().is_some_and(|network| network.source_address_check),
    };
    let metrics = shared.metrics.clone();
    let source = open(config, Options { patience: None, wanted, reporter, metrics })?;
    let (events, queue) = channel();
    let mut engine = Engine::new(config.clone(), shared.clone(), services)?;
    let mut unenforced = None;
    let mut report_as = |reason| {
        let (status, metrics) = (Arc::clone(&shared.status), shared.metrics.clone());
        unenforced = Some(UnenforcedPolicies::new(reason, status, metrics));
    };
    let policies = match network {
        Some(network) => {
            let policies = start_policies(config, &network, &shared)?;
            if !network.policies {
                report_as("network.yaml has policies: false");
            }
            engine.set_agent(start_agent(config, network, &shared, policies.clone())?);
            policies
        }
        None => match start_folder_policies(config, &shared) {
            Ok(Some(policies)) => Some(policies),
            Ok(None) => {
                report_as("there is no --network-config; another program may enforce them");
                None
            }
            Err(error) => {
                tracing::warn!("policies cannot be enforced: {error:#}");
                report_as("the kernel cannot: see the log");
                None
            }
        },
    };
    agent::node_state::start(agent::node_state::NodeStateSettings {
        has_pod_network: config.network_config.is_some(),
        needs_bridge_hooks: node::needs_bridge_hooks(config),
        cluster_cidrs: config.cluster_cidrs.clone(),
        status: Arc::clone(&shared.status),
        health: shared.health.clone(),
        metrics: shared.metrics.clone(),
        reporter: shared.reporter.clone(),
    })?;
    let port = engine.port()?;
    let dataplane = std::thread::Builder::new()
        .name("dataplane".into())
        .spawn({
            let queue = Queue { events: queue, sender: events.clone(), port };
            move || engine.run(&queue)
        })
        .context("start the dataplane thread")?;
    let mut hooks = vec![shared.health.scrape_hook()];
    if config.mode == Mode::Nftables {
        hooks.push(counters::scrape_hook(events.clone()));
    }
    if policies.is_some() {
        hooks.push(denied_packets::scrape_hook());
    }
    shared.metrics.set_scrape_hook(Box::new(move |text| hooks.iter().for_each(|hook| hook(text))));
    let (reader, told) = (events.clone(), policies.clone());
    std::thread::Builder::new()
        .name("source".into())
        .spawn(move || read_source(source, &reader, policies.as_ref(), unenforced))
        .context("start the source thread")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the HTTP runtime")?;
    let asked = Asked { dataplane: events.clone(), policies: told };
    let outcome = runtime.block_on(serve(config, &shared, asked));
    notify::stopping();
    let _ = events.send(Event::Stop);
    let _ = dataplane.join();
    outcome
}

/// What failed is tried again after this time, then twice as long, up to the longest.
const FIRST_RETRY: Duration = Duration::from_millis(500);

/// The wait after so many failures.
pub(crate) fn backoff(failures: u32, longest: Duration) -> Duration {
    let wait = FIRST_RETRY * 2u32.saturating_pow(failures.clamp(1, 16) - 1);
    wait.min(longest.max(FIRST_RETRY))
}

fn start_policies(
    config: &Config,
    network: &Network,
    shared: &Shared,
) -> Result<Option<ToPolicies>> {
    if !network.policies && !network.source_address_check {
        // They may have been in force before.
        dataplane::policy::remove()?;
        return Ok(None);
    }
    let folder = network.daemon_socket.with_file_name("attachments");
    let (status, health) = (Arc::clone(&shared.status), shared.health.clone());
    // Another proxy's mode is not known.
    // What IPVS still forwards after a change of the mode, or for another proxy, is judged too.
    let ipvs = config.mode == Mode::Ipvs || !network.services || dataplane::ipvs::has_device()?;
    let settings =
        dataplane::policy::Settings { ipvs, check_sources: network.source_address_check };
    let judged = match (network.policies, network.deny_unknown_pods) {
        (false, _) => Judged::Nothing,
        (true, false) => Judged::KnownPods,
        (true, true) => Judged::AllPods,
    };
    policies::start(&node::name(config), Some(&folder), judged, settings, status, health).map(Some)
}

/// Policies of a manifest folder are enforced for its pods without a network configuration too. Source
/// addresses are not checked, and the plugin does not ask.
fn start_folder_policies(config: &Config, shared: &Shared) -> Result<Option<ToPolicies>> {
    if access(&config.source).is_ok() {
        return Ok(None);
    }
    let (status, health) = (Arc::clone(&shared.status), shared.health.clone());
    let ipvs = config.mode == Mode::Ipvs || dataplane::ipvs::has_device()?;
    let settings = dataplane::policy::Settings { ipvs, check_sources: false };
    let name = node::name(config);
    policies::start(&name, None, Judged::KnownPods, settings, status, health).map(Some)
}

fn start_agent(
    config: &Config,
    network: Network,
    shared: &Shared,
    policies: Option<ToPolicies>,
) -> Result<ToAgent> {
    agent::start(agent::Settings {
        network,
        policies,
        node_name: node::name(config),
        cluster_cidrs: config.cluster_cidrs.clone(),
        status: Arc::clone(&shared.status),
        health: shared.health.clone(),
        reporter: shared.reporter.clone(),
        metrics: shared.metrics.clone(),
    })
}

/// The queue, together with what is needed to listen for drift once the first state is in place.
pub struct Queue {
    events: Receiver<Event>,
    sender: Sender<Event>,
    port: Option<u32>,
}

fn read_source(
    mut source: Box<dyn Source>,
    events: &Sender<Event>,
    policies: Option<&ToPolicies>,
    mut unenforced: Option<UnenforcedPolicies>,
) {
    const PAUSE: Duration = Duration::from_secs(1);
    let mut complete = false;
    loop {
        let update = if complete { source.wait() } else { source.read() };
        match update {
            Ok(mut update) => {
                complete = true;
                let changes = take_judged(&mut update.changes);
                if let Some(unenforced) = &mut unenforced {
                    unenforced.apply(&changes);
                }
                if let Some(policies) = policies {
                    send_to_policies(policies, changes, update.policies_complete);
                }
                if events.send(Event::Update(update)).is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::error!("{error}; what was read before stays in force");
                std::thread::sleep(PAUSE);
                complete = false;
            }
        }
    }
}

fn pod_network(prefix: &netlink::Prefix) -> Option<netpol::Cidr> {
    netpol::Cidr::new(prefix.address(), prefix.length())
}

/// Takes out what policies are about; nodes are everybody's business.
pub fn take_judged(changes: &mut Vec<Change>) -> Vec<netpol::compile::Change> {
    let (mut judged, mut others) = (Vec::new(), Vec::new());
    for change in changes.drain(..) {
        if let Change::Judged(change) = change {
            judged.push(change);
            continue;
        }
        if let Change::Node(name, node) = &change {
            let node = node.as_ref().map(|node| netpol::Node {
                labels: node.labels.clone(),
                addresses: node.addresses.clone(),
                pod_networks: node.pod_cidrs.iter().filter_map(pod_network).collect(),
            });
            judged.push(netpol::compile::Change::Node(Arc::clone(name), node));
        }
        others.push(change);
    }
    *changes = others;
    judged
}

/// Hands over what policies are about.
fn send_to_policies(policies: &ToPolicies, changes: Vec<netpol::compile::Change>, complete: bool) {
    // It ends with the daemon alone.
    if !changes.is_empty() {
        let _ = policies.send(PolicyEvent::Changes(changes));
    }
    if complete {
        let _ = policies.send(PolicyEvent::Complete);
    }
}

/// How long each thread may take to answer.
const ANSWER: Duration = Duration::from_secs(10);

/// Whom an explanation asks.
#[derive(Clone)]
struct Asked {
    dataplane: Sender<Event>,
    policies: Option<ToPolicies>,
}

fn explain(asked: &Asked, from: &str, to: &str) -> serde_json::Value {
    let unknown = |reason| serde_json::json!({"verdict": "unknown", "path": [], "reason": reason});
    let mut world = None;
    if let Some(policies) = &asked.policies {
        let (answer, received) = channel();
        let sent = policies.send(PolicyEvent::World(answer)).ok();
        let Some(told) = sent.and_then(|()| received.recv_timeout(ANSWER).ok()) else {
            return unknown("the policies do not answer");
        };
        world = Some(told);
    }
    let (answer, received) = channel();
    let event = Event::Explain { from: from.to_owned(), to: to.to_owned(), world, answer };
    let sent = asked.dataplane.send(event).ok();
    let told = sent.and_then(|()| received.recv_timeout(ANSWER).ok());
    told.unwrap_or_else(|| unknown("the dataplane does not answer"))
}

async fn serve(config: &Config, shared: &Shared, asked: Asked) -> Result<()> {
    let hard_fail = config.bind_address_hard_fail;
    let status = Arc::clone(&shared.status);
    // Requests come from any thread; a sender belongs to one at a time.
    let asked = std::sync::Mutex::new(asked);
    let pages = http::MetricsPages {
        metrics: shared.metrics.clone(),
        proxy_mode: config.mode.to_string(),
        configz: config.to_kube_proxy_json(),
        status: Arc::new(move || status.to_json()),
        explain: Arc::new(move |from, to| {
            let asked = asked.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
            explain(&asked, from, to)
        }),
    };
    let health = http::health_router(shared.health.clone(), shared.metrics.clone());
    tokio::spawn(shared.health_checks.clone().run());
    tokio::spawn(shared.relay.clone().run());
    let healthz = async {
        match config.healthz_bind {
            Some(address) => http::serve("healthz", address, hard_fail, health).await,
            None => std::future::pending().await,
        }
    };
    let metrics = async {
        match config.metrics_bind {
            Some(address) => {
                http::serve("metrics", address, hard_fail, http::metrics_router(pages)).await
            }
            None => std::future::pending().await,
        }
    };
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        ended = healthz => ended.context("serve healthz"),
        ended = metrics => ended.context("serve metrics"),
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    }
}
