//! The policy thread: takes in what policies are about, compiles it, commits it, and lets pods start.
//!
//! It owns tables `inet viaduct-policy` and `bridge viaduct-policy`. Services do not wait for it, nor it for them.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use netlink::Errno;
use netlink::nflog::Logged;
use netpol::compile::{Attachment, Change, Compiler};

use super::attachments::Attachments;
use super::denials::{self, Denials};
use super::drift::{self, Told, Watched};
use super::status::Status;
use crate::dataplane::policy::{Policies, Settings};
use crate::server::Health;

/// How long ADD may wait for the pod to be known; the plugin waits longer than this.
const PATIENCE: Duration = Duration::from_secs(3);
/// A failed sync is tried again after this time, then twice as long.
const FIRST_RETRY: Duration = Duration::from_millis(200);
const LONGEST_RETRY: Duration = Duration::from_secs(10);

/// What the policy thread is told.
#[derive(Debug)]
pub enum PolicyEvent {
    /// What is known changed.
    Changes(Vec<Change>),
    /// Everything is known now.
    Complete,
    /// The plugin attached a pod, and waits for the answer.
    Attach(Arc<str>, Attachment, Sender<Result<(), String>>),
    /// An attachment ended.
    Detach(Arc<str>),
    /// Somebody else changed the table, in these ways; or nobody will tell any more.
    Drift(Told),
    /// A packet was dropped, and logged.
    Denied(Logged),
    /// Somebody asks for what is known.
    World(Sender<netpol::World>),
    /// The daemon ends.
    Stop,
}

/// Tells the policy thread.
pub type ToPolicies = Sender<PolicyEvent>;

/// A pod that may not start yet.
struct Waiting {
    id: Arc<str>,
    until: Instant,
    answer: Sender<Result<(), String>>,
}

/// Whose connections are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judged {
    /// Nobody's: only source addresses are checked.
    Nothing,
    /// Those of pods that policies are about.
    KnownPods,
    /// Those too of addresses of pods that no pod is known to have: they are denied everything.
    AllPods,
}

struct Engine {
    compiler: Compiler,
    judged: Judged,
    policies: Policies,
    attachments: Attachments,
    status: Arc<Status>,
    health: Health,
    waiting: Vec<Waiting>,
    denials: Denials,
    /// Whether everything is known.
    complete: bool,
    /// Whether what is compiled is in the kernel.
    committed: bool,
    drift: Vec<String>,
    failures: u32,
    retry_at: Option<Instant>,
    /// Chains that were told to be too large.
    told_too_large: HashSet<String>,
    /// Whether nothing is written, because there was no policy yet.
    waits_for_policy: bool,
}

/// Starts the thread in the calling thread's network namespace. Attachments are kept in this folder. Without
/// one the plugin does not ask, and nothing is written before there is a policy.
pub fn start(
    node: &Arc<str>,
    folder: Option<&std::path::Path>,
    judged: Judged,
    settings: Settings,
    status: Arc<Status>,
    health: Health,
) -> Result<ToPolicies> {
    let policies = Policies::open(settings)?;
    let (sender, queue) = channel();
    let port = policies.port()?;
    health.set_part("policies", Err("not known yet".to_owned()));
    let mut engine = Engine {
        compiler: Compiler::new(Arc::clone(node)),
        judged,
        attachments: folder.map_or_else(|| Ok(Attachments::none()), Attachments::open)?,
        waits_for_policy: folder.is_none() && !policies.has_table(),
        policies,
        status,
        health,
        waiting: Vec::new(),
        denials: Denials::new(),
        complete: false,
        committed: false,
        drift: Vec::new(),
        failures: 0,
        retry_at: None,
        told_too_large: HashSet::new(),
    };
    let links = || {
        let links = netlink::RouteSocket::open().and_then(|mut socket| socket.links()).ok()?;
        Some(links.into_iter().map(|link| link.name).collect())
    };
    if judged == Judged::AllPods {
        engine.compiler.deny_unknown_pods();
    }
    let ended = engine.attachments.forget_ended(links);
    if ended > 0 {
        tracing::info!("forgot {ended} pods that ended while no daemon ran");
    }
    for (id, attachment) in engine.attachments.read() {
        engine.compiler.attach(id, attachment);
    }
    if !engine.waits_for_policy {
        denials::listen(sender.clone());
    }
    let events = sender.clone();
    std::thread::Builder::new()
        .name("policies".into())
        .spawn(move || engine.run(&queue, &events, port))
        .context("start the policy thread")?;
    Ok(sender)
}

