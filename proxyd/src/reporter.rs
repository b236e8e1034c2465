//! What the API server is told of this node: the condition `NetworkUnavailable`, and events.
//!
//! A thread of its own talks to the server, so that nobody waits for it. What cannot be delivered is tried
//! again as long as it is the newest; events that repeat are left out, and nobody floods the server.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Node, ObjectReference};
use k8s_openapi::api::events::v1::Event as ApiEvent;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::Instant;

use crate::daemon::backoff;
use crate::source::{Access, client};
use crate::text::shortened;

/// Events of one reason are no closer than this; the newest is told.
const APART: Duration = Duration::from_secs(5);
/// The same words are not told again within this time.
const SAME: Duration = Duration::from_secs(600);
/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest pause after requests that failed: a permission may be missing on every node.
const LONGEST_RETRY: Duration = Duration::from_secs(60);
/// The API's limit of an event's note, in bytes.
const NOTE: usize = 1024;
/// Who reports.
const CONTROLLER: &str = "viaduct.io/proxyd";

/// What an event is about, in one word, as Kubernetes writes reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The pod network works.
    NetworkReady,
    /// It does not.
    NetworkNotReady,
    /// Pods of some other nodes are not reached.
    NodesNotRouted,
    /// This node's side of the pod network is damaged and cannot be repaired.
    NodeNotRepaired,
    /// Another CNI configuration is taken before ours.
    OtherNetworkFirst,
    /// API objects that cannot be understood.
    InvalidObjects,
    /// The service account lacks a permission.
    Forbidden,
}

impl Reason {
    fn name(self) -> String {
        format!("{self:?}")
    }

    fn kind(self) -> &'static str {
        if self == Reason::NetworkReady { "Normal" } else { "Warning" }
    }
}

/// What the condition `NetworkUnavailable` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkState {
    /// Pods reach all nodes.
    Ready,
    /// Pods of this node work, but not everything does: one sentence for each part that is left out.
    Partial(Vec<String>),
    /// Pods cannot be served, for this reason.
    Unavailable(String),
}

enum Report {
    Network(NetworkState),
    Event(Reason, String),
}

/// A handle; clones tell the same server.
#[derive(Clone)]
pub struct Reporter(Option<UnboundedSender<Report>>);

impl Reporter {
    /// Tells nobody: there is no API server.
    pub fn nobody() -> Reporter {
        Reporter(None)
    }

    /// Reports about the Node `node`.
    pub fn start(access: Access<'_>, server: Option<&str>, node: &str) -> Result<Reporter> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("start the reporter's runtime")?;
        let client = runtime.block_on(client(access, server))?;
        let (sender, reports) = unbounded_channel();
        let teller = Teller::new(client, node);
        std::thread::Builder::new()
            .name("reporter".into())
            .spawn(move || runtime.block_on(teller.run(reports)))
            .context("start the reporter's thread")?;
        Ok(Reporter(Some(sender)))
    }

    fn send(&self, report: Report) {
        if let Some(sender) = &self.0 {
            // It ends with the daemon alone.
            let _ = sender.send(report);
        }
    }

    /// Sets the condition `NetworkUnavailable`.
    pub fn network(&self, state: NetworkState) {
        self.send(Report::Network(state));
    }

    /// Records an event on the Node.
    pub fn event(&self, reason: Reason, note: impl Into<String>) {
        self.send(Report::Event(reason, note.into()));
    }
}

struct Teller {
    client: Client,
    node: String,
    /// The condition that is still to be set.
    network: Option<NetworkState>,
    /// Events that are still to be told.
    waiting: BTreeMap<Reason, String>,
    /// When which reason was told last.
    last: HashMap<Reason, Instant>,
    told: HashMap<(Reason, String), Instant>,
    /// The error that was logged last.
    failed: Option<String>,
    /// Requests that failed since the last one that did not.
    failures: u32,
}

impl Teller {
    fn new(client: Client, node: &str) -> Teller {
        Teller {
            client,
            node: node.to_owned(),
            network: None,
            waiting: BTreeMap::new(),
            last: HashMap::new(),
            told: HashMap::new(),
            failed: None,
            failures: 0,
        }
    }

