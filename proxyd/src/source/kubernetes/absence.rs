//! An API server that is gone for an hour: the clock is paused, so it takes a second.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::testing::{Log, Server};
use super::*;

const HOUR: Duration = Duration::from_secs(3600);
/// Between two attempts; `docs/operations.md` says so.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// The runtime's timers count in milliseconds, and attempts take no time.
const ROUNDED: Duration = Duration::from_millis(5);
/// By then pauses have grown.
const GROWN: Duration = Duration::from_secs(10);
const PLURALS: [&str; 8] = [
    "services",
    "endpointslices",
    "nodes",
    "servicecidrs",
    "pods",
    "namespaces",
    "networkpolicies",
    "clusternetworkpolicies",
];

fn service(name: &str, ip: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"clusterIP": ip, "clusterIPs": [ip], "ports": [{"port": 80}]},
    })
}

fn slice(name: &str, address: &str) -> Value {
    json!({
        "metadata": {
            "name": name, "namespace": "default", "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address], "conditions": {"ready": true}}],
        "ports": [{"name": "", "port": 8080}],
    })
}

fn pod(name: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"nodeName": "n1"},
        "status": {"phase": "Running", "podIP": "10.244.1.9", "podIPs": [{"ip": "10.244.1.9"}]},
    })
}

fn node(name: &str) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {"podCIDRs": ["10.244.1.0/24"]},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]},
    })
}

/// What a change says, in short: `+` is there, `-` is gone.
fn words(change: &Change) -> String {
    use netpol::compile::Change as Judged;
    match change {
        Change::Service(name, Some(service)) => {
            format!("+service {} {}", name.name, service.cluster_ips[0])
        }
        Change::Service(name, None) => format!("-service {}", name.name),
        Change::Slice(name, Some(slice)) => {
            format!("+slice {} {}", name.name, slice.endpoints[0].address)
        }
        Change::Slice(name, None) => format!("-slice {}", name.name),
        Change::Node(name, Some(_)) => format!("+node {name}"),
        Change::Node(name, None) => format!("-node {name}"),
        Change::Judged(Judged::Pod(name, Some(_))) => format!("+pod {}", name.name),
        Change::Judged(Judged::Pod(name, None)) => format!("-pod {}", name.name),
        other => format!("{other:?}"),
    }
}

/// How much is remembered, which must not grow with the number of attempts: names, texts, tasks.
fn size(source: &Kubernetes) -> (usize, usize, usize) {
    let known = || source.known.values();
    let names = known().map(|known| known.names.len() + known.titles.len()).sum();
    let texts = known().map(|known| known.told.len()).sum::<usize>() + source.problems.len();
    (names, texts, source.runtime.metrics().num_alive_tasks())
}

/// How an hour's absence ended.
struct Outcome {
    /// In words, in order.
    changes: Vec<String>,
    /// From the return to the first of them.
    first_after: Duration,
    log: Vec<String>,
}

/// Whose clock only tests set.
fn paused_runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true).build().unwrap()
}

/// Reads the server until everything is known.
fn opened(server: &Server) -> Kubernetes {
    let runtime = paused_runtime();
    let wanted =
        Wanted { services: true, policies: true, namespaces: true, unenforced_policies: false };
    let watches = runtime.block_on(async { watch::all(&server.client(), wanted) });
    let reporter = Reporter::nobody();
    let metrics = Metrics::default();
    let options = Options { patience: None, wanted, reporter, metrics };
    let mut source = Kubernetes::of(runtime, watches, options);
    source.read().unwrap();
    while !source.told_complete {
        source.wait().unwrap();
    }
    source
}

