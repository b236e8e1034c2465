//! ClusterIPs: balance, sources, ports, and what is none of a proxy's business.

use std::io::ErrorKind;

use serde_json::json;
use testnet::{Host, Proxyd};

use super::manifests::{service, slice};
use super::{
    BOTH, World, address, assert_dropped, assert_refused, node_address, serve, spread, vip,
};

#[test]
fn connections_are_spread_evenly_over_endpoints_on_all_nodes() {
    let world = World::new();
    let client = world.pod(0, "client");
    let pods = [world.pod(0, "a"), world.pod(1, "b"), world.pod(1, "c")];
    let _servers: Vec<_> = pods.iter().map(|pod| serve(pod, 8080)).collect();
    let proxyd = Proxyd::start(world.node(), &[]);
    for family in BOTH {
        let ip = vip(family, 96, 10);
        let slice = pods
            .iter()
            .zip(["n1", "n2", "n2"])
            .fold(slice("web", 8080), |s, (pod, node)| s.ready(address(pod, family), node));
        proxyd.apply(
            "web.yaml",
            &(world.objects() + &service("web", ip).port(80).text() + &slice.text()),
        );
        // Nine in ten thousand such samples lie outside of these bounds.
        for count in spread(&client, (ip, 80), 300, &["a", "b", "c"]) {
            assert!((60..=140).contains(&count), "{family:?}: {count} of 300");
        }
        let answer = client.tcp((ip, 80)).unwrap();
        assert_eq!(answer.peer, address(&client, family), "a pod's address is kept");
        assert_eq!(client.udp((ip, 80)).unwrap().peer, address(&client, family));
        world.node().tcp((ip, 80)).unwrap();
        world.node().udp((ip, 80)).unwrap();
    }
}

#[test]
fn clients_from_elsewhere_are_masqueraded_and_all_are_if_asked_for() {
    let world = World::new();
    let (client, server) = (world.pod(0, "client"), world.pod(1, "a"));
    let _server = serve(&server, 8080);
    let mut proxyd = Proxyd::start(world.node(), &[]);
    let manifests: String = BOTH
        .iter()
        .enumerate()
        .map(|(n, family)| {
            let name = format!("web{n}");
            service(&name, vip(*family, 96, 10)).port(80).text()
                + &slice(&name, 8080).ready(address(&server, *family), "n2").text()
        })
        .collect();
    proxyd.apply("web.yaml", &(world.objects() + &manifests));
    for family in BOTH {
        let to = (vip(family, 96, 10), 80);
        assert_eq!(world.lan.tcp(to).unwrap().peer, node_address(world.node(), family));
        assert_eq!(client.tcp(to).unwrap().peer, address(&client, family));
    }
    proxyd.terminate();
    drop(proxyd);
    let _all = Proxyd::start(world.node(), &["--masquerade-all"]);
    for family in BOTH {
        let to = (vip(family, 96, 10), 80);
        assert_eq!(client.tcp(to).unwrap().peer, node_address(world.node(), family));
    }
}

#[test]
fn a_pod_reaches_itself_through_its_service() {
    let world = World::new();
    let pod = world.pod(0, "a");
    let _server = serve(&pod, 8080);
    let proxyd = Proxyd::start(world.node(), &[]);
    for family in BOTH {
        let ip = vip(family, 96, 10);
        let slice = slice("web", 8080).ready(address(&pod, family), "n1");
        proxyd.apply(
            "web.yaml",
            &(world.objects() + &service("web", ip).port(80).text() + &slice.text()),
        );
        let answer = pod.tcp((ip, 80)).unwrap();
        assert_eq!(answer.server, "a");
        assert_ne!(answer.peer, address(&pod, family), "else the answer would not come back");
        pod.udp((ip, 80)).unwrap();
    }
}

