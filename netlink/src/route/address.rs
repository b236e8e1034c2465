//! Addresses of links.

use super::{IfIndex, RouteSocket};
use crate::Prefix;
use crate::error::{Result, found};
use crate::message::{
    NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, Writer, attributes_after, read_ip, read_u32,
};
use std::net::IpAddr;

// include/uapi/linux/rtnetlink.h, if_addr.h
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const IFADDR_LEN: usize = 8;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_FLAGS: u16 = 8;
/// Since Linux 5.18. Older kernels ignore it.
const IFA_PROTO: u16 = 11;
const IFA_F_NODAD: u32 = 0x02;
const IFA_F_DADFAILED: u32 = 0x08;
const IFA_F_TENTATIVE: u32 = 0x40;
const IFA_F_PERMANENT: u32 = 0x80;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_LINK: u8 = 253;

/// An address of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// The link.
    pub link: IfIndex,
    /// The address with its prefix length.
    pub prefix: Prefix,
    /// Whether duplicate address detection is still going on (IPv6).
    pub tentative: bool,
    /// Whether duplicate address detection found another owner (IPv6).
    pub duplicate: bool,
    /// Whether it is of global scope, not link-local.
    pub global: bool,
    /// Whether it stays without a lifetime: set by an administrator or a program, not learnt from a router.
    pub permanent: bool,
    /// Number of the program that set it (`IFA_PROTO`). 0 if none is known.
    pub protocol: u8,
}

/// How an address is added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AddressOptions {
    /// Whether an IPv6 address waits for duplicate address detection.
    pub detect_duplicates: bool,
    /// Number of the program that owns it (`IFA_PROTO`). 0 leaves it out.
    pub protocol: u8,
}

/// `struct ifaddrmsg`: family, prefix length, flags, scope, index.
fn ifaddr(m: &mut Writer, prefix: Prefix, link: IfIndex, flags: u8) {
    let mut header = [0u8; IFADDR_LEN];
    header[0] = prefix.family().af();
    header[1] = prefix.length();
    header[2] = flags;
    header[3] = match prefix.address() {
        IpAddr::V6(v6) if v6.is_unicast_link_local() => RT_SCOPE_LINK,
        _ => RT_SCOPE_UNIVERSE,
    };
    header[4..8].copy_from_slice(&link.0.to_ne_bytes());
    m.raw(&header);
}

pub(crate) fn add_request(link: IfIndex, prefix: Prefix, options: AddressOptions) -> Writer {
    let mut request = Writer::default();
    let skip_detection = prefix.address().is_ipv6() && !options.detect_duplicates;
    let flags = if skip_detection { IFA_F_NODAD } else { 0 };
    request.message(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, |m| {
        ifaddr(m, prefix, link, flags as u8);
        m.ip(IFA_LOCAL, prefix.address());
        m.ip(IFA_ADDRESS, prefix.address());
        if prefix.address().is_ipv4() && prefix.length() < 31 {
            m.ip(IFA_BROADCAST, prefix.last());
        }
        if options.protocol != 0 {
            m.u8(IFA_PROTO, options.protocol);
        }
    });
    request
}

impl RouteSocket {
    /// Gives a link an address; IPv6 is usable at once unless duplicates are to be detected first.
    ///
    /// `EEXIST` if the link has it already.
    pub fn add_address(
        &mut self,
        link: IfIndex,
        prefix: Prefix,
        detect_duplicates: bool,
    ) -> Result<()> {
        self.add_address_with(link, prefix, AddressOptions { detect_duplicates, protocol: 0 })
    }

    /// Like [`RouteSocket::add_address`], with the number of the program that owns the address.
    pub fn add_address_with(
        &mut self,
        link: IfIndex,
        prefix: Prefix,
        options: AddressOptions,
    ) -> Result<()> {
        self.execute(add_request(link, prefix, options), || {
            format!("add address {prefix} to link {link}")
        })
    }

    /// Takes an address away; tells whether it was there.
    pub fn delete_address(&mut self, link: IfIndex, prefix: Prefix) -> Result<bool> {
        let mut request = Writer::default();
        request.message(RTM_DELADDR, 0, |m| {
            ifaddr(m, prefix, link, 0);
            m.ip(IFA_LOCAL, prefix.address());
            m.ip(IFA_ADDRESS, prefix.address());
        });
        let deleted = self.execute(request, || format!("delete address {prefix} of link {link}"));
        Ok(found(deleted)?.is_some())
    }

    /// The addresses of a link, or of all links, of both families.
    pub fn addresses(&mut self, link: Option<IfIndex>) -> Result<Vec<Address>> {
        let request = || {
            let mut request = Writer::default();
            request.message(RTM_GETADDR, NLM_F_DUMP, |m| {
                let mut header = [0u8; IFADDR_LEN];
                header[4..8].copy_from_slice(&link.map_or(0, |l| l.0).to_ne_bytes());
                m.raw(&header);
            });
            request
        };
        let all = match self.socket.settled_dump(request, parse) {
            // A filtered dump of a link that is gone.
            Err(error) if error.not_found() => Vec::new(),
            other => other.map_err(|error| error.during("list addresses"))?,
        };
        Ok(all.into_iter().filter(|a| link.is_none_or(|l| l == a.link)).collect())
    }
}

fn parse(payload: &[u8]) -> Option<Address> {
    let length = *payload.get(1)?;
    let mut flags = u32::from(*payload.get(2)?);
    let global = *payload.get(3)? == RT_SCOPE_UNIVERSE;
    let link = IfIndex(read_u32(payload, 4)?);
    let (mut local, mut address, mut protocol) = (None, None, 0);
    for (kind, value) in attributes_after(payload, IFADDR_LEN) {
        match kind {
            // IFA_LOCAL is the link's own where the two differ (point to point).
            IFA_LOCAL => local = read_ip(value),
            IFA_ADDRESS => address = read_ip(value),
            IFA_FLAGS => flags = read_u32(value, 0)?,
            IFA_PROTO => protocol = value.first().copied().unwrap_or(0),
            _ => {}
        }
    }
    Some(Address {
        link,
        prefix: Prefix::new(local.or(address)?, length)?,
        tentative: flags & IFA_F_TENTATIVE != 0,
        duplicate: flags & IFA_F_DADFAILED != 0,
        global,
        permanent: flags & IFA_F_PERMANENT != 0,
        protocol,
    })
}
