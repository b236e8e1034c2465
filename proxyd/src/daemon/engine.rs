//! The dataplane thread: takes changes in, plans, commits, and keeps everybody informed.

mod due;
mod outcome;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use netlink::conntrack::Conntrack;
use netlink::{Family, Result};

use super::counters::Owners;
use super::drift::{self, Told, Watched};
use super::node;
use super::{Event, Queue, Shared, leftovers};
use crate::agent::ToAgent;
use crate::cluster::{Cluster, Dirty, ServiceName, ServicePortName};
use crate::config::{Config, Mode};
use crate::dataplane::leftovers::Keep;
use crate::dataplane::{Dataplane, FAMILIES, Node};
use crate::explain::{self, View};
use crate::reporter::Reason;
use crate::server::{ServiceHealth, notify};
use crate::service::table::Delta;
use crate::service::{Rules, Table, plan};
use crate::source::{Problem, Update};
use crate::text::some_of;

/// Times of changes that are waited for, for the latency metric.
const TRIGGERS: usize = 1000;

/// Owner of all kernel state.
pub struct Engine {
    config: Config,
    shared: Shared,
    cluster: Cluster,
    table: Table,
    rules: Rules,
    dataplane: Dataplane,
    conntrack: Conntrack,
    be_liberal: bool,
    problems: Vec<Problem>,
    told: HashSet<String>,
    /// When the last sync ended, and how long it took.
    last: Option<(Instant, Duration)>,
    failures: u32,
    retry_at: Option<Instant>,
    /// Families whose last sync failed; the other one, if it is known, goes on.
    failing: Vec<Family>,
    /// What is to go and was refused to, how often, and when that is tried again.
    kept: Vec<(Family, String)>,
    refusals: u32,
    remove_at: Option<Instant>,
    /// What a sync that failed was about.
    unfinished: Option<(Dirty, Delta, BTreeSet<ServiceName>)>,
    /// Somebody changed our tables: compare everything.
    drift: Vec<String>,
    triggers: Vec<i64>,
    syncs: u64,
    /// Whether changes that others make are told by the kernel.
    listening: bool,
    /// When everything is compared, if they are not.
    compare_at: Option<Instant>,
    /// Whether Services are programmed.
    services: bool,
    /// Who keeps the routes between nodes, if we do.
    agent: Option<ToAgent>,
    /// Health checks of Services that have one.
    health_checks: BTreeMap<ServiceName, (u16, ServiceHealth)>,
    /// When sums over everything are told anew: not at every sync, since they cost what exists.
    sums_at: Option<Instant>,
}

impl Engine {
    /// Opens what is needed in the calling thread's network namespace. Without `services` they are left to
    /// somebody else, and only the agent is told of nodes.
    pub fn new(config: Config, shared: Shared, services: bool) -> Result<Engine> {
        let cluster = Cluster::new(node::name(&config));
        shared.status.set("node", cluster.node_name().to_string());
        shared.status.set("mode", config.mode.to_string());
        shared.status.set("state", "waiting for Services and EndpointSlices");
        // What a mode needs besides must not be missed, nor set up, where nothing is written with it.
        let mode = if services { config.mode } else { Mode::Nftables };
        let dataplane = Dataplane::open(mode, &config.ipvs)?;
        if let Keep::OursIn(variant) = dataplane.keep() {
            shared.status.set("iptables", variant.to_string());
        }
        Ok(Engine {
            rules: node::rules(&config, &cluster),
            cluster,
            table: Table::default(),
            dataplane,
            conntrack: Conntrack::open()?,
            be_liberal: node::be_liberal(),
            problems: Vec::new(),
            told: HashSet::new(),
            last: None,
            failures: 0,
            retry_at: None,
            failing: Vec::new(),
            kept: Vec::new(),
            refusals: 0,
            remove_at: None,
            unfinished: None,
            drift: Vec::new(),
            triggers: Vec::new(),
            syncs: 0,
            listening: false,
            compare_at: None,
            services,
            agent: None,
            health_checks: BTreeMap::new(),
            sums_at: None,
            config,
            shared,
        })
    }

