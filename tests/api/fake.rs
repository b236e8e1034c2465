//! [`Fake`]: an API server that lists and watches over plain HTTP, and does so as badly as a test wants.
//!
//! It knows four kinds by their plural names. A test puts objects into its lists, and writes what streams
//! say; neither follows from the other. How it answers is in `http`.

mod http;

use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use serde_json::{Value, json};
use testnet::{Host, Node, eventually};

use super::SOON;

pub(crate) const SERVICES: &str = "services";
pub(crate) const SLICES: &str = "endpointslices";
pub(crate) const NODES: &str = "nodes";
pub(crate) const CIDRS: &str = "servicecidrs";
pub(crate) const POLICIES: &str = "networkpolicies";
pub(crate) const CLUSTER_POLICIES: &str = "clusternetworkpolicies";

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) plural: String,
    pub(crate) watch: bool,
    pub(crate) query: BTreeMap<String, String>,
    /// The token that was shown.
    pub(crate) token: Option<String>,
}

/// An answer instead of the ordinary one.
#[derive(Clone, Debug)]
pub(crate) struct Canned {
    status: u16,
    headers: String,
    body: String,
}

impl Canned {
    /// A `Status` object, as the API server answers errors.
    pub(crate) fn status(code: u16, reason: &str, message: &str) -> Canned {
        let body = status_object(code, reason, message).to_string();
        Canned { status: code, headers: String::new(), body }
    }

    /// With another header line.
    pub(crate) fn header(mut self, name: &str, value: &str) -> Canned {
        self.headers += &format!("{name}: {value}\r\n");
        self
    }

    /// Nothing special, when others are.
    pub(crate) fn ordinary() -> Canned {
        Canned { status: 0, headers: String::new(), body: String::new() }
    }

    /// Just text, as proxies answer.
    pub(crate) fn text(status: u16, body: &str) -> Canned {
        Canned { status, headers: String::new(), body: body.to_owned() }
    }
}

/// What is asked for is too old.
pub(crate) fn expired() -> Canned {
    Canned::status(410, "Expired", "too old resource version")
}

pub(crate) fn status_object(code: u16, reason: &str, message: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code,
    })
}

#[derive(Default)]
struct Resource {
    /// As text: there may be many, and what is measured is not this server.
    items: Vec<String>,
    version: u64,
    /// Answers to the next lists, and watches, in this order.
    lists: VecDeque<Canned>,
    watches: VecDeque<Canned>,
    /// All that streams said so far, for those that are open.
    said: Vec<String>,
    /// Streams with a smaller number are to end.
    cut_below: usize,
    /// A watch that begins at an older version is refused.
    forgotten_below: u64,
    /// Whether nobody may have it.
    refused: bool,
    streams: usize,
    open: usize,
}

#[derive(Default)]
struct State {
    resources: BTreeMap<&'static str, Resource>,
    requests: Vec<Request>,
    /// The bodies of all that was written.
    written: Vec<Value>,
    /// Whether writes are refused.
    read_only: bool,
    page: Option<usize>,
    mute: bool,
    away: bool,
    token: Option<String>,
    ended: bool,
    connections: Vec<TcpStream>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) struct Fake {
    port: u16,
    shared: Arc<Shared>,
    listener: Option<JoinHandle<()>>,
}

impl Fake {
    /// On a node's loopback address, with nothing in its lists.
    pub(crate) fn on(node: &Node) -> Fake {
        let shared = Arc::new(Shared::default());
        for plural in [SERVICES, SLICES, NODES, CIDRS, POLICIES, CLUSTER_POLICIES] {
            shared
                .lock()
                .resources
                .insert(plural, Resource { version: 1000, ..Resource::default() });
        }
        let (listener, port) = node.namespace().run(|| {
            let at = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            let listener = TcpListener::bind(at).expect("a port for an API server");
            listener.set_nonblocking(true).expect("a listener that does not block");
            let port = listener.local_addr().expect("a port").port();
            (listener, port)
        });
        let for_thread = Arc::clone(&shared);
        let listener = node.namespace().spawn(move || http::accept(&listener, &for_thread));
        Fake { port, shared, listener: Some(listener) }
    }

