//! Traffic policies: Local is for endpoints of this node.

use std::io::ErrorKind;
use std::net::IpAddr;

use testnet::manifest::{Endpoint, Service};
use testnet::{Family, Host};

use super::world::{
    Addressed, PORT, World, both, external, gateway, neighbour, node_port_service, service, vip,
    with_slices,
};
use super::{FAMILIES, PROTOCOLS, assert_dropped, assert_refused, mode_is, served, servers};

const NODE_PORT: u16 = 30080;

fn external_local() -> Service {
    node_port_service("web", 10, NODE_PORT)
        .load_balancer(&both(external, 1))
        .spec("externalIPs", both(external, 2))
        .spec("externalTrafficPolicy", "Local")
}

/// All external addresses of the service.
fn doors(world: &World, family: Family) -> [(IpAddr, u16); 3] {
    [(world.n1.ip(family), NODE_PORT), (external(family, 1), PORT), (external(family, 2), PORT)]
}

fn routes(world: &World) {
    world.route_all(&both(external, 1));
    world.route_all(&both(external, 2));
}

#[test]
fn external_policy_local_keeps_the_clients_address_and_stays_on_the_node() {
    let world = World::new();
    let (near, far) = (world.backend(&world.n1, "near"), world.backend(&world.n2, "far"));
    let proxyd = world.start(&[]);
    routes(&world);
    let endpoints = [Endpoint::of(&near), Endpoint::of(&far)];
    proxyd.apply("web", &with_slices(&external_local(), "web", &endpoints));
    for family in FAMILIES {
        for to in doors(&world, family) {
            assert_eq!(servers(&world.lan, to), ["near"], "{to:?}");
            for protocol in PROTOCOLS {
                let answer = protocol.probe(&world.lan, to).unwrap();
                assert_eq!(answer.peer, neighbour(family), "{protocol:?} {to:?}");
            }
        }
        assert_eq!(servers(&world.n1, (vip(family, 10), PORT)), ["far", "near"]);
    }
}

#[test]
fn external_policy_local_drops_the_outside_where_no_endpoint_is() {
    let world = World::new();
    let far = world.backend(&world.n2, "far");
    let client = world.pod(&world.n1, "client");
    let proxyd = world.start(&[]);
    routes(&world);
    proxyd.apply("web", &with_slices(&external_local(), "web", &[Endpoint::of(&far)]));
    for family in FAMILIES {
        for to in doors(&world, family) {
            assert_dropped(&world.lan, to);
            // Pods and the node reach it all the same, as if they had gone out and come back.
            assert_eq!(served(&client, to), ("far".to_owned(), client.ip(family)), "{to:?}");
            assert_eq!(served(&world.n1, to), ("far".to_owned(), world.n1.ip(family)), "{to:?}");
        }
        assert_eq!(served(&client, (vip(family, 10), PORT)).0, "far");
    }
}

#[test]
fn external_policy_local_without_any_endpoint_refuses() {
    let world = World::new();
    let client = world.pod(&world.n1, "client");
    let proxyd = world.start(&[]);
    routes(&world);
    proxyd.apply("web", &with_slices(&external_local(), "web", &[]));
    for family in FAMILIES {
        for to in doors(&world, family) {
            assert_refused(&world.lan, to);
            assert_refused(&client, to);
            assert_refused(&world.n1, to);
        }
    }
}

#[test]
fn pods_and_the_node_pass_external_policy_local_by() {
    let world = World::new();
    let (near, far) = (world.backend(&world.n1, "near"), world.backend(&world.n2, "far"));
    let client = world.pod(&world.n1, "client");
    let proxyd = world.start(&[]);
    let endpoints = [Endpoint::of(&near), Endpoint::of(&far)];
    proxyd.apply("web", &with_slices(&external_local(), "web", &endpoints));
    for family in FAMILIES {
        for to in doors(&world, family) {
            // A virtual server of IPVS has one list, whoever asks.
            let all = if mode_is("ipvs") { &["near"][..] } else { &["far", "near"] };
            assert_eq!(servers(&client, to), all, "{to:?}");
            assert_eq!(servers(&world.n1, to), all, "{to:?}");
            assert_eq!(served(&client, to).1, client.ip(family), "{to:?}");
            let (server, peer) = served(&world.n1, to);
            let node = if server == "near" { gateway(family) } else { world.n1.ip(family) };
            assert_eq!(peer, node, "{to:?}");
        }
    }
}

