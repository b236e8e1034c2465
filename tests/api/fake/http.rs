//! What the fake API server answers.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;

use super::{Canned, Request, Resource, Shared, expired};

/// How often a waiting thread looks whether it is to end.
const TICK: Duration = Duration::from_millis(50);
/// No stream lives longer.
const LONGEST: Duration = Duration::from_secs(300);

pub(super) fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    while !shared.lock().ended {
        let Ok((stream, _)) = listener.accept() else {
            std::thread::sleep(Duration::from_millis(2));
            continue;
        };
        let _ = stream.set_nonblocking(false);
        let mut state = shared.lock();
        if state.away {
            continue;
        }
        state.connections.extend(stream.try_clone());
        drop(state);
        let shared = Arc::clone(shared);
        std::thread::spawn(move || converse(&stream, &shared));
    }
}

/// Answers the requests of a connection, until one end has enough.
fn converse(stream: &TcpStream, shared: &Shared) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut first = String::new();
        if reader.read_line(&mut first)? == 0 {
            return Ok(());
        }
        let mut request = parse(&first);
        let (mut line, mut length) = (String::new(), 0);
        while reader.read_line(&mut line)? > 2 {
            if let Some((name, value)) = line.split_once(": Bearer ")
                && name.eq_ignore_ascii_case("authorization")
            {
                request.token = Some(value.trim().to_owned());
            }
            if let Some((name, value)) = line.split_once(": ")
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().unwrap_or(0);
            }
            line.clear();
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let (mute, known, refused) = {
            let mut state = shared.lock();
            state.requests.push(request.clone());
            let resource = state.resources.get(request.plural.as_str());
            let refused = resource.is_some_and(|resource| resource.refused);
            (state.mute, state.token.is_none() || state.token == request.token, refused)
        };
        if mute {
            // Until the other end has enough, or this one ends.
            while reader.read_line(&mut line)? > 0 {}
            return Ok(());
        }
        if first.starts_with("PATCH ") || first.starts_with("POST ") {
            answer(stream, &write(&body, shared))?;
        } else if !known {
            answer(stream, &Canned::status(401, "Unauthorized", "Unauthorized"))?;
        } else if refused {
            answer(stream, &Canned::status(403, "Forbidden", "not for you"))?;
        } else if request.watch {
            watch(stream, &request, shared)?
        } else {
            list(stream, &request, shared)?
        }
    }
}

/// `GET /api/v1/services?limit=500 HTTP/1.1`.
fn parse(line: &str) -> Request {
    let target = line.split(' ').nth(1).unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let query: BTreeMap<String, String> =
        pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    Request {
        plural: path.rsplit('/').next().unwrap_or_default().to_owned(),
        watch: query.get("watch").is_some_and(|value| value == "true" || value == "1"),
        query,
        token: None,
    }
}

fn answer(mut stream: &TcpStream, canned: &Canned) -> std::io::Result<()> {
    let Canned { status, headers, body } = canned;
    let length = body.len();
    let kind = if body.starts_with('{') { "application/json" } else { "text/plain" };
    let head = format!(
        "HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n{headers}\r\n"
    );
    stream.write_all((head + body).as_bytes())
}

/// Keeps an object that is written, and answers with it.
fn write(body: &[u8], shared: &Shared) -> Canned {
    let mut state = shared.lock();
    if state.read_only {
        return Canned::status(503, "ServiceUnavailable", "no writes now");
    }
    let body = String::from_utf8_lossy(body).into_owned();
    state.written.extend(serde_json::from_str::<serde_json::Value>(&body));
    Canned { status: 200, headers: String::new(), body }
}

fn not_found() -> Canned {
    Canned::status(404, "NotFound", "the server could not find the requested resource")
}

fn list(stream: &TcpStream, request: &Request, shared: &Shared) -> std::io::Result<()> {
    let canned = {
        let mut state = shared.lock();
        let page = state.page;
        match state.resources.get_mut(request.plural.as_str()) {
            None => not_found(),
            Some(resource) => {
                let canned = resource.lists.pop_front().filter(|canned| canned.status != 0);
                canned.unwrap_or_else(|| page_of(resource, request, page))
            }
        }
    };
    answer(stream, &canned)
}

fn page_of(resource: &Resource, request: &Request, page: Option<usize>) -> Canned {
    let number = |key| request.query.get(key).and_then(|value| value.parse::<usize>().ok());
    let from = number("continue").unwrap_or(0).min(resource.items.len());
    let most = number("limit").filter(|limit| *limit > 0).unwrap_or(usize::MAX);
    let most = most.min(page.unwrap_or(usize::MAX));
    let to = from.saturating_add(most).min(resource.items.len());
    let mut metadata = json!({"resourceVersion": resource.version.to_string()});
    if to < resource.items.len() {
        metadata["continue"] = json!(to.to_string());
    }
    let items = resource.items[from..to].join(",");
    let body =
        format!(r#"{{"kind":"List","apiVersion":"v1","metadata":{metadata},"items":[{items}]}}"#);
    Canned { status: 200, headers: String::new(), body }
}

fn watch(mut stream: &TcpStream, request: &Request, shared: &Shared) -> std::io::Result<()> {
    let mut state = shared.lock();
    let Some(resource) = state.resources.get_mut(request.plural.as_str()) else {
        drop(state);
        return answer(stream, &not_found());
    };
    if let Some(canned) = resource.watches.pop_front().filter(|canned| canned.status != 0) {
        drop(state);
        return answer(stream, &canned);
    }
    let version = request.query.get("resourceVersion").and_then(|value| value.parse::<u64>().ok());
    if version.is_none_or(|version| version < resource.forgotten_below) {
        drop(state);
        return answer(stream, &expired());
    }
    let (number, mut at) = (resource.streams, resource.said.len());
    resource.streams += 1;
    resource.open += 1;
    drop(state);
    stream.write_all(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
    )?;
    let began = Instant::now();
    let outcome = loop {
        let state = shared.lock();
        let (state, _) =
            shared.changed.wait_timeout(state, TICK).unwrap_or_else(PoisonError::into_inner);
        let resource = &state.resources[request.plural.as_str()];
        let ended = state.ended || number < resource.cut_below || began.elapsed() > LONGEST;
        let said = resource.said[at..].concat();
        at = resource.said.len();
        drop(state);
        if !said.is_empty() {
            let chunk = format!("{:x}\r\n{said}\r\n", said.len());
            if let Err(error) = stream.write_all(chunk.as_bytes()) {
                break Err(error);
            }
        }
        // What was said before the cut arrives.
        if ended {
            break Ok(());
        }
    };
    if let Some(resource) = shared.lock().resources.get_mut(request.plural.as_str()) {
        resource.open -= 1;
    }
    outcome?;
    stream.write_all(b"0\r\n\r\n")
}
