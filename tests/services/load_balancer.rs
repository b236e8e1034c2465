//! Load balancers' addresses and external IPs.

use serde_json::json;
use testnet::manifest::{Endpoint, documents};
use testnet::{Family, Host};

use super::world::{
    Addressed, PORT, World, both, external, gateway, node_port_service, service, slices, vip,
    with_slices,
};
use super::{FAMILIES, PROTOCOLS, SILENCE, assert_refused, served};

#[test]
fn a_load_balancers_address_is_answered_by_the_node() {
    let world = World::new();
    let (near, far) = (world.backend(&world.n1, "near"), world.backend(&world.n2, "far"));
    let client = world.pod(&world.n1, "client");
    let proxyd = world.start(&[]);
    world.route_all(&both(external, 1));
    for (pod, name) in [(&near, "near"), (&far, "far")] {
        // Without node ports, as `allocateLoadBalancerNodePorts: false` makes it.
        let web = service("web", 10).load_balancer(&both(external, 1));
        proxyd.apply("web", &with_slices(&web, "web", &[Endpoint::of(pod)]));
        for family in FAMILIES {
            let to = (external(family, 1), PORT);
            let node = if name == "near" { gateway(family) } else { world.n1.ip(family) };
            let expected = (name.to_owned(), node);
            assert_eq!(served(&world.lan, to), expected, "outside");
            assert_eq!(served(&world.n1, to), expected, "node");
            assert_eq!(served(&client, to), expected, "pod");
            assert_eq!(world.lan.udp(to).unwrap().server, name);
            assert_refused_or_gone(&world, family);
        }
    }
}

/// A port that the service does not have is not answered on its external address.
fn assert_refused_or_gone(world: &World, family: Family) {
    assert!(world.lan.tcp_within((external(family, 1), 81), SILENCE).is_err());
}

#[test]
fn an_address_of_mode_proxy_is_left_to_the_load_balancer() {
    let world = World::new();
    let a = world.backend(&world.n1, "a");
    let client = world.pod(&world.n1, "client");
    let proxyd = world.start(&[]);
    // The load balancer is out there, and has these addresses.
    for family in FAMILIES {
        world.lan.namespace().ip(&format!("addr add {} dev lo", external(family, 1)));
        world.lan.namespace().await_address_of(external(family, 1));
    }
    let _balancer = world.lan.serve_tcp(PORT);
    for (mode, server) in [(json!("Proxy"), "outside"), (json!("VIP"), "a"), (json!(null), "a")] {
        let ingress: Vec<_> = FAMILIES
            .iter()
            .map(|family| json!({"ip": external(*family, 1), "ipMode": mode}))
            .collect();
        let web = service("web", 10).ingress(ingress.into());
        proxyd.apply("web", &with_slices(&web, "web", &[Endpoint::of(&a)]));
        for family in FAMILIES {
            let to = (external(family, 1), PORT);
            assert_eq!(served(&client, to).0, server, "{mode} from the pod");
            assert_eq!(served(&world.n1, to).0, server, "{mode} from the node");
            assert_eq!(served(&client, (vip(family, 10), PORT)).0, "a");
        }
    }
}

#[test]
fn a_load_balancer_with_a_name_has_no_address() {
    let world = World::new();
    let a = world.backend(&world.n1, "a");
    let proxyd = world.start(&[]);
    let ingress = json!([{"hostname": "lb.example.org"}, {"ip": external(Family::V4, 1)}]);
    let web = service("web", 10).ingress(ingress);
    proxyd.apply("web", &with_slices(&web, "web", &[Endpoint::of(&a)]));
    assert_eq!(served(&world.n1, (external(Family::V4, 1), PORT)).0, "a");
    assert_eq!(served(&world.n1, (vip(Family::V6, 10), PORT)).0, "a");
}

#[test]
fn an_address_that_the_load_balancer_gives_up_is_not_answered() {
    let world = World::new();
    let a = world.backend(&world.n1, "a");
    let proxyd = world.start(&[]);
    proxyd.write("slices", &slices("web", &[Endpoint::of(&a)]));
    for (has, had) in [(1, 2), (2, 1), (1, 2)] {
        let web = service("web", 10).load_balancer(&both(external, has));
        proxyd.apply("web", &documents(&[&web]));
        for family in FAMILIES {
            assert_eq!(served(&world.n1, (external(family, has), PORT)).0, "a");
            assert!(world.n1.tcp_within((external(family, had), PORT), SILENCE).is_err());
        }
    }
}

