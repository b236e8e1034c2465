//! Cluster IPs: who is reached, how evenly, and which objects count.

use std::collections::HashMap;

use serde_json::json;
use testnet::manifest::{Endpoint, EndpointSlice, Service, documents};
use testnet::{Family, Host};

use super::world::{PORT, TARGET, World, both, service, slices, vip, with_slices};
use super::{FAMILIES, PROTOCOLS, assert_refused, served, servers};

#[test]
fn a_cluster_ip_answers_pods_and_the_node() {
    let world = World::new();
    let (near, far) = (world.backend(&world.n1, "near"), world.backend(&world.n2, "far"));
    let client = world.pod(&world.n1, "client");
    let proxyd = world.start(&[]);
    let endpoints = [Endpoint::of(&near), Endpoint::of(&far)];
    proxyd.apply("web", &with_slices(&service("web", 10), "web", &endpoints));
    for family in FAMILIES {
        let to = (vip(family, 10), PORT);
        assert_eq!(servers(&client, to), ["far", "near"], "{family:?}");
        assert_eq!(servers(&world.n1, to), ["far", "near"], "{family:?}");
        for protocol in PROTOCOLS {
            protocol.probe(&client, to).unwrap_or_else(|e| panic!("{protocol:?} {to:?}: {e}"));
            protocol.probe(&world.n1, to).unwrap_or_else(|e| panic!("{protocol:?} {to:?}: {e}"));
        }
    }
}

#[test]
fn connections_are_spread_evenly_over_endpoints() {
    let world = World::new();
    let backends = ["a", "b", "c"].map(|name| world.backend(&world.n1, name));
    let client = world.pod(&world.n1, "client");
    let proxyd = world.start(&[]);
    let endpoints: Vec<Endpoint> = backends.iter().map(|pod| Endpoint::of(pod)).collect();
    proxyd.apply("web", &with_slices(&service("web", 10), "web", &endpoints));
    for family in FAMILIES {
        for protocol in PROTOCOLS {
            let mut counts = HashMap::<String, u32>::new();
            for _ in 0..300 {
                let answer = protocol.probe(&client, (vip(family, 10), PORT)).unwrap();
                *counts.entry(answer.server).or_default() += 1;
            }
            // 100 are expected of each; 45 more or less is five and a half standard deviations.
            let even = counts.len() == 3 && counts.values().all(|count| (55..=145).contains(count));
            assert!(even, "{family:?} {protocol:?}: {counts:?}");
        }
    }
}

#[test]
fn a_named_port_has_the_number_of_each_slice() {
    let world = World::new();
    let (a, b) = (world.pod(&world.n1, "a"), world.pod(&world.n1, "b"));
    let _servers = [a.serve_tcp(8081), b.serve_tcp(8082)];
    let proxyd = world.start(&[]);
    let web = Service::new("web").cluster_ips(&both(vip, 10)).port("http", "TCP", 80);
    let mut text = documents(&[&web]);
    for family in FAMILIES {
        let slice = |pod, port| EndpointSlice::new("web", family, &[pod]).port("http", "TCP", port);
        let first = slice(Endpoint::of(&a), 8081).named(&format!("a-{family:?}").to_lowercase());
        let second = slice(Endpoint::of(&b), 8082).named(&format!("b-{family:?}").to_lowercase());
        text += &documents(&[&first, &second]);
    }
    proxyd.apply("web", &text);
    for family in FAMILIES {
        assert_eq!(servers(&world.n1, (vip(family, 10), 80)), ["a", "b"], "{family:?}");
    }
}

