//! What the kernel has counted, as metrics.

use testnet::manifest::Endpoint;

use super::world::{
    Addressed, PORT, World, both, external, node_port_service, service, vip, with_slices,
};
use super::{FAMILIES, assert_dropped, assert_refused, only_in_mode, served};

const NODE_PORT: u16 = 30080;

#[test]
fn connections_of_each_service_are_counted() {
    if only_in_mode("nftables", "IPVS counts by itself: ipvsadm -L --stats") {
        return;
    }
    let world = World::new();
    let (a, b) = (world.backend(&world.n1, "a"), world.backend(&world.n1, "b"));
    let client = world.pod(&world.n1, "client");
    let proxyd = world.start(&[]);
    let web = node_port_service("web", 10, NODE_PORT);
    proxyd.apply("web", &with_slices(&web, "web", &[Endpoint::of(&a)]));
    let connections = |service: &str| {
        let labels = format!("namespace=\"default\",service=\"{service}\"");
        proxyd.metric("viaduct_service_connections_total", &labels).unwrap_or(0.0)
    };
    for family in FAMILIES {
        for _ in 0..3 {
            served(&client, (vip(family, 10), PORT));
        }
        served(&world.lan, (world.n1.ip(family), NODE_PORT));
    }
    assert_eq!(connections("web"), 8.0);
    // The kernel counts anew where an endpoint has come, the metric goes on.
    proxyd.apply("web", &with_slices(&web, "web", &[Endpoint::of(&a), Endpoint::of(&b)]));
    for family in FAMILIES {
        served(&client, (vip(family, 10), PORT));
    }
    assert_eq!(connections("web"), 10.0);
    assert_eq!(connections("marker"), 0.0);
    proxyd.remove("web");
    proxyd.await_sync();
    let text = proxyd.http_get(10249, "/metrics").unwrap().body;
    assert!(!text.contains("service=\"web\""), "{text}");
}

#[test]
fn verdicts_are_counted_by_reason() {
    if only_in_mode("nftables", "it looks for chains of nftables mode") {
        return;
    }
    let world = World::new();
    let far = world.backend(&world.n2, "far");
    let client = world.pod(&world.n1, "client");
    let proxyd = world.start(&[]);
    world.route_all(&both(external, 1));
    world.route_all(&both(external, 2));
    let restricted = node_port_service("restricted", 12, NODE_PORT)
        .load_balancer(&both(external, 1))
        .spec("loadBalancerSourceRanges", ["172.16.0.0/12", "fd00:9::/32"]);
    let local = node_port_service("local", 13, NODE_PORT + 1)
        .spec("externalIPs", both(external, 2))
        .spec("externalTrafficPolicy", "Local");
    proxyd.write("empty", &service("empty", 11).to_string());
    proxyd.write("restricted", &with_slices(&restricted, "restricted", &[Endpoint::of(&far)]));
    proxyd.apply("local", &with_slices(&local, "local", &[Endpoint::of(&far)]));
    for family in FAMILIES {
        let packets = |reason: &str| {
            let labels = format!(
                "ip_family=\"{}\"",
                if family == testnet::Family::V4 { "IPv4" } else { "IPv6" }
            );
            let text = proxyd.http_get(10249, "/metrics").unwrap().body;
            let of = |line: &&str| {
                line.starts_with("viaduct_verdict_packets_total{")
                    && line.contains(&labels)
                    && line.contains(&format!("reason=\"{reason}\""))
            };
            let line = text.lines().find(of).unwrap_or_else(|| panic!("no {reason} in {text}"));
            line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
        };
        let reasons = ["no_endpoints", "unknown_port", "source_ranges", "no_local_endpoints"];
        for (at, reason) in reasons.into_iter().enumerate() {
            assert_eq!(packets(reason), 0.0, "{reason}");
            match at {
                0 => assert_refused(&client, (vip(family, 11), PORT)),
                1 => assert_refused(&client, (vip(family, 11), PORT + 1)),
                2 => assert_dropped(&world.lan, (external(family, 1), PORT)),
                _ => assert_dropped(&world.lan, (external(family, 2), PORT)),
            }
            assert!(packets(reason) >= 2.0, "{reason}");
            for later in &reasons[at + 1..] {
                assert_eq!(packets(later), 0.0, "{later} after {reason}");
            }
        }
    }
}