    async fn run(mut self, mut reports: UnboundedReceiver<Report>) {
        let mut next: Option<Instant> = None;
        loop {
            let due = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                report = reports.recv() => match report {
                    Some(report) => self.take(report),
                    None => return,
                },
                () = due => {}
            }
            while let Ok(report) = reports.try_recv() {
                self.take(report);
            }
            next = self.tell().await;
        }
    }

    fn take(&mut self, report: Report) {
        match report {
            Report::Network(state) => self.network = Some(state),
            Report::Event(reason, note) => {
                let told = self.told.get(&(reason, note.clone()));
                if told.is_none_or(|at| at.elapsed() >= SAME) {
                    self.waiting.insert(reason, note);
                }
            }
        }
    }

    /// Tells what can be told; when there is more to do.
    async fn tell(&mut self) -> Option<Instant> {
        if let Some(state) = self.network.clone() {
            let outcome = within(self.set_condition(&state)).await;
            if !self.succeeded("patch nodes/status", outcome) {
                return Some(self.retry_at());
            }
            self.network = None;
        }
        let mut next: Option<Instant> = None;
        for (reason, note) in std::mem::take(&mut self.waiting) {
            let at = self.last.get(&reason).map(|last| *last + APART);
            if let Some(at) = at.filter(|at| *at > Instant::now()) {
                self.waiting.insert(reason, note);
                next = Some(next.map_or(at, |other| other.min(at)));
                continue;
            }
            self.last.insert(reason, Instant::now());
            self.told.retain(|_, at| at.elapsed() < SAME);
            let outcome = within(self.create_event(reason, &note)).await;
            if self.succeeded("create events.events.k8s.io", outcome) {
                self.told.insert((reason, note), Instant::now());
            } else {
                // A newer one of the same reason, which may arrive meanwhile, takes its place.
                self.waiting.insert(reason, note);
                let at = self.retry_at();
                next = Some(next.map_or(at, |other| other.min(at)));
            }
        }
        next
    }

    /// A failure is logged once.
    fn succeeded(&mut self, what: &str, outcome: Result<(), String>) -> bool {
        let failed = outcome.err().map(|error| format!("{what}: {error}"));
        if let Some(error) = failed.as_ref().filter(|_| failed != self.failed) {
            tracing::warn!("{error}: what happens on this node is told in this log alone");
        }
        let succeeded = failed.is_none();
        self.failures = if succeeded { 0 } else { self.failures.saturating_add(1) };
        self.failed = failed;
        succeeded
    }

    fn retry_at(&self) -> Instant {
        Instant::now() + backoff(self.failures, LONGEST_RETRY)
    }

    async fn set_condition(&self, state: &NetworkState) -> kube::Result<()> {
        let (status, reason, message) = match state {
            NetworkState::Ready => {
                ("False", "ViaductIsReady", "routes to all nodes are in place".to_owned())
            }
            NetworkState::Partial(problems) => {
                ("False", "NodesNotRouted", shortened(&problems.join("; "), NOTE))
            }
            NetworkState::Unavailable(error) => ("True", "ViaductIsNotReady", error.clone()),
        };
        let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let condition = json!({
            "type": "NetworkUnavailable", "status": status, "reason": reason, "message": message,
            "lastTransitionTime": now, "lastHeartbeatTime": now,
        });
        let patch = json!({"status": {"conditions": [condition]}});
        let nodes: Api<Node> = Api::all(self.client.clone());
        nodes
            .patch_status(&self.node, &PatchParams::default(), &Patch::Strategic(patch))
            .await
            .map(drop)
    }

    async fn create_event(&self, reason: Reason, note: &str) -> kube::Result<()> {
        let now = Timestamp::now();
        let event = ApiEvent {
            metadata: ObjectMeta {
                name: Some(format!("{}.{:x}", self.node, now.as_nanosecond())),
                namespace: Some("default".to_owned()),
                ..ObjectMeta::default()
            },
            // As kubelet names nodes in its events.
            regarding: Some(ObjectReference {
                kind: Some("Node".to_owned()),
                name: Some(self.node.clone()),
                uid: Some(self.node.clone()),
                ..ObjectReference::default()
            }),
            event_time: Some(MicroTime(now)),
            action: Some("Report".to_owned()),
            reason: Some(reason.name()),
            type_: Some(reason.kind().to_owned()),
            note: Some(shortened(note, NOTE)),
            reporting_controller: Some(CONTROLLER.to_owned()),
            reporting_instance: Some(self.node.clone()),
            ..ApiEvent::default()
        };
        let events: Api<ApiEvent> = Api::namespaced(self.client.clone(), "default");
        events.create(&PostParams::default(), &event).await.map(drop)
    }
}

/// Bounds a request, and tells what is the matter with it.
async fn within(request: impl Future<Output = kube::Result<()>>) -> Result<(), String> {
    match tokio::time::timeout(PATIENCE, request).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(kube::Error::Api(status))) => Err(format!("{} ({})", status.message, status.code)),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {PATIENCE:?}")),
    }
}
