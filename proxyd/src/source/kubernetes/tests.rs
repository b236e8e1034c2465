//! What becomes of lists, watches and their errors, without a server.

use serde_json::{Value, json};

use super::testing::Log;
use super::*;

fn document(value: &Value) -> Box<api::Document> {
    Box::new(serde_json::from_value(value.clone()).unwrap())
}

fn service(name: &str, ip: &str) -> Box<api::Document> {
    document(&json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"clusterIP": ip, "clusterIPs": [ip], "ports": [{"port": 80}]},
    }))
}

fn is(name: &str, ip: &str) -> What {
    What::Is(service(name, ip))
}

fn source(events: Vec<What>) -> Kubernetes {
    let others = KINDS.into_iter().filter(|kind| *kind != "Service").flat_map(|kind| {
        [Seen { kind, what: What::ListBegins }, Seen { kind, what: What::ListEnds }]
    });
    let services = events.into_iter().map(|what| Seen { kind: "Service", what });
    let all: Vec<Seen> = others.chain(services).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let options = Options {
        patience: None,
        wanted: Wanted {
            services: true,
            policies: false,
            namespaces: false,
            unenforced_policies: false,
        },
        reporter: Reporter::nobody(),
        metrics: Metrics::default(),
    };
    Kubernetes::of(runtime, Box::pin(futures_util::stream::iter(all)), options)
}

/// Services as they come (`+`) and go (`-`).
fn services(update: &Update) -> Vec<String> {
    let told = update.changes.iter().filter_map(|change| match change {
        Change::Service(name, Some(service)) => {
            Some(format!("+{} {}", name.name, service.cluster_ips[0]))
        }
        Change::Service(name, None) => Some(format!("-{}", name.name)),
        _ => None,
    });
    told.collect()
}

fn read(events: Vec<What>) -> Update {
    source(events).read().unwrap()
}

#[test]
fn what_is_not_listed_any_more_is_gone() {
    let update = read(vec![
        What::ListBegins,
        is("a", "10.96.0.1"),
        is("b", "10.96.0.2"),
        What::ListEnds,
        What::ListBegins,
        is("b", "10.96.0.3"),
        What::ListEnds,
    ]);
    assert_eq!(services(&update), ["+a 10.96.0.1", "+b 10.96.0.2", "+b 10.96.0.3", "-a"]);
}

#[test]
fn nothing_is_gone_while_a_list_is_not_complete() {
    let update = read(vec![
        What::ListBegins,
        is("a", "10.96.0.1"),
        What::ListEnds,
        What::Failed("cut".into()),
        What::ListBegins,
        What::Failed("cut again".into()),
        What::ListBegins,
        is("a", "10.96.0.1"),
        What::ListEnds,
        What::Gone(service("a", "10.96.0.1")),
    ]);
    assert_eq!(services(&update), ["+a 10.96.0.1", "+a 10.96.0.1", "-a"]);
}

/// What the log says of these events, and the metrics after them.
fn told(events: Vec<What>) -> (Vec<String>, String) {
    let log = Log::default();
    let metrics = tracing::subscriber::with_default(log.subscriber(), || {
        let mut source = source(Vec::new());
        for what in events {
            source.take(Seen { kind: "Service", what }, &mut Vec::new());
        }
        source.options.metrics.render()
    });
    (log.lines(), metrics)
}

#[test]
fn an_outage_is_told_once_and_so_is_its_end() {
    for error in [What::Failed as fn(String) -> What, What::Forbidden] {
        let attempts = std::iter::repeat_with(|| error("cut".into())).take(500);
        let mut events = vec![What::ListBegins, What::ListEnds];
        events.extend(attempts);
        let (lines, metrics) = told(std::mem::take(&mut events));
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(metrics.contains("viaduct_api_watch_up{kind=\"Service\"} 0"), "{metrics}");
        assert!(metrics.contains("viaduct_api_watch_errors_total{kind=\"Service\"} 500"));
        let (lines, metrics) = told(vec![error("cut".into()), What::ListBegins, What::Answered]);
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(metrics.contains("viaduct_api_watch_up{kind=\"Service\"} 1"), "{metrics}");
    }
}

