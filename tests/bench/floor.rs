//! The netlink messages of a plain bridge ADD (one IPv4 address, gateway, default route) and nothing else:
//! no configuration, no address management, no result.
//!
//! `floor ADD BRIDGE NAME ADDRESS GATEWAY NETNS`, `floor DEL NAME`.
//!
//! The bytes are written by hand on a plain socket and use nothing of the product. So the floor stays where
//! it is when the product's own netlink code gets faster or slower.

#![forbid(unsafe_code)]

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags, fstat, fstatfs, open};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, sendto, socket_with,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

// include/uapi/linux/netlink.h, rtnetlink.h, if_link.h, if_addr.h, veth.h
const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const DUMP: u16 = 0x300;
const EXCL: u16 = 0x200;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
const DONE: u16 = 3;
const NEWLINK: u16 = 16;
const DELLINK: u16 = 17;
const GETLINK: u16 = 18;
const NEWADDR: u16 = 20;
const GETADDR: u16 = 22;
const NEWROUTE: u16 = 24;
const GETROUTE: u16 = 26;
const UP: u32 = 1;
const NESTED: u16 = 0x8000;

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let argument = |at: usize| arguments.get(at).map(String::as_str).unwrap_or_default();
    match argument(1) {
        "ADD" => add(argument(2), argument(3), argument(4), argument(5), argument(6)),
        _ => {
            let body = [link_header(0, 0), text(3, argument(2))].concat();
            Socket::open()?.ask(DELLINK, ACK, &body).map(drop)
        }
    }
}

