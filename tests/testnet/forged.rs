//! A TCP segment that its sender never sent: to show what becomes of what conntrack calls invalid.

use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::namespace::Namespace;
use crate::ping::checksum;

/// Number of TCP in the IP header.
const TCP: u8 = 6;
/// The flag ACK.
const ACK: u8 = 0x10;
/// How far beyond any window the sequence number is.
const FAR: u32 = 0x1000_0000;
/// Length of a TCP header without options.
const HEADER: usize = 20;

/// Listens to a connection at its server, between [`Eavesdropper::new`] and the forgery.
pub struct Eavesdropper {
    socket: Socket,
    server: SocketAddr,
    client: IpAddr,
}

/// What the last segment of the client said.
struct Position {
    /// The client's port.
    port: u16,
    /// What the client has acknowledged.
    acknowledged: u32,
    /// What the client will send next.
    next: u32,
}

impl Eavesdropper {
    /// Hears what reaches this address of the namespace; `client` is whom it will deceive.
    ///
    /// # Errors
    ///
    /// Without the right to raw sockets.
    pub fn new(
        namespace: &Namespace,
        server: SocketAddr,
        client: IpAddr,
    ) -> io::Result<Eavesdropper> {
        let socket = namespace.run(move || {
            Socket::new(Domain::for_address(server), Type::RAW, Some(Protocol::TCP))
        })?;
        socket.set_read_timeout(Some(Duration::from_millis(200)))?;
        Ok(Eavesdropper { socket, server, client })
    }

    /// Sends the client a segment in the server's name, far beyond the window.
    ///
    /// # Errors
    ///
    /// `NotFound` if nothing was heard.
    pub fn forge(mut self) -> io::Result<()> {
        let mut last = None;
        let deadline = Instant::now() + Duration::from_secs(1);
        let mut buffer = vec![0; 1 << 16];
        while Instant::now() < deadline {
            let Ok(length) = self.socket.read(&mut buffer) else { break };
            last = self.position(&buffer[..length]).or(last);
        }
        let position = last.ok_or(io::ErrorKind::NotFound)?;
        let segment = self.segment(&position);
        // The port of a raw socket's destination means nothing.
        self.socket.send_to(&segment, &SocketAddr::new(self.client, 0).into())?;
        Ok(())
    }

    /// Reads a segment to the server. The IP header is before it, but not in IPv6.
    fn position(&self, packet: &[u8]) -> Option<Position> {
        let header = if self.server.is_ipv4() { usize::from(packet.first()? & 0xf) * 4 } else { 0 };
        let tcp = packet.get(header..)?;
        let short = |at: usize| Some(u16::from_be_bytes(tcp.get(at..at + 2)?.try_into().ok()?));
        let long = |at: usize| Some(u32::from_be_bytes(tcp.get(at..at + 4)?.try_into().ok()?));
        if short(2)? != self.server.port() || tcp.get(13)? & ACK == 0 {
            return None;
        }
        let data = tcp.len().checked_sub(usize::from(tcp.get(12)? >> 4) * 4)?;
        Some(Position {
            port: short(0)?,
            acknowledged: long(8)?,
            next: long(4)?.wrapping_add(u32::try_from(data).ok()?),
        })
    }

    fn segment(&self, position: &Position) -> Vec<u8> {
        let mut segment = Vec::with_capacity(HEADER);
        segment.extend(self.server.port().to_be_bytes());
        segment.extend(position.port.to_be_bytes());
        segment.extend(position.acknowledged.wrapping_add(FAR).to_be_bytes());
        segment.extend(position.next.to_be_bytes());
        segment.extend([5 << 4, ACK]);
        segment.extend([0x20, 0, 0, 0, 0, 0]);
        let pseudo = pseudo_header(self.server.ip(), self.client);
        let sum = checksum(&[pseudo, segment.clone()].concat());
        segment[16..18].copy_from_slice(&sum.to_be_bytes());
        segment
    }
}

fn pseudo_header(from: IpAddr, to: IpAddr) -> Vec<u8> {
    let octets = |ip| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let length = u8::try_from(HEADER).expect("a short header");
    [octets(from), octets(to), vec![0, TCP, 0, length]].concat()
}
