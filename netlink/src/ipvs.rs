//! IPVS: virtual servers and their destinations, over generic netlink.
//!
//! ```no_run
//! use netlink::ipvs::{Change, Destination, Ipvs, Service, ServiceKey};
//!
//! let mut ipvs = Ipvs::open()?;
//! let key = ServiceKey { protocol: 6, address: [10, 96, 0, 1].into(), port: 443 };
//! ipvs.apply(&[
//!     Change::NewService(Service { key, scheduler: "rr".into(), persistence: None }),
//!     Change::NewDestination(key, Destination::new("10.244.1.2:6443".parse().unwrap())),
//! ])?;
//! # Ok::<(), netlink::Error>(())
//! ```
//!
//! Destinations are reached by NAT, as Kubernetes needs it. Services that are known by a firewall mark are
//! not looked at.

#[cfg(test)]
mod tests;
mod wire;

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use crate::error::Result;
use crate::generic::GenericSocket;
use crate::message::{NLM_F_DUMP, Writer};
use crate::{Errno, Error, Family};

/// What a virtual server is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey {
    /// The number of the protocol: 6 is TCP, 17 UDP, 132 SCTP.
    pub protocol: u8,
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
}

impl ServiceKey {
    /// The family of its address.
    pub fn family(&self) -> Family {
        Family::of(self.address)
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = SocketAddr::new(self.address, self.port);
        match self.protocol {
            6 => write!(f, "{address}/TCP"),
            17 => write!(f, "{address}/UDP"),
            132 => write!(f, "{address}/SCTP"),
            other => write!(f, "{address}/{other}"),
        }
    }
}

/// Clients stay with their destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Persistence {
    /// For how long after the last connection, in seconds; at least one.
    pub timeout: u32,
    /// Clients whose addresses begin alike for so many bits count as one.
    pub prefix_length: u8,
}

/// A virtual server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// What it is known by.
    pub key: ServiceKey,
    /// How it chooses a destination: the kernel's module `ip_vs_<scheduler>`.
    pub scheduler: String,
    /// Session affinity.
    pub persistence: Option<Persistence>,
}

/// Where a virtual server sends connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Destination {
    /// Address and port.
    pub address: SocketAddr,
    /// Its share; with 0 it gets no new connections and keeps those it has.
    pub weight: u32,
    /// Connections at which it gets no more; 0 is no limit.
    pub upper_threshold: u32,
    /// Connections below which it gets new ones again; 0 is three quarters of the upper threshold.
    pub lower_threshold: u32,
}

impl Destination {
    /// One with weight 1 and no limit.
    pub fn new(address: SocketAddr) -> Destination {
        Destination { address, weight: 1, upper_threshold: 0, lower_threshold: 0 }
    }
}

/// What the kernel has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connections.
    pub connections: u64,
    /// Packets of clients.
    pub packets_in: u64,
    /// Packets to clients.
    pub packets_out: u64,
    /// Bytes of clients.
    pub bytes_in: u64,
    /// Bytes to clients.
    pub bytes_out: u64,
}

/// A virtual server as the kernel tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceState {
    /// The server.
    pub service: Service,
    /// What was counted.
    pub counters: Counters,
}

/// A destination as the kernel tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestinationState {
    /// The destination.
    pub destination: Destination,
    /// Whether it is reached by NAT; somebody else's may be reached by a tunnel or a route.
    pub is_nat: bool,
    /// Connections that are established.
    pub active: u32,
    /// Connections in any other state.
    pub inactive: u32,
    /// Clients that stay with it.
    pub persistent: u32,
    /// What was counted.
    pub counters: Counters,
}

/// After how many seconds without a packet a connection is forgotten. When they are set, 0 leaves one as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP.
    pub tcp: u32,
    /// TCP after a FIN.
    pub tcp_fin: u32,
    /// UDP.
    pub udp: u32,
}

/// One change, which is one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Makes a virtual server.
    NewService(Service),
    /// Changes its scheduler or persistence.
    SetService(Service),
    /// Removes it with its destinations; that it is not there is no error.
    DeleteService(ServiceKey),
    /// Makes a destination.
    NewDestination(ServiceKey, Destination),
    /// Changes its weight or limits.
    SetDestination(ServiceKey, Destination),
    /// Removes it: its connections end. That it is not there is no error.
    DeleteDestination(ServiceKey, SocketAddr),
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::NewService(service) => write!(f, "make virtual server {}", service.key),
            Change::SetService(service) => write!(f, "change virtual server {}", service.key),
            Change::DeleteService(key) => write!(f, "remove virtual server {key}"),
            Change::NewDestination(key, to) => write!(f, "send {key} to {}", to.address),
            Change::SetDestination(key, to) => {
                write!(f, "send {key} to {} with weight {}", to.address, to.weight)
            }
            Change::DeleteDestination(key, to) => write!(f, "stop sending {key} to {to}"),
        }
    }
}

