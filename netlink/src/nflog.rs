//! Packets that rules log (`log group N`), as `nfnetlink_log` hands them over.

use std::net::IpAddr;

use crate::error::Result;
use crate::message::{Writer, attribute, read_be32, read_string};
use crate::socket::Socket;
use crate::{Family, IfIndex};

// include/uapi/linux/netfilter/nfnetlink.h, nfnetlink_log.h
const NFNL_SUBSYS_ULOG: u16 = 4;
const NFULNL_MSG_PACKET: u16 = 0;
const NFULNL_MSG_CONFIG: u16 = 1;
const NFGENMSG_LEN: usize = 4;
const NFULA_IFINDEX_INDEV: u16 = 4;
const NFULA_IFINDEX_PHYSINDEV: u16 = 6;
const NFULA_PAYLOAD: u16 = 9;
const NFULA_PREFIX: u16 = 10;
const NFULA_CFG_CMD: u16 = 1;
const NFULA_CFG_MODE: u16 = 2;
const NFULA_CFG_TIMEOUT: u16 = 4;
const NFULNL_CFG_CMD_BIND: u8 = 1;
const NFULNL_COPY_PACKET: u8 = 2;

const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;

/// Both ends of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketEnds {
    /// Sender.
    pub source: IpAddr,
    /// Receiver.
    pub destination: IpAddr,
    /// IP protocol; in IPv6 the first header after the fixed one.
    pub protocol: u8,
    /// Ports of sender and receiver, where the protocol has ports and the packet is no later fragment.
    pub ports: Option<(u16, u16)>,
}

/// A packet that a rule has logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    /// The rule's prefix.
    pub prefix: String,
    /// The packet, if it is one of IP.
    pub ends: Option<PacketEnds>,
    /// The link by which it came in: a bridge's port, and not the bridge, where that is known.
    pub link: Option<IfIndex>,
}

/// Listens to a group of the network namespace in which it was opened: one listener per group.
pub struct NflogListener {
    socket: Socket,
}

impl NflogListener {
    /// Begins to listen; of each packet the first `bytes` are handed over. `EPERM` if somebody else listens, or that
    /// is not allowed.
    pub fn open(group: u16, bytes: u32) -> Result<NflogListener> {
        let failed = |error: crate::Error| error.during(format!("listen to log group {group}"));
        let mut socket = Socket::open(libc::NETLINK_NETFILTER).map_err(failed)?;
        let mut requests = Writer::default();
        let kind = (NFNL_SUBSYS_ULOG << 8) | NFULNL_MSG_CONFIG;
        let mut configure = |write: &dyn Fn(&mut Writer)| {
            requests.message(kind, 0, |m| {
                let [high, low] = group.to_be_bytes();
                m.raw(&[libc::AF_UNSPEC as u8, 0, high, low]);
                write(m);
            });
        };
        configure(&|m| m.u8(NFULA_CFG_CMD, NFULNL_CFG_CMD_BIND));
        // struct nfulnl_msg_config_mode, packed
        let [a, b, c, d] = bytes.to_be_bytes();
        configure(&|m| m.attr(NFULA_CFG_MODE, &[a, b, c, d, NFULNL_COPY_PACKET, 0]));
        // In hundredths of a second: several packets may come together.
        configure(&|m| m.be32(NFULA_CFG_TIMEOUT, 10));
        socket.execute(requests).map_err(failed)?;
        Ok(NflogListener { socket })
    }

    /// Waits for the next packets, and hands each to `each`. `ENOBUFS` if some were lost.
    pub fn wait(&mut self, mut each: impl FnMut(Logged)) -> Result<()> {
        self.socket
            .wait(|message| {
                if message.kind == (NFNL_SUBSYS_ULOG << 8) | NFULNL_MSG_PACKET {
                    each(parse(message.payload));
                }
            })
            .map_err(|error| error.during("wait for logged packets"))
    }
}

fn parse(payload: &[u8]) -> Logged {
    let attributes = payload.get(NFGENMSG_LEN..).unwrap_or_default();
    let prefix = attribute(attributes, NFULA_PREFIX).map(read_string).unwrap_or_default();
    let ends = attribute(attributes, NFULA_PAYLOAD).and_then(packet_ends);
    let index = |kind| attribute(attributes, kind).and_then(read_be32).map(IfIndex);
    let link = index(NFULA_IFINDEX_PHYSINDEV).or_else(|| index(NFULA_IFINDEX_INDEV));
    Logged { prefix: prefix.to_owned(), ends, link }
}

/// Reads the headers of an IP packet.
fn packet_ends(packet: &[u8]) -> Option<PacketEnds> {
    let (source, destination, protocol, header, is_first) = match packet.first()? >> 4 {
        4 => {
            let address = |at: usize| -> Option<IpAddr> {
                Some(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?.into())
            };
            let offset = u16::from_be_bytes([*packet.get(6)?, *packet.get(7)?]) & 0x1fff;
            let header = usize::from(packet.first()? & 0xf) * 4;
            (address(12)?, address(16)?, *packet.get(9)?, header, offset == 0)
        }
        6 => {
            let address = |at: usize| -> Option<IpAddr> {
                Some(<[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?.into())
            };
            (address(8)?, address(24)?, *packet.get(6)?, 40, true)
        }
        _ => return None,
    };
    let port = |at: usize| Some(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]));
    let has_ports = is_first && matches!(protocol, TCP | UDP | SCTP);
    let ports = has_ports.then(|| Some((port(header)?, port(header + 2)?))).flatten();
    Some(PacketEnds { source, destination, protocol, ports })
}

impl PacketEnds {
    /// The family of its addresses.
    pub fn family(&self) -> Family {
        Family::of(self.source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_and_half_of_one_is_none() {
        let mut four = vec![0x46, 0, 0, 0, 0, 0, 0, 0, 64, UDP, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        four.extend([1, 1, 1, 1]); // options
        four.extend([0x13, 0x88, 0, 53]);
        let ends = packet_ends(&four).unwrap();
        assert_eq!((ends.source, ends.destination), ([10, 0, 0, 1].into(), [10, 0, 0, 2].into()));
        assert_eq!((ends.protocol, ends.ports), (UDP, Some((5000, 53))));
        four[7] = 1; // a later fragment
        assert_eq!(packet_ends(&four).unwrap().ports, None);
        for length in 0..20 {
            assert_eq!(packet_ends(&four[..length]), None, "{length}");
        }
        let mut six = vec![0x60, 0, 0, 0, 0, 0, TCP, 64];
        six.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        six.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        six.extend([0x13, 0x88, 0, 80]);
        let ends = packet_ends(&six).unwrap();
        assert_eq!(ends.source, "fd00::1".parse::<IpAddr>().unwrap());
        assert_eq!(ends.ports, Some((5000, 80)));
        assert_eq!(packet_ends(&six[..42]).unwrap().ports, None);
        assert_eq!(packet_ends(&[0x50; 60]), None);
    }
}
