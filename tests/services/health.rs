//! Health checks, metrics and the pages beside them.

use std::net::SocketAddr;

use serde_json::Value;
use testnet::manifest::{Endpoint, NodeObject, Service, documents};
use testnet::{Response, http_get};

use super::world::{Addressed, World, both, external, node_port_service, slices, with_slices};
use super::{FAMILIES, soon};

const CHECK_PORT: u16 = 31999;

fn balanced() -> Service {
    node_port_service("web", 10, 30080)
        .load_balancer(&both(external, 1))
        .spec("externalTrafficPolicy", "Local")
        .spec("healthCheckNodePort", CHECK_PORT)
}

#[track_caller]
fn assert_check(response: &Response, endpoints: u64) {
    assert_eq!(response.status, if endpoints > 0 { 200 } else { 503 }, "{response:?}");
    for header in [
        "content-type: application/json".to_owned(),
        "x-content-type-options: nosniff".to_owned(),
        format!("x-load-balancing-endpoint-weight: {endpoints}"),
    ] {
        assert!(response.headers.contains(&header), "{header}: {response:?}");
    }
    let body: Value = serde_json::from_str(&response.body).unwrap();
    assert_eq!(body["service"]["namespace"], "default", "{body}");
    assert_eq!(body["service"]["name"], "web", "{body}");
    assert_eq!(body["localEndpoints"], endpoints, "{body}");
    assert_eq!(body["serviceProxyHealthy"], true, "{body}");
}

#[test]
fn the_health_check_port_counts_local_ready_endpoints() {
    let world = World::new();
    let [a, b] = ["a", "b"].map(|name| world.backend(&world.n1, name));
    let far = world.backend(&world.n2, "far");
    let proxyd = world.start(&[]);
    proxyd.write("web", &documents(&[&balanced()]));
    let check = |family, path: &str| {
        http_get(&world.lan, SocketAddr::new(world.n1.ip(family), CHECK_PORT), path)
    };
    let (a, b, far) = (Endpoint::of(&a), Endpoint::of(&b), Endpoint::of(&far));
    for (endpoints, count) in [
        (vec![a.clone(), b.clone(), far.clone()], 2),
        (vec![a.clone(), far.clone()], 1),
        (vec![a.clone().terminating(), far.clone()], 0),
        (vec![a.clone(), b.clone().not_ready(), far.clone()], 1),
        (vec![far.clone()], 0),
        (vec![], 0),
        (vec![a, b], 2),
    ] {
        proxyd.apply("slices", &slices("web", &endpoints));
        for family in FAMILIES {
            for path in ["/", "/healthz", "/any/path"] {
                let weight = format!("weight: {count}\r");
                let response = soon("the health check knows of the change", || {
                    let response = check(family, path).ok_or("no answer")?;
                    let known = (response.headers.clone() + "\r").contains(&weight);
                    if known { Ok(response) } else { Err(response.headers.leak() as &str) }
                });
                assert_check(&response, count);
            }
        }
    }
    // Another port, and none.
    proxyd.apply("web", &documents(&[&balanced().spec("healthCheckNodePort", 31998)]));
    let moved = SocketAddr::new(world.n1.v4(), 31998);
    let response = soon("the check at its new port", || http_get(&world.lan, moved, "/"));
    assert_check(&response, 2);
    soon("the old port is closed", || check(testnet::Family::V4, "/").is_none());
    let cluster = balanced().spec("externalTrafficPolicy", "Cluster");
    proxyd.apply("web", &documents(&[&cluster]));
    soon("no check for policy Cluster", || http_get(&world.lan, moved, "/").is_none());
}

#[test]
fn a_service_of_another_type_has_no_health_check() {
    let world = World::new();
    let a = world.backend(&world.n1, "a");
    let proxyd = world.start(&[]);
    let web = node_port_service("web", 10, 30080)
        .spec("externalTrafficPolicy", "Local")
        .spec("healthCheckNodePort", CHECK_PORT);
    proxyd.apply("web", &with_slices(&web, "web", &[Endpoint::of(&a)]));
    let at = SocketAddr::new(world.n1.v4(), CHECK_PORT);
    assert!(http_get(&world.lan, at, "/").is_none());
}

#[test]
fn health_and_liveness_are_told_apart_on_a_node_that_is_leaving() {
    let world = World::new();
    let proxyd = world.start(&[]);
    let outside = SocketAddr::new(world.n1.v4(), 10256);
    let pages = ["/healthz", "/livez"];
    for page in pages {
        let response = soon("the page", || http_get(&world.lan, outside, page));
        assert_eq!(response.status, 200, "{page}: {response:?}");
        let body: Value = serde_json::from_str(&response.body).unwrap();
        assert!(body["lastUpdated"].is_string() && body["currentTime"].is_string(), "{body}");
        assert_eq!(body["nodeEligible"].is_boolean(), page == "/healthz", "{page}: {body}");
        assert_eq!(body["healthy"], true, "{body}");
        for family in ["IPv4", "IPv6"] {
            assert_eq!(body["status"][family]["healthy"], true, "{body}");
        }
    }
    let leaving = NodeObject::of(&world.n1).taint("ToBeDeletedByClusterAutoscaler", "NoSchedule");
    proxyd.apply("nodes", &documents(&[&leaving, &NodeObject::of(&world.n2)]));
    soon("the node is not eligible", || {
        proxyd.http_get(10256, "/healthz").is_some_and(|response| response.status == 503)
    });
    let body: Value =
        serde_json::from_str(&proxyd.http_get(10256, "/healthz").unwrap().body).unwrap();
    assert_eq!(body["nodeEligible"], false, "{body}");
    assert_eq!(proxyd.http_get(10256, "/livez").unwrap().status, 200);
    proxyd.apply("nodes", &documents(&[&NodeObject::of(&world.n1), &NodeObject::of(&world.n2)]));
    soon("the node is eligible again", || {
        proxyd.http_get(10256, "/healthz").is_some_and(|response| response.status == 200)
    });
}