#[test]
fn without_endpoints_connections_are_refused_and_so_are_ports_that_a_service_lacks() {
    let world = World::new();
    let (client, server) = (world.pod(0, "client"), world.pod(1, "a"));
    let _server = serve(&server, 8080);
    let proxyd = Proxyd::start(world.node(), &[]);
    for family in BOTH {
        let (empty, full) = (vip(family, 96, 10), vip(family, 96, 11));
        let text = service("empty", empty).port(80).text()
            + &service("full", full).port(80).text()
            + &slice("full", 8080).ready(address(&server, family), "n2").text();
        proxyd.apply("web.yaml", &(world.objects() + &text));
        for to in [(empty, 80), (full, 81)] {
            assert_refused(&client, to);
            assert_refused(world.node(), to);
            assert_eq!(world.lan.tcp(to).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        }
        assert!(client.can_reach((full, 80)));
    }
}

#[test]
fn one_port_number_for_two_protocols_and_port_numbers_that_differ_by_slice() {
    let world = World::new();
    let client = world.pod(0, "client");
    let (a, b) = (world.pod(0, "a"), world.pod(1, "b"));
    let (_a, _b) = (a.serve_tcp(8080), (b.serve_tcp(9090), b.serve_udp(9090)));
    let proxyd = Proxyd::start(world.node(), &[]);
    for family in BOTH {
        let ip = vip(family, 96, 10);
        let text = service("web", ip).port(80).text()
            + &slice("web", 8080)
                .named("web-a")
                .endpoint(address(&a, family), "n1", json!({}))
                .text()
            + &slice("web", 9090)
                .named("web-b")
                .endpoint(address(&b, family), "n2", json!({"conditions": {"ready": null}}))
                .text();
        proxyd.apply("web.yaml", &(world.objects() + &text));
        let counts = spread(&client, (ip, 80), 40, &["a", "b"]);
        assert!(counts.iter().all(|count| *count > 5), "{counts:?}");
    }
}

#[test]
fn services_of_others_and_headless_ones_are_left_alone() {
    let world = World::new();
    let (client, server) = (world.pod(0, "client"), world.pod(1, "a"));
    let _server = serve(&server, 8080);
    let proxyd = Proxyd::start(world.node(), &[]);
    for family in BOTH {
        let ip = |number| vip(family, 96, number);
        let endpoint = |name: &str| slice(name, 8080).ready(address(&server, family), "n2");
        let text = service("other", ip(10))
            .port(80)
            .label("service.kubernetes.io/service-proxy-name", "x")
            .text()
            + &endpoint("other").text()
            + &service("external", ip(11)).port(80).set("type", json!("ExternalName")).text()
            + &endpoint("external").text()
            + &service("labelled", ip(12))
                .port(80)
                .label("service.kubernetes.io/headless", "")
                .text()
            + &endpoint("labelled").text()
            + &service("sliced", ip(13)).port(80).text()
            + &endpoint("sliced").label("service.kubernetes.io/headless", "").text()
            + &service("headless", ip(14))
                .port(80)
                .set("clusterIP", json!("None"))
                .set("clusterIPs", json!(["None"]))
                .text();
        proxyd.apply("web.yaml", &(world.objects() + &text));
        // Only the label of a Service counts that says who proxies it; of a slice, that it is headless.
        assert!(client.can_reach((ip(12), 80)));
        assert_refused(&client, (ip(13), 80));
        for number in [10, 11, 14] {
            assert!(!client.can_reach((ip(number), 80)), "{number}");
        }
    }
}

#[test]
fn internal_policy_local_uses_this_nodes_endpoints_or_drops() {
    let world = World::new();
    let client = world.pod(0, "client");
    let (here, there) = (world.pod(0, "here"), world.pod(1, "there"));
    let _servers = (serve(&here, 8080), serve(&there, 8080));
    let proxyd = Proxyd::start(world.node(), &[]);
    for family in BOTH {
        let ip = vip(family, 96, 10);
        let local = service("web", ip).port(80).set("internalTrafficPolicy", json!("Local")).text();
        let both = slice("web", 8080)
            .ready(address(&here, family), "n1")
            .ready(address(&there, family), "n2");
        proxyd.apply("web.yaml", &(world.objects() + &local + &both.text()));
        assert_eq!(spread(&client, (ip, 80), 20, &["here"]), [20]);
        let elsewhere = slice("web", 8080).ready(address(&there, family), "n2");
        proxyd.apply("web.yaml", &(world.objects() + &local + &elsewhere.text()));
        assert_dropped(&client, (ip, 80));
        proxyd.apply("web.yaml", &(world.objects() + &local));
        assert_refused(&client, (ip, 80));
    }
}
