//! The Kubernetes API as a source: each kind is listed once and watched from there.
//!
//! An error changes nothing: what is known stays in force until the server says otherwise. After a gap the
//! kind is listed anew, and only then is what was not listed taken for gone.

mod client;
mod object;
mod watch;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::ErrorKind;

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures_util::StreamExt;
use tokio::runtime::Runtime;

use super::convert::{self, Object, ObjectName};
use super::{Problem, Source, SourceError, Update, api};
use crate::cluster::{Change, Names};
use crate::reporter::{Reason, Reporter};
use crate::server::Metrics;
pub use client::{Access, client};
use watch::{Seen, Watches, What};

/// Whoever moves an endpoint from one slice to another changes two objects in a row: what comes within
/// this time is one change.
const TOGETHER: Duration = Duration::from_micros(500);
/// Events taken in at once. They are larger than what is kept of them.
const BATCH: usize = 512;
/// So many different errors of one outage are told; texts may differ without end.
const MOST_TOLD: usize = 4;
/// Kinds that must have been listed before Services are programmed.
const KINDS: [&str; 4] = ["Service", "EndpointSlice", "Node", "ServiceCIDR"];
/// Kinds that must have been listed before policies are.
const POLICY_KINDS: [&str; 4] = ["Pod", "Namespace", "NetworkPolicy", "ClusterNetworkPolicy"];

/// Which objects are wanted besides nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Services and what belongs to them.
    pub services: bool,
    /// Policies and what they are about.
    pub policies: bool,
    /// Namespaces, even without policies: they tell whose source addresses are checked.
    pub namespaces: bool,
    /// Policies that are not enforced, to report them. A server that refuses them is not an error.
    pub unenforced_policies: bool,
}

/// Kinds of policies.
const POLICIES: [&str; 2] = ["NetworkPolicy", "ClusterNetworkPolicy"];

impl Wanted {
    /// Whether policies are watched only to report them.
    pub(super) fn reports_policies(self) -> bool {
        self.unenforced_policies && !self.policies
    }
}

/// What is wanted of an API server.
pub struct Options {
    /// How long [`Source::read`] waits for the server; `None` is for ever.
    pub patience: Option<Duration>,
    /// Which objects.
    pub wanted: Wanted,
    /// Who is told of missing permissions.
    pub reporter: Reporter,
    /// Where is counted whether the server answers.
    pub metrics: Metrics,
}

/// What is known of the objects of a kind.
#[derive(Default)]
struct Known {
    names: HashSet<ObjectName>,
    /// While all are listed: those that were there so far.
    listed: Option<HashSet<ObjectName>>,
    /// The titles of those, good or bad.
    titles: HashSet<String>,
    /// Whether they have been listed once, or may be missing.
    complete: bool,
    /// Whether the server answered when it was last asked.
    up: bool,
    /// The errors that were told since.
    told: Vec<String>,
}

impl Known {
    fn answered(&mut self, kind: &'static str, metrics: &Metrics) {
        if !std::mem::replace(&mut self.up, true) {
            metrics.watch_up(kind, true);
        }
        if !self.told.is_empty() {
            tracing::info!("{kind}: the API server answers again");
            self.told.clear();
        }
    }

    /// An outage is told once, not at every attempt.
    fn failed(&mut self, kind: &'static str, why: String, metrics: &Metrics) {
        metrics.watch_failed(kind);
        if std::mem::replace(&mut self.up, false) {
            metrics.watch_up(kind, false);
        }
        if self.told.len() < MOST_TOLD && !self.told.contains(&why) {
            tracing::warn!("{why}; what is known stays in force");
            self.told.push(why);
        }
    }
}

/// Objects from an API server.
pub struct Kubernetes {
    runtime: Runtime,
    watches: Watches,
    options: Options,
    known: HashMap<&'static str, Known>,
    names: Names,
    service_cidrs: BTreeMap<ObjectName, Vec<netlink::Prefix>>,
    /// By the object's title.
    problems: BTreeMap<String, Vec<Problem>>,
    problems_changed: bool,
    /// Whether it was told that everything about policies is known.
    told_complete: bool,
    taken: usize,
}

impl Kubernetes {
    /// Prepares everything; the server is first asked in [`Source::read`]. `server` takes the place of the
    /// configured URL.
    pub fn open(access: Access<'_>, server: Option<&str>, options: Options) -> Result<Kubernetes> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("start the API client's runtime")?;
        let client = runtime.block_on(client(access, server))?;
        let watches = watch::all(&client, options.wanted);
        Ok(Kubernetes::of(runtime, watches, options))
    }