#[test]
fn the_metrics_have_kube_proxys_names() {
    let world = World::new();
    let (a, far) = (world.backend(&world.n1, "a"), world.backend(&world.n2, "far"));
    let proxyd = world.start(&[]);
    let local = node_port_service("web", 10, 30080)
        .spec("internalTrafficPolicy", "Local")
        .spec("externalTrafficPolicy", "Local");
    proxyd.apply("web", &with_slices(&local, "web", &[Endpoint::of(&a)]));
    proxyd.apply("web", &with_slices(&local, "web", &[Endpoint::of(&far)]));
    for _ in 0..2 {
        proxyd.http_get(10256, "/healthz").unwrap();
        proxyd.http_get(10256, "/livez").unwrap();
    }
    let response = proxyd.http_get(10249, "/metrics").unwrap();
    assert_eq!(response.status, 200);
    // Those that count with labels what has not happened yet are not there yet.
    for name in [
        "sync_proxy_rules_duration_seconds_bucket",
        "sync_full_proxy_rules_duration_seconds_count",
        "sync_partial_proxy_rules_duration_seconds_sum",
        "sync_proxy_rules_last_timestamp_seconds",
        "sync_proxy_rules_last_queued_timestamp_seconds",
        "sync_proxy_rules_endpoint_changes_pending",
        "sync_proxy_rules_endpoint_changes_total",
        "sync_proxy_rules_service_changes_pending",
        "sync_proxy_rules_service_changes_total",
        "sync_proxy_rules_no_local_endpoints_total",
        "proxy_healthz_total",
        "proxy_livez_total",
        "conntrack_reconciler_sync_duration_seconds",
        "conntrack_reconciler_deleted_entries_total",
    ] {
        let name = format!("kubeproxy_{name}");
        assert!(response.body.contains(&name), "{name} is missing in {}", response.body);
    }
    assert!(!response.body.contains("iptables_restore"), "not in this mode");
    for policy in ["internal", "external"] {
        for family in ["IPv4", "IPv6"] {
            // Counted by service port or by service, once the sync is over.
            soon(&format!("{policy} {family} ports without local endpoints"), || {
                let labels = format!("ip_family=\"{family}\",traffic_policy=\"{policy}\"");
                let name = "kubeproxy_sync_proxy_rules_no_local_endpoints_total";
                proxyd.metric(name, &labels).filter(|count| *count > 0.0)
            });
        }
    }
    for counter in ["kubeproxy_proxy_healthz_total", "kubeproxy_proxy_livez_total"] {
        assert!(proxyd.metric(counter, "code=\"200\"").unwrap() >= 2.0, "{counter}");
    }
}

#[test]
fn the_mode_and_the_configuration_are_shown() {
    let world = World::new();
    let proxyd = world.start(&["--masquerade-all"]);
    assert_eq!(proxyd.http_get(10249, "/proxyMode").unwrap().body.trim(), testnet::proxy_mode());
    let page = proxyd.http_get(10249, "/configz").unwrap();
    let page: Value = serde_json::from_str(&page.body).unwrap();
    let config = page.as_object().and_then(|page| page.values().next()).unwrap();
    assert_eq!(config["clusterCIDR"], "10.244.0.0/16,fd00:10::/32", "{page}");
    assert_eq!(config["hostnameOverride"], "n1", "{page}");
    assert_eq!(config["mode"], testnet::proxy_mode(), "{page}");
    assert_eq!(proxyd.http_get(10249, "/healthz").unwrap().status, 200);
    assert_eq!(proxyd.http_get(10249, "/nothing").unwrap().status, 404);
    // The metrics are for the node alone.
    let at = SocketAddr::new(world.n1.v4(), 10249);
    assert!(http_get(&world.lan, at, "/metrics").is_none());
}

#[test]
fn the_pages_are_where_they_were_asked_for() {
    let world = World::new();
    let address = world.n1.v4();
    let metrics = format!("{address}:9249");
    let proxyd = world.start(&["--metrics-bind-address", &metrics, "--healthz-bind-address", ""]);
    let at = SocketAddr::new(address, 9249);
    assert_eq!(http_get(&world.lan, at, "/proxyMode").unwrap().body.trim(), testnet::proxy_mode());
    assert!(proxyd.http_get(10249, "/metrics").is_none());
    assert!(proxyd.http_get(10256, "/healthz").is_none());
}