    /// Tells this agent of all nodes, once Services are in place and whenever a node changes.
    pub fn set_agent(&mut self, agent: ToAgent) {
        self.agent = Some(agent);
    }

    fn tell_agent(&self) {
        if let Some(agent) = &self.agent {
            let nodes = self.cluster.nodes().map(|(name, node)| (Arc::clone(name), node.clone()));
            // It ends with the daemon alone.
            let _ = agent.send(nodes.collect());
        }
    }

    /// See [`Dataplane::port`].
    pub fn port(&self) -> Result<Option<u32>> {
        self.dataplane.port()
    }

    /// See [`Dataplane::keep`].
    pub fn keep(&self) -> Keep {
        self.dataplane.keep()
    }

    /// Reads what is in the kernel already, while the source reads the objects.
    pub fn read_ahead(&mut self) {
        if let Err(error) = self.dataplane.read_ahead() {
            // The first sync meets the same error and says what to do.
            tracing::debug!("{error}");
        }
    }

    /// Works until it is told to stop.
    pub fn run(mut self, queue: &Queue) {
        let mut complete = false;
        self.read_ahead();
        if self.services {
            leftovers::announce(&self.config.ipvs.exclude_cidrs);
        }
        loop {
            match queue.events.recv_timeout(self.patience(complete)) {
                Ok(event) => {
                    if !self.take_all(queue, event, &mut complete) {
                        return;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.tell_sums();
            self.compare_if_deaf(queue);
            self.look();
            if complete && self.is_due(Instant::now()) {
                let first = self.syncs == 0;
                if !self.services {
                    self.pass_nodes_on();
                } else if self.sync().is_ok() && first && self.syncs > 0 {
                    // Only now: our own first state would be more than can be listened to.
                    self.listening = listen(queue);
                    notify::ready();
                    netlink::give_back_free_memory();
                    let spared = self.config.ipvs.exclude_cidrs.clone();
                    let shared = self.shared.clone();
                    leftovers::remove(shared, self.config.mode, self.keep(), spared);
                }
            }
        }
    }

    /// Where the kernel does not tell what becomes of what was written, it is looked at.
    fn look(&mut self) {
        match self.dataplane.look(Instant::now()) {
            Ok(found) => self.drift.extend(found),
            Err(error) => self.drift.push(error.to_string()),
        }
        // It may have to wait, and is found again meanwhile.
        self.drift.sort();
        self.drift.dedup();
    }

    /// Where the kernel does not tell what others change, it is looked for every sync period.
    fn compare_if_deaf(&mut self, queue: &Queue) {
        if queue.port.is_none() || self.listening || !self.services || self.syncs == 0 {
            return;
        }
        let now = Instant::now();
        if *self.compare_at.get_or_insert(now + self.config.sync_period) > now {
            return;
        }
        self.compare_at = None;
        self.listening = listen(queue);
        self.drift.push("looked for, since the kernel did not tell".to_owned());
    }

    /// Takes in everything that waits; `false` if the daemon ends.
    fn take_all(&mut self, queue: &Queue, first: Event, complete: &mut bool) -> bool {
        let mut next = Some(first);
        while let Some(event) = next {
            match event {
                Event::Update(update) => {
                    self.take(update);
                    *complete = true;
                }
                Event::Drift(Told::Changes(what)) => self.drift.extend(what),
                Event::Drift(Told::Deaf) => self.listening = false,
                Event::Explain { from, to, world, answer } => {
                    let nodes = node::tables(&self.config, &self.cluster, self.be_liberal);
                    let (table, cluster) = (&self.table, &self.cluster);
                    let view = View {
                        table,
                        cluster,
                        nodes: &nodes,
                        mode: self.config.mode,
                        world: world.as_ref(),
                    };
                    // Whoever asked may have gone.
                    let _ = answer.send(explain::answer(view, &from, &to));
                }
                Event::Owners { frontends, services, answer } => {
                    let of = |key| Some(self.table.frontend(key)?.lists.owner.clone());
                    let exists = |owner: &ServicePortName| {
                        let service = self.cluster.service(&owner.service);
                        let mut ports = service.iter().flat_map(|service| &service.ports);
                        ports.any(|p| p.name == owner.port && p.protocol == owner.protocol)
                    };
                    let _ = answer.send(Owners {
                        of: frontends.iter().map(of).collect(),
                        exist: services.iter().map(exists).collect(),
                    });
                }
                Event::Stop => return false,
            }
            next = match queue.events.try_recv() {
                Ok(event) => Some(event),
                Err(TryRecvError::Empty) => None,
                Err(TryRecvError::Disconnected) => return false,
            };
        }
        true
    }

    /// Takes changes in without acting on them.
    pub fn take(&mut self, update: Update) {
        for change in update.changes {
            self.cluster.apply(change);
        }
        if let Some(problems) = update.problems {
            self.report(problems);
        }
        let dirty = self.cluster.dirty();
        if !dirty.is_empty() {
            for family in FAMILIES {
                self.shared.health.queued(family);
                if self.services {
                    self.shared.metrics.sync_queued(family);
                }
            }
        }
        self.shared.metrics.changes_pending(dirty.counts.0, dirty.counts.1);
    }

    /// Tells each problem once.
    fn report(&mut self, problems: Vec<Problem>) {
        let texts: HashSet<String> = problems.iter().map(Problem::to_string).collect();
        for problem in &problems {
            let text = problem.to_string();
            if !self.told.contains(&text) {
                tracing::error!("{text}");
            }
        }
        if !texts.is_subset(&self.told) {
            let few: Vec<String> = problems.iter().map(Problem::to_string).collect();
            self.shared.reporter.event(Reason::InvalidObjects, some_of(&few));
        }
        self.told = texts;
        // Objects of an API server have no place; documents that are none have no object.
        let places: HashSet<_> = problems.iter().map(|p| (&p.place, &p.object)).collect();
        self.shared.metrics.source_errors(places.len());
        self.problems = problems;
        self.tell_problems();
    }

    fn tell_problems(&self) {
        let conflicts = self.table.conflicts().map(|(key, owner, other)| {
            format!("service {other}: {key} belongs to service {owner} already")
        });
        let problems = self.problems.iter().map(Problem::to_string);
        let kept = self.kept.iter().map(|(_, what)| what.clone());
        self.shared
            .status
            .set_problems("services", kept.chain(problems).chain(conflicts).collect());
    }

    /// Plans what is dirty and commits it; after an error everything is compared.
    pub fn sync(&mut self) -> Result<()> {
        let started = Instant::now();
        let dirty = self.cluster.take_dirty();
        self.triggers.extend(dirty.triggered.iter().copied().take(TRIGGERS));
        let drift = std::mem::take(&mut self.drift);
        let (mut delta, mut planned) = self.plan(&dirty);
        let mut dirty = dirty;
        if let Some((before, frontends, services)) = self.unfinished.take() {
            // Then everything is compared; what follows a commit must still know what had changed.
            dirty.node |= before.node;
            dirty.nodes |= before.nodes;
            for (key, frontend) in frontends {
                delta.entry(key).or_insert(frontend);
            }
            planned.extend(services);
        }
        let health_checks_changed = self.plan_health_checks(&planned);
        let nodes = self.nodes();
        let removing = self.remove_at.is_some_and(|at| at <= started);
        let retrying = self.retry_at.is_some_and(|at| at <= started);
        let asked = retrying || removing || !drift.is_empty();
        let full = asked || !self.dataplane.is_known(&nodes);
        let failing = self.failing.clone();
        if full {
            self.failing.clear();
        }
        let outcome = if full {
            let table = &self.table;
            self.dataplane.reconcile(|| table.frontends().collect(), &nodes, started)
        } else {
            self.dataplane.apply(&delta, &nodes, started)
        };
        let took = started.elapsed();
        if dirty.nodes && self.syncs > 0 {
            self.tell_agent();
        }
        match outcome {
            Ok(mut written) => {
                let failed = std::mem::take(&mut written.failed);
                self.failing.extend(failed.iter().map(|(family, _)| *family));
                if self.syncs == 0 {
                    // One family that is in force is enough for pods.
                    self.tell_agent();
                    if self.failing.is_empty() {
                        self.shared.health.set_part("services", Ok(()));
                    }
                }
                self.committed(&dirty, full, took, &written);
                self.tell_drift(&drift, &written);
                if full {
                    self.tell_kept(&written);
                }
                self.after_commit(&delta, full, &nodes, &dirty, &planned);
                if health_checks_changed || full {
                    let checks = self.health_checks.values().cloned().collect();
                    self.shared.health_checks.update(checks);
                }
                if !self.failing.is_empty() {
                    delta.retain(|key, _| self.failing.contains(&key.family()));
                    self.unfinished = Some((Dirty::default(), delta, BTreeSet::new()));
                }
                match failed.into_iter().next() {
                    Some((_, error)) => Err(self.failed(error, full, &failing)),
                    None => Ok(()),
                }
            }
            Err(error) => {
                self.failing = FAMILIES.to_vec();
                self.unfinished = Some((dirty, delta, planned));
                Err(self.failed(error, full, &failing))
            }
        }
    }

    /// All that there is to do without Services.
    fn pass_nodes_on(&mut self) {
        let dirty = self.cluster.take_dirty();
        if dirty.nodes || self.syncs == 0 {
            self.tell_agent();
        }
        if self.syncs == 0 {
            self.shared.status.set("state", "Services are left to another proxy");
            notify::ready();
        }
        // Nothing waits any more.
        for family in FAMILIES {
            self.shared.health.updated(family);
        }
        self.shared.metrics.changes_pending(0, 0);
        self.syncs += 1;
    }

    /// Plans every dirty Service; tells which frontends changed, and which Services were planned.
    fn plan(&mut self, dirty: &Dirty) -> (Delta, BTreeSet<ServiceName>) {
        let mut services = dirty.services.clone();
        if dirty.node {
            let rules = node::rules(&self.config, &self.cluster);
            if rules != self.rules {
                self.rules = rules;
                services.extend(self.cluster.services().map(|(name, _)| name.clone()));
            }
        }
        let mut delta = Delta::new();
        for name in &services {
            let service = self.cluster.service(name);
            let new = service
                .map(|service| plan::plan(name, service, self.cluster.slices(name), &self.rules));
            self.table.replace(name, new, &mut delta);
        }
        (delta, services)
    }

    /// What the tables of both families hold besides Services.
    fn nodes(&self) -> [Node; 2] {
        let mut nodes = node::tables(&self.config, &self.cluster, self.be_liberal);
        if self.config.mode == Mode::Iptables {
            let ports: BTreeSet<u16> = self.health_checks.values().map(|(port, _)| *port).collect();
            for node in &mut nodes {
                node.health_check_ports = ports.iter().copied().collect();
            }
        }
        nodes
    }

    /// Plans health checks; whether any changed.
    fn plan_health_checks(&mut self, planned: &BTreeSet<ServiceName>) -> bool {
        let mut changed = false;
        for name in planned {
            let plan = self.table.plan(name);
            let check = plan.and_then(|plan| plan.health_check.as_ref()).map(|check| {
                let health = ServiceHealth {
                    namespace: name.namespace.to_string(),
                    name: name.name.to_string(),
                    local_endpoints: check.local_endpoints,
                };
                (check.port, health)
            });
            let before = match check {
                Some(check) => self.health_checks.insert(name.clone(), check),
                None => self.health_checks.remove(name),
            };
            changed |= before.as_ref() != self.health_checks.get(name);
        }
        changed
    }
}

/// Has changes told that others make.
fn listen(queue: &Queue) -> bool {
    let Some(port) = queue.port else { return false };
    let events = queue.sender.clone();
    let tell = move |what| events.send(Event::Drift(what)).is_ok();
    drift::listen(Watched::Services, port, tell)
}
