//! NodePorts on the node's loopback addresses, by copying bytes.
//!
//! Packets from 127.0.0.1 or ::1 cannot leave the node with a rewritten destination, unless
//! `route_localnet` opens the node's loopback to its neighbours (CVE-2020-8558). KEP-6032 therefore
//! relays TCP in user space, and so do we. UDP and SCTP have no such way.

mod choice;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use netlink::Family;
use rustix::net::sockopt::{set_socket_keepalive, set_socket_linger};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use self::choice::Choice;
use super::connection::accept;
use super::listeners::{RETRY, keep_open};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Endpoints that one connection tries.
const ATTEMPTS: usize = 3;
/// Connections of one port and family at one time; more wait in the backlog.
const CONNECTIONS: usize = 1024;

/// Where the connections to one NodePort go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RelayTarget {
    /// Endpoints for connections to 127.0.0.1; none: such connections are refused.
    pub v4: Vec<SocketAddr>,
    /// Endpoints for connections to ::1.
    pub v6: Vec<SocketAddr>,
    /// Session affinity: how long after a connection the next one goes to the same endpoint.
    pub affinity: Option<Duration>,
}

impl RelayTarget {
    fn endpoints(&self, family: Family) -> &[SocketAddr] {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }
}

type Ports = BTreeMap<u16, RelayTarget>;

/// The relayed NodePorts. Clones are handles to the same ports.
#[derive(Clone)]
pub struct NodePortRelay {
    ports: Arc<watch::Sender<Ports>>,
}

impl Default for NodePortRelay {
    fn default() -> NodePortRelay {
        NodePortRelay::new()
    }
}

impl NodePortRelay {
    /// No ports yet.
    pub fn new() -> NodePortRelay {
        NodePortRelay { ports: Arc::new(watch::Sender::new(Ports::new())) }
    }

    /// Replaces all ports. New connections see it at once; those that exist go on, as translated
    /// ones do.
    pub fn update(&self, ports: BTreeMap<u16, RelayTarget>) {
        self.ports.send_replace(ports);
    }

    /// Listens until dropped. A port that cannot be bound is a warning, and is tried again at every
    /// update and every 5 s.
    pub async fn run(self) {
        let ports = self.ports.subscribe();
        let serve = |address, socket| relay(socket, address, ports.clone(), CONNECTIONS);
        keep_open(self.ports.subscribe(), RETRY, sockets, serve).await;
    }
}

fn sockets(ports: &Ports) -> BTreeMap<SocketAddr, String> {
    let loopback =
        [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)].map(|address| {
            let family = Family::of(address);
            ports
                .iter()
                .filter(move |(_, target)| !target.endpoints(family).is_empty())
                .map(move |(&port, _)| (SocketAddr::new(address, port), format!("NodePort {port}")))
        });
    loopback.into_iter().flatten().collect()
}

/// Accepts connections to one address.
async fn relay(
    socket: TcpListener,
    address: SocketAddr,
    ports: watch::Receiver<Ports>,
    connections: usize,
) {
    let slots = Arc::new(Semaphore::new(connections));
    let choice = Arc::new(Choice::default());
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        let (client, _) = accept(&socket).await;
        let (ports, choice) = (ports.clone(), Arc::clone(&choice));
        // Not tied to the listener: an established connection outlives its NodePort.
        tokio::spawn(async move {
            if let Some(endpoint) = connect(address, &ports, &choice).await {
                copy(client, endpoint).await;
            } else {
                reset(&client);
            }
            drop(slot);
        });
    }
}

/// A connection to an endpoint of this address' NodePort, if one of a few answers.
async fn connect(
    address: SocketAddr,
    ports: &watch::Receiver<Ports>,
    choice: &Choice,
) -> Option<TcpStream> {
    let family = Family::of(address.ip());
    let mut tried = Vec::new();
    while tried.len() < ATTEMPTS {
        let endpoint = {
            let ports = ports.borrow();
            let target = ports.get(&address.port())?;
            let now = Instant::now();
            choice.next(target.endpoints(family), target.affinity, &tried, now)?
        };
        let error = match timeout(CONNECT_TIMEOUT, TcpStream::connect(endpoint)).await {
            Ok(Ok(stream)) => return Some(stream),
            Ok(Err(error)) => error,
            Err(_) => io::ErrorKind::TimedOut.into(),
        };
        tracing::debug!("NodePort {}: endpoint {endpoint}: {error}", address.port());
        tried.push(endpoint);
    }
    None
}

/// Copies both directions until both have ended; each end is passed on by itself.
async fn copy(mut client: TcpStream, mut endpoint: TcpStream) {
    // These only save time and space, so their failures are of no interest. Without keep-alive a
    // node that vanished would hold the connection, and its slot, for ever.
    let _ = endpoint.set_nodelay(true);
    let _ = set_socket_keepalive(&endpoint, true);
    if copy_bidirectional(&mut client, &mut endpoint).await.is_err() {
        // What broke on one side must not look like a proper end on the other.
        reset(&client);
        reset(&endpoint);
    }
}

/// Makes the close that follows a reset.
fn reset(stream: &TcpStream) {
    let _ = set_socket_linger(stream, Some(Duration::ZERO));
}

#[cfg(test)]
mod tests;
