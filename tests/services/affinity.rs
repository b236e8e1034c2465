//! Session affinity by client address.

use std::time::Duration;

use testnet::manifest::{Endpoint, EndpointSlice, Service, documents};
use testnet::{Family, Host, Proxyd};

use super::world::{
    Addressed, Backend, PORT, TARGET, World, both, external, node_port_service, service, vip,
    with_slices,
};
use super::{FAMILIES, PROTOCOLS, not_in_mode, served};

const NODE_PORT: u16 = 30080;

fn three(world: &World) -> [Backend<'_>; 3] {
    ["a", "b", "c"].map(|name| world.backend(&world.n1, name))
}

fn endpoints(pods: &[Backend<'_>]) -> Vec<Endpoint> {
    pods.iter().map(|pod| Endpoint::of(pod)).collect()
}

#[test]
fn a_client_stays_with_its_endpoint() {
    let world = World::new();
    let pods = three(&world);
    let clients: Vec<_> =
        (0..10).map(|number| world.pod(&world.n1, &format!("client{number}"))).collect();
    let proxyd = world.start(&[]);
    let web = service("web", 10).affinity(600);
    proxyd.apply("web", &with_slices(&web, "web", &endpoints(&pods)));
    for family in FAMILIES {
        let to = (vip(family, 10), PORT);
        for protocol in PROTOCOLS {
            let mut homes: Vec<String> = clients
                .iter()
                .map(|client| {
                    let home = protocol.probe(client, to).unwrap().server;
                    for _ in 0..15 {
                        assert_eq!(protocol.probe(client, to).unwrap().server, home);
                    }
                    home
                })
                .collect();
            homes.sort();
            homes.dedup();
            assert!(homes.len() > 1, "{family:?} {protocol:?}: ten clients share {homes:?}");
        }
    }
}

#[test]
fn all_addresses_of_a_service_port_share_its_affinity() {
    if not_in_mode("ipvs", "persistence belongs to a virtual server, and so to one address") {
        return;
    }
    let world = World::new();
    let pods = three(&world);
    let clients: Vec<_> =
        (0..4).map(|number| world.pod(&world.n1, &format!("client{number}"))).collect();
    let proxyd = world.start(&[]);
    let web = node_port_service("web", 10, NODE_PORT)
        .load_balancer(&both(external, 1))
        .spec("externalIPs", both(external, 2))
        .affinity(600);
    proxyd.apply("web", &with_slices(&web, "web", &endpoints(&pods)));
    for family in FAMILIES {
        for client in &clients {
            let home = served(client, (vip(family, 10), PORT)).0;
            for to in [
                (world.n1.ip(family), NODE_PORT),
                (external(family, 1), PORT),
                (external(family, 2), PORT),
            ] {
                for _ in 0..4 {
                    assert_eq!(served(client, to).0, home, "{to:?}");
                }
            }
        }
    }
}

#[test]
fn affinity_ends_after_its_time() {
    if not_in_mode("ipvs", "in IPVS, connections that are closing keep it for two minutes") {
        return;
    }
    let world = World::new();
    let pods = three(&world);
    let proxyd = world.start(&[]);
    let web = service("web", 10).affinity(1);
    proxyd.apply("web", &with_slices(&web, "web", &endpoints(&pods)));
    for family in FAMILIES {
        let to = (vip(family, 10), PORT);
        let home = served(&world.n1, to).0;
        let moved = (0..12).any(|_| {
            std::thread::sleep(Duration::from_millis(1500));
            served(&world.n1, to).0 != home
        });
        assert!(moved, "{family:?}: always {home}");
    }
}

#[test]
fn each_new_connection_renews_the_affinity() {
    let world = World::new();
    let pods = three(&world);
    let proxyd = world.start(&[]);
    let web = service("web", 10).affinity(3);
    proxyd.apply("web", &with_slices(&web, "web", &endpoints(&pods)));
    let to = |family| (vip(family, 10), PORT);
    let home = FAMILIES.map(|family| served(&world.n1, to(family)).0);
    for round in 0..10 {
        std::thread::sleep(Duration::from_secs(1));
        let now = FAMILIES.map(|family| served(&world.n1, to(family)).0);
        assert_eq!(now, home, "after {} s", round + 1);
    }
}

#[test]
fn a_client_leaves_an_endpoint_that_is_gone_at_once() {
    let world = World::new();
    let pods = three(&world);
    let proxyd = world.start(&[]);
    let web = service("web", 10).affinity(600);
    for family in FAMILIES {
        let to = (vip(family, 10), PORT);
        proxyd.apply("web", &with_slices(&web, "web", &endpoints(&pods)));
        let home = served(&world.n1, to).0;
        let rest: Vec<Endpoint> = pods
            .iter()
            .filter(|pod| pod.namespace().name() != home)
            .map(|pod| Endpoint::of(pod))
            .collect();
        proxyd.apply("web", &with_slices(&web, "web", &rest));
        let second = served(&world.n1, to).0;
        assert_ne!(second, home);
        for _ in 0..10 {
            assert_eq!(served(&world.n1, to).0, second);
        }
        // One that is not ready any more has left as well.
        let rest: Vec<Endpoint> = pods
            .iter()
            .map(|pod| match pod.namespace().name() == second {
                true => Endpoint::of(pod).not_ready(),
                false => Endpoint::of(pod),
            })
            .collect();
        proxyd.apply("web", &with_slices(&web, "web", &rest));
        assert_ne!(served(&world.n1, to).0, second);
    }
}

#[test]
fn other_changes_of_endpoints_keep_the_affinity() {
    let world = World::new();
    let pods = three(&world);
    let (more, proxyd) = (world.backend(&world.n1, "more"), world.start(&[]));
    let web = service("web", 10).affinity(600);
    let to = |family| (vip(family, 10), PORT);
    proxyd.apply("web", &with_slices(&web, "web", &endpoints(&pods)));
    let home = FAMILIES.map(|family| served(&world.n1, to(family)).0);
    let mut all = endpoints(&pods);
    all.insert(0, Endpoint::of(&more));
    proxyd.apply("web", &with_slices(&web, "web", &all));
    for _ in 0..10 {
        assert_eq!(FAMILIES.map(|family| served(&world.n1, to(family)).0), home);
    }
    all.remove(0);
    all.reverse();
    proxyd.apply("web", &with_slices(&web, "web", &all));
    for _ in 0..10 {
        assert_eq!(FAMILIES.map(|family| served(&world.n1, to(family)).0), home);
    }
}

#[test]
fn each_port_of_a_service_has_an_affinity_of_its_own() {
    if not_in_mode("ipvs", "in IPVS, each port's round begins at the same endpoint") {
        return;
    }
    let world = World::new();
    let pods = three(&world);
    let proxyd = world.start(&[]);
    let ports = 80..90;
    let mut web = Service::new("web").cluster_ips(&both(vip, 10)).affinity(600);
    let all = endpoints(&pods);
    let mut slices = FAMILIES.map(|family| EndpointSlice::new("web", family, &all));
    for port in ports.clone() {
        web = web.port(&format!("p{port}"), "TCP", port);
        slices = slices.map(|slice| slice.port(&format!("p{port}"), "TCP", TARGET.into()));
    }
    proxyd.apply("web", &documents(&[&web, &slices[0], &slices[1]]));
    for family in FAMILIES {
        let mut homes: Vec<String> =
            ports.clone().map(|port| served(&world.n1, (vip(family, 10), port as u16)).0).collect();
        homes.sort();
        homes.dedup();
        // Ten ports at one of three endpoints: once in twenty thousand runs by chance.
        assert!(homes.len() > 1, "{family:?}: {homes:?}");
    }
}

#[test]
fn affinity_is_over_the_local_endpoints_where_the_policy_is_local() {
    let world = World::new();
    let [a, b] = ["a", "b"].map(|name| world.backend(&world.n1, name));
    let far = world.backend(&world.n2, "far");
    let proxyd = world.start(&[]);
    let web = node_port_service("web", 10, NODE_PORT)
        .spec("externalTrafficPolicy", "Local")
        .affinity(600);
    let all = [Endpoint::of(&a), Endpoint::of(&b), Endpoint::of(&far)];
    proxyd.apply("web", &with_slices(&web, "web", &all));
    for family in FAMILIES {
        let to = (world.n1.ip(family), NODE_PORT);
        let home = served(&world.lan, to).0;
        assert_ne!(home, "far");
        for _ in 0..15 {
            assert_eq!(served(&world.lan, to).0, home);
        }
    }
}

fn homes(clients: &[testnet::Pod<'_>], family: Family) -> Vec<String> {
    clients.iter().map(|client| served(client, (vip(family, 10), PORT)).0).collect()
}

#[test]
fn affinity_outlives_the_daemon() {
    let world = World::new();
    let pods = three(&world);
    let clients: Vec<_> =
        (0..5).map(|number| world.pod(&world.n1, &format!("client{number}"))).collect();
    let mut proxyd: Proxyd<'_> = world.start(&[]);
    let web = service("web", 10).affinity(600);
    proxyd.apply("web", &with_slices(&web, "web", &endpoints(&pods)));
    let before = FAMILIES.map(|family| homes(&clients, family));
    proxyd.stop();
    assert_eq!(FAMILIES.map(|family| homes(&clients, family)), before, "while it is away");
    proxyd.start_again();
    assert_eq!(FAMILIES.map(|family| homes(&clients, family)), before, "after the restart");
}

#[test]
fn affinity_is_switched_on_and_off() {
    let world = World::new();
    let pods = three(&world);
    let proxyd = world.start(&[]);
    for (seconds, sticky) in [(None, false), (Some(600), true), (Some(300), true), (None, false)] {
        let web = match seconds {
            Some(seconds) => service("web", 10).affinity(seconds),
            None => service("web", 10),
        };
        proxyd.apply("web", &with_slices(&web, "web", &endpoints(&pods)));
        for family in FAMILIES {
            let seen = super::servers(&world.n1, (vip(family, 10), PORT));
            assert_eq!(seen.len() == 1, sticky, "{seconds:?}: {seen:?}");
        }
    }
}
