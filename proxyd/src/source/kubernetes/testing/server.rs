//! [`Server`]: an API server without sockets, so that whoever asks it may have a paused clock.

use std::collections::{BTreeMap, BTreeSet};
use std::future::ready;
use std::io::ErrorKind;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::{Body, Bytes};
use axum::http::{Request, Response, Uri};
use futures_util::{StreamExt, stream};
use kube::Client;
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::time::Instant;

/// Clones are the same server.
#[derive(Clone, Default)]
pub(in super::super) struct Server(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// Whether it has streaming lists.
    streaming: bool,
    away: bool,
    /// Kinds that it does not know, by plural.
    lacks: BTreeSet<String>,
    version: u64,
    /// A watch cannot begin before this version.
    forgotten: u64,
    /// By plural and name.
    objects: BTreeMap<(String, String), Value>,
    /// Plural, version and event.
    history: Vec<(String, u64, Bytes)>,
    streams: Vec<(String, UnboundedSender<Bytes>)>,
    asked: Vec<(String, Instant)>,
}

/// As API servers do: first what it is.
fn event(kind: &str, object: &Value) -> Bytes {
    format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n").into()
}

impl Server {
    pub(in super::super) fn new(streaming: bool) -> Server {
        Server(Arc::new(Mutex::new(State { streaming, version: 1, ..State::default() })))
    }

    /// Within a runtime.
    pub(in super::super) fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<_>| {
            ready(server.lock().answer(request.uri()))
        });
        Client::new(service, "default")
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connections are refused from now on, and streams end; or not any more.
    pub(in super::super) fn away(&self, away: bool) {
        let mut state = self.lock();
        state.away = away;
        state.streams.clear();
    }

    /// It does not know this kind.
    pub(in super::super) fn lacks(&self, plural: &str) {
        self.lock().lacks.insert(plural.to_owned());
    }

    /// Old versions cannot be watched from.
    pub(in super::super) fn forget_history(&self) {
        let mut state = self.lock();
        state.forgotten = state.version;
    }

    /// Makes or changes an object.
    pub(in super::super) fn put(&self, plural: &str, object: Value) {
        self.lock().happen(plural, object, false);
    }

    pub(in super::super) fn delete(&self, plural: &str, object: Value) {
        self.lock().happen(plural, object, true);
    }

    /// When this kind was asked for.
    pub(in super::super) fn asked(&self, plural: &str) -> Vec<Instant> {
        let state = self.lock();
        state.asked.iter().filter(|(kind, _)| kind == plural).map(|(_, when)| *when).collect()
    }
}

impl State {
    fn happen(&mut self, plural: &str, mut object: Value, gone: bool) {
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        let key = (plural.to_owned(), object["metadata"]["name"].to_string());
        let before = self.objects.remove(&key);
        let kind = match (gone, before) {
            (true, _) => "DELETED",
            (false, None) => "ADDED",
            (false, Some(_)) => "MODIFIED",
        };
        if !gone {
            self.objects.insert(key, object.clone());
        }
        let event = event(kind, &object);
        for (_, stream) in self.streams.iter().filter(|(kind, _)| kind == plural) {
            let _ = stream.send(event.clone());
        }
        self.history.push((plural.to_owned(), self.version, event));
    }

    fn answer(&mut self, uri: &Uri) -> std::io::Result<Response<Body>> {
        let plural = uri.path().rsplit('/').next().unwrap_or_default();
        self.asked.push((plural.to_owned(), Instant::now()));
        if self.away {
            return Err(ErrorKind::ConnectionRefused.into());
        }
        if self.lacks.contains(plural) {
            return Ok(refused(404, "NotFound"));
        }
        let query: BTreeMap<&str, &str> = uri
            .query()
            .unwrap_or_default()
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .collect();
        let objects = self.objects.iter().filter(|((kind, _), _)| kind == plural);
        let objects: Vec<Value> = objects.map(|(_, object)| object.clone()).collect();
        let version = json!({"resourceVersion": self.version.to_string()});
        if !query.contains_key("watch") {
            let list =
                json!({"kind": "List", "apiVersion": "v1", "metadata": version, "items": objects});
            return Ok(Response::new(list.to_string().into()));
        }
        let mut begin: Vec<Bytes> = Vec::new();
        if query.get("sendInitialEvents") == Some(&"true") {
            if !self.streaming {
                return Ok(refused(400, "BadRequest"));
            }
            if !query.get("labelSelector").is_some_and(|labels| labels.contains("none")) {
                begin.extend(objects.iter().map(|object| event("ADDED", object)));
            }
            let mut end = json!({"kind": "", "apiVersion": "v1", "metadata": version});
            end["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
            begin.push(event("BOOKMARK", &end));
        } else {
            let from = query.get("resourceVersion").and_then(|from| from.parse::<u64>().ok());
            let Some(from) = from.filter(|from| *from >= self.forgotten) else {
                return Ok(refused(410, "Expired"));
            };
            let since = self.history.iter().filter(|(kind, at, _)| kind == plural && *at > from);
            begin.extend(since.map(|(_, _, event)| event.clone()));
        }
        let (sender, receiver) = unbounded_channel();
        self.streams.push((plural.to_owned(), sender));
        let later =
            stream::unfold(receiver, async |mut receiver| Some((receiver.recv().await?, receiver)));
        let all = stream::iter(begin).chain(later).map(Ok::<_, std::io::Error>);
        Ok(Response::new(Body::from_stream(all)))
    }
}

fn refused(code: u16, reason: &str) -> Response<Body> {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": reason, "reason": reason, "code": code,
    });
    let mut response = Response::new(Body::from(status.to_string()));
    *response.status_mut() = axum::http::StatusCode::from_u16(code).expect("a status");
    response
}
