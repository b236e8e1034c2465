//! ICMP and ICMPv6 echo from a raw socket.

use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

const DATA: [u8; 56] = [0x5a; 56];

static NEXT_ID: AtomicU16 = AtomicU16::new(1);

/// One echo request and its reply, in the calling thread's namespace.
pub(crate) fn ping(to: IpAddr, timeout: Duration) -> io::Result<Duration> {
    let (domain, protocol, request, reply) = match to {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 8, 0),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 128, 129),
    };
    let mut socket = Socket::new(domain, Type::RAW, Some(protocol))?;
    let id = NEXT_ID.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let mut packet = vec![request, 0, 0, 0, id[0], id[1], 0, 1];
    packet.extend(DATA);
    if to.is_ipv4() {
        // The kernel fills in ICMPv6's.
        let sum = checksum(&packet).to_be_bytes();
        packet[2..4].copy_from_slice(&sum);
    }
    let start = Instant::now();
    socket.send_to(&packet, &SocketAddr::new(to, 0).into())?;
    let mut buffer = [0; 2048];
    loop {
        let remaining = timeout.checked_sub(start.elapsed()).ok_or(io::ErrorKind::TimedOut)?;
        socket.set_read_timeout(Some(remaining.max(Duration::from_millis(1))))?;
        let length = match socket.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        // A raw IPv4 socket gets the IP header too; its length is in the low half of the first byte.
        let header = if to.is_ipv4() { usize::from(buffer[0] & 0xf) * 4 } else { 0 };
        let message = &buffer[header.min(length)..length];
        if message.first() == Some(&reply) && message.get(4..6) == Some(&id) {
            return Ok(start.elapsed());
        }
    }
}

fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|w| u16::from_be_bytes([w[0], w.get(1).copied().unwrap_or(0)]));
    let mut sum: u32 = words.map(u32::from).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
