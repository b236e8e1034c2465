//! UDP clients that never pause follow the service: no entry of conntrack holds them back.

use std::net::IpAddr;
use std::time::Duration;

use testnet::manifest::{Endpoint, documents};
use testnet::traffic::{Answer, UdpFlow};
use testnet::{Family, Host};

use super::world::{
    Addressed, PORT, World, both, external, node_port_service, slices, vip, with_slices,
};
use super::{FAMILIES, SILENCE, mode_is, soon};

const NODE_PORT: u16 = 30053;

/// A client, and where it sends; each keeps its source port.
struct Client {
    name: String,
    flow: UdpFlow,
}

/// Clients of every kind for every address of the service [`everywhere`].
fn clients(world: &World, pod: &impl Host, family: Family) -> Vec<Client> {
    let vip = (vip(family, 10), PORT);
    let balancer = (external(family, 1), PORT);
    let node = (world.n1.ip(family), NODE_PORT);
    let mut clients = Vec::new();
    let mut add = |who: &dyn Fn((IpAddr, u16)) -> UdpFlow, name: &str, to: &[(IpAddr, u16)]| {
        for to in to {
            clients.push(Client { name: format!("{name} to {to:?}"), flow: who(*to) });
        }
    };
    let open = Duration::from_millis(300);
    add(&|to| pod.udp_flow_within(to, open).unwrap(), "pod", &[vip, node, balancer]);
    add(&|to| world.n1.udp_flow_within(to, open).unwrap(), "node", &[vip, node, balancer]);
    add(&|to| world.lan.udp_flow_within(to, open).unwrap(), "outside", &[node, balancer]);
    clients
}

fn everywhere() -> testnet::manifest::Service {
    node_port_service("web", 10, NODE_PORT).load_balancer(&both(external, 1))
}

/// All clients keep sending until `server` answers them.
#[track_caller]
fn assert_all_reach(clients: &mut [Client], server: &str) {
    for Client { name, flow } in clients {
        soon(&format!("{name} reaches {server}"), || match flow.ask("hello") {
            Ok(Answer { server: seen, .. }) if seen == server => Ok(()),
            other => Err(other),
        });
    }
}

fn keep_sending(clients: &mut [Client]) {
    for client in clients {
        // Refusals of earlier datagrams are reported by later ones.
        let _ = client.flow.send("one-way");
        let _ = client.flow.send("one-way");
    }
}

#[test]
fn a_flow_moves_when_its_endpoint_goes() {
    let world = World::new();
    let a = world.backend(&world.n1, "a");
    let (b, c) = (world.backend(&world.n2, "b"), world.backend(&world.n1, "c"));
    let client = world.pod(&world.n1, "client");
    let proxyd = world.start(&[]);
    world.route_all(&both(external, 1));
    proxyd.write("web", &documents(&[&everywhere()]));
    for family in FAMILIES {
        proxyd.apply("slices", &slices("web", &[Endpoint::of(&a)]));
        let mut all = clients(&world, &client, family);
        assert_all_reach(&mut all, "a");
        for (pod, name) in [(&b, "b"), (&c, "c"), (&a, "a")] {
            proxyd.write("slices", &slices("web", &[Endpoint::of(pod)]));
            assert_all_reach(&mut all, name);
        }
    }
}

#[test]
fn a_flow_stays_while_its_endpoint_does() {
    let world = World::new();
    let [a, b] = ["a", "b"].map(|name| world.backend(&world.n1, name));
    let client = world.pod(&world.n1, "client");
    let proxyd = world.start(&[]);
    world.route_all(&both(external, 1));
    proxyd.write("web", &documents(&[&everywhere()]));
    for family in FAMILIES {
        proxyd.apply("slices", &slices("web", &[Endpoint::of(&a)]));
        let mut all = clients(&world, &client, family);
        assert_all_reach(&mut all, "a");
        // One that terminates still serves those that it has.
        // But IPVS ends the flows of an endpoint that gets no new ones.
        let terminating = if mode_is("ipvs") { "b" } else { "a" };
        for (endpoint, server) in
            [(Endpoint::of(&a), "a"), (Endpoint::of(&a).terminating(), terminating)]
        {
            let endpoints = vec![endpoint, Endpoint::of(&b)];
            proxyd.apply("slices", &slices("web", &endpoints));

            for client in &mut all {
                let answer = client.flow.ask("still").unwrap();
                assert_eq!(answer.server, server, "{}", client.name);
            }
        }
    }
}

#[test]
fn a_flow_follows_its_endpoints_port() {
    let world = World::new();
    let pod = world.pod(&world.n1, "a");
    let client = world.pod(&world.n1, "client");
    let proxyd = world.start(&[]);
    world.route_all(&both(external, 1));
    proxyd.write("web", &documents(&[&everywhere()]));
    for family in FAMILIES {
        let old = pod.serve_udp(8080);
        let slice = |port| {
            testnet::manifest::EndpointSlice::new("web", family, &[Endpoint::of(&pod)])
                .port("udp", "UDP", port)
        };
        proxyd.apply("slices", &slice(8080).to_string());
        let mut all = clients(&world, &client, family);
        assert_all_reach(&mut all, "a");
        let new = pod.serve_udp(8081);
        proxyd.write("slices", &slice(8081).to_string());
        for Client { name, flow } in &mut all {
            let before = new.answered();
            soon(&format!("{name} reaches the new port"), || {
                let _ = flow.ask("hello");
                new.answered() > before
            });
        }
        let before = old.answered();
        assert_all_reach(&mut all, "a");
        assert_eq!(old.answered(), before, "somebody is at the old port");
    }
}