#[test]
fn one_port_number_is_two_ports_for_tcp_and_udp() {
    let world = World::new();
    let (tcp, udp) = (world.pod(&world.n1, "tcp"), world.pod(&world.n1, "udp"));
    let _servers = (tcp.serve_tcp(5300), udp.serve_udp(5301));
    let proxyd = world.start(&[]);
    let dns = Service::new("dns")
        .cluster_ips(&both(vip, 10))
        .port("dns-tcp", "TCP", 53)
        .port("dns", "UDP", 53);
    let mut text = documents(&[&dns]);
    for family in FAMILIES {
        let slice = EndpointSlice::new("dns", family, &[Endpoint::of(&tcp)]);
        let slice =
            slice.port("dns-tcp", "TCP", 5300).named(&format!("t-{family:?}").to_lowercase());
        let other = EndpointSlice::new("dns", family, &[Endpoint::of(&udp)]);
        let other = other.port("dns", "UDP", 5301).named(&format!("u-{family:?}").to_lowercase());
        text += &documents(&[&slice, &other]);
    }
    proxyd.apply("dns", &text);
    for family in FAMILIES {
        let to = (vip(family, 10), 53);
        assert_eq!(world.n1.tcp(to).unwrap().server, "tcp", "{family:?}");
        assert_eq!(world.n1.udp(to).unwrap().server, "udp", "{family:?}");
    }
}

#[test]
fn an_unnamed_port_matches_the_unnamed_port_of_slices() {
    let world = World::new();
    let a = world.backend(&world.n1, "a");
    let proxyd = world.start(&[]);
    let web = Service::new("web").cluster_ips(&both(vip, 10)).port("", "TCP", 80);
    let slice = |family| {
        EndpointSlice::new("web", family, &[Endpoint::of(&a)]).port("", "TCP", TARGET.into())
    };
    proxyd.apply("web", &documents(&[&web, &slice(Family::V4), &slice(Family::V6)]));
    for family in FAMILIES {
        assert_eq!(served(&world.n1, (vip(family, 10), 80)).0, "a");
    }
}

#[test]
fn services_that_are_not_for_the_proxy_are_ignored() {
    let world = World::new();
    let a = world.backend(&world.n1, "a");
    let proxyd = world.start(&[]);
    let endpoints = [Endpoint::of(&a)];
    let proxy_name = "service.kubernetes.io/service-proxy-name";
    let other = node_port("other", 11, 30011).label(proxy_name, "somebody-else");
    proxyd.write("other", &with_slices(&other, "other", &endpoints));
    let headless =
        node_port("headless", 12, 30012).spec("clusterIP", "None").spec("clusterIPs", ["None"]);
    proxyd.write("headless", &with_slices(&headless, "headless", &endpoints));
    let named = node_port("named", 13, 30013)
        .spec("type", "ExternalName")
        .spec("externalName", "example.org");
    proxyd.write("named", &with_slices(&named, "named", &endpoints));
    // A label on the Service alone does not make it headless.
    let labelled = service("labelled", 14).label("service.kubernetes.io/headless", "");
    proxyd.apply("labelled", &with_slices(&labelled, "labelled", &endpoints));
    for family in FAMILIES {
        for (number, port) in [(11, 30011), (12, 30012), (13, 30013)] {
            let to = (vip(family, number), PORT);
            assert!(world.n1.tcp_within(to, super::SILENCE).is_err(), "{to:?}");
            super::assert_closed(
                &world.lan,
                (super::world::Addressed::ip(&world.n1, family), port),
            );
        }
        assert_eq!(served(&world.n1, (vip(family, 14), PORT)).0, "a");
    }
    // The label is taken off: now it is ours.
    let ours = node_port("other", 11, 30011);
    proxyd.apply("other", &with_slices(&ours, "other", &endpoints));
    assert_eq!(served(&world.n1, (vip(Family::V4, 11), PORT)).0, "a");
}

fn node_port(name: &str, number: u8, port: u16) -> Service {
    super::world::node_port_service(name, number, port)
}

#[test]
fn slices_with_the_headless_label_are_ignored() {
    let world = World::new();
    let (a, b) = (world.backend(&world.n1, "a"), world.backend(&world.n1, "b"));
    let proxyd = world.start(&[]);
    let mut text = with_slices(&service("web", 10), "web", &[Endpoint::of(&a)]);
    for family in FAMILIES {
        let slice = EndpointSlice::new("web", family, &[Endpoint::of(&b)])
            .named(&format!("more-{family:?}").to_lowercase())
            .port("tcp", "TCP", TARGET.into());
        text += &documents(&[&slice.label("service.kubernetes.io/headless", "")]);
    }
    proxyd.apply("web", &text);
    for family in FAMILIES {
        assert_eq!(servers(&world.n1, (vip(family, 10), PORT)), ["a"], "{family:?}");
    }
}

