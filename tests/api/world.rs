//! [`World`]: nodes that reach an API server, and the daemon on them with its own account's credentials.

use std::fmt::Display;
use std::net::IpAddr;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use testnet::manifest::{Endpoint, EndpointSlice, NodeObject, Service, documents};
use testnet::traffic::Server as Traffic;
use testnet::{Family, Host, Lan, Network, Node, Pod, Proxyd, eventually, skip};

use super::SOON;
use super::programs::Programs;
use super::server::{self, Server, repository};

/// The port of every service.
pub(crate) const PORT: u16 = 80;
/// The port that backends serve.
pub(crate) const TARGET: u16 = 8080;
/// The daemon's account.
const ACCOUNT: (&str, &str) = ("kube-system", "viaduct");

/// One for all tests: it takes seconds to start.
static SHARED: OnceLock<Result<Server, String>> = OnceLock::new();
/// Whose objects are on the server now. Every daemon sees all that is there.
static TURN: Mutex<()> = Mutex::new(());
static NEXT: AtomicU8 = AtomicU8::new(1);

/// Has the server to itself as long as it lives.
pub(crate) struct World {
    pub(crate) server: &'static Server,
    _lan: Lan,
    pub(crate) n1: Node,
    pub(crate) n2: Node,
    /// The server's ends of the nodes' links.
    links: [String; 2],
    _turn: MutexGuard<'static, ()>,
}

/// A pod that serves TCP.
pub(crate) struct Backend<'a> {
    pod: Pod<'a>,
    _server: Traffic,
}

impl<'a> Deref for Backend<'a> {
    type Target = Pod<'a>;
    fn deref(&self) -> &Pod<'a> {
        &self.pod
    }
}

impl<'a> Backend<'a> {
    pub(crate) fn of(pod: Pod<'a>) -> Backend<'a> {
        let _server = pod.serve_tcp(TARGET);
        Backend { pod, _server }
    }
}

fn shared() -> Option<&'static Server> {
    let server = SHARED.get_or_init(|| {
        let server = Server::start(Programs::find()?);
        let base = repository("deploy/base").display().to_string();
        server.kubectl(&["apply", "-k", &base]);
        Ok(server)
    });
    match server {
        Ok(server) => Some(server),
        Err(reason) => {
            skip(&format!("it needs an API server: {reason}"));
            None
        }
    }
}

impl World {
    /// Two nodes without Node objects; nothing if there is no API server here, which is said.
    pub(crate) fn new() -> Option<World> {
        // A test that failed has cleaned up too.
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let server = shared()?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let lan = Lan::new();
        let [n1, n2] = [1, 2].map(|node| lan.node(&format!("w{number}-n{node}")));
        let links = [(&n1, 0), (&n2, 1)].map(|(node, half)| server.attach(node, 2 * number + half));
        Some(World { server, _lan: lan, n1, n2, links, _turn: turn })
    }

    /// The same with Node objects for both.
    pub(crate) fn with_nodes() -> Option<World> {
        let world = World::new()?;
        world.apply(&[&NodeObject::of(&world.n1), &NodeObject::of(&world.n2)]);
        Some(world)
    }

    /// Whether packets between the nodes and the server are lost, all of them.
    pub(crate) fn lose_packets(&self, lost: bool) {
        let server = self.server.namespace();
        if !lost {
            server.command("nft", &["delete", "table", "ip", "hole"]);
            return;
        }
        let links = format!("{{ \"{}\", \"{}\" }}", self.links[0], self.links[1]);
        let table = format!(
            "table ip hole {{\n\
             chain in {{ type filter hook input priority 0; iifname {links} drop; }}\n\
             chain out {{ type filter hook output priority 0; oifname {links} drop; }}\n\
             }}"
        );
        self.server.write("hole.nft", &table);
        server.command("nft", &["-f", &self.server.path("hole.nft")]);
    }

