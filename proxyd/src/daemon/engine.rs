//! The dataplane thread: takes changes in, plans, commits, and keeps everybody informed.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use netlink::conntrack::Conntrack;
use netlink::{Errno, Error, Family, Result};

use super::counters::Owners;
use super::drift::{self, Told, Watched};
use super::node;
use super::{Event, Queue, Shared, conntrack, leftovers};
use crate::agent::ToAgent;
use crate::cluster::{Cluster, Dirty, Protocol, ServiceName, ServicePortName};
use crate::config::{Config, Mode};
use crate::dataplane::leftovers::Keep;
use crate::dataplane::{Dataplane, FAMILIES, Node, NodePorts, Written};
use crate::explain::{self, View};
use crate::reporter::Reason;
use crate::server::{RelayTarget, ServiceHealth, notify};
use crate::service::table::Delta;
use crate::service::{Address, FrontendKey, Resolution, Rules, Table, plan};
use crate::source::{Problem, Update};

/// A failed sync is tried again after this time, then twice as long, up to the sync period.
const FIRST_RETRY: Duration = Duration::from_millis(500);
/// Under churn at most a third of the time is spent on syncs, and no change waits longer than this.
const LONGEST_WAIT: Duration = Duration::from_millis(100);
const SYNC_SHARE: u32 = 2;
/// Somebody who holds a lock lets it go soon.
const LOCKED: Duration = Duration::from_secs(4);
/// Times of changes that are waited for, for the latency metric.
const TRIGGERS: usize = 1000;
/// How old the sums in metrics and status may be.
const SUMS_AFTER: Duration = Duration::from_millis(200);

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
    /// Opens what is needed in the calling thread's network namespace.
    pub fn new(config: Config, shared: Shared) -> Result<Engine> {
        let cluster = Cluster::new(node::name(&config));
        shared.status.set("node", cluster.node_name().to_string());
        shared.status.set("mode", config.mode.to_string());
        shared.status.set("state", "waiting for Services and EndpointSlices");
        let dataplane = Dataplane::open(&config)?;
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
            unfinished: None,
            drift: Vec::new(),
            triggers: Vec::new(),
            syncs: 0,
            listening: false,
            compare_at: None,
            services: true,
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

    /// Leaves Services to somebody else: only the agent is told of nodes.
    pub fn leave_services(&mut self) {
        self.services = false;
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
            leftovers::announce();
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
                } else if self.sync().is_ok() && first {
                    // Only now: our own first state would be more than can be listened to.
                    self.listening = listen(queue);
                    notify::ready();
                    netlink::give_back_free_memory();
                    let spared = self.config.ipvs.exclude_cidrs.clone();
                    leftovers::remove(self.config.mode, self.dataplane.keep(), spared);
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
                    let view = View { table, cluster, nodes: &nodes, world: world.as_ref() };
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
        self.shared.status.set_problems(problems.chain(conflicts).collect());
    }

    /// When the next sync may be, if there is something to do.
    fn due_at(&self, now: Instant) -> Option<Instant> {
        if let Some(retry_at) = self.retry_at {
            return Some(retry_at);
        }
        let dirty = self.cluster.dirty();
        if self.syncs == 0 || !self.drift.is_empty() {
            return Some(now);
        }
        if dirty.is_empty() {
            return None;
        }
        let Some((ended, took)) = self.last else { return Some(now) };
        if let Some(period) = self.config.min_sync_period {
            return Some(ended + period);
        }
        if dirty.removal {
            return Some(now);
        }
        Some(ended + (took * SYNC_SHARE).min(LONGEST_WAIT))
    }

    fn is_due(&self, now: Instant) -> bool {
        self.due_at(now).is_some_and(|at| at <= now)
    }

    fn patience(&self, complete: bool) -> Duration {
        let now = Instant::now();
        let due = if complete { self.due_at(now) } else { None };
        let due = due.into_iter().chain(self.sums_at).chain(self.compare_at);
        let due = due.chain(self.dataplane.look_at()).min();
        due.map_or(self.config.sync_period, |at| at.saturating_duration_since(now))
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
        let full = !self.dataplane.is_known(&nodes) || !drift.is_empty();
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
            Ok(written) => {
                if self.syncs == 0 {
                    self.shared.health.set_part("services", Ok(()));
                    self.tell_agent();
                }
                self.committed(&dirty, full, took, &written);
                self.tell_drift(&drift, &written);
                self.after_commit(&delta, full, &nodes, &dirty, &planned);
                if health_checks_changed || full {
                    let checks = self.health_checks.values().cloned().collect();
                    self.shared.health_checks.update(checks);
                }
                Ok(())
            }
            Err(error) => {
                self.unfinished = Some((dirty, delta, planned));
                Err(self.failed(error, full))
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

    fn committed(&mut self, dirty: &Dirty, full: bool, took: Duration, written: &Written) {
        self.syncs += 1;
        self.failures = 0;
        self.retry_at = None;
        self.last = Some((Instant::now(), took));
        let metrics = &self.shared.metrics;
        for family in FAMILIES {
            self.shared.health.updated(family);
            metrics.sync_finished(family, full, took);
        }
        metrics.committed(written.transactions, written.elements, written.bytes);
        metrics.changes_seen(dirty.counts.0 as u64, dirty.counts.1 as u64);
        metrics.changes_pending(0, 0);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        for triggered in std::mem::take(&mut self.triggers) {
            let seconds = (now as i64).saturating_sub(triggered) as f64 / 1e9;
            for family in FAMILIES {
                metrics.programming_latency(family, seconds.max(0.0));
            }
        }
        let log = format!(
            "synced in {:.1} ms: {} elements in {} transactions ({} services and {} slices changed{})",
            took.as_secs_f64() * 1e3,
            written.elements,
            written.transactions,
            dirty.counts.0,
            dirty.counts.1,
            if full { "; everything was compared" } else { "" },
        );
        if full { tracing::info!("{log}") } else { tracing::debug!("{log}") }
    }

    fn tell_drift(&self, drift: &[String], written: &Written) {
        let first = self.syncs == 1;
        let repaired = !written.repairs.is_empty() || written.elements > 0;
        if first || (drift.is_empty() && written.repairs.is_empty()) {
            return;
        }
        let seen = if drift.is_empty() { "a failed sync".to_owned() } else { some_of(drift) };
        if repaired {
            self.shared.metrics.drift_repaired();
            let repairs = some_of(&written.repairs);
            tracing::warn!(
                "somebody else changed our tables ({seen}); repaired: {repairs}{}{} elements",
                if repairs.is_empty() { "" } else { "; " },
                written.elements
            );
        } else {
            tracing::info!("somebody else touched our tables ({seen}); nothing was missing");
        }
    }

    fn failed(&mut self, error: Error, full: bool) -> Error {
        self.failures += 1;
        let wait = FIRST_RETRY * 2u32.saturating_pow(self.failures.min(16) - 1);
        // Whoever has the lock of xtables gives it back some time.
        let longest = if error.errno == Errno::AGAIN { LOCKED } else { self.config.sync_period };
        let wait = wait.min(longest.max(FIRST_RETRY));
        self.retry_at = Some(Instant::now() + wait);
        for family in FAMILIES {
            self.shared.metrics.sync_failed(family, !full);
        }
        let hint = hint(&error);
        tracing::error!("sync failed: {error}{hint}; everything is compared in {wait:?}");
        self.shared.status.set("state", format!("the last sync failed: {error}{hint}"));
        error
    }

    /// Everything that follows from a committed state.
    fn after_commit(
        &mut self,
        delta: &Delta,
        full: bool,
        nodes: &[Node; 2],
        dirty: &Dirty,
        planned: &BTreeSet<ServiceName>,
    ) {
        if dirty.node || self.syncs == 1 {
            let going = self.cluster.this_node().is_some_and(|node| node.going_away);
            self.shared.health.set_node_eligible(!going);
        }
        self.clean_conntrack(delta, full, nodes, planned);
        self.update_relay();
        self.sums_at.get_or_insert(Instant::now() + SUMS_AFTER);
        if self.syncs == 1 {
            self.sums_at = Some(Instant::now());
            self.tell_sums();
        }
        let status = &self.shared.status;
        status.set("state", "programmed");
        status.set("syncs", self.syncs);
        if let Some((_, took)) = self.last {
            status.set("lastSyncMilliseconds", took.as_secs_f64() * 1e3);
        }
        status.set("lastSync", jiff::Timestamp::now().to_string());
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

    fn update_relay(&self) {
        let wanted = node::localhost_nodeports(&self.config);
        if wanted == [false, false] {
            return;
        }
        let mut ports: BTreeMap<u16, RelayTarget> = BTreeMap::new();
        for (key, frontend) in self.table.frontends() {
            let (Address::Node(family), Protocol::Tcp) = (key.address, key.protocol) else {
                continue;
            };
            let target = ports.entry(key.port).or_default();
            let backends: Vec<SocketAddr> =
                frontend.lists.cluster.iter().map(|b| (*b).into()).collect();
            target.affinity = frontend.lists.affinity.map(|a| Duration::from_secs(u64::from(a.0)));
            match family {
                Family::V4 if wanted[0] => target.v4 = backends,
                Family::V6 if wanted[1] => target.v6 = backends,
                _ => {}
            }
        }
        self.shared.relay.update(ports);
    }

    /// Tells sums over everything, if it is time.
    fn tell_sums(&mut self) {
        if self.sums_at.is_none_or(|at| at > Instant::now()) {
            return;
        }
        self.sums_at = None;
        self.tell_problems();
        let mut no_local: HashMap<Family, HashSet<_>> = HashMap::new();
        let mut no_internal: HashMap<Family, HashSet<_>> = HashMap::new();
        for (key, frontend) in self.table.frontends() {
            let owner = &frontend.lists.owner;
            match frontend.resolution {
                Resolution::Drop => no_internal.entry(key.family()).or_default().insert(owner),
                Resolution::ByOrigin if frontend.lists.local.is_empty() => {
                    no_local.entry(key.family()).or_default().insert(owner)
                }
                _ => continue,
            };
        }
        for family in FAMILIES {
            let count =
                |counts: &HashMap<Family, HashSet<_>>| counts.get(&family).map_or(0, HashSet::len);
            let (internal, external) = (count(&no_internal), count(&no_local));
            self.shared.metrics.no_local_endpoints(family, internal, external);
            let (frontends, endpoints) = self.dataplane.counts(family);
            self.shared.metrics.programmed(family, frontends, endpoints);
            for (table, all, last) in self.dataplane.rules(family) {
                self.shared.metrics.iptables_rules(family, table, all, last);
            }
        }
        let [v4, v6] = FAMILIES.map(|family| self.dataplane.counts(family));
        self.shared.status.set("frontends", v4.0 + v6.0);
        self.shared.status.set("endpoints", v4.1 + v6.1);
        self.shared.status.set("services", self.table.plans().count());
    }

    /// Forgets UDP flows whose server does not serve any more. That an endpoint stopped serving need not
    /// show in a frontend: it may have been out of the lists for long.
    fn clean_conntrack(
        &mut self,
        delta: &Delta,
        full: bool,
        nodes: &[Node; 2],
        planned: &BTreeSet<ServiceName>,
    ) {
        for (family, node) in FAMILIES.into_iter().zip(nodes) {
            let udp = |key: &&FrontendKey| key.protocol == Protocol::Udp && key.family() == family;
            let mut plans = planned.iter().filter_map(|name| self.table.plan(name));
            let concerned = delta.keys().any(|key| udp(&key))
                || plans.any(|plan| plan.frontends.iter().any(|(key, _)| udp(&key)));
            if !full && !concerned {
                continue;
            }
            let gone: HashSet<FrontendKey> = delta
                .iter()
                .filter(|(key, frontend)| udp(key) && frontend.is_none())
                .map(|(key, _)| *key)
                .collect();
            let started = Instant::now();
            let own = match conntrack::own_addresses() {
                Ok(own) => own,
                Err(error) => {
                    tracing::warn!("{error}: UDP flows are not cleaned");
                    return;
                }
            };
            let on_node = |ip| match node.settings.nodeports {
                NodePorts::Everywhere => own.contains(&ip),
                NodePorts::Listed | NodePorts::InNetworks => {
                    node.nodeport_addresses.iter().any(|prefix| prefix.contains(ip))
                        && own.contains(&ip)
                }
            };
            let (conntrack, table) = (&mut self.conntrack, &self.table);
            let outcome =
                conntrack::reconcile(conntrack, family, table, &self.cluster, &gone, on_node);
            match outcome {
                Ok(deleted) => {
                    let took = started.elapsed();
                    self.shared.metrics.conntrack_reconciled(family, took, deleted);
                    if deleted > 0 {
                        tracing::info!(
                            "{deleted} {family} UDP flows went to endpoints that are gone"
                        );
                    }
                }
                Err(error) => tracing::warn!("{error}: UDP flows are not cleaned"),
            }
        }
    }
}

/// Has changes told that others make.
fn listen(queue: &Queue) -> bool {
    let Some(port) = queue.port else { return false };
    let events = queue.sender.clone();
    let tell = move |what| events.send(Event::Drift(what)).is_ok();
    drift::listen(Watched::Services, port, tell)
}

/// The first few of a list, and how many more there are.
fn some_of(list: &[String]) -> String {
    const FEW: usize = 4;
    let few = list.iter().take(FEW).cloned().collect::<Vec<_>>().join("; ");
    match list.len().saturating_sub(FEW) {
        0 => few,
        more => format!("{few}; and {more} more"),
    }
}

/// What to do about a refusal of the kernel's.
fn hint(error: &Error) -> &'static str {
    match error.errno {
        Errno::PERM | Errno::ACCESS => " (CAP_NET_ADMIN is needed in this network namespace)",
        Errno::OPNOTSUPP | Errno::PROTONOSUPPORT | Errno::AFNOSUPPORT => {
            " (the kernel lacks this part of nf_tables: 5.13 or newer with nft_numgen, nft_fib, nft_masq and nft_reject is needed)"
        }
        Errno::NOBUFS => " (the answer did not fit: it is asked for again)",
        Errno::BUSY => " (something still refers to it: an older kernel frees it a moment later)",
        _ => "",
    }
}