#[test]
fn external_policy_local_falls_back_to_local_terminating_endpoints() {
    let world = World::new();
    let (near, far) = (world.backend(&world.n1, "near"), world.backend(&world.n2, "far"));
    let proxyd = world.start(&[]);
    routes(&world);
    let endpoints = [Endpoint::of(&near).terminating(), Endpoint::of(&far)];
    proxyd.apply("web", &with_slices(&external_local(), "web", &endpoints));
    for family in FAMILIES {
        for to in doors(&world, family) {
            assert_eq!(servers(&world.lan, to), ["near"], "{to:?}");
        }
        // For the cluster list there is a ready one.
        assert_eq!(servers(&world.n1, (vip(family, 10), PORT)), ["far"]);
    }
}

#[test]
fn internal_policy_local_stays_on_the_node() {
    let world = World::new();
    let (near, far) = (world.backend(&world.n1, "near"), world.backend(&world.n2, "far"));
    let client = world.pod(&world.n1, "client");
    let proxyd = world.start(&[]);
    let web = service("web", 10).spec("internalTrafficPolicy", "Local");
    let endpoints = [Endpoint::of(&near), Endpoint::of(&far)];
    proxyd.apply("web", &with_slices(&web, "web", &endpoints));
    for family in FAMILIES {
        let to = (vip(family, 10), PORT);
        assert_eq!(servers(&client, to), ["near"]);
        assert_eq!(servers(&world.n1, to), ["near"]);
        assert_eq!(served(&client, to).1, client.ip(family));
    }
    // Endpoints, and none of them here: silence.
    proxyd.apply("web", &with_slices(&web, "web", &[Endpoint::of(&far)]));
    for family in FAMILIES {
        assert_dropped(&client, (vip(family, 10), PORT));
        assert_dropped(&world.n1, (vip(family, 10), PORT));
    }
    // A terminating one here is better than nothing.
    let endpoints = [Endpoint::of(&near).terminating(), Endpoint::of(&far)];
    proxyd.apply("web", &with_slices(&web, "web", &endpoints));
    for family in FAMILIES {
        assert_eq!(servers(&client, (vip(family, 10), PORT)), ["near"]);
    }
    // None at all: refused.
    proxyd.apply("web", &with_slices(&web, "web", &[]));
    for family in FAMILIES {
        assert_refused(&client, (vip(family, 10), PORT));
        assert_refused(&world.n1, (vip(family, 10), PORT));
    }
}

#[test]
fn the_policies_do_not_touch_each_other() {
    let world = World::new();
    let far = world.backend(&world.n2, "far");
    let client = world.pod(&world.n1, "client");
    let proxyd = world.start(&[]);
    // Internal Local, external Cluster: the node port goes anywhere.
    let web = node_port_service("web", 10, NODE_PORT).spec("internalTrafficPolicy", "Local");
    proxyd.apply("web", &with_slices(&web, "web", &[Endpoint::of(&far)]));
    for family in FAMILIES {
        let node = (world.n1.ip(family), NODE_PORT);
        assert_eq!(served(&world.lan, node).0, "far");
        assert_eq!(served(&client, node).0, "far");
        assert_dropped(&client, (vip(family, 10), PORT));
    }
    // And both Local, with nothing here.
    let web = web.spec("externalTrafficPolicy", "Local");
    proxyd.apply("web", &with_slices(&web, "web", &[Endpoint::of(&far)]));
    for family in FAMILIES {
        let node = (world.n1.ip(family), NODE_PORT);
        assert_eq!(served(&client, node).0, "far", "the short way out ignores the policy");
        assert_dropped(&world.lan, node);
        let seen = client.tcp_within((vip(family, 10), PORT), super::SILENCE);
        assert_eq!(seen.map_err(|error| error.kind()), Err(ErrorKind::TimedOut));
    }
}

#[test]
fn an_endpoint_without_a_node_is_not_local() {
    let world = World::new();
    let near = world.backend(&world.n1, "near");
    let client = world.pod(&world.n1, "client");
    let proxyd = world.start(&[]);
    let web = service("web", 10).spec("internalTrafficPolicy", "Local");
    proxyd.apply("web", &with_slices(&web, "web", &[Endpoint::at(&near.ips())]));
    for family in FAMILIES {
        assert_dropped(&client, (vip(family, 10), PORT));
    }
}