    /// A kubeconfig with the daemon's own account, at a port of the server's address.
    pub(crate) fn kubeconfig_at(&self, node: &Node, port: u16) -> PathBuf {
        let token = self.server.token(ACCOUNT.0, ACCOUNT.1);
        self.kubeconfig_with(node, port, &format!("token: {token}"))
    }

    /// A kubeconfig with these credentials.
    pub(crate) fn kubeconfig_with(&self, node: &Node, port: u16, credentials: &str) -> PathBuf {
        let path = node.folder().join("kubeconfig");
        std::fs::write(&path, self.server.kubeconfig(port, credentials)).expect("a kubeconfig");
        path
    }

    /// The daemon on the first node, ready.
    #[track_caller]
    pub(crate) fn start(&self) -> Proxyd<'_> {
        self.start_at(server::PORT)
    }

    /// The same with something in front of the server.
    #[track_caller]
    pub(crate) fn start_at(&self, port: u16) -> Proxyd<'_> {
        let daemon = self.spawn_at(port);
        await_ready(&daemon);
        daemon
    }

    /// The same, and nothing is waited for.
    pub(crate) fn spawn_at(&self, port: u16) -> Proxyd<'_> {
        let kubeconfig = self.kubeconfig_at(&self.n1, port);
        Proxyd::spawn(&self.n1, &["--kubeconfig", &kubeconfig.display().to_string()])
    }

    pub(crate) fn apply(&self, objects: &[&dyn Display]) {
        self.server.apply(&documents(objects));
    }

    pub(crate) fn delete(&self, objects: &[&dyn Display]) {
        self.server.delete(&documents(objects));
    }

    /// A pod with addresses of both families.
    #[track_caller]
    pub(crate) fn pod<'a>(&'a self, node: &'a Node, name: &str) -> Pod<'a> {
        let network = Network::bridge("net")
            .subnet(&node.pod_cidr())
            .subnet(&node.pod_cidr_v6())
            .host_gw(node, &[self.n1.record(), self.n2.record()]);
        node.pod(&network, name)
    }

    #[track_caller]
    pub(crate) fn backend<'a>(&'a self, node: &'a Node, name: &str) -> Backend<'a> {
        Backend::of(self.pod(node, name))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.server.namespace().try_command("nft", &["delete", "table", "ip", "hole"]);
        // The server's own Service stays.
        let others = "--field-selector=metadata.name!=kubernetes";
        for kinds in ["services,endpointslices", "nodes"] {
            let mut arguments = vec!["delete", kinds, "--wait=false", others];
            if kinds != "nodes" {
                arguments.push("--all-namespaces");
            }
            let _ = self.server.try_kubectl(&arguments);
        }
    }
}

/// Waits until everything that the server has is in force.
#[track_caller]
pub(crate) fn await_ready(daemon: &Proxyd<'_>) {
    eventually("the daemon is ready", SOON, || match daemon.http_get(10256, "/readyz") {
        Some(answer) if answer.status == 200 => Ok(()),
        Some(answer) => Err(answer.body),
        None => Err("nobody answers".to_owned()),
    });
}

/// A cluster IP by number.
pub(crate) fn vip(family: Family, number: u8) -> IpAddr {
    let text = match family {
        Family::V4 => format!("10.96.7.{number}"),
        Family::V6 => format!("fd00:96::7{number:02}"),
    };
    text.parse().expect("an address")
}

/// A service of both families on [`PORT`].
pub(crate) fn service(name: &str, number: u8) -> Service {
    let addresses = [vip(Family::V4, number), vip(Family::V6, number)];
    Service::new(name).cluster_ips(&addresses).port("tcp", "TCP", PORT.into())
}

/// Its slice of a family.
pub(crate) fn slice(name: &str, family: Family, endpoints: &[Endpoint]) -> EndpointSlice {
    EndpointSlice::new(name, family, endpoints).port("tcp", "TCP", TARGET.into())
}

/// Its slices of both families, in one text.
pub(crate) fn slices(name: &str, endpoints: &[Endpoint]) -> String {
    documents(&[&slice(name, Family::V4, endpoints), &slice(name, Family::V6, endpoints)])
}
