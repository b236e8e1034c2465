//! What judging costs: a packet of which every one is judged, and a connection.

use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Instant;

use anyhow::Result;
use serde_json::{Value, json};
use testnet::{Host, Namespace, Pod, Proxyd};

use super::kube_router;
use super::node::{World, v4};
use super::objects::{self, lines, object};
use crate::report::{Report, quantile};

const PORT: u16 = 8080;
/// Packets of one measurement.
const BURST: usize = 20_000;
/// Measurements of each contestant in a round.
const BURSTS: usize = 5;
/// The same, of packets that are judged: the bar is of these.
const JUDGED_BURSTS: usize = 20;
const CONNECTIONS: usize = 300;

/// A client and a server on the node.
struct Pair<'a> {
    who: &'static str,
    client: &'a Namespace,
    server: SocketAddr,
}

impl Pair<'_> {
    /// Nanoseconds per datagram of a flow that nobody answers.
    fn datagrams(&self) -> Result<f64> {
        let to = self.server;
        let took = self.client.run(move || -> std::io::Result<_> {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.connect(to)?;
            let started = Instant::now();
            for _ in 0..BURST {
                socket.send(&[0; 18])?;
            }
            Ok(started.elapsed())
        })?;
        Ok(took.as_nanos() as f64 / BURST as f64)
    }

    /// Microseconds to connect.
    fn connects(&self) -> Result<Vec<f64>> {
        let to = self.server;
        Ok(self.client.run(move || -> std::io::Result<Vec<f64>> {
            (0..CONNECTIONS)
                .map(|_| {
                    let started = Instant::now();
                    let stream = TcpStream::connect(to)?;
                    let took = started.elapsed().as_secs_f64() * 1e6;
                    socket2::SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO))?;
                    Ok(took)
                })
                .collect()
        })?)
    }
}

/// How many pods are on the node, and how many elsewhere that they are reached by.
struct Size {
    who: &'static str,
    local: usize,
    peers: usize,
    /// Lines of `network.yaml`.
    settings: &'static str,
}

const fn size(who: &'static str, local: usize, peers: usize) -> Size {
    Size { who, local, peers, settings: "" }
}

const SIZES: [Size; 5] = [
    // Without any table, which the others have.
    Size {
        settings: "sourceAddressCheck: false\ndenyUnknownPods: false\n",
        ..size("no policies", 0, 0)
    },
    size("policies, 500 pods", 110, 390),
    size("policies, 5,000 pods", 250, 4750),
    size("policies, 100,000 peers", 250, 100_000),
    size("source addresses alone", 0, 0),
];

/// A world in which a client may reach a server, as the last of many.
fn fill(world: &World, size: &Size) {
    if size.local == 0 {
        return;
    }
    let name = world.node.name();
    let pods = (0..size.local).map(|number| objects::pod(number, name, "local"));
    let peers =
        (0..size.peers).map(|number| objects::pod(size.local + number, "elsewhere", "peer"));
    world.write("pods", &(lines(pods) + &lines(peers)));
    let namespaces = (0..objects::NAMESPACES).map(|n| objects::namespace(n, &objects::team(n)));
    world.write("namespaces", &lines(namespaces));
    world.write("policies", &lines((0..objects::NAMESPACES).map(objects::peers_policy)));
    // Of all these pods' peers, and of the client.
    let any = json!([{"namespaceSelector": {}, "podSelector": {"matchLabels": {"role": "peer"}}}]);
    world.put(
        "own",
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": "own", "namespace": "default"},
            "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"],
                "ingress": [{"from": any, "ports": [{"port": PORT}, {"port": PORT, "protocol": "UDP"}]}],
                "egress": [{"to": any, "ports": [{"port": PORT}, {"port": PORT, "protocol": "UDP"}]}]}}),
    );
}

/// The pods that packets go between, client first, on a daemon's node.
fn attach(world: &World) -> Result<[Pod<'_>; 2]> {
    let default = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}});
    world.put("default", default);
    let [client, server] = ["client", "server"].map(|name| -> Result<Pod<'_>> {
        let tell = |address| {
            let label = |labels: &mut Value| labels["role"] = json!("peer");
            world.put(name, object("default", name, world.node.name(), address, label));
        };
        tell(None);
        let pod = world.pod(name)?;
        tell(Some(v4(&pod)?));
        Ok(pod)
    });
    Ok([client?, server?])
}

