//! What metrics tell of an outage: an alert has to see it, and its end, though no object changes.

use std::time::Duration;

use serde_json::json;
use testnet::manifest::NodeObject;
use testnet::{Proxyd, eventually};

use super::fake::{CIDRS, NODES, SERVICES, SLICES};
use super::site::{Site, at};
use super::world::await_ready;

/// The daemon's pauses between two attempts are at most two seconds; the machine may be busy.
const TOLD_WITHIN: Duration = Duration::from_secs(15);
const UP: &str = "viaduct_api_watch_up";
const CHANGED: &str = "viaduct_api_watch_changed_timestamp_seconds";
const ERRORS: &str = "viaduct_api_watch_errors_total";
const KINDS: [&str; 6] =
    ["Service", "EndpointSlice", "Node", "ServiceCIDR", "NetworkPolicy", "ClusterNetworkPolicy"];

#[track_caller]
fn await_metric(daemon: &Proxyd<'_>, name: &str, labels: &str, expected: f64) {
    eventually(&format!("{name}{{{labels}}} is {expected}"), TOLD_WITHIN, || {
        match daemon.metric(name, labels) {
            Some(value) if value == expected => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}

fn of_kind(daemon: &Proxyd<'_>, name: &str, kind: &str) -> f64 {
    daemon.metric(name, &format!("kind=\"{kind}\"")).unwrap_or(f64::NAN)
}

#[test]
fn metrics_tell_that_the_api_server_is_away_and_that_it_is_back_though_nothing_changed() {
    let site = Site::new();
    let (a, client) = (site.backend("a"), site.pod("client"));
    site.serve(&[60], &a);
    let daemon = site.start();
    let all = KINDS.len() as f64;
    await_metric(&daemon, UP, "", all);
    assert_eq!(daemon.metric(ERRORS, ""), Some(0.0), "{}", daemon.log());
    let began = KINDS.map(|kind| of_kind(&daemon, CHANGED, kind));
    let lists = site.fake.asked(SERVICES).0;
    let prober = site.probe(&client, 60);

    site.fake.away(true);
    await_metric(&daemon, UP, "", 0.0);
    let away = KINDS.map(|kind| of_kind(&daemon, CHANGED, kind));
    for ((kind, began), away) in KINDS.into_iter().zip(began).zip(away) {
        assert!(away > began, "{kind}: {began} to {away}");
        assert!(of_kind(&daemon, ERRORS, kind) >= 1.0, "{kind}");
    }
    assert_eq!(daemon.metric("viaduct_ready", "part=\"services\""), Some(1.0), "rules stay");

    site.fake.away(false);
    await_metric(&daemon, UP, "", all);
    for (kind, away) in KINDS.into_iter().zip(away) {
        assert!(of_kind(&daemon, CHANGED, kind) > away, "{kind}");
    }
    assert_eq!(site.fake.asked(SERVICES).0, lists, "a watch goes on where it was");
    prober.assert_undisturbed();
}

#[test]
fn metrics_tell_which_kind_is_refused() {
    let site = Site::new();
    site.serve(&[], &site.pod("a"));
    let daemon = site.start();
    await_metric(&daemon, UP, "", KINDS.len() as f64);
    site.fake.refuse(SLICES, true);
    site.fake.cut(SLICES);
    await_metric(&daemon, UP, "kind=\"EndpointSlice\"", 0.0);
    assert_eq!(daemon.metric(UP, ""), Some(KINDS.len() as f64 - 1.0));
    assert_eq!(of_kind(&daemon, ERRORS, "Service"), 0.0);
    site.fake.refuse(SLICES, false);
    await_metric(&daemon, UP, "kind=\"EndpointSlice\"", 1.0);
}

#[test]
fn metrics_tell_that_a_node_is_without_its_routes() {
    let site = Site::new();
    site.fake.list(CIDRS, Vec::new());
    let without = "policies: false\nsourceAddressCheck: false\nmasquerade: false\n";
    let settings = site.node.agent_settings(&format!("backend: host-gw\n{without}"));
    let kubeconfig = site.fake.kubeconfig(&site.node, "").display().to_string();
    let arguments = ["--kubeconfig", &kubeconfig, "--network-config", &settings];
    let daemon = Proxyd::spawn(&site.node, &arguments);
    await_ready(&daemon);
    let ready = |part: &str| daemon.metric("viaduct_ready", &format!("part=\"{part}\""));
    assert_eq!((ready("services"), ready("network")), (Some(1.0), Some(1.0)));
    assert_eq!(ready("policies"), None, "there is no such part");
    site.fake.await_watched(NODES);
    let mut node = at(101, &NodeObject::of(&site.node));
    node["spec"] = json!({});
    site.fake.event(NODES, "MODIFIED", &node);
    await_metric(&daemon, "viaduct_ready", "part=\"network\"", 0.0);
    assert_eq!(ready("services"), Some(1.0));
    site.fake.event(NODES, "MODIFIED", &at(102, &NodeObject::of(&site.node)));
    await_metric(&daemon, "viaduct_ready", "part=\"network\"", 1.0);
}