fn add(bridge: &str, name: &str, address: &str, gateway: &str, netns: &str) -> io::Result<()> {
    let container = open(netns, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    fstatfs(&container)?;
    let socket = Socket::open()?;
    let inside = inside(&container, Socket::open)??;
    let (address, length) = address.split_once('/').unwrap_or((address, "24"));
    let address: Ipv4Addr = address.parse().unwrap_or(Ipv4Addr::UNSPECIFIED);
    let length: u8 = length.parse().unwrap_or(24);
    let gateway: Ipv4Addr = gateway.parse().unwrap_or(Ipv4Addr::UNSPECIFIED);

    let to_uplink = [&[2, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..], &attribute(1, &[192, 0, 2, 1])];
    socket.ask(GETROUTE, 0, &to_uplink.concat())?;
    let bridge = socket.index_of(bridge)?;
    socket.ask(GETADDR, DUMP, &[&[0; 4][..], &bridge.to_ne_bytes()].concat())?;
    socket.ask(NEWLINK, ACK | CREATE | EXCL, &veth(name, bridge, address, &container))?;
    self::inside(&container, || -> io::Result<()> {
        let link = inside.index_of("eth0")?;
        let broadcast = u32::from(address) | (u32::MAX >> length);
        let header = [&[2, length, 0, 0][..], &link.to_ne_bytes()].concat();
        let address = address.octets();
        let attributes = [
            attribute(2, &address),
            attribute(1, &address),
            attribute(4, &broadcast.to_be_bytes()),
        ];
        inside.ask(NEWADDR, ACK | CREATE | EXCL, &[header, attributes.concat()].concat())?;
        inside.ask(NEWLINK, ACK, &link_header(link, UP))?;
        let header = [2, 0, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0];
        let route = [attribute(5, &gateway.octets()), attribute(4, &link.to_ne_bytes())].concat();
        inside.ask(NEWROUTE, ACK | CREATE | APPEND, &[&header[..], &route].concat()).map(drop)
    })??;
    let host = socket.index_of(name)?;
    socket.ask(GETLINK, 0, &link_header(host, 0))?;
    const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";
    if std::fs::read_to_string(FORWARDING)?.trim_end() != "1" {
        std::fs::write(FORWARDING, "1")?;
    }
    Ok(())
}

/// The request for a pair: this end up and a port of the bridge, the other in the container.
fn veth(name: &str, bridge: u32, address: Ipv4Addr, container: &OwnedFd) -> Vec<u8> {
    let mac = |second: u8| [&[0x0a, second][..], &address.octets()].concat();
    let mtu = attribute(4, &1500_u32.to_ne_bytes());
    let peer = [
        link_header(0, 0),
        text(3, "eth0"),
        attribute(1, &mac(0x58)),
        mtu.clone(),
        attribute(28, &(container.as_raw_fd() as u32).to_ne_bytes()),
    ];
    let data = attribute(2 | NESTED, &attribute(1 | NESTED, &peer.concat()));
    [
        link_header(0, UP),
        text(3, name),
        attribute(1, &mac(0x56)),
        mtu,
        attribute(10, &bridge.to_ne_bytes()),
        attribute(18 | NESTED, &[text(1, "veth"), data].concat()),
    ]
    .concat()
}

/// `struct ifinfomsg`.
fn link_header(index: u32, flags: u32) -> Vec<u8> {
    [[0; 4], index.to_ne_bytes(), flags.to_ne_bytes(), flags.to_ne_bytes()].concat()
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = (4 + value.len()) as u16;
    let mut bytes = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn text(kind: u16, value: &str) -> Vec<u8> {
    attribute(kind, &[value.as_bytes(), &[0]].concat())
}

/// Runs work in a network namespace and comes back.
fn inside<T>(container: &OwnedFd, work: impl FnOnce() -> T) -> io::Result<T> {
    let own = "/proc/thread-self/ns/net";
    let home = open(own, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    fstat(&home)?;
    move_into_link_name_space(container.as_fd(), Some(LinkNameSpaceType::Network))?;
    let outcome = work();
    move_into_link_name_space(home.as_fd(), Some(LinkNameSpaceType::Network))?;
    Ok(outcome)
}

/// A plain rtnetlink socket.
struct Socket(OwnedFd);

impl Socket {
    fn open() -> io::Result<Socket> {
        let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        bind(&fd, &SocketAddrNetlink::new(0, 0))?;
        Ok(Socket(fd))
    }

    fn index_of(&self, name: &str) -> io::Result<u32> {
        let answer = self.ask(GETLINK, 0, &[link_header(0, 0), text(3, name)].concat())?;
        let index = answer.get(20..24).and_then(|bytes| bytes.try_into().ok());
        index.map(u32::from_ne_bytes).ok_or_else(|| io::Error::other("a link without a number"))
    }

    /// Sends a request and returns the first datagram of the answer. A negative number is an error.
    fn ask(&self, kind: u16, flags: u16, body: &[u8]) -> io::Result<Vec<u8>> {
        let length = (16 + body.len()) as u32;
        let mut request = length.to_ne_bytes().to_vec();
        request.extend(kind.to_ne_bytes());
        request.extend((REQUEST | flags).to_ne_bytes());
        request.extend([0; 8]);
        request.extend(body);
        sendto(&self.0, &request, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        let mut buffer = vec![0; 64 * 1024];
        let (received, _) = recv(&self.0, &mut buffer, RecvFlags::empty())?;
        buffer.truncate(received);
        let number = |at: usize| buffer.get(at..at + 4).and_then(|b| b.try_into().ok());
        let is_error = buffer.get(4..6) == Some(&2_u16.to_ne_bytes());
        let errno = number(16).map(i32::from_ne_bytes).filter(|errno| is_error && *errno != 0);
        if let Some(errno) = errno {
            return Err(io::Error::from_raw_os_error(-errno));
        }
        let is_dump = flags & DUMP == DUMP;
        let mut last = buffer.clone();
        while is_dump && !ends(&last) {
            last.resize(64 * 1024, 0);
            let (received, _) = recv(&self.0, &mut last, RecvFlags::empty())?;
            last.truncate(received);
        }
        Ok(buffer)
    }
}

/// Whether a datagram holds the end of a dump.
fn ends(datagram: &[u8]) -> bool {
    let mut rest = datagram;
    while let (Some(length), Some(kind)) = (rest.get(..4), rest.get(4..6)) {
        if kind == DONE.to_ne_bytes() {
            return true;
        }
        let length = length.try_into().map_or(0, u32::from_ne_bytes) as usize;
        rest = rest.get(length.next_multiple_of(4).max(16)..).unwrap_or_default();
    }
    rest.is_empty() && datagram.is_empty()
}
