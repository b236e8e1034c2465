//! Session affinity by client address.

use std::time::Duration;

use testnet::{Family, Host, IN_FORCE, Pod, Proxyd, eventually};

use super::manifests::{service, slice};
use super::{BOTH, World, address, node_address, serve, vip};

struct Scene<'a> {
    world: &'a World,
    pods: &'a [Pod<'a>],
    family: Family,
    seconds: u32,
}

impl Scene<'_> {
    /// A Service with these of the pods, which are on both nodes in turn.
    fn text(&self, endpoints: &[usize]) -> String {
        let slice = endpoints.iter().fold(slice("web", 8080), |slice, at| {
            slice.ready(address(&self.pods[*at], self.family), ["n1", "n2"][at % 2])
        });
        let ip = vip(self.family, 96, 10);
        let web = service("web", ip).node_port(80, 30080).affinity(self.seconds);
        self.world.objects() + &web.text() + &slice.text()
    }

    fn cluster_ip(&self) -> (std::net::IpAddr, u16) {
        (vip(self.family, 96, 10), 80)
    }
}

/// The only server that so many connections reach.
fn sticks(from: &impl Host, to: (std::net::IpAddr, u16)) -> String {
    let first = from.tcp(to).unwrap().server;
    for _ in 0..15 {
        assert_eq!(from.tcp(to).unwrap().server, first);
    }
    first
}

fn pods(world: &World) -> (Vec<Pod<'_>>, Vec<impl Drop + use<>>) {
    let pods: Vec<_> =
        ["a", "b", "c", "d"].iter().enumerate().map(|(n, name)| world.pod(n % 2, name)).collect();
    let servers = pods.iter().flat_map(|pod| [pod.serve_tcp(8080)]).collect();
    (pods, servers)
}

#[test]
fn a_client_keeps_its_endpoint_by_all_addresses_until_it_goes() {
    let world = World::new();
    let (pods, _servers) = pods(&world);
    let clients: Vec<_> = (0..4).map(|n| world.pod(0, &format!("client{n}"))).collect();
    for family in BOTH {
        let scene = Scene { world: &world, pods: &pods, family, seconds: 60 };
        let mut proxyd = Proxyd::start(world.node(), &[]);
        proxyd.apply("web.yaml", &scene.text(&[0, 1, 2, 3]));
        let mut reached: Vec<String> = Vec::new();
        for client in &clients {
            let server = sticks(client, scene.cluster_ip());
            let node_port = (node_address(world.node(), family), 30080);
            assert_eq!(client.tcp(node_port).unwrap().server, server, "by the node port too");
            reached.push(server);
        }
        // Restarts change nothing, however they come.
        proxyd.terminate();
        proxyd.restart();
        proxyd.kill();
        proxyd.restart();
        for (client, server) in clients.iter().zip(&reached) {
            assert_eq!(client.tcp(scene.cluster_ip()).unwrap().server, *server);
        }
        // The first client's endpoint leaves: it gets another one and stays there, also when the old
        // one comes back. Whoever had another keeps it.
        let gone = ["a", "b", "c", "d"].iter().position(|name| *name == reached[0]).unwrap();
        let left: Vec<usize> = (0..4).filter(|at| *at != gone).collect();
        proxyd.apply("web.yaml", &scene.text(&left));
        let second = sticks(&clients[0], scene.cluster_ip());
        assert_ne!(second, reached[0]);
        for (client, server) in clients.iter().zip(&reached).filter(|(_, s)| **s != reached[0]) {
            assert_eq!(client.tcp(scene.cluster_ip()).unwrap().server, *server);
        }
        proxyd.apply("web.yaml", &scene.text(&[0, 1, 2, 3]));
        assert_eq!(sticks(&clients[0], scene.cluster_ip()), second);
        drop(proxyd);
        world.node().namespace().command("nft", &["delete", "table", "ip", "viaduct"]);
        world.node().namespace().command("nft", &["delete", "table", "ip6", "viaduct"]);
    }
}

#[test]
fn affinity_ends_after_its_timeout_and_every_connection_renews_it() {
    let world = World::new();
    let (pods, _servers) = pods(&world);
    let client = world.pod(0, "client");
    for family in BOTH {
        let scene = Scene { world: &world, pods: &pods, family, seconds: 2 };
        let proxyd = Proxyd::start(world.node(), &[]);
        proxyd.apply("web.yaml", &scene.text(&[0, 1, 2, 3]));
        let first = client.tcp(scene.cluster_ip()).unwrap().server;
        for _ in 0..5 {
            // Longer than the timeout in all, shorter each time: there is nothing to wait for but time.
            std::thread::sleep(Duration::from_millis(700));
            assert_eq!(client.tcp(scene.cluster_ip()).unwrap().server, first);
        }
        // One in four choices is the same endpoint again.
        eventually("another endpoint after a pause", 8 * IN_FORCE, || {
            std::thread::sleep(Duration::from_millis(2500));
            client.tcp(scene.cluster_ip()).unwrap().server != first
        });
    }
}

#[test]
fn without_affinity_the_endpoint_changes() {
    let world = World::new();
    let pod = world.pod(0, "a");
    let other = world.pod(1, "b");
    let _servers = (serve(&pod, 8080), serve(&other, 8080));
    let client = world.pod(0, "client");
    let proxyd = Proxyd::start(world.node(), &[]);
    let to = (vip(Family::V4, 96, 10), 80);
    let endpoints = slice("web", 8080).ready(pod.v4(), "n1").ready(other.v4(), "n2").text();
    for (affinity, changes) in [(true, false), (false, true), (true, false)] {
        let web = service("web", to.0).port(80);
        let web = if affinity { web.affinity(30) } else { web };
        proxyd.apply("web.yaml", &(world.objects() + &web.text() + &endpoints));
        let first = client.tcp(to).unwrap().server;
        let other = (0..30).any(|_| client.tcp(to).unwrap().server != first);
        assert_eq!(other, changes, "affinity {affinity}");
    }
}