/// Changes in one system call; the answers to all of them have to fit into the receive buffer.
const CHUNK: usize = 128;

/// A connection to IPVS.
pub struct Ipvs {
    socket: GenericSocket,
}

impl Ipvs {
    /// Opens the connection in the calling thread's network namespace.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP` if the kernel has no IPVS.
    pub fn open() -> Result<Ipvs> {
        let socket = GenericSocket::open("IPVS").map_err(|error| match error.errno {
            Errno::NOENT => Error {
                operation: "open IPVS".to_owned(),
                errno: Errno::OPNOTSUPP,
                detail: Some("the kernel has no IPVS; it is in module ip_vs".to_owned()),
            },
            _ => error,
        })?;
        Ok(Ipvs { socket })
    }

    /// All virtual servers.
    pub fn services(&mut self) -> Result<Vec<ServiceState>> {
        let mut request = Writer::default();
        self.socket.command(&mut request, wire::GET_SERVICE, NLM_F_DUMP, |_| ());
        let parse = |payload: &[u8]| {
            let (service, counters) = wire::parse_service(payload)?;
            Some(ServiceState { service, counters })
        };
        self.socket.dump(request, parse).map_err(|error| error.during("list virtual servers"))
    }

    /// The destinations of a virtual server; none if there is no such server.
    pub fn destinations(&mut self, service: &ServiceKey) -> Result<Vec<DestinationState>> {
        let mut request = Writer::default();
        self.socket.command(&mut request, wire::GET_DEST, NLM_F_DUMP, |m| {
            wire::service_key(m, service);
        });
        let family = service.family();
        self.socket
            .dump(request, |payload| wire::parse_destination(family, payload))
            .map_err(|error| error.during(format!("list the destinations of {service}")))
    }

    /// Makes these changes in their order. Each is tried; the first error is returned.
    pub fn apply(&mut self, changes: &[Change]) -> Result<()> {
        let mut failure = None;
        for chunk in changes.chunks(CHUNK) {
            let mut requests = Writer::default();
            for change in chunk {
                self.socket.command(&mut requests, wire::command(change), 0, |m| {
                    wire::body(m, change);
                });
            }
            for refused in self.socket.execute_each(requests)? {
                let Some(change) = chunk.get(refused.position) else { continue };
                let refusal = explain(change, refused.error);
                failure = failure.or(refusal);
            }
        }
        failure.map_or(Ok(()), Err)
    }

    /// The timeouts of connections.
    pub fn timeouts(&mut self) -> Result<Timeouts> {
        let mut request = Writer::default();
        self.socket.command(&mut request, wire::GET_CONFIG, 0, |_| ());
        let told = self.socket.get(request, wire::parse_timeouts);
        told.map_err(|error| error.during("read the timeouts of IPVS"))
    }

    /// Sets the timeouts of connections.
    pub fn set_timeouts(&mut self, timeouts: &Timeouts) -> Result<()> {
        let mut request = Writer::default();
        self.socket.command(&mut request, wire::SET_CONFIG, 0, |m| wire::timeouts(m, timeouts));
        let refused = self.socket.execute_each(request)?.into_iter().next();
        refused.map_or(Ok(()), |refused| {
            Err(refused.error.during(format!("set the timeouts of IPVS to {timeouts:?}")))
        })
    }
}

/// The error of a change, unless it is that what was to be removed is gone.
fn explain(change: &Change, error: Error) -> Option<Error> {
    let mut error = error.during(change.to_string());
    match change {
        Change::DeleteService(_) | Change::DeleteDestination(..) if error.not_found() => {
            return None;
        }
        Change::NewService(service) | Change::SetService(service)
            if error.errno == Errno::NOENT =>
        {
            let name = &service.scheduler;
            error.detail = Some(format!(
                "the kernel has no scheduler {name:?}; it would be in module ip_vs_{name}"
            ));
        }
        _ => {}
    }
    Some(error)
}
