//! Several nodes with a daemon each.

use testnet::Proxyd;
use testnet::manifest::{Endpoint, documents};

use super::world::{
    Addressed, PORT, World, neighbour, node_port_service, service, vip, with_slices,
};
use super::{FAMILIES, PROTOCOLS, assert_dropped, assert_refused, served, servers};

const NODE_PORT: u16 = 30080;

fn everywhere<'a>(world: &'a World, text: &str) -> [Proxyd<'a>; 2] {
    [&world.n1, &world.n2].map(|node| {
        testnet::Manifests::of(node).write("web", text);
        Proxyd::start(node, &[])
    })
}

#[test]
fn every_node_answers_for_the_pods_of_all() {
    let world = World::new();
    let (a, b) = (world.backend(&world.n1, "a"), world.backend(&world.n2, "b"));
    let clients = [world.pod(&world.n1, "client1"), world.pod(&world.n2, "client2")];
    let web = node_port_service("web", 10, NODE_PORT);
    let _daemons =
        everywhere(&world, &with_slices(&web, "web", &[Endpoint::of(&a), Endpoint::of(&b)]));
    for family in FAMILIES {
        for client in &clients {
            let to = (vip(family, 10), PORT);
            assert_eq!(servers(client, to), ["a", "b"]);
            assert_eq!(served(client, to).1, client.ip(family), "the client's own address");
            for node in [&world.n1, &world.n2] {
                assert_eq!(servers(client, (node.ip(family), NODE_PORT)), ["a", "b"]);
            }
        }
        for node in [&world.n1, &world.n2] {
            for from in [&world.n1, &world.n2] {
                assert_eq!(servers(from, (node.ip(family), NODE_PORT)), ["a", "b"]);
            }
            assert_eq!(servers(&world.lan, (node.ip(family), NODE_PORT)), ["a", "b"]);
        }
    }
}

#[test]
fn external_policy_local_is_each_nodes_own() {
    let world = World::new();
    let a = world.backend(&world.n1, "a");
    let _other = world.pod(&world.n2, "other");
    let web = node_port_service("web", 10, NODE_PORT).spec("externalTrafficPolicy", "Local");
    let daemons = everywhere(&world, &with_slices(&web, "web", &[Endpoint::of(&a)]));
    for family in FAMILIES {
        let (one, two) = ((world.n1.ip(family), NODE_PORT), (world.n2.ip(family), NODE_PORT));
        assert_eq!(served(&world.lan, one), ("a".to_owned(), neighbour(family)));
        assert_dropped(&world.lan, two);
        assert_eq!(served(&world.n2, two).0, "a", "the node's own way");
    }
    let b = world.backend(&world.n2, "b");
    for daemon in &daemons {
        let text = with_slices(&web, "web", &[Endpoint::of(&b)]);
        daemon.apply("web", &text);
    }
    for family in FAMILIES {
        let (one, two) = ((world.n1.ip(family), NODE_PORT), (world.n2.ip(family), NODE_PORT));
        assert_dropped(&world.lan, one);
        assert_eq!(served(&world.lan, two), ("b".to_owned(), neighbour(family)));
    }
}

#[test]
fn a_client_on_another_node_loses_and_finds_its_service() {
    let world = World::new();
    let a = world.backend(&world.n1, "a");
    let client = world.pod(&world.n2, "client");
    let full = with_slices(&service("web", 10), "web", &[Endpoint::of(&a)]);
    let [_one, two] = everywhere(&world, &full);
    for _ in 0..2 {
        for family in FAMILIES {
            for protocol in PROTOCOLS {
                let answer = protocol.probe(&client, (vip(family, 10), PORT)).unwrap();
                assert_eq!((&*answer.server, answer.peer), ("a", client.ip(family)));
            }
        }
        two.apply("web", &documents(&[&service("web", 10)]));
        for family in FAMILIES {
            assert_refused(&client, (vip(family, 10), PORT));
        }
        two.apply("web", &full);
    }
}
