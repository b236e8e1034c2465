//! Connection tracking: end the UDP flows that were translated by a rule which has changed, and clear marks.
//!
//! A UDP sender that never pauses keeps its conntrack entry, and with it the translation of the time
//! when the entry was made. TCP needs no such care: a connection to what is gone ends by itself.

use std::net::IpAddr;

use crate::Family;
use crate::error::{Result, found};
use crate::message::{NLM_F_DUMP, Writer, attribute, attributes_after, read_be32, read_ip};
use crate::socket::Socket;

// include/uapi/linux/netfilter/nfnetlink.h, nfnetlink_conntrack.h
const NFNL_SUBSYS_CTNETLINK: u16 = 1;
const IPCTNL_MSG_CT_NEW: u16 = 0;
const IPCTNL_MSG_CT_GET: u16 = 1;
const IPCTNL_MSG_CT_DELETE: u16 = 2;
const NFGENMSG_LEN: usize = 4;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_MARK: u16 = 8;
const CTA_MARK_MASK: u16 = 21;
const CTA_FILTER: u16 = 25;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_FILTER_REPLY_FLAGS: u16 = 2;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
/// `CTA_FILTER_FLAG(x)`: which parts of the tuple the filter compares (net/netfilter/nf_conntrack_netlink.c).
const FILTER_PROTO_NUM: u32 = 1 << 3;
const FILTER_PROTO_DST_PORT: u32 = 1 << 5;
const IPPROTO_UDP: u8 = 17;

/// A UDP flow as its first packet had it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpFlow {
    /// Sender.
    pub source: IpAddr,
    /// Sender's port.
    pub source_port: u16,
    /// Destination before translation.
    pub destination: IpAddr,
    /// Destination port before translation.
    pub destination_port: u16,
}

/// A UDP flow with where its packets really go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TranslatedFlow {
    /// As its first packet had it.
    pub flow: UdpFlow,
    /// Who answers: the destination after translation.
    pub server: IpAddr,
    /// The server's port.
    pub server_port: u16,
}

/// A connection to ctnetlink.
pub struct Conntrack {
    socket: Socket,
}

fn nfgenmsg(m: &mut Writer, family: Family) {
    m.raw(&[family.af(), 0, 0, 0]);
}

fn kind(message: u16) -> u16 {
    (NFNL_SUBSYS_CTNETLINK << 8) | message
}

impl Conntrack {
    /// Opens the connection in the calling thread's network namespace.
    pub fn open() -> Result<Conntrack> {
        Ok(Conntrack { socket: Socket::open(libc::NETLINK_NETFILTER)? })
    }

    /// The UDP flows of a family that were sent to `port`, whatever the destination address.
    pub fn udp_flows_to_port(&mut self, family: Family, port: u16) -> Result<Vec<UdpFlow>> {
        let mut request = Writer::default();
        request.message(kind(IPCTNL_MSG_CT_GET), NLM_F_DUMP, |m| {
            nfgenmsg(m, family);
            // The kernel filters (since Linux 5.8); an older one sends all, and `retain` does.
            m.nest(CTA_TUPLE_ORIG, |m| {
                m.nest(CTA_TUPLE_PROTO, |m| {
                    m.u8(CTA_PROTO_NUM, IPPROTO_UDP);
                    m.be16(CTA_PROTO_DST_PORT, port);
                });
            });
            m.nest(CTA_FILTER, |m| {
                m.u32(CTA_FILTER_ORIG_FLAGS, FILTER_PROTO_NUM | FILTER_PROTO_DST_PORT);
                m.u32(CTA_FILTER_REPLY_FLAGS, 0);
            });
        });
        let mut flows = self
            .socket
            .dump(request, parse)
            .map_err(|error| error.during(format!("list {family} UDP flows to port {port}")))?;
        flows.retain(|flow| flow.destination_port == port);
        Ok(flows)
    }

    /// All UDP flows of a family. If the table changed too often while it was read, `EINTR`.
    pub fn udp_flows(&mut self, family: Family) -> Result<Vec<TranslatedFlow>> {
        let mut request = Writer::default();
        request.message(kind(IPCTNL_MSG_CT_GET), NLM_F_DUMP, |m| {
            nfgenmsg(m, family);
            m.nest(CTA_TUPLE_ORIG, |m| {
                m.nest(CTA_TUPLE_PROTO, |m| m.u8(CTA_PROTO_NUM, IPPROTO_UDP));
            });
            m.nest(CTA_FILTER, |m| {
                m.u32(CTA_FILTER_ORIG_FLAGS, FILTER_PROTO_NUM);
                m.u32(CTA_FILTER_REPLY_FLAGS, 0);
            });
        });
        self.socket
            .dump(request, |payload| {
                let flow = parse_tuple(payload, CTA_TUPLE_ORIG)?;
                let reply = parse_tuple(payload, CTA_TUPLE_REPLY)?;
                let (server, server_port) = (reply.source, reply.source_port);
                Some(TranslatedFlow { flow, server, server_port })
            })
            .map_err(|error| error.during(format!("list {family} UDP flows")))
    }