    fn of(runtime: Runtime, watches: Watches, options: Options) -> Kubernetes {
        let mut kinds = vec!["Node"];
        if options.wanted.services {
            kinds.extend(KINDS);
        }
        if options.wanted.policies {
            kinds.extend(POLICY_KINDS);
        } else if options.wanted.namespaces {
            kinds.push("Namespace");
        }
        if options.wanted.reports_policies() {
            kinds.extend(POLICIES);
        }
        for kind in &kinds {
            options.metrics.watch_up(kind, false);
        }
        Kubernetes {
            runtime,
            watches,
            options,
            known: kinds.into_iter().map(|kind| (kind, Known::default())).collect(),
            names: Names::default(),
            service_cidrs: BTreeMap::new(),
            problems: BTreeMap::new(),
            problems_changed: true,
            told_complete: false,
            taken: 0,
        }
    }

    /// Policies are not waited for: Services do not need them.
    fn is_complete(&self) -> bool {
        let mut needed = self.known.iter().filter(|(kind, _)| !POLICY_KINDS.contains(kind));
        needed.all(|(_, known)| known.complete)
    }

    fn are_policies_complete(&self) -> bool {
        let Wanted { policies, namespaces, .. } = self.options.wanted;
        let mut needed = self.known.iter().filter(|(kind, _)| policies || !POLICIES.contains(kind));
        (policies || namespaces) && needed.all(|(_, known)| known.complete)
    }

    /// Takes one event in.
    fn take(&mut self, Seen { kind, what }: Seen, changes: &mut Vec<Change>) {
        let known = self.known.entry(kind).or_default();
        let metrics = &self.options.metrics;
        match what {
            // A list begins whether or not there is an answer.
            What::ListBegins | What::Dispensable | What::Failed(_) | What::Forbidden(_) => {}
            _ => known.answered(kind, metrics),
        }
        match what {
            What::Answered => {}
            What::ListBegins => {
                known.listed = Some(HashSet::new());
                known.titles.clear();
            }
            What::ListEnds => {
                known.complete = true;
                let titles = std::mem::take(&mut known.titles);
                let own = format!("{kind} ");
                let before = self.problems.len();
                self.problems.retain(|title, _| !title.starts_with(&own) || titles.contains(title));
                self.problems_changed |= self.problems.len() != before;
                let listed = known.listed.take().unwrap_or_default();
                let gone: Vec<ObjectName> = known.names.difference(&listed).cloned().collect();
                for name in gone {
                    self.forget(kind, &name, changes);
                }
            }
            What::Is(document) => {
                let converted = convert::convert(&document, &mut self.names);
                self.learn(kind, &document, converted, changes);
            }
            What::Unreadable(document, why) => {
                self.learn(kind, &document, Err((String::new(), why)), changes);
            }
            What::Gone(document) => {
                let title = title(kind, &document);
                self.problems_changed |= self.problems.remove(&title).is_some();
                if let Some(name) = object_name(kind, &document) {
                    self.forget(kind, &name, changes);
                }
            }
            What::Dispensable => known.complete = true,
            What::Failed(why) => known.failed(kind, why, metrics),
            What::Forbidden(why)
                if self.options.wanted.reports_policies() && POLICIES.contains(&kind) =>
            {
                tracing::debug!("{why}: policies that nothing enforces are not reported");
            }
            What::Forbidden(why) => {
                self.options.reporter.event(Reason::Forbidden, why.clone());
                known.failed(kind, why, metrics);
            }
        }
    }

    fn learn(
        &mut self,
        kind: &'static str,
        document: &api::Document,
        converted: Result<convert::Converted, convert::Fault>,
        changes: &mut Vec<Change>,
    ) {
        let title = title(kind, document);
        let told_as = title.clone();
        let (object, faults) = match converted {
            Ok(converted) => (converted.object, converted.faults),
            Err(fault) => (None, vec![fault]),
        };
        let useless = object.is_none() && !faults.is_empty();
        let problems: Vec<Problem> = faults
            .into_iter()
            .map(|(field, message)| Problem { place: None, object: title.clone(), field, message })
            .collect();
        let before = self.problems.remove(&title).unwrap_or_default();
        self.problems_changed |= before != problems;
        if !problems.is_empty() {
            self.problems.insert(title, problems);
        }
        let Some(known) = self.known.get_mut(kind) else { return };
        if known.listed.is_some() {
            known.titles.insert(told_as);
        }
        let Some((name, content)) = object else {
            if let Some(name) = object_name(kind, document) {
                if useless {
                    // Its last good state stays in force.
                    let had_it = known.names.contains(&name);
                    if let (true, Some(listed)) = (had_it, &mut known.listed) {
                        listed.insert(name);
                    }
                } else {
                    self.forget(kind, &name, changes);
                }
            }
            return;
        };
        if let Some(listed) = &mut known.listed {
            listed.insert(name.clone());
        }
        known.names.insert(name.clone());
        changes.push(match (name, content) {
            (ObjectName::Service(key), Object::Service(service)) => {
                Change::Service(key, Some(service))
            }
            (ObjectName::Slice(key), Object::Slice(slice)) => Change::Slice(key, Some(slice)),
            (ObjectName::Node(key), Object::Node(node)) => Change::Node(key, Some(node)),
            (_, Object::Judged(change)) => Change::Judged(change),
            (name @ ObjectName::ServiceCidr(_), Object::ServiceCidr(cidrs)) => {
                self.service_cidrs.insert(name, cidrs);
                self.all_service_cidrs()
            }
            (name, _) => name.gone(),
        });
    }