#[test]
fn a_flow_that_was_refused_reaches_the_first_endpoint() {
    let world = World::new();
    let [a, b] = ["a", "b"].map(|name| world.backend(&world.n1, name));
    let client = world.pod(&world.n1, "client");
    let proxyd = world.start(&[]);
    world.route_all(&both(external, 1));
    proxyd.write("web", &documents(&[&everywhere()]));
    for family in FAMILIES {
        proxyd.apply("slices", &slices("web", &[]));
        let mut all = clients(&world, &client, family);
        keep_sending(&mut all);
        proxyd.write("slices", &slices("web", &[Endpoint::of(&a)]));
        assert_all_reach(&mut all, "a");
        // Nobody is left; what was sent to the one that went must not hold the flow.
        proxyd.write("slices", &slices("web", &[]));
        for Client { name, flow } in &mut all {
            soon(&format!("{name} is not served any more"), || flow.ask("hello").is_err());
        }
        keep_sending(&mut all);
        proxyd.write("slices", &slices("web", &[Endpoint::of(&b)]));
        assert_all_reach(&mut all, "b");
    }
}

#[test]
fn a_flow_from_before_the_service_reaches_it() {
    let world = World::new();
    let a = world.backend(&world.n1, "a");
    let client = world.pod(&world.n1, "client");
    let proxyd = world.start(&[]);
    world.route_all(&both(external, 1));
    for family in FAMILIES {
        let mut all = clients(&world, &client, family);
        keep_sending(&mut all);
        proxyd.write("web", &with_slices(&everywhere(), "web", &[Endpoint::of(&a)]));
        assert_all_reach(&mut all, "a");
        proxyd.remove("web");
        proxyd.await_sync();
    }
}

#[test]
fn a_flow_from_before_the_daemon_reaches_the_service() {
    let world = World::new();
    let a = world.backend(&world.n1, "a");
    let client = world.pod(&world.n1, "client");
    world.route_all(&both(external, 1));
    // Conntrack is only at work once somebody translates.
    let mut proxyd = world.start(&[]);
    proxyd.stop();
    let mut all: Vec<Client> =
        FAMILIES.iter().flat_map(|family| clients(&world, &client, *family)).collect();
    keep_sending(&mut all);
    proxyd.write("web", &with_slices(&everywhere(), "web", &[Endpoint::of(&a)]));
    proxyd.start_again();
    assert_all_reach(&mut all, "a");
}

#[test]
fn a_flow_moves_when_a_service_that_had_gone_returns() {
    let world = World::new();
    let [a, b] = ["a", "b"].map(|name| world.backend(&world.n1, name));
    let client = world.pod(&world.n1, "client");
    let proxyd = world.start(&[]);
    world.route_all(&both(external, 1));
    for family in FAMILIES {
        proxyd.apply("web", &with_slices(&everywhere(), "web", &[Endpoint::of(&a)]));
        let mut all = clients(&world, &client, family);
        assert_all_reach(&mut all, "a");
        proxyd.remove("web");
        proxyd.await_sync();
        keep_sending(&mut all);
        proxyd.write("web", &with_slices(&everywhere(), "web", &[Endpoint::of(&b)]));
        assert_all_reach(&mut all, "b");
        proxyd.remove("web");
        proxyd.await_sync();
    }
}

#[test]
fn flows_of_others_are_left_alone() {
    let world = World::new();
    let [a, b] = ["a", "b"].map(|name| world.backend(&world.n1, name));
    let other = world.backend(&world.n2, "other");
    let client = world.pod(&world.n1, "client");
    let proxyd = world.start(&[]);
    proxyd.apply("web", &with_slices(&everywhere(), "web", &[Endpoint::of(&a)]));
    for family in FAMILIES {
        // Straight to a pod, to a node's own server whose port is a node port's number elsewhere.
        let _there = world.n2.serve_udp(NODE_PORT);
        let mut direct = client.udp_flow_within((other.ip(family), 8080), SILENCE).unwrap();
        let mut node = client.udp_flow_within((world.n2.ip(family), NODE_PORT), SILENCE).unwrap();
        let ports = [direct.ask("x").unwrap().peer_port, node.ask("x").unwrap().peer_port];
        for pod in [&b, &a, &b] {
            proxyd.apply("web", &with_slices(&everywhere(), "web", &[Endpoint::of(pod)]));
            assert_eq!(direct.ask("x").unwrap().peer_port, ports[0]);
            // It is masqueraded with a random port: a forgotten entry would be another port.
            assert_eq!(node.ask("x").unwrap().peer_port, ports[1]);
        }
    }
}