#[test]
fn an_undefined_port_of_a_cluster_ip_is_refused() {
    let world = World::new();
    let a = world.backend(&world.n1, "a");
    let client = world.pod(&world.n1, "client");
    let proxyd = world.start(&[]);
    world.route_all(&both(vip, 10));
    proxyd.apply("web", &with_slices(&service("web", 10), "web", &[Endpoint::of(&a)]));
    for family in FAMILIES {
        let to = (vip(family, 10), 81);
        assert_refused(&client, to);
        assert_refused(&world.n1, to);
        assert_refused(&world.lan, to);
    }
}

#[test]
fn changes_of_ports_and_addresses_are_followed() {
    let world = World::new();
    let a = world.backend(&world.n1, "a");
    let proxyd = world.start(&[]);
    let endpoints = [Endpoint::of(&a)];
    proxyd.apply("web", &with_slices(&service("web", 10), "web", &endpoints));
    let moved = Service::new("web").cluster_ips(&both(vip, 11)).port("tcp", "TCP", 8000);
    proxyd.apply("web", &with_slices(&moved, "web", &endpoints));
    for family in FAMILIES {
        assert_eq!(served(&world.n1, (vip(family, 11), 8000)).0, "a", "{family:?}");
        assert_refused(&world.n1, (vip(family, 11), PORT));
        super::assert_closed(&world.n1, (vip(family, 10), PORT));
    }
    proxyd.remove("web");
    proxyd.await_sync();
    for family in FAMILIES {
        super::assert_closed(&world.n1, (vip(family, 11), 8000));
    }
}

#[test]
fn a_single_stack_service_has_nothing_in_the_other_family() {
    let world = World::new();
    let a = world.backend(&world.n1, "a");
    let proxyd = world.start(&[]);
    for (family, other) in [(Family::V4, Family::V6), (Family::V6, Family::V4)] {
        let web = Service::new("web")
            .cluster_ips(&[vip(family, 10)])
            .port("tcp", "TCP", PORT.into())
            .node_port(30080);
        proxyd.apply("web", &with_slices(&web, "web", &[Endpoint::of(&a)]));
        assert_eq!(served(&world.n1, (vip(family, 10), PORT)).0, "a", "{family:?}");
        let node = |family| (super::world::Addressed::ip(&world.n1, family), 30080);
        assert_eq!(served(&world.lan, node(family)).0, "a", "{family:?}");
        super::assert_closed(&world.lan, node(other));
        super::assert_closed(&world.n1, (vip(other, 10), PORT));
    }
}

#[test]
fn both_spellings_of_a_list_and_json_files_are_read() {
    let world = World::new();
    let a = world.backend(&world.n1, "a");
    let proxyd = world.start(&[]);
    let item = |text: String| serde_json::from_str::<serde_json::Value>(&text).unwrap();
    let list = json!({"apiVersion": "v1", "kind": "List", "items": [
        item(service("web", 10).to_string()),
        item(EndpointSlice::new("web", Family::V4, &[Endpoint::of(&a)])
            .port("tcp", "TCP", TARGET.into()).to_string()),
    ]});
    std::fs::write(proxyd.manifests().path().join(".web"), list.to_string()).unwrap();
    let path = proxyd.manifests().path();
    std::fs::rename(path.join(".web"), path.join("web.json")).unwrap();
    std::fs::write(path.join("notes.txt"), "no: [manifest").unwrap();
    proxyd.await_sync();
    assert_eq!(served(&world.n1, (vip(Family::V4, 10), PORT)).0, "a");
    std::fs::remove_file(path.join("web.json")).unwrap();
    let yaml = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: default}}\nspec:\n  \
         clusterIP: {}\n  clusterIPs: [{}]\n  ports:\n  - name: tcp\n    port: 80\n    \
         targetPort: web\n",
        vip(Family::V4, 20),
        vip(Family::V4, 20)
    );
    proxyd.write("web", &yaml);
    proxyd.apply("slices", &slices("web", &[Endpoint::of(&a)]));
    assert_eq!(served(&world.n1, (vip(Family::V4, 20), PORT)).0, "a");
}
