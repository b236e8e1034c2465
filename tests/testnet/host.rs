//! [`Host`]: what nodes, pods and the outside world can all do.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use crate::namespace::Namespace;
use crate::ping::{self, Echo};
use crate::traffic::{self, Answer, Connection, Destination, Listen, Server, Tcp, Udp, UdpFlow};

/// How long a probe waits for an answer if nothing else is said.
pub(crate) const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// Data of an ordinary echo request, in bytes.
const PING_DATA: usize = 56;

/// Somebody in a network namespace.
///
/// A probe that is dropped on the way fails with `TimedOut`, one that is rejected with what the kernel
/// makes of the rejection (`ConnectionRefused`, `HostUnreachable`, …).
pub trait Host {
    /// The namespace.
    fn namespace(&self) -> &Namespace;

    /// Serves TCP on a port of all addresses, or on one (`"10.0.0.1:80"`).
    #[track_caller]
    fn serve_tcp(&self, listen: impl Into<Listen>) -> Server {
        Server::start(self.namespace(), Tcp, listen.into())
    }

    /// Serves UDP on a port of all addresses, or on one. Answers come from the address that was asked.
    #[track_caller]
    fn serve_udp(&self, listen: impl Into<Listen>) -> Server {
        Server::start(self.namespace(), Udp, listen.into())
    }

    /// Connects, sends a line, and returns what the server said of it.
    fn tcp(&self, to: impl Destination) -> io::Result<Answer> {
        self.tcp_within(to, PROBE_TIMEOUT)
    }

    /// The same with a limit for the connection attempt, and for the answer.
    fn tcp_within(&self, to: impl Destination, timeout: Duration) -> io::Result<Answer> {
        let to = to.address();
        self.namespace().run(move || traffic::ask_once(to, timeout))
    }

    /// The same from a certain port.
    fn tcp_from_port(&self, to: impl Destination, source_port: u16) -> io::Result<Answer> {
        let to = to.address();
        self.namespace().run(move || Connection::open(to, source_port, PROBE_TIMEOUT)?.ask("probe"))
    }

    /// Whether a TCP probe is answered.
    fn can_reach(&self, to: impl Destination) -> bool {
        self.tcp(to).is_ok()
    }

    /// Opens a TCP connection to a [`Server`], to be asked again and again.
    fn connect(&self, to: impl Destination) -> io::Result<Connection> {
        let to = to.address();
        self.namespace().run(move || Connection::open(to, 0, PROBE_TIMEOUT))
    }

    /// Sends a datagram, and returns what the server said of it.
    fn udp(&self, to: impl Destination) -> io::Result<Answer> {
        self.udp_within(to, PROBE_TIMEOUT)
    }

    /// The same with a limit for the answer.
    fn udp_within(&self, to: impl Destination, timeout: Duration) -> io::Result<Answer> {
        let to = to.address();
        self.namespace().run(move || UdpFlow::open(to, 0, timeout)?.ask("probe"))
    }

    /// A UDP socket that talks to one server; `source_port` 0 is any.
    fn udp_flow(&self, to: impl Destination, source_port: u16) -> io::Result<UdpFlow> {
        let to = to.address();
        self.namespace().run(move || UdpFlow::open(to, source_port, PROBE_TIMEOUT))
    }

    /// A UDP socket from any port, with a limit for each answer.
    fn udp_flow_within(&self, to: impl Destination, timeout: Duration) -> io::Result<UdpFlow> {
        let to = to.address();
        self.namespace().run(move || UdpFlow::open(to, 0, timeout))
    }

    /// Sends an ICMP echo request and waits for the reply.
    fn ping(&self, to: IpAddr) -> io::Result<Duration> {
        self.ping_size(to, ping::header_bytes(to) + PING_DATA, false)
    }

    /// The same with an IP packet of so many bytes, headers included; `whole` forbids to fragment it.
    fn ping_size(&self, to: IpAddr, packet_bytes: usize, whole: bool) -> io::Result<Duration> {
        let echo = Echo { packet_bytes, whole, timeout: PROBE_TIMEOUT };
        self.namespace().run(move || ping::ping(to, &echo))
    }

    /// Whether an unfragmented IP packet of so many bytes in all gets there and back.
    fn fits(&self, to: IpAddr, packet_bytes: usize) -> bool {
        self.ping_size(to, packet_bytes, true).is_ok()
    }
}