#[test]
fn external_ips_are_answered_unless_switched_off() {
    for (arguments, on) in [(&[] as &[&str], true), (&["--external-ips=false"], false)] {
        let world = World::new();
        let (near, far) = (world.backend(&world.n1, "near"), world.backend(&world.n2, "far"));
        let client = world.pod(&world.n1, "client");
        let proxyd = world.start(arguments);
        world.route_all(&both(external, 2));
        for (pod, name) in [(&near, "near"), (&far, "far")] {
            let web = service("web", 10).spec("externalIPs", both(external, 2));
            proxyd.apply("web", &with_slices(&web, "web", &[Endpoint::of(pod)]));
            for family in FAMILIES {
                let to = (external(family, 2), PORT);
                assert_eq!(served(&client, (vip(family, 10), PORT)).0, name);
                if !on {
                    assert!(client.tcp_within(to, SILENCE).is_err(), "switched off");
                    assert!(world.lan.tcp_within(to, SILENCE).is_err(), "switched off");
                    continue;
                }
                let node = if name == "near" { gateway(family) } else { world.n1.ip(family) };
                for protocol in PROTOCOLS {
                    let outside = protocol.probe(&world.lan, to).unwrap();
                    assert_eq!((&*outside.server, outside.peer), (name, node));
                    assert_eq!(protocol.probe(&client, to).unwrap().server, name);
                    assert_eq!(protocol.probe(&world.n1, to).unwrap().server, name);
                }
            }
        }
    }
}

#[test]
fn an_external_ip_may_be_an_address_of_the_node() {
    let world = World::new();
    let a = world.backend(&world.n1, "a");
    let proxyd = world.start(&[]);
    let own = [world.n1.v4(), world.n1.v6()];
    let web = service("web", 10).spec("externalIPs", own);
    proxyd.apply("web", &with_slices(&web, "web", &[Endpoint::of(&a)]));
    for to in own {
        assert_eq!(served(&world.lan, (to, PORT)).0, "a");
        assert_eq!(served(&world.n1, (to, PORT)).0, "a");
        // Other ports of the node stay the node's.
        let _server = world.n1.serve_tcp(8081);
        assert_eq!(served(&world.lan, (to, 8081)).0, "n1");
    }
}

#[test]
fn services_share_an_external_address_by_port() {
    let world = World::new();
    let [a, b] = ["a", "b"].map(|name| world.backend(&world.n1, name));
    let proxyd = world.start(&[]);
    for (name, pod, number, port) in [("one", &a, 10, 80), ("two", &b, 11, 443)] {
        let service = testnet::manifest::Service::new(name)
            .cluster_ips(&both(vip, number))
            .port("tcp", "TCP", port)
            .load_balancer(&both(external, 1));
        proxyd.write(name, &with_slices(&service, name, &[Endpoint::of(pod)]));
    }
    proxyd.await_sync();
    for family in FAMILIES {
        assert_eq!(served(&world.n1, (external(family, 1), 80)).0, "a");
        assert_eq!(served(&world.n1, (external(family, 1), 443)).0, "b");
    }
    proxyd.remove("one");
    proxyd.await_sync();
    for family in FAMILIES {
        assert!(world.n1.tcp_within((external(family, 1), 80), SILENCE).is_err());
        assert_eq!(served(&world.n1, (external(family, 1), 443)).0, "b");
    }
}

#[test]
fn a_load_balancer_service_has_node_ports_too() {
    let world = World::new();
    let a = world.backend(&world.n1, "a");
    let proxyd = world.start(&[]);
    let web = node_port_service("web", 10, 30080).load_balancer(&both(external, 1));
    proxyd.apply("web", &with_slices(&web, "web", &[Endpoint::of(&a)]));
    for family in FAMILIES {
        assert_eq!(served(&world.lan, (world.n1.ip(family), 30080)).0, "a");
    }
    // Back to a ClusterIP: both are gone.
    proxyd.apply("web", &with_slices(&service("web", 10), "web", &[Endpoint::of(&a)]));
    for family in FAMILIES {
        assert_refused(&world.lan, (world.n1.ip(family), 30080));
        assert!(world.n1.tcp_within((external(family, 1), PORT), SILENCE).is_err());
        assert_eq!(served(&world.n1, (vip(family, 10), PORT)).0, "a");
    }
}
