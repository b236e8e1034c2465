//! TCP connections go on, whatever becomes of the service.

use testnet::manifest::{Endpoint, documents};
use testnet::traffic::Connection;
use testnet::{Eavesdropper, Family, Host};

use super::world::{
    Addressed, PORT, TARGET, World, both, external, node_port_service, slices, vip,
};
use super::{FAMILIES, assert_refused, served};

const NODE_PORT: u16 = 30080;

fn connections(world: &World, pod: &impl Host, family: Family) -> Vec<(String, Connection)> {
    let vip = (vip(family, 10), PORT);
    let node = (world.n1.ip(family), NODE_PORT);
    let balancer = (external(family, 1), PORT);
    let mut all = Vec::new();
    for to in [vip, node, balancer] {
        all.push((format!("pod to {to:?}"), pod.connect(to).unwrap()));
        all.push((format!("node to {to:?}"), world.n1.connect(to).unwrap()));
    }
    for to in [node, balancer] {
        all.push((format!("outside to {to:?}"), world.lan.connect(to).unwrap()));
    }
    all
}

#[track_caller]
fn assert_alive(connections: &mut [(String, Connection)], when: &str) {
    for (name, connection) in connections {
        let answer = connection.ask(when).unwrap_or_else(|e| panic!("{name}, {when}: {e}"));
        assert_eq!(answer.server, "a", "{name}, {when}");
    }
}

#[test]
fn a_connection_outlives_its_endpoint_and_its_service() {
    let world = World::new();
    let (a, b) = (world.backend(&world.n1, "a"), world.backend(&world.n2, "b"));
    let client = world.pod(&world.n1, "client");
    let proxyd = world.start(&[]);
    world.route_all(&both(external, 1));
    for family in FAMILIES {
        for policy in ["Cluster", "Local"] {
            let web = node_port_service("web", 10, NODE_PORT)
                .load_balancer(&both(external, 1))
                .spec("externalTrafficPolicy", policy);
            proxyd.write("web", &documents(&[&web]));
            proxyd.apply("slices", &slices("web", &[Endpoint::of(&a)]));
            let mut all = connections(&world, &client, family);
            assert_alive(&mut all, "from the start");
            proxyd.apply(
                "slices",
                &slices("web", &[Endpoint::of(&a).terminating(), Endpoint::of(&b)]),
            );
            assert_alive(&mut all, "while the endpoint terminates");
            assert_eq!(served(&client, (vip(family, 10), PORT)).0, "b");
            proxyd.apply("slices", &slices("web", &[Endpoint::of(&b)]));
            assert_alive(&mut all, "after the endpoint left");
            proxyd.apply("slices", &slices("web", &[]));
            assert_alive(&mut all, "without endpoints");
            assert_refused(&client, (vip(family, 10), PORT));
            proxyd.remove("web");
            proxyd.await_sync();
            assert_alive(&mut all, "after the service was removed");
            proxyd.remove("slices");
            proxyd.await_sync();
        }
    }
}

#[test]
fn a_connection_outlives_changes_of_the_rest_of_the_service() {
    let world = World::new();
    let (a, b) = (world.backend(&world.n1, "a"), world.backend(&world.n2, "b"));
    let client = world.pod(&world.n1, "client");
    let proxyd = world.start(&[]);
    world.route_all(&both(external, 1));
    let web = || node_port_service("web", 10, NODE_PORT).load_balancer(&both(external, 1));
    proxyd.write("web", &documents(&[&web()]));
    proxyd.apply("slices", &slices("web", &[Endpoint::of(&a)]));
    let mut all = connections(&world, &client, Family::V4);
    all.extend(connections(&world, &client, Family::V6));
    let everything = [
        web().affinity(60),
        web().spec("internalTrafficPolicy", "Local"),
        web().spec("externalTrafficPolicy", "Local"),
        web().spec("loadBalancerSourceRanges", ["10.77.0.0/16", "fd77::/64"]),
        web().port("more", "TCP", 81),
        node_port_service("web", 10, 30081),
    ];
    for (number, service) in everything.iter().enumerate() {
        proxyd.apply("web", &documents(&[service]));
        assert_alive(&mut all, &format!("change {number}"));
    }
    proxyd.apply("slices", &slices("web", &[Endpoint::of(&b), Endpoint::of(&a)]));
    assert_alive(&mut all, "with one more endpoint");
}

#[test]
fn a_segment_beyond_the_window_resets_no_connection() {
    let world = World::new();
    let (near, far) = (world.backend(&world.n1, "near"), world.backend(&world.n2, "far"));
    let client = world.pod(&world.n1, "client");
    let proxyd = world.start(&[]);
    for (pod, name) in [(&near, "near"), (&far, "far")] {
        let web = node_port_service("web", 10, NODE_PORT);
        proxyd.apply("web", &(documents(&[&web]) + &slices("web", &[Endpoint::of(pod)])));
        for family in FAMILIES {
            let mut connection = client.connect((vip(family, 10), PORT)).unwrap();
            let server = (pod.ip(family), TARGET).into();
            let ear = Eavesdropper::new(pod.namespace(), server, client.ip(family)).unwrap();
            assert_eq!(connection.ask("before").unwrap().server, name);
            ear.forge().unwrap_or_else(|e| panic!("{name} {family:?}: {e}"));
            let after = connection.ask("after");
            let after = after.unwrap_or_else(|e| panic!("{name} {family:?}: {e}"));
            assert_eq!(after.server, name);
        }
    }
}