impl Engine {
    fn run(mut self, queue: &Receiver<PolicyEvent>, events: &ToPolicies, port: u32) {
        let mut listening = false;
        loop {
            let first = match queue.recv_timeout(self.patience()) {
                Ok(event) => Some(event),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            for event in first.into_iter().chain(queue.try_iter()) {
                match event {
                    PolicyEvent::Changes(changes) => {
                        let judged = self.judged;
                        let counts = |change: &Change| {
                            judged != Judged::Nothing || matches!(change, Change::Namespace(..))
                        };
                        let changes = changes.into_iter().filter(counts);
                        changes.for_each(|change| self.compiler.apply(change));
                    }
                    PolicyEvent::Complete => self.complete = true,
                    PolicyEvent::Attach(id, attachment, answer) => {
                        self.attach(id, attachment, answer);
                    }
                    PolicyEvent::Detach(id) => {
                        self.attachments.remove(&id);
                        self.compiler.detach(&id);
                    }
                    PolicyEvent::Drift(Told::Changes(what)) => {
                        self.drift.extend(what);
                        self.committed = false;
                        self.policies.forget();
                    }
                    PolicyEvent::Drift(Told::Deaf) => {
                        // What happens until somebody listens again is not told: everything is written then.
                        listening = false;
                        self.committed = false;
                        self.policies.forget();
                    }
                    PolicyEvent::Denied(packet) => {
                        let key = self.policies.key_of(&packet.prefix);
                        self.denials.tell(&packet, key, &self.compiler);
                    }
                    PolicyEvent::World(answer) => {
                        // Whoever asked may have gone.
                        let _ = answer.send(self.compiler.world().clone());
                    }
                    PolicyEvent::Stop => return,
                }
            }
            if self.complete && self.waits_for_policy && !self.stop_waiting(events) {
                self.health.set_part("policies", Ok(()));
            } else if self.complete && self.retry_at.is_none_or(|at| at <= Instant::now()) {
                if !listening {
                    let told = events.clone();
                    let tell = move |what| told.send(PolicyEvent::Drift(what)).is_ok();
                    listening = drift::listen(Watched::Policies, port, tell);
                }
                self.sync();
            }
            self.answer();
        }
    }

    /// Whether there is a policy now, so that everything is written from here on.
    fn stop_waiting(&mut self, events: &ToPolicies) -> bool {
        let world = self.compiler.world();
        if world.policies.is_empty() && world.cluster_policies.is_empty() {
            return false;
        }
        denials::listen(events.clone());
        self.waits_for_policy = false;
        true
    }

    fn patience(&self) -> Duration {
        const IDLE: Duration = Duration::from_secs(30);
        let now = Instant::now();
        let next = self.waiting.iter().map(|waiting| waiting.until).chain(self.retry_at).min();
        next.map_or(IDLE, |at| at.saturating_duration_since(now))
    }

    fn attach(&mut self, id: Arc<str>, attachment: Attachment, answer: Sender<Result<(), String>>) {
        // Those that lose an address lose it on disk first: after a restart nobody could tell who is younger.
        for other in self.compiler.attach(Arc::clone(&id), attachment.clone()) {
            self.keep(&other);
        }
        if let Err(error) = self.attachments.write(&id, &attachment) {
            // After a restart nobody would know of it before the API server does.
            self.compiler.detach(&id);
            let _ = answer.send(Err(format!("{error:#}")));
            return;
        }
        self.waiting.push(Waiting { id, until: Instant::now() + PATIENCE, answer });
    }

    /// Keeps what is left of an attachment.
    fn keep(&self, id: &str) {
        let Some(left) = self.compiler.attachment(id) else { return self.attachments.remove(id) };
        if let Err(error) = self.attachments.write(id, left) {
            tracing::warn!("attachment {id}: {error:#}: it has its old addresses after a restart");
        }
    }

    fn sync(&mut self) {
        let update = self.compiler.update();
        if update.is_empty() && self.committed {
            return;
        }
        let started = Instant::now();
        match self.policies.sync(&self.compiler, &update) {
            Ok(written) => {
                if !std::mem::replace(&mut self.committed, true) {
                    self.compiler.compact();
                    netlink::give_back_free_memory();
                }
                self.failures = 0;
                self.retry_at = None;
                let took = started.elapsed().as_secs_f64() * 1e3;
                let (chains, addresses, links) = self.policies.counts();
                let drift = std::mem::take(&mut self.drift);
                if !drift.is_empty() {
                    tracing::warn!(
                        "policies were changed by somebody else ({}): written anew",
                        drift.join("; ")
                    );
                } else if written.full {
                    tracing::info!(
                        "policies of {addresses} addresses and source addresses of {links} links are in place, in {took:.1} ms"
                    );
                } else {
                    tracing::debug!("policies: {} elements in {took:.1} ms", written.elements);
                }
                self.health.set_part("policies", Ok(()));
                self.status.set("policyChains", chains);
                self.status.set("isolatedAddresses", addresses);
                self.status.set("checkedLinks", links);
                self.status.set("policies", "in place");
            }
            Err(error) => {
                // The next attempt writes everything.
                self.committed = false;
                self.policies.forget();
                let pause = FIRST_RETRY * 2u32.saturating_pow(self.failures).min(1000);
                self.failures += 1;
                self.retry_at = Some(started + pause.min(LONGEST_RETRY));
                let mut why = error.to_string();
                if error.errno == Errno::OPNOTSUPP {
                    why +=
                        " (a kernel without nftables for bridges needs sourceAddressCheck: false)";
                }
                tracing::error!("policies: {why}; tried again");
                self.status.set("policies", why.clone());
                self.health.set_part("policies", Err(why));
            }
        }
        self.tell_too_large();
    }

    fn tell_too_large(&mut self) {
        let now = self.compiler.too_large().iter();
        let now = now.map(|key| format!("{} of the pods selected by {key}", key.direction));
        let now: HashSet<String> = now.collect();
        for what in now.difference(&self.told_too_large) {
            tracing::error!("policies: {what} would take too many elements: everything is denied");
        }
        if now != self.told_too_large {
            let mut list: Vec<&String> = now.iter().collect();
            list.sort();
            self.status.set("policiesTooLarge", serde_json::json!(list));
            self.told_too_large = now;
        }
    }

    /// Lets pods start whose isolation is in the kernel.
    fn answer(&mut self) {
        let now = Instant::now();
        let (compiler, committed) = (&self.compiler, self.complete && self.committed);
        self.waiting.retain(|waiting| {
            let late = waiting.until <= now;
            let outcome = match (committed, compiler.is_unknown(&waiting.id)) {
                (true, false) => Ok(()),
                (true, true) if late => {
                    let pod = compiler.attachment(&waiting.id).map(|attachment| &attachment.pod);
                    let pod = pod.map_or_else(|| waiting.id.to_string(), ToString::to_string);
                    tracing::warn!("pod {pod} is not known yet: everything is denied until it is");
                    Ok(())
                }
                (false, _) if late => Err("policies are not in place yet".to_owned()),
                _ => return true,
            };
            // Whoever asked may have gone.
            let _ = waiting.answer.send(outcome);
            false
        });
    }
}
