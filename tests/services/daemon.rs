//! The daemon itself: restarts, repairs, pages, the command line.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};
use testnet::{Family, Host, IN_FORCE, Proxyd, eventually};

use super::manifests::{service, slice};
use super::{World, serve, vip};

/// What is repaired must be so within this time.
const REPAIRED: Duration = Duration::from_secs(10);

fn web(world: &World, endpoint: IpAddr) -> String {
    world.objects()
        + &service("web", vip(Family::V4, 96, 10)).node_port(80, 30080).text()
        + &slice("web", 8080).ready(endpoint, "n2").text()
}

#[test]
fn rules_outlive_the_daemon_and_a_new_one_writes_nothing() {
    let world = World::new();
    let (client, server) = (world.pod(0, "client"), world.pod(1, "a"));
    let _server = serve(&server, 8080);
    let to = (vip(Family::V4, 96, 10), 80);
    let mut proxyd = Proxyd::start(world.node(), &[]);
    proxyd.apply("web.yaml", &web(&world, server.v4()));
    let mut connection = client.connect(to).unwrap();
    let mut flow = client.udp_flow(to, 40_001).unwrap();
    flow.ask("before").unwrap();
    for orderly in [true, false] {
        if orderly {
            assert!(proxyd.terminate().success());
        } else {
            proxyd.kill();
        }
        assert_eq!(client.tcp(to).unwrap().server, "a", "without a daemon");
        proxyd.restart();
        let written = proxyd.metric("viaduct_nftables_elements_written_total");
        assert_eq!(written, Some(0.0), "a restart wrote elements");
        connection.ask("after").unwrap();
        flow.ask("after").unwrap();
    }
}

#[test]
fn what_changed_while_the_daemon_was_away_is_made_up_for() {
    let world = World::new();
    let client = world.pod(0, "client");
    let (a, b) = (world.pod(0, "a"), world.pod(1, "b"));
    let _servers = (serve(&a, 8080), serve(&b, 8080));
    let mut proxyd = Proxyd::start(world.node(), &[]);
    let old = service("old", vip(Family::V4, 96, 11)).port(80).text()
        + &slice("old", 8080).ready(a.v4(), "n1").text();
    proxyd.apply("web.yaml", &(web(&world, a.v4()) + &old));
    assert!(client.can_reach((vip(Family::V4, 96, 11), 80)));
    proxyd.kill();
    proxyd.write("web.yaml", &web(&world, b.v4()));
    proxyd.restart();
    assert_eq!(client.tcp((vip(Family::V4, 96, 10), 80)).unwrap().server, "b");
    assert!(!client.can_reach((vip(Family::V4, 96, 11), 80)));
}

#[test]
fn what_somebody_else_destroys_is_repaired_and_told() {
    let world = World::new();
    let (client, server) = (world.pod(0, "client"), world.pod(1, "a"));
    let _server = serve(&server, 8080);
    let proxyd = Proxyd::start(world.node(), &[]);
    proxyd.apply("web.yaml", &web(&world, server.v4()));
    let to = (vip(Family::V4, 96, 10), 80);
    for (times, damage) in [
        "delete table ip viaduct",
        "flush ruleset",
        "flush map ip viaduct endpoints",
        "delete element ip viaduct services { 10.96.0.10 . tcp . 80 }",
        "flush chain ip viaduct pick-1",
        "flush chain ip viaduct nat-prerouting",
        "add element ip viaduct services { 10.96.0.10 . tcp . 81 : drop }",
    ]
    .iter()
    .enumerate()
    {
        world.node().namespace().command("nft", &[damage]);
        eventually(&format!("repaired after {damage:?}"), REPAIRED, || {
            let repairs = proxyd.metric("viaduct_drift_repairs_total").unwrap_or(0.0);
            (repairs >= times as f64 + 1.0).then_some(()).ok_or(repairs)
        });
        assert_eq!(client.tcp(to).unwrap().server, "a", "{damage}");
    }
    let log = proxyd.log();
    for word in ["table IPv4 viaduct was missing", "an element of set \"services\"", "chain pick-1"]
    {
        assert!(log.contains(word), "{word:?} is not in the log");
    }
}

