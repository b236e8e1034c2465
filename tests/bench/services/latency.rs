//! How long connecting takes through a VIP, and directly.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use socket2::{Domain, SockAddr, Socket, Type};
use testnet::{Mode, Namespace};

use super::daemon::Daemon;
use super::objects::{self, Size, put};
use crate::report::{Report, quantile};

const SERVER: &str = "10.128.0.2";
/// Measured connections of each kind, and those before that are not counted.
const CONNECTIONS: usize = 10_000;
const WARM_UP: usize = 1000;
/// Connections of one kind in a row.
const BLOCK: usize = 50;

/// A client, a node that forwards and has the Services, and a server.
struct World {
    client: Namespace,
    _server: Namespace,
    _node: Namespace,
    _daemon: Daemon,
    _folder: tempfile::TempDir,
    vips: Vec<SocketAddr>,
}

impl World {
    /// With so many Services, of which these can be connected to, by number.
    fn new(services: u32, served: &[u32], mode: Mode) -> Result<World> {
        let [client, node, server] = ["client", "node", "server"].map(Namespace::new);
        for (end, name, network) in
            [(&client, "client", "10.129.0"), (&server, "server", "10.128.0")]
        {
            let path = end.path().display().to_string();
            node.ip(&format!("link add {name} type veth peer name eth0 netns {path}"));
            node.ip(&format!("addr add {network}.1/24 dev {name}"));
            node.ip(&format!("link set {name} up"));
            end.ip(&format!("addr add {network}.2/24 dev eth0"));
            end.ip("link set eth0 up");
            end.ip(&format!("route add default via {network}.1"));
        }
        let size = Size { services, endpoints: 1 };
        let folder = tempfile::tempdir()?;
        objects::write_files(size, folder.path())?;
        let server_ip: Ipv4Addr = SERVER.parse()?;
        for service in served {
            let own = objects::documents(size, *service, Some(server_ip));
            put(folder.path(), &objects::file_of(*service), &own)?;
        }
        let daemon = Daemon::start_in_mode(&node, folder.path(), mode)?;
        let listener = server.run(move || listen(server_ip))?;
        server.spawn(move || {
            // Ends with the process: a benchmark runs once.
            for stream in listener.incoming() {
                drop(stream);
            }
        });
        let vips = served.iter().map(|service| (size.vip(*service), 80).into()).collect();
        Ok(World { client, _server: server, _node: node, _daemon: daemon, _folder: folder, vips })
    }

    /// Milliseconds of each of some connections.
    fn connect(&self, to: SocketAddr, count: usize) -> Result<Vec<f64>> {
        Ok(self
            .client
            .run(move || (0..count).map(|_| connect(to)).collect::<std::io::Result<_>>())?)
    }
}

fn listen(ip: Ipv4Addr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SockAddr::from(SocketAddr::from((ip, 8080))))?;
    socket.listen(1024)?;
    Ok(socket.into())
}

/// One connection, closed by a reset so that no port stays in use.
fn connect(to: SocketAddr) -> std::io::Result<f64> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_linger(Some(Duration::ZERO))?;
    let started = Instant::now();
    socket.connect(&to.into())?;
    Ok(started.elapsed().as_secs_f64() * 1e3)
}

/// Direct and through a VIP, at 10 and at 10,000 Services, in turn.
pub(super) fn measure(report: &mut Report) -> Result<()> {
    let world = |services| World::new(services, &[services - 1], Mode::Nftables);
    let worlds = [(10, world(10)?), (10_000, world(10_000)?)];
    let direct = SocketAddr::from((IpAddr::V4(SERVER.parse()?), 8080));
    let mut figures = vec![(Vec::new(), Vec::new()); worlds.len()];
    let blocks = (WARM_UP + CONNECTIONS) / BLOCK;
    for block in 0..blocks {
        for ((_, world), (plain, through)) in worlds.iter().zip(&mut figures) {
            let (a, b) = (world.connect(direct, BLOCK)?, world.connect(world.vips[0], BLOCK)?);
            if block >= WARM_UP / BLOCK {
                plain.extend(a);
                through.extend(b);
            }
        }
    }
    let mut medians = Vec::new();
    for ((services, _), (plain, through)) in worlds.iter().zip(figures) {
        let case = format!("connect, {services} Services");
        for (who, values) in [("directly", &plain), ("through a VIP", &through)] {
            for (name, share) in [("p01", 0.01), ("p50", 0.5), ("p90", 0.9), ("p99", 0.99)] {
                let value = quantile(values, share) * 1e3;
                report.figure(&format!("{case}, {name}"), who, &[value], "µs");
            }
        }
        let (direct, vip) = (quantile(&plain, 0.5), quantile(&through, 0.5));
        ensure!(direct > 0.0);
        let what = format!("connect through a VIP, of directly, {services} Services, median");
        report.bar(&what, vip / direct, 1.15, "x");
        medians.push(vip);
    }
    let apart = (medians[1] / medians[0] - 1.0).abs() * 100.0;
    report.bar("connect through a VIP: 10,000 Services from 10, median", apart, 5.0, "% apart");
    Ok(())
}

/// In iptables mode: the Service that is found first, the last of 5,000, and the one that is found last, in turn.
pub(super) fn in_iptables_mode(report: &mut Report, variant: &'static str) -> Result<()> {
    const SERVICES: u32 = 5000;
    // Rules are found by the lowest four bits of the address first: all ones come last.
    let served = [0, SERVICES - 1, 0xfff];
    let world = World::new(SERVICES, &served, Mode::Iptables(variant))?;
    let mut took = vec![Vec::new(); served.len()];
    for block in 0..(WARM_UP + CONNECTIONS) / BLOCK {
        for (vip, took) in world.vips.iter().zip(&mut took) {
            let some = world.connect(*vip, BLOCK)?;
            if block >= WARM_UP / BLOCK {
                took.extend(some);
            }
        }
    }
    let medians: Vec<f64> = took.iter().map(|took| quantile(took, 0.5)).collect();
    for (service, median) in served.iter().zip(&medians) {
        let case = format!("{variant}: connect, Service {service} of {SERVICES}, p50");
        report.figure(&case, "through a VIP", &[median * 1e3], "µs");
    }
    let slowest = medians[1].max(medians[2]);
    let what = format!("{variant}: connect, the slowest of them, of the first, median");
    report.bar(&what, slowest / medians[0], 1.15, "x");
    Ok(())
}