/// The server listens as long as this process lives.
fn pair<'a>(
    who: &'static str,
    client: &'a Namespace,
    server: &Namespace,
    at: SocketAddr,
) -> std::io::Result<Pair<'a>> {
    let (udp, tcp) = server.run(move || -> std::io::Result<_> {
        Ok((UdpSocket::bind(at)?, std::net::TcpListener::bind(at)?))
    })?;
    server.spawn(move || {
        let _unread = udp;
        for stream in tcp.incoming() {
            drop(stream);
        }
    });
    Ok(Pair { who, client, server: at })
}

/// Every size, and the peer's shape, in turn.
pub(super) fn measure(report: &mut Report, rounds: usize) -> Result<()> {
    let worlds: Vec<World> = SIZES.iter().map(|_| World::new()).collect();
    let mut daemons: Vec<Proxyd<'_>> = Vec::new();
    let mut pods = Vec::new();
    for (world, size) in worlds.iter().zip(&SIZES) {
        fill(world, size);
        daemons.push(world.daemon_with(size.settings)?);
        pods.push(attach(world)?);
        report.figure("elements in the kernel", size.who, &[world.elements() as f64], "");
    }
    let mut pairs = Vec::new();
    for ([client, server], size) in pods.iter().zip(&SIZES) {
        let at = (v4(server)?, PORT).into();
        pairs.push(pair(size.who, client.namespace(), server.namespace(), at)?);
    }
    let peers: Vec<kube_router::Node> =
        [110, 500].into_iter().map(kube_router::Node::new).collect::<Result<_>>()?;
    for peer in &peers {
        pairs.push(pair(peer.who, &peer.client, &peer.server, (peer.address, PORT).into())?);
    }
    for pair in &pairs {
        // Until its policy is in force.
        testnet::eventually(pair.who, std::time::Duration::from_secs(20), || {
            pair.connects().is_ok()
        });
    }
    let mut unanswered = vec![Vec::new(); pairs.len()];
    let mut connects = vec![Vec::new(); pairs.len()];
    for _ in 0..rounds * BURSTS {
        for (at, pair) in pairs.iter().enumerate() {
            unanswered[at].push(pair.datagrams()?);
            connects[at].extend(pair.connects()?);
        }
    }
    judge_every_packet(&worlds, daemons)?;
    let mut judged = vec![Vec::new(); pairs.len()];
    for _ in 0..rounds * JUDGED_BURSTS {
        for (at, pair) in pairs.iter().enumerate() {
            judged[at].push(pair.datagrams()?);
        }
    }
    for (at, pair) in pairs.iter().enumerate() {
        report.figure("a packet that is judged", pair.who, &judged[at], "ns");
        report.figure("a packet of a flow without an answer", pair.who, &unanswered[at], "ns");
        report.figure("connect, median", pair.who, &connects[at], "µs");
        report.figure("connect, p99", pair.who, &[quantile(&connects[at], 0.99)], "µs");
    }
    // Of two measurements one after the other, as the machine is now and then slower for a while.
    let ratios = |to: usize| -> Vec<f64> {
        judged[3].iter().zip(&judged[to]).map(|(with, without)| with / without).collect()
    };
    let what = "a judged packet, 250 pods and 100,000 peers, of no policies";
    report.bar(what, quantile(&ratios(0), 0.5), 1.1, "x");
    let what = "the same, of source addresses alone";
    report.figure(what, SIZES[3].who, &ratios(4), "x");
    Ok(())
}

/// Only the first packet of a flow is judged. For all of them to be, those that are allowed get a mark that is of no
/// generation, which costs the same; daemons would put that right, so they end before.
fn judge_every_packet(worlds: &[World], daemons: Vec<Proxyd<'_>>) -> Result<()> {
    for mut daemon in daemons {
        daemon.kill();
    }
    for (world, size) in worlds.iter().zip(&SIZES).filter(|(_, size)| size.settings.is_empty()) {
        let inside = world.node.namespace();
        for change in [
            "flush chain inet viaduct-policy allowed",
            "add rule inet viaduct-policy allowed ct mark set ct mark & 0x0000ffff accept",
        ] {
            let done = inside.try_command("nft", &change.split(' ').collect::<Vec<_>>());
            done.map_err(|said| anyhow::anyhow!("{}: {said}", size.who))?;
        }
    }
    Ok(())
}