#[test]
fn pages_tell_what_kube_proxys_tell() {
    let world = World::new();
    let proxyd = Proxyd::start(world.node(), &[]);
    assert_eq!(proxyd.get(10249, "/proxyMode").body.trim(), "nftables");
    let config: Value = serde_json::from_str(&proxyd.get(10249, "/configz").body).unwrap();
    assert!(config["kubeproxy.config.k8s.io"]["clusterCIDR"].to_string().contains("10.244.0.0/16"));
    let metrics = proxyd.get(10249, "/metrics").body;
    for name in [
        "kubeproxy_sync_proxy_rules_duration_seconds",
        "kubeproxy_sync_full_proxy_rules_duration_seconds",
    ] {
        assert!(metrics.contains(name), "{name}");
    }
    assert_eq!(proxyd.get(10256, "/healthz").status, 200);
    // A node that is about to go gets no new connections from load balancers.
    let tainted = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"},
        "spec": {"taints": [{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]}});
    proxyd.apply("node.yaml", &tainted.to_string());
    eventually("not eligible", IN_FORCE, || proxyd.get(10256, "/healthz").status == 503);
    assert_eq!(proxyd.get(10256, "/livez").status, 200);
}

#[test]
fn a_health_check_node_port_tells_of_this_nodes_endpoints() {
    let world = World::new();
    let proxyd = Proxyd::start(world.node(), &[]);
    let balancer = service("web", vip(Family::V4, 96, 10))
        .port(80)
        .load_balancer(json!({"ip": vip(Family::V4, 113, 1)}))
        .set("externalTrafficPolicy", json!("Local"))
        .set("healthCheckNodePort", json!(31_000))
        .text();
    let ask = || -> Option<(String, Value)> {
        let to = (world.node().v4(), 31_000);
        world.lan.namespace().run(move || {
            let mut stream = TcpStream::connect(to).ok()?;
            write!(stream, "GET /any HTTP/1.0\r\n\r\n").ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).ok()?;
            let (headers, body) = answer.split_once("\r\n\r\n")?;
            Some((headers.to_owned(), serde_json::from_str(body).ok()?))
        })
    };
    for (node, status, count) in [("n1", " 200 ", 1), ("n2", " 503 ", 0)] {
        let endpoints = slice("web", 8080).ready("10.244.1.9".parse().unwrap(), node).text();
        proxyd.apply("web.yaml", &(world.objects() + &balancer + &endpoints));
        let (headers, body) = eventually("the health check answers", IN_FORCE, || {
            ask().filter(|(headers, _)| headers.contains(status))
        });
        assert!(
            headers.to_lowercase().contains(&format!("x-load-balancing-endpoint-weight: {count}"))
        );
        assert_eq!(body["localEndpoints"], count);
        assert_eq!(body["service"], json!({"namespace": "default", "name": "web"}));
        assert_eq!(body["serviceProxyHealthy"], true);
    }
    proxyd.apply("web.yaml", &world.objects());
    eventually("the port is closed", IN_FORCE, || ask().is_none());
}

#[test]
fn oneshot_programs_once_and_cleanup_leaves_nothing() {
    let world = World::new();
    let (client, server) = (world.pod(0, "client"), world.pod(1, "a"));
    let _server = serve(&server, 8080);
    let proxyd = Proxyd::new(world.node(), &[]);
    proxyd.write("web.yaml", &web(&world, server.v4()));
    let (status, said) = proxyd.oneshot();
    assert!(status.success(), "{said}");
    assert_eq!(client.tcp((vip(Family::V4, 96, 10), 80)).unwrap().server, "a");
    proxyd.write("bad.yaml", "kind: [");
    let (status, said) = proxyd.oneshot();
    assert!(!status.success() && said.contains("bad.yaml:1"), "{said}");
    let node = world.node().namespace();
    node.command("nft", &["add table ip kube-proxy; add table ip6 kube-proxy; add table ip other"]);
    let program = testnet::programs::built().join("proxyd");
    node.command(&program.display().to_string(), &["cleanup"]);
    let left = node.ruleset();
    assert!(!left.contains("viaduct {") && !left.contains("kube-proxy"), "{left}");
    assert!(left.contains("table ip other"), "another's table");
}

#[test]
fn chains_and_rules_do_not_grow_with_services() {
    let world = World::new();
    let proxyd = Proxyd::start(world.node(), &[]);
    let text = |count: usize| -> String {
        let one = |n: usize| {
            let name = format!("s{n}");
            let ip: IpAddr = [10, 97, (n / 250) as u8, (n % 250) as u8].into();
            let endpoints = (0..1 + n % 3).fold(slice(&name, 8080), |slice, endpoint| {
                slice.ready([10, 244, 2, 1 + endpoint as u8].into(), "n2")
            });
            service(&name, ip).node_port(80, 30_000 + n as u16).text() + &endpoints.text()
        };
        (0..count).map(one).collect()
    };
    let size = || {
        let rules = world.node().namespace().command("nft", &["list", "table", "ip", "viaduct"]);
        rules.matches("comment").count() + rules.matches("chain ").count()
    };
    proxyd.apply("web.yaml", &(world.objects() + &text(10)));
    let before = size();
    proxyd.apply("web.yaml", &(world.objects() + &text(500)));
    assert_eq!(size(), before);
}
