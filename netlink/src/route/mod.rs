//! rtnetlink: links, addresses, routes, neighbours and queueing disciplines.
//!
//! [`RouteSocket`] has one method per kernel operation; the files here are its parts.

mod address;
mod link;
mod link_info;
mod monitor;
mod neighbour;
mod port_vlan;
mod qdisc;
#[allow(
    clippy::module_inception,
    reason = "the routes of rtnetlink's routes, links and neighbours"
)]
mod route;
#[cfg(test)]
mod wire_tests;

pub use address::{Address, AddressOptions};
pub use link::{Bridge, Link, Veth, VethPeer, Vxlan};
pub use link_info::{BridgePort, OperState, PortFlags, VxlanState};
pub use monitor::RouteMonitor;
pub use neighbour::Neighbour;
pub use qdisc::{Qdisc, TokenBucket};
pub use route::{Route, RouteFilter, Scope};

use crate::error::Result;
use crate::message::Writer;
use crate::socket::Socket;

/// The kernel's number of a network device, unique within its namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IfIndex(pub u32);

impl std::fmt::Display for IfIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A connection to rtnetlink in the network namespace where it was opened, wherever its thread goes.
pub struct RouteSocket {
    socket: Socket,
}

impl RouteSocket {
    /// Opens the connection in the calling thread's network namespace.
    pub fn open() -> Result<RouteSocket> {
        Ok(RouteSocket { socket: Socket::open(libc::NETLINK_ROUTE)? })
    }

    fn execute(&mut self, request: Writer, operation: impl FnOnce() -> String) -> Result<()> {
        self.socket.execute(request).map_err(|error| error.during(operation()))
    }

    /// Sends all that was collected in `batch`, in pieces, and waits for all acknowledgements.
    ///
    /// The messages are independent of each other: the first error is returned when all have been
    /// tried.
    pub fn execute_batch(&mut self, batch: RouteBatch) -> Result<()> {
        let mut outcome = Ok(());
        for (piece, operation) in batch.pieces {
            let tried = self.socket.execute(piece).map_err(|error| error.during(operation));
            outcome = outcome.and(tried);
        }
        outcome
    }
}

/// Many small changes that are sent with few system calls.
#[derive(Default)]
pub struct RouteBatch {
    pieces: Vec<(Writer, String)>,
}

impl RouteBatch {
    /// Bytes per system call: well below the default send buffer.
    const PIECE: usize = 64 * 1024;

    fn piece(&mut self, operation: impl FnOnce() -> String) -> &mut Writer {
        let full = self.pieces.last().is_none_or(|(writer, _)| writer.len() >= Self::PIECE);
        if full {
            self.pieces.push((Writer::default(), format!("{} and what follows", operation())));
        }
        let last = self.pieces.len() - 1;
        &mut self.pieces[last].0
    }

    /// Whether nothing was collected.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }
}
