//! ICMP and ICMPv6 echo from a raw socket.

use std::io::{self, ErrorKind, Read};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use rustix::net::sockopt::{
    Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover,
};
use socket2::{Domain, Protocol, Socket, Type};

/// Length of an echo message's own header.
const ECHO_HEADER: usize = 8;

static NEXT_ID: AtomicU16 = AtomicU16::new(1);

/// An echo request.
pub(crate) struct Echo {
    /// Length of the IP packet with all its headers.
    pub(crate) packet_bytes: usize,
    /// Whether no one may fragment it, this host included.
    pub(crate) whole: bool,
    /// How long to wait for the reply.
    pub(crate) timeout: Duration,
}

/// Length in bytes of the headers before an echo's data.
pub(crate) fn header_bytes(to: IpAddr) -> usize {
    ECHO_HEADER + if to.is_ipv4() { 20 } else { 40 }
}

/// One echo request and its reply, in the calling thread's namespace. A reply counts only with the
/// request's data in it.
pub(crate) fn ping(to: IpAddr, echo: &Echo) -> io::Result<Duration> {
    let (domain, protocol, request, reply) = match to {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 8, 0),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 128, 129),
    };
    let data =
        echo.packet_bytes.checked_sub(header_bytes(to)).ok_or(io::ErrorKind::InvalidInput)?;
    let mut socket = Socket::new(domain, Type::RAW, Some(protocol))?;
    match (to, echo.whole) {
        (IpAddr::V4(_), true) => set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::DO)?,
        (IpAddr::V4(_), false) => set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::DONT)?,
        (IpAddr::V6(_), true) => set_ipv6_mtu_discover(&socket, Ipv6PathMtuDiscovery::DO)?,
        (IpAddr::V6(_), false) => set_ipv6_mtu_discover(&socket, Ipv6PathMtuDiscovery::DONT)?,
    }
    let id = NEXT_ID.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let mut packet = vec![request, 0, 0, 0, id[0], id[1], 0, 1];
    packet.extend((0..data).map(|n| n as u8));
    if to.is_ipv4() {
        // The kernel fills in ICMPv6's.
        let sum = checksum(&packet).to_be_bytes();
        packet[2..4].copy_from_slice(&sum);
    }
    let start = Instant::now();
    socket.send_to(&packet, &SocketAddr::new(to, 0).into())?;
    let mut buffer = vec![0; 1 << 16];
    loop {
        let remaining = echo.timeout.checked_sub(start.elapsed()).ok_or(io::ErrorKind::TimedOut)?;
        socket.set_read_timeout(Some(remaining.max(Duration::from_millis(1))))?;
        let length = match socket.read(&mut buffer) {
            Ok(length) => length,
            // Timeouts end the loop above, whoever noticed them first.
            Err(error)
                if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) =>
            {
                continue;
            }
            Err(error) => return Err(error),
        };
        // A raw IPv4 socket gets the IP header too; its length is in the low half of the first byte.
        let header = if to.is_ipv4() { usize::from(buffer[0] & 0xf) * 4 } else { 0 };
        let message = &buffer[header.min(length)..length];
        // From the ID on a reply is the request: ID, sequence number, data.
        if message.first() == Some(&reply) && message.get(4..) == Some(&packet[4..]) {
            return Ok(start.elapsed());
        }
    }
}

/// The internet checksum.
pub(crate) fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|w| u16::from_be_bytes([w[0], w.get(1).copied().unwrap_or(0)]));
    let mut sum: u32 = words.map(u32::from).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
