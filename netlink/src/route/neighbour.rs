//! Neighbours (IP address → MAC) and the forwarding database of a VXLAN device (MAC → VTEP).

use std::net::IpAddr;

use super::{IfIndex, RouteBatch, RouteSocket};
use crate::error::Result;
use crate::message::{
    NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE, Writer, attributes_after, read_ip, read_mac, read_u16,
    read_u32,
};
use crate::{Family, MacAddress};

// include/uapi/linux/rtnetlink.h, neighbour.h
const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;
const RTM_GETNEIGH: u16 = 30;
const NDMSG_LEN: usize = 12;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NDA_IFINDEX: u16 = 8;
const NTF_SELF: u8 = 0x02;
const NUD_NOARP: u16 = 0x40;
const NUD_PERMANENT: u16 = 0x80;

/// A permanent entry of a neighbour table or of a forwarding database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Neighbour {
    /// The link.
    pub link: IfIndex,
    /// In a neighbour table the address that is resolved; in a forwarding database the VTEP's.
    pub address: IpAddr,
    /// The Ethernet address.
    pub mac: MacAddress,
}

/// Which of the two tables.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Table {
    Neighbours,
    ForwardingDatabase,
}

/// `struct ndmsg`: family, pads, index, state, flags, type.
fn ndmsg(m: &mut Writer, family: u8, link: IfIndex, table: Table) {
    let mut header = [0u8; NDMSG_LEN];
    header[0] = family;
    header[4..8].copy_from_slice(&link.0.to_ne_bytes());
    let (state, flags) = match table {
        Table::Neighbours => (NUD_PERMANENT, 0),
        Table::ForwardingDatabase => (NUD_PERMANENT | NUD_NOARP, NTF_SELF),
    };
    header[8..10].copy_from_slice(&state.to_ne_bytes());
    header[10] = flags;
    m.raw(&header);
}

fn write(m: &mut Writer, entry: &Neighbour, table: Table) {
    let family = match table {
        Table::Neighbours => Family::of(entry.address).af(),
        Table::ForwardingDatabase => libc::AF_BRIDGE as u8,
    };
    ndmsg(m, family, entry.link, table);
    m.ip(NDA_DST, entry.address);
    m.mac(NDA_LLADDR, entry.mac);
}

const REPLACE: u16 = NLM_F_CREATE | NLM_F_REPLACE;

#[cfg(test)]
pub(crate) fn requests(entry: &Neighbour) -> [Writer; 2] {
    [Table::Neighbours, Table::ForwardingDatabase].map(|table| {
        let mut request = Writer::default();
        request.message(RTM_NEWNEIGH, REPLACE, |m| write(m, entry, table));
        request
    })
}

impl RouteBatch {
    /// Sets a permanent neighbour.
    pub fn replace_neighbour(&mut self, entry: &Neighbour) {
        self.piece(|| format!("set neighbour {}", entry.address)).message(
            RTM_NEWNEIGH,
            REPLACE,
            |m| write(m, entry, Table::Neighbours),
        );
    }

    /// Deletes a neighbour.
    pub fn delete_neighbour(&mut self, entry: &Neighbour) {
        self.piece(|| format!("delete neighbour {}", entry.address)).message(
            RTM_DELNEIGH,
            0,
            |m| write(m, entry, Table::Neighbours),
        );
    }

    /// Sets where frames to a MAC address go: one VTEP.
    pub fn replace_forwarding(&mut self, entry: &Neighbour) {
        self.piece(|| format!("set forwarding of {} to {}", entry.mac, entry.address)).message(
            RTM_NEWNEIGH,
            REPLACE,
            |m| write(m, entry, Table::ForwardingDatabase),
        );
    }

    /// Deletes an entry of the forwarding database.
    pub fn delete_forwarding(&mut self, entry: &Neighbour) {
        self.piece(|| format!("delete forwarding of {} to {}", entry.mac, entry.address)).message(
            RTM_DELNEIGH,
            0,
            |m| write(m, entry, Table::ForwardingDatabase),
        );
    }
}

impl RouteSocket {
    /// The permanent neighbours of a link, in order.
    pub fn neighbours(&mut self, link: IfIndex, family: Family) -> Result<Vec<Neighbour>> {
        let request = || {
            let mut request = Writer::default();
            request.message(RTM_GETNEIGH, NLM_F_DUMP, |m| {
                let mut header = [0u8; NDMSG_LEN];
                header[0] = family.af();
                m.raw(&header);
                m.u32(NDA_IFINDEX, link.0);
            });
            request
        };
        self.entries(request, link).map_err(|error| error.during("list neighbours"))
    }

    /// The permanent entries of a VXLAN device's forwarding database, in order.
    pub fn forwarding_database(&mut self, link: IfIndex) -> Result<Vec<Neighbour>> {
        let request = || {
            let mut request = Writer::default();
            request.message(RTM_GETNEIGH, NLM_F_DUMP, |m| {
                let mut header = [0u8; NDMSG_LEN];
                header[0] = libc::AF_BRIDGE as u8;
                header[4..8].copy_from_slice(&link.0.to_ne_bytes());
                m.raw(&header);
            });
            request
        };
        self.entries(request, link).map_err(|error| error.during("list the forwarding database"))
    }

    fn entries(&mut self, request: impl Fn() -> Writer, link: IfIndex) -> Result<Vec<Neighbour>> {
        let mut entries = match self.socket.settled_dump(request, parse) {
            Err(error) if error.not_found() => Vec::new(),
            other => other?,
        };
        entries.retain(|entry| entry.link == link);
        Ok(entries)
    }
}

fn parse(payload: &[u8]) -> Option<Neighbour> {
    if read_u16(payload, 8)? & NUD_PERMANENT == 0 {
        return None;
    }
    let (mut address, mut mac) = (None, None);
    for (kind, value) in attributes_after(payload, NDMSG_LEN) {
        match kind {
            NDA_DST => address = read_ip(value),
            NDA_LLADDR => mac = read_mac(value),
            _ => {}
        }
    }
    Some(Neighbour { link: IfIndex(read_u32(payload, 4)?), address: address?, mac: mac? })
}