    fn forget(&mut self, kind: &'static str, name: &ObjectName, changes: &mut Vec<Change>) {
        let Some(known) = self.known.get_mut(kind) else { return };
        if !known.names.remove(name) {
            return;
        }
        changes.push(match name {
            ObjectName::ServiceCidr(_) => {
                self.service_cidrs.remove(name);
                self.all_service_cidrs()
            }
            other => other.gone(),
        });
    }

    fn all_service_cidrs(&self) -> Change {
        let mut all: Vec<_> = self.service_cidrs.values().flatten().copied().collect();
        all.sort();
        all.dedup();
        Change::ServiceCidrs(all)
    }

    fn update(&mut self, changes: Vec<Change>) -> Update {
        self.taken += changes.len();
        if self.taken > self.known.values().map(|known| known.names.len()).sum() {
            self.names.shrink();
            self.taken = 0;
        }
        let changed = std::mem::take(&mut self.problems_changed);
        let problems = changed.then(|| self.problems.values().flatten().cloned().collect());
        let policies_complete = self.are_policies_complete();
        Update { changes, problems, policies_complete }
    }

    /// The next event, and all that come right after it.
    fn next_batch(&mut self, deadline: Option<Instant>) -> Result<Vec<Seen>, SourceError> {
        let Kubernetes { runtime, watches, .. } = self;
        let batch = runtime.block_on(async {
            let first = match deadline {
                Some(at) => tokio::time::timeout_at(at.into(), watches.next()).await.ok(),
                None => Some(watches.next().await),
            };
            let mut batch: Vec<Seen> = first.flatten().into_iter().collect();
            while batch.len() < BATCH {
                match tokio::time::timeout(TOGETHER, watches.next()).await {
                    Ok(Some(seen)) => batch.push(seen),
                    Ok(None) | Err(_) => break,
                }
            }
            batch
        });
        if batch.is_empty() {
            let late = deadline.is_some_and(|at| at <= Instant::now());
            let kind = if late { ErrorKind::TimedOut } else { ErrorKind::UnexpectedEof };
            let what = match self.known.values().find_map(|known| known.told.last().cloned()) {
                Some(why) => why,
                None => "watch the API server".to_owned(),
            };
            return Err(SourceError { what, error: kind.into() });
        }
        Ok(batch)
    }
}

impl Source for Kubernetes {
    fn read(&mut self) -> Result<Update, SourceError> {
        let mut changes = Vec::new();
        let deadline = self.options.patience.map(|patience| Instant::now() + patience);
        while !self.is_complete() {
            for seen in self.next_batch(deadline)? {
                self.take(seen, &mut changes);
            }
        }
        Ok(self.update(changes))
    }

    fn wait(&mut self) -> Result<Update, SourceError> {
        loop {
            let mut changes = Vec::new();
            for seen in self.next_batch(None)? {
                self.take(seen, &mut changes);
            }
            let completed = self.are_policies_complete() && !self.told_complete;
            if !changes.is_empty() || self.problems_changed || completed {
                self.told_complete |= completed;
                return Ok(self.update(changes));
            }
        }
    }
}

fn object_name(kind: &str, document: &api::Document) -> Option<ObjectName> {
    let metadata = document.metadata.as_ref()?;
    let name = metadata.name.as_deref()?.into();
    let namespace = || metadata.namespace.as_deref().unwrap_or("default").into();
    Some(match kind {
        "Service" => {
            ObjectName::Service(crate::cluster::ServiceName { namespace: namespace(), name })
        }
        "EndpointSlice" => {
            ObjectName::Slice(crate::cluster::SliceName { namespace: namespace(), name })
        }
        "Node" => ObjectName::Node(name),
        "Pod" => ObjectName::Pod(netpol::PodName { namespace: namespace(), name }),
        "Namespace" => ObjectName::Namespace(name),
        "NetworkPolicy" => ObjectName::Policy(netpol::PolicyName { namespace: namespace(), name }),
        "ClusterNetworkPolicy" => ObjectName::ClusterPolicy(name),
        "ServiceCIDR" => ObjectName::ServiceCidr(name),
        _ => return None,
    })
}

fn title(kind: &str, document: &api::Document) -> String {
    let metadata = document.metadata.as_ref();
    let name = metadata.and_then(|metadata| metadata.name.as_deref()).unwrap_or_default();
    match metadata.and_then(|metadata| metadata.namespace.as_deref()) {
        Some(namespace) => format!("{kind} {namespace}/{name}"),
        None => format!("{kind} {name}"),
    }
}

#[cfg(test)]
mod absence;
#[cfg(test)]
mod testing;
#[cfg(test)]
#[path = "tests.rs"]
mod tests;