    /// A kubeconfig that leads here, with these credentials.
    pub(crate) fn kubeconfig(&self, node: &Node, credentials: &str) -> PathBuf {
        let path = node.folder().join("kubeconfig");
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
             clusters: [{{name: c, cluster: {{server: \"http://127.0.0.1:{}\"}}}}]\n\
             users: [{{name: u, user: {{{credentials}}}}}]\n\
             contexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n",
            self.port
        );
        std::fs::write(&path, text).expect("a kubeconfig");
        path
    }

    /// Says what a kind's lists hold from now on; streams are told nothing.
    pub(crate) fn list(&self, plural: &'static str, items: Vec<Value>) {
        self.with(plural, |resource| {
            resource.items = items.iter().map(Value::to_string).collect();
            resource.version += 1;
        });
    }

    /// Writes an event into a kind's open streams.
    pub(crate) fn event(&self, plural: &'static str, kind: &str, object: &Value) {
        // As API servers do: first what it is.
        self.say(plural, &format!("{{\"type\":\"{kind}\",\"object\":{object}}}"));
    }

    /// Writes any line into a kind's open streams.
    pub(crate) fn say(&self, plural: &'static str, line: &str) {
        self.with(plural, |resource| resource.said.push(format!("{line}\n")));
    }

    /// What the next list of a kind is answered.
    pub(crate) fn answer_list(&self, plural: &'static str, answer: Canned) {
        self.with(plural, |resource| resource.lists.push_back(answer));
    }

    /// What the next watch of a kind is answered.
    pub(crate) fn answer_watch(&self, plural: &'static str, answer: Canned) {
        self.with(plural, |resource| resource.watches.push_back(answer));
    }

    /// Ends a kind's open streams; where they were, nobody can go on.
    pub(crate) fn forget_history(&self, plural: &'static str) {
        self.with(plural, |resource| {
            resource.cut_below = resource.streams;
            resource.forgotten_below = resource.version;
        });
    }

    /// Ends a kind's open streams.
    pub(crate) fn cut(&self, plural: &'static str) {
        self.with(plural, |resource| resource.cut_below = resource.streams);
    }

    /// Whether nobody is there: connections end, and new ones do at once.
    pub(crate) fn away(&self, away: bool) {
        let mut state = self.shared.lock();
        state.away = away;
        for connection in state.connections.drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
        for resource in state.resources.values_mut() {
            resource.cut_below = resource.streams;
        }
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Whether whoever asks for this kind has no permission.
    pub(crate) fn refuse(&self, plural: &'static str, refused: bool) {
        self.with(plural, |resource| resource.refused = refused);
    }

    /// Whether requests are taken and never answered.
    pub(crate) fn mute(&self, mute: bool) {
        self.shared.lock().mute = mute;
    }

    /// Whoever does not show this token is not known.
    pub(crate) fn accept_only(&self, token: &str) {
        self.shared.lock().token = Some(token.to_owned());
    }

    /// Lists come in pages of at most so many objects.
    pub(crate) fn pages_of(&self, objects: usize) {
        self.shared.lock().page = Some(objects);
    }

    fn with(&self, plural: &'static str, change: impl FnOnce(&mut Resource)) {
        let mut state = self.shared.lock();
        change(state.resources.get_mut(plural).expect("a kind"));
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Whether writes are refused from now on.
    pub(crate) fn read_only(&self, read_only: bool) {
        self.shared.lock().read_only = read_only;
    }

    /// The bodies of all that was written so far: patches of conditions, and events.
    pub(crate) fn written(&self) -> Vec<Value> {
        self.shared.lock().written.clone()
    }

    /// Everything that was asked for so far.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.shared.lock().requests.clone()
    }

    /// How often a kind was asked to be listed from its beginning, and watched.
    pub(crate) fn asked(&self, plural: &str) -> (usize, usize) {
        let requests = self.requests();
        let own = || requests.iter().filter(|request| request.plural == plural);
        let lists =
            own().filter(|request| !request.watch && !request.query.contains_key("continue"));
        (lists.count(), own().filter(|request| request.watch).count())
    }

    /// Waits until a kind is watched by a stream that nobody cut.
    #[track_caller]
    pub(crate) fn await_watched(&self, plural: &'static str) {
        eventually(&format!("a watch of {plural}"), SOON, || {
            let state = self.shared.lock();
            let resource = &state.resources[plural];
            resource.open > 0 && resource.streams > resource.cut_below
        });
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.ended = true;
        for connection in state.connections.drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
        drop(state);
        self.shared.changed.notify_all();
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
    }
}
