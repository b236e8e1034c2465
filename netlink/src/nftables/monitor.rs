//! Who changes nftables: the kernel's notifications.

use super::object::TableFamily;
use super::transaction::NFGENMSG_LEN;
use crate::error::Result;
use crate::message::{attribute, read_string};
use crate::socket::Socket;

/// `NFNLGRP_NFTABLES` (`include/uapi/linux/netfilter/nfnetlink.h`).
const NFNLGRP_NFTABLES: u32 = 7;
const NFNL_SUBSYS_NFTABLES: u16 = 10;
// include/uapi/linux/netfilter/nf_tables.h: messages, and where each has the names
const NFT_MSG_NEWTABLE: u16 = 0;
const NFT_MSG_DELTABLE: u16 = 2;
const NFT_MSG_NEWCHAIN: u16 = 3;
const NFT_MSG_DELCHAIN: u16 = 5;
const NFT_MSG_NEWRULE: u16 = 6;
const NFT_MSG_DELRULE: u16 = 8;
const NFT_MSG_NEWSET: u16 = 9;
const NFT_MSG_DELSET: u16 = 11;
const NFT_MSG_NEWSETELEM: u16 = 12;
const NFT_MSG_DELSETELEM: u16 = 14;
const TABLE_ATTRIBUTE: u16 = 1;
/// Unread notifications that the socket can hold; the kernel builds some 200 bytes per element.
const BUFFER: usize = 32 * 1024 * 1024;

/// A change that somebody committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NftEvent {
    /// The socket through which it was made ([`super::NftSocket::port`]).
    pub port: u32,
    /// `NFPROTO_*` of the table.
    family: u8,
    /// The table's name.
    pub table: String,
    /// What was changed, as in `rule of chain "x" deleted`.
    pub what: String,
}

impl NftEvent {
    /// Whether the table is of this family.
    pub fn is_of(&self, family: TableFamily) -> bool {
        self.family == family.number()
    }
}

/// Listens to the changes of the network namespace in which it was opened.
pub struct NftMonitor {
    socket: Socket,
}

impl NftMonitor {
    /// Begins to listen.
    pub fn open() -> Result<NftMonitor> {
        let socket = Socket::open(libc::NETLINK_NETFILTER)?;
        socket.join(NFNLGRP_NFTABLES, BUFFER)?;
        Ok(NftMonitor { socket })
    }

    /// Waits for the next changes, and hands each to `each`.
    /// `ENOBUFS` if there were more than can be held: some are lost, listening goes on.
    pub fn wait(&mut self, mut each: impl FnMut(NftEvent)) -> Result<()> {
        self.socket
            .wait(|message| {
                if let Some(event) = parse(message.kind, message.port, message.payload) {
                    each(event);
                }
            })
            .map_err(|error| error.during("wait for nftables notifications"))
    }
}

fn parse(kind: u16, port: u32, payload: &[u8]) -> Option<NftEvent> {
    if kind >> 8 != NFNL_SUBSYS_NFTABLES {
        return None;
    }
    let attributes = payload.get(NFGENMSG_LEN..)?;
    let text = |attribute_kind| attribute(attributes, attribute_kind).map(read_string);
    let name = |what, attribute_kind| Some(format!("{what} {:?}", text(attribute_kind)?));
    let what = match kind & 0xff {
        NFT_MSG_NEWTABLE => "table added".to_owned(),
        NFT_MSG_DELTABLE => "table deleted".to_owned(),
        NFT_MSG_NEWCHAIN => name("added: chain", 3)?,
        NFT_MSG_DELCHAIN => name("deleted: chain", 3)?,
        NFT_MSG_NEWRULE => name("added: a rule of chain", 2)?,
        NFT_MSG_DELRULE => name("deleted: a rule of chain", 2)?,
        NFT_MSG_NEWSET => name("added: set", 2)?,
        NFT_MSG_DELSET => name("deleted: set", 2)?,
        NFT_MSG_NEWSETELEM => name("added: an element of set", 2)?,
        NFT_MSG_DELSETELEM => name("deleted: an element of set", 2)?,
        _ => return None,
    };
    Some(NftEvent { port, family: *payload.first()?, table: text(TABLE_ATTRIBUTE)?, what })
}
