//! The last packet of a connection that is not allowed any more.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use testnet::Host;

use super::changes::Commits;
use super::node::{World, v4};
use super::objects::object;
use crate::report::Report;

const PORT: u16 = 8080;
/// Between two packets of a connection.
const EVERY: Duration = Duration::from_millis(1);
/// How long packets are looked for after the policy is in force.
const AFTER: Duration = Duration::from_millis(500);

fn policy(role: &str) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"podSelector": {"matchLabels": {"role": "server"}},
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"role": role}}}]}]}})
}

/// TCP and one-way UDP, cut so often.
pub(super) fn measure(report: &mut Report, rounds: usize) -> Result<()> {
    let world = World::new();
    world.put(
        "default",
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}}),
    );
    world.put("policy", policy("client"));
    let daemon = world.daemon()?;
    let pods = ["client", "server"].map(|name| -> Result<_> {
        let tell = |address| {
            let label = |labels: &mut Value| labels["role"] = json!(name);
            world.put(name, object("default", name, world.node.name(), address, label));
        };
        tell(None);
        let pod = world.pod(name)?;
        tell(Some(v4(&pod)?));
        Ok(pod)
    });
    let [client, server] = pods;
    let (client, server) = (client?, server?);
    let at = SocketAddr::from((v4(&server)?, PORT));
    let commits = Commits::watch(world.node.namespace());
    let (mut tcp, mut udp) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        for (stream, late) in [(true, &mut tcp), (false, &mut udp)] {
            world.put("policy", policy("client"));
            commits.settle();
            late.push(cut(&world, &client, &server, at, stream, &commits)?);
        }
    }
    report.add("TCP: last packet after the commit", "viaduct", tcp.clone());
    report.add("one-way UDP: last packet after the commit", "viaduct", udp.clone());
    let worst = tcp.iter().chain(&udp).copied().fold(0.0, f64::max);
    report.bar("a revoked connection's last packet after the commit", worst, 100.0, "ms");
    drop(daemon);
    Ok(())
}

/// Milliseconds from the commit to the last packet; 0 if there was none after it.
fn cut(
    world: &World,
    client: &impl Host,
    server: &impl Host,
    at: SocketAddr,
    stream: bool,
    commits: &Commits,
) -> Result<f64> {
    let (sender, arrived) = channel();
    let until = Instant::now() + Duration::from_secs(5);
    let receiving = if stream {
        let listener = server.namespace().run(move || TcpListener::bind(at))?;
        server.namespace().spawn(move || -> std::io::Result<()> {
            let (mut stream, _) = listener.accept()?;
            stream.set_read_timeout(Some(AFTER))?;
            let mut bytes = [0; 64];
            while Instant::now() < until && stream.read(&mut bytes)? > 0 {
                let _ = sender.send(Instant::now());
            }
            Ok(())
        })
    } else {
        let socket = server.namespace().run(move || UdpSocket::bind(at))?;
        server.namespace().spawn(move || -> std::io::Result<()> {
            socket.set_read_timeout(Some(AFTER))?;
            let mut bytes = [0; 64];
            while Instant::now() < until && socket.recv(&mut bytes)? > 0 {
                let _ = sender.send(Instant::now());
            }
            Ok(())
        })
    };
    let sending = client.namespace().spawn(move || -> std::io::Result<()> {
        let mut tcp = if stream { Some(TcpStream::connect(at)?) } else { None };
        let udp = UdpSocket::bind("0.0.0.0:0")?;
        while Instant::now() < until {
            match &mut tcp {
                Some(tcp) => tcp.write_all(&[0])?,
                None => drop(udp.send_to(&[0], at)?),
            }
            std::thread::sleep(EVERY);
        }
        Ok(())
    });
    arrived.recv_timeout(Duration::from_secs(2)).context("nothing arrives")?;
    std::thread::sleep(Duration::from_millis(50));
    let changed = Instant::now();
    world.put("policy", policy("nobody"));
    let committed = commits.next(changed)?;
    // Whatever the receiver says in the end, it waited long enough.
    let _ = receiving.join();
    let last = arrived.try_iter().last().context("nothing arrived")?;
    drop(sending);
    Ok(last.saturating_duration_since(committed).as_secs_f64() * 1e3)
}