/// A server that is gone for an hour, and then is `changed`; what was before it is in force.
fn an_hour(streaming: bool, history: bool) -> Outcome {
    let log = Log::default();
    let _logging = tracing::subscriber::set_default(log.subscriber());
    let server = Server::new(streaming);
    for number in 1..=3 {
        let name = format!("s{number}");
        server.put("services", service(&name, &format!("10.96.0.{number}")));
        server.put("endpointslices", slice(&name, &format!("10.244.1.{number}")));
    }
    server.put("nodes", node("n1"));
    server.put("nodes", node("n2"));
    server.put("pods", pod("p1"));
    let mut source = opened(&server);
    let before = size(&source);

    let left = source.runtime.block_on(async { Instant::now() });
    let there = server.clone();
    source.runtime.spawn(async move {
        there.away(true);
        tokio::time::sleep(HOUR).await;
        there.put("services", service("s1", "10.96.0.91"));
        there.delete("services", service("s2", "10.96.0.2"));
        there.delete("endpointslices", slice("s2", "10.244.1.2"));
        there.put("endpointslices", slice("s3", "10.244.1.93"));
        there.put("services", service("s4", "10.96.0.4"));
        there.delete("nodes", node("n2"));
        there.delete("pods", pod("p1"));
        if !history {
            there.forget_history();
        }
        there.away(false);
        // By now all of this has arrived.
        tokio::time::sleep(GROWN).await;
        there.put("services", service("last", "10.96.0.99"));
    });
    let mut changes = Vec::new();
    let mut first_after = None;
    while !changes.iter().any(|change: &String| change.starts_with("+service last")) {
        let update = source.wait().unwrap();
        let after = source.runtime.block_on(async { Instant::now() }) - left;
        first_after.get_or_insert(after.checked_sub(HOUR).expect("no change in the absence"));
        changes.extend(update.changes.iter().map(words));
        assert!(update.problems.is_none_or(|problems| problems.is_empty()));
    }
    changes.retain(|change| !change.starts_with("+service last"));

    for plural in PLURALS {
        let asked: Vec<Instant> =
            server.asked(plural).into_iter().filter(|when| *when >= left).collect();
        let (begin, end) = (left + GROWN, left + HOUR);
        for pair in asked.windows(2).filter(|pair| pair[1] < end) {
            let pause = pair[1] - pair[0];
            assert!(pause <= LONGEST_PAUSE + ROUNDED, "{plural}: a pause of {pause:?}");
            assert!(pair[0] < begin || pause >= LONGEST_PAUSE / 2, "{plural}: {pause:?} is none");
        }
        let attempts = asked.iter().filter(|when| **when < end).count();
        assert!((1800..3700).contains(&attempts), "{plural}: {attempts} attempts");
    }
    // Five names of what was there are gone, two are new.
    assert_eq!(size(&source), (before.0 - 2, before.1, before.2));
    Outcome { changes, first_after: first_after.unwrap_or_default(), log: log.lines() }
}

/// What changed in the hour.
const CHANGED: [&str; 7] = [
    "+service s1 10.96.0.91",
    "+service s4 10.96.0.4",
    "+slice s3 10.244.1.93",
    "-node n2",
    "-pod p1",
    "-service s2",
    "-slice s2",
];
/// What did not, and is listed again where a watch cannot go on.
const UNCHANGED: [&str; 3] = ["+node n1", "+service s3 10.96.0.3", "+slice s1 10.244.1.1"];

/// The server is asked so many times until it answers; each error is in the log once.
#[track_caller]
fn assert_told(mut outcome: Outcome, expected: &[&str], errors: usize) {
    outcome.changes.sort();
    assert_eq!(outcome.changes, expected);
    let (after, within) = (outcome.first_after, (LONGEST_PAUSE + ROUNDED) * errors as u32);
    assert!(after <= within, "{after:?} after the return");
    let is_error = |line: &&String| line.contains("stays in force");
    let (away, back) = outcome.log.iter().partition::<Vec<_>, _>(is_error);
    let expected = (errors * PLURALS.len(), PLURALS.len());
    assert_eq!((away.len(), back.len()), expected, "{:#?}", outcome.log);
}

#[test]
fn an_hour_without_the_api_server_changes_nothing_and_then_what_changed_arrives() {
    for streaming in [false, true] {
        // Connection refused.
        assert_told(an_hour(streaming, true), &CHANGED, 1);
    }
}

#[test]
fn after_an_hour_that_the_server_forgot_what_was_not_listed_is_gone_and_nothing_else() {
    let mut expected = [&CHANGED[..], &UNCHANGED].concat();
    expected.sort_unstable();
    for streaming in [false, true] {
        // And: too old.
        assert_told(an_hour(streaming, false), &expected, 2);
    }
}

/// Every attempt is a loop's, not one stream more around all the streams before.
#[test]
fn a_kind_that_the_server_lacks_is_asked_for_again_for_weeks() {
    const ROUNDS: u32 = 5000;
    const EACH: Duration = Duration::from_secs(300);
    let work = || {
        let server = Server::new(true);
        server.lacks("clusternetworkpolicies");
        let mut source = opened(&server);
        let there = server.clone();
        source.runtime.spawn(async move {
            tokio::time::sleep(EACH * ROUNDS).await;
            there.put("services", service("last", "10.96.0.99"));
        });
        while source.wait().unwrap().changes.is_empty() {}
        let asked = server.asked("clusternetworkpolicies").len();
        assert!(asked.abs_diff(ROUNDS as usize) < 10, "asked {asked} times");
    };
    // As large as the source's own.
    let thread = std::thread::Builder::new().stack_size(2 << 20).spawn(work).unwrap();
    thread.join().unwrap();
}