    /// Forgets a flow; its next packet is translated anew. Tells whether it was there.
    pub fn delete_udp_flow(&mut self, flow: &UdpFlow) -> Result<bool> {
        let family = Family::of(flow.source);
        let (source, destination) = match family {
            Family::V4 => (CTA_IP_V4_SRC, CTA_IP_V4_DST),
            Family::V6 => (CTA_IP_V6_SRC, CTA_IP_V6_DST),
        };
        let mut request = Writer::default();
        request.message(kind(IPCTNL_MSG_CT_DELETE), 0, |m| {
            nfgenmsg(m, family);
            m.nest(CTA_TUPLE_ORIG, |m| {
                m.nest(CTA_TUPLE_IP, |m| {
                    m.ip(source, flow.source);
                    m.ip(destination, flow.destination);
                });
                m.nest(CTA_TUPLE_PROTO, |m| {
                    m.u8(CTA_PROTO_NUM, IPPROTO_UDP);
                    m.be16(CTA_PROTO_SRC_PORT, flow.source_port);
                    m.be16(CTA_PROTO_DST_PORT, flow.destination_port);
                });
            });
        });
        let deleted = self.socket.execute(request);
        Ok(found(deleted.map_err(|error| error.during(format!("delete UDP flow {flow:?}"))))?
            .is_some())
    }
}

impl Conntrack {
    /// Clears these bits of the marks of all connections of a family; tells how many had one of them set.
    pub fn clear_marks(&mut self, family: Family, mask: u32) -> Result<usize> {
        let mut request = Writer::default();
        request.message(kind(IPCTNL_MSG_CT_GET), NLM_F_DUMP, |m| nfgenmsg(m, family));
        let tuples = self.socket.dump(request, |payload| {
            let (mut tuple, mut marked) = (None, false);
            for (kind, bytes) in attributes_after(payload, NFGENMSG_LEN) {
                match kind {
                    CTA_TUPLE_ORIG => tuple = Some(bytes.to_vec()),
                    CTA_MARK => marked = read_be32(bytes)? & mask != 0,
                    _ => {}
                }
            }
            tuple.filter(|_| marked)
        });
        let failed = || format!("clear the marks of {family} connections");
        let tuples = tuples.map_err(|error| error.during(failed()))?;
        for tuple in &tuples {
            let mut request = Writer::default();
            request.message(kind(IPCTNL_MSG_CT_NEW), 0, |m| {
                nfgenmsg(m, family);
                m.nest(CTA_TUPLE_ORIG, |m| m.raw(tuple));
                m.be32(CTA_MARK, 0);
                m.be32(CTA_MARK_MASK, mask);
            });
            // One that ended meanwhile has no mark either.
            found(self.socket.execute(request).map_err(|error| error.during(failed())))?;
        }
        Ok(tuples.len())
    }
}

fn parse(payload: &[u8]) -> Option<UdpFlow> {
    parse_tuple(payload, CTA_TUPLE_ORIG)
}

fn parse_tuple(payload: &[u8], direction: u16) -> Option<UdpFlow> {
    let tuple = attributes_after(payload, NFGENMSG_LEN).find(|(k, _)| *k == direction)?.1;
    let ip = attribute(tuple, CTA_TUPLE_IP)?;
    let protocol = attribute(tuple, CTA_TUPLE_PROTO)?;
    if attribute(protocol, CTA_PROTO_NUM)? != [IPPROTO_UDP] {
        return None;
    }
    let port = |kind| Some(u16::from_be_bytes(attribute(protocol, kind)?.try_into().ok()?));
    let address = |v4, v6| read_ip(attribute(ip, v4).or_else(|| attribute(ip, v6))?);
    Some(UdpFlow {
        source: address(CTA_IP_V4_SRC, CTA_IP_V6_SRC)?,
        source_port: port(CTA_PROTO_SRC_PORT)?,
        destination: address(CTA_IP_V4_DST, CTA_IP_V6_DST)?,
        destination_port: port(CTA_PROTO_DST_PORT)?,
    })
}