#[test]
fn errors_that_differ_without_end_do_not_fill_the_log() {
    let (lines, _) = told((0..500).map(|number| What::Failed(format!("error {number}"))).collect());
    assert_eq!(lines.len(), MOST_TOLD, "{lines:?}");
}

#[test]
fn nothing_is_told_before_every_kind_is_listed() {
    let mut source = source(vec![What::ListBegins, is("a", "10.96.0.1")]);
    assert!(source.read().is_err(), "the stream ends before the list does");
}

#[test]
fn a_kind_that_may_be_missing_is_not_waited_for() {
    let others = KINDS.into_iter().filter(|kind| *kind != "ServiceCIDR");
    let events = others.flat_map(|kind| {
        [Seen { kind, what: What::ListBegins }, Seen { kind, what: What::ListEnds }]
    });
    let missing = [What::ListBegins, What::Failed("forbidden".into()), What::Dispensable];
    let missing = missing.map(|what| Seen { kind: "ServiceCIDR", what });
    let all: Vec<Seen> = events.chain(missing).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let options = Options {
        patience: None,
        wanted: Wanted {
            services: true,
            policies: false,
            namespaces: false,
            unenforced_policies: false,
        },
        reporter: Reporter::nobody(),
        metrics: Metrics::default(),
    };
    let mut source = Kubernetes::of(runtime, Box::pin(futures_util::stream::iter(all)), options);
    assert!(source.read().is_ok());
    assert!(!source.known["ServiceCIDR"].up, "the error is not over");
}

#[test]
fn without_policies_namespaces_alone_are_waited_for() {
    let list = |kind| [What::ListBegins, What::ListEnds].map(|what| Seen { kind, what });
    let all: Vec<Seen> = KINDS.into_iter().flat_map(list).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let options = Options {
        patience: None,
        wanted: Wanted {
            services: true,
            policies: false,
            namespaces: true,
            unenforced_policies: false,
        },
        reporter: Reporter::nobody(),
        metrics: Metrics::default(),
    };
    let mut source = Kubernetes::of(runtime, Box::pin(futures_util::stream::iter(all)), options);
    assert!(!source.read().unwrap().policies_complete);
    list("Namespace").into_iter().for_each(|seen| source.take(seen, &mut Vec::new()));
    assert!(source.update(Vec::new()).policies_complete);
}

#[test]
fn a_broken_object_keeps_its_last_good_state_and_is_reported() {
    let broken = document(&json!({
        "apiVersion": "v1", "kind": "EndpointSlice", "metadata": {"name": "x"},
    }));
    let mut source = source(vec![What::ListBegins, What::ListEnds]);
    let mut changes = Vec::new();
    source.take(Seen { kind: "EndpointSlice", what: What::Is(broken.clone()) }, &mut changes);
    assert!(changes.is_empty());
    let update = source.update(changes);
    let problems = update.problems.unwrap();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(
        problems[0].to_string().starts_with("EndpointSlice x: apiVersion: "),
        "{}",
        problems[0]
    );
    // A list without it says that it is gone.
    let mut other = source.update(Vec::new());
    for what in [What::ListBegins, What::ListEnds] {
        source.take(Seen { kind: "EndpointSlice", what }, &mut other.changes);
    }
    assert_eq!(source.update(Vec::new()).problems, Some(Vec::new()));
    let mut changes = Vec::new();
    source.take(Seen { kind: "EndpointSlice", what: What::Is(broken.clone()) }, &mut changes);
    assert_eq!(source.update(changes).problems.map(|problems| problems.len()), Some(1));
    // It is over once the object is gone.
    let mut changes = Vec::new();
    source.take(Seen { kind: "EndpointSlice", what: What::Gone(broken) }, &mut changes);
    assert_eq!(source.update(changes).problems, Some(Vec::new()));
}
