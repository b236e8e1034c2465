//! [`Host`]: what nodes, pods and the outside world can all do.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::namespace::Namespace;
use crate::ping;
use crate::traffic::{Answer, Connection, Server, Tcp, Udp, UdpFlow};

/// How long a probe waits for an answer.
pub(crate) const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// Somebody in a network namespace.
pub trait Host {
    /// The namespace.
    fn namespace(&self) -> &Namespace;

    /// Serves TCP on a port, over IPv4 and IPv6.
    fn serve_tcp(&self, port: u16) -> Server {
        Server::start(self.namespace(), Tcp, port)
    }

    /// Serves UDP on a port, over IPv4 and IPv6.
    fn serve_udp(&self, port: u16) -> Server {
        Server::start(self.namespace(), Udp, port)
    }

    /// Connects, sends a line, and returns what the server said of it.
    fn tcp(&self, to: impl Into<SocketAddr>) -> io::Result<Answer> {
        self.connect(to)?.ask("probe")
    }

    /// Opens a TCP connection to a [`Server`].
    fn connect(&self, to: impl Into<SocketAddr>) -> io::Result<Connection> {
        let to = to.into();
        self.namespace().run(move || Connection::open(to, PROBE_TIMEOUT))
    }

    /// Sends a datagram, and returns what the server said of it.
    fn udp(&self, to: impl Into<SocketAddr>) -> io::Result<Answer> {
        self.udp_flow(to, 0)?.ask("probe")
    }

    /// A UDP socket that talks to one server; `source_port` 0 is any.
    fn udp_flow(&self, to: impl Into<SocketAddr>, source_port: u16) -> io::Result<UdpFlow> {
        let to = to.into();
        self.namespace().run(move || UdpFlow::open(to, source_port, PROBE_TIMEOUT))
    }

    /// Sends an ICMP echo request and waits for the reply.
    fn ping(&self, to: IpAddr) -> io::Result<Duration> {
        self.namespace().run(move || ping::ping(to, PROBE_TIMEOUT))
    }

    /// Whether an unfragmented IP packet of so many bytes in all gets there and back.
    fn fits(&self, to: IpAddr, packet_bytes: usize) -> bool {
        let headers = if to.is_ipv4() { 28 } else { 48 };
        let (data, to) = ((packet_bytes - headers).to_string(), to.to_string());
        let arguments = ["-c", "1", "-W", "1", "-M", "do", "-s", &data, &to];
        self.namespace().try_command("ping", &arguments).is_ok()
    }
}
