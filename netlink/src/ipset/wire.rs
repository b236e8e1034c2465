//! The messages of ipset (`include/uapi/linux/netfilter/ipset/ip_set.h`).

use std::net::IpAddr;

use super::{Entry, Listed, SetType};
use crate::message::{
    NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, Writer, attribute, attributes, attributes_after,
    read_be32, read_ip, read_string,
};
use crate::{Errno, Error, Family, Prefix};

const NFNL_SUBSYS_IPSET: u16 = 6;
/// Version of the protocol: 6 and 7 differ in what we do not use.
const PROTOCOL: u8 = 6;
const NFGENMSG_LEN: usize = 4;
/// `NLA_F_NET_BYTEORDER`: ipset insists on it for every number.
const NETWORK_ORDER: u16 = 1 << 14;

// enum ipset_cmd
const CREATE: u16 = 2;
pub(super) const DESTROY: u16 = 3;
pub(super) const FLUSH: u16 = 4;
pub(super) const RENAME: u16 = 5;
pub(super) const SWAP: u16 = 6;
const LIST: u16 = 7;
pub(super) const ADD: u16 = 9;
pub(super) const DEL: u16 = 10;

// Attributes at the command level.
const ATTR_PROTOCOL: u16 = 1;
const ATTR_SETNAME: u16 = 2;
const ATTR_TYPENAME: u16 = 3;
const ATTR_SETNAME2: u16 = 3;
const ATTR_REVISION: u16 = 4;
const ATTR_FAMILY: u16 = 5;
const ATTR_DATA: u16 = 7;
const ATTR_ADT: u16 = 8;
const ATTR_LINENO: u16 = 9;

// Attributes of a set's header, and of an entry.
const ATTR_IP: u16 = 1;
const ATTR_CIDR: u16 = 3;
const ATTR_PORT: u16 = 4;
const ATTR_PORT_TO: u16 = 5;
const ATTR_PROTO: u16 = 7;
const ATTR_MAXELEM: u16 = 19;
const ATTR_IP2: u16 = 20;
const ATTR_CIDR2: u16 = 21;
const ATTR_REFERENCES: u16 = 25;
const ATTR_IPADDR_IPV4: u16 = 1;
const ATTR_IPADDR_IPV6: u16 = 2;

/// Entries in one message: their attribute has at most 64 KiB.
pub(super) const CHUNK: usize = 500;

fn message(w: &mut Writer, command: u16, flags: u16, family: u8, body: impl FnOnce(&mut Writer)) {
    w.message((NFNL_SUBSYS_IPSET << 8) | command, flags, |w| {
        w.raw(&[family, 0, 0, 0]);
        w.u8(ATTR_PROTOCOL, PROTOCOL);
        body(w);
    });
}

/// The version of a type. Each is one that every kernel from 5.13 on has, and that knows SCTP.
fn revision(set: SetType) -> u8 {
    match set {
        SetType::HashIp { .. } => 4,
        SetType::HashIpPort { .. } | SetType::HashIpPortIp { .. } => 5,
        SetType::HashIpPortNet { .. } => 7,
        SetType::BitmapPort { .. } => 3,
    }
}

fn family_number(set: SetType) -> u8 {
    set.family().map_or(0, Family::af)
}

pub(super) fn create(w: &mut Writer, name: &str, set: SetType) {
    // Without NLM_F_EXCL the same set once more is no error.
    message(w, CREATE, NLM_F_CREATE, libc::AF_INET as u8, |w| {
        w.string(ATTR_SETNAME, name);
        w.string(ATTR_TYPENAME, set.name());
        w.u8(ATTR_REVISION, revision(set));
        w.u8(ATTR_FAMILY, family_number(set));
        w.nest(ATTR_DATA, |w| match set {
            SetType::HashIp { max, .. }
            | SetType::HashIpPort { max, .. }
            | SetType::HashIpPortIp { max, .. }
            | SetType::HashIpPortNet { max, .. } => w.be32(ATTR_MAXELEM | NETWORK_ORDER, max),
            SetType::BitmapPort { first, last } => {
                w.be16(ATTR_PORT | NETWORK_ORDER, first);
                w.be16(ATTR_PORT_TO | NETWORK_ORDER, last);
            }
        });
    });
}

pub(super) fn named(w: &mut Writer, command: u16, name: &str) {
    // With NLM_F_EXCL it is an error that the set is not there.
    message(w, command, NLM_F_EXCL, libc::AF_INET as u8, |w| w.string(ATTR_SETNAME, name));
}

pub(super) fn pair(w: &mut Writer, command: u16, one: &str, other: &str) {
    message(w, command, 0, libc::AF_INET as u8, |w| {
        w.string(ATTR_SETNAME, one);
        w.string(ATTR_SETNAME2, other);
    });
}

pub(super) fn entries(w: &mut Writer, command: u16, name: &str, entries: &[Entry]) {
    message(w, command, 0, libc::AF_INET as u8, |w| {
        w.string(ATTR_SETNAME, name);
        // The kernel overwrites it with the number of the entry that it refuses.
        w.u32(ATTR_LINENO, 0);
        w.nest(ATTR_ADT, |w| {
            for (number, entry) in entries.iter().enumerate() {
                w.nest(ATTR_DATA, |w| {
                    self::entry(w, *entry);
                    w.be32(ATTR_LINENO | NETWORK_ORDER, number as u32);
                });
            }
        });
    });
}

fn entry(w: &mut Writer, entry: Entry) {
    let service = |w: &mut Writer, address, protocol, port| {
        ip(w, ATTR_IP, address);
        w.be16(ATTR_PORT | NETWORK_ORDER, port);
        w.u8(ATTR_PROTO, protocol);
    };
    match entry {
        Entry::Ip(address) => ip(w, ATTR_IP, address),
        Entry::IpPort(address, protocol, port) => service(w, address, protocol, port),
        Entry::IpPortIp(address, protocol, port, other) => {
            service(w, address, protocol, port);
            ip(w, ATTR_IP2, other);
        }
        Entry::IpPortNet(address, protocol, port, network) => {
            service(w, address, protocol, port);
            ip(w, ATTR_IP2, network.first());
            w.u8(ATTR_CIDR2, network.length());
        }
        Entry::Port(port) => w.be16(ATTR_PORT | NETWORK_ORDER, port),
    }
}

fn ip(w: &mut Writer, kind: u16, address: IpAddr) {
    let inner = if address.is_ipv4() { ATTR_IPADDR_IPV4 } else { ATTR_IPADDR_IPV6 };
    w.nest(kind, |w| w.ip(inner | NETWORK_ORDER, address));
}

pub(super) fn list(w: &mut Writer, name: Option<&str>) {
    message(w, LIST, NLM_F_DUMP, libc::AF_INET as u8, |w| {
        if let Some(name) = name {
            w.string(ATTR_SETNAME, name);
        }
    });
}

/// One message of a list. A long set takes several; only the first has the header, and with it the type,
/// so that is remembered for the next.
pub(super) fn parse(payload: &[u8], remembered: &mut String) -> Option<Listed> {
    let (mut name, mut family) = (None, 0);
    let (mut header, mut adt): (&[u8], &[u8]) = (&[], &[]);
    for (kind, value) in attributes_after(payload, NFGENMSG_LEN) {
        match kind {
            ATTR_SETNAME => name = Some(read_string(value)),
            ATTR_TYPENAME => *remembered = read_string(value),
            ATTR_FAMILY => family = *value.first()?,
            ATTR_DATA => header = value,
            ATTR_ADT => adt = value,
            _ => {}
        }
    }
    let type_name = remembered.clone();
    let set_type = set_type(&type_name, family, header);
    let entries = attributes(adt).filter_map(|(_, data)| parse_entry(&type_name, data)).collect();
    let references = attribute(header, ATTR_REFERENCES).and_then(read_be32).unwrap_or(0);
    Some(Listed { name: name?, type_name, set_type, references, entries })
}

fn set_type(name: &str, family: u8, header: &[u8]) -> Option<SetType> {
    let max = || attribute(header, ATTR_MAXELEM).and_then(read_be32);
    let family = || [Family::V4, Family::V6].into_iter().find(|known| known.af() == family);
    Some(match name {
        "hash:ip" => SetType::HashIp { family: family()?, max: max()? },
        "hash:ip,port" => SetType::HashIpPort { family: family()?, max: max()? },
        "hash:ip,port,ip" => SetType::HashIpPortIp { family: family()?, max: max()? },
        "hash:ip,port,net" => SetType::HashIpPortNet { family: family()?, max: max()? },
        "bitmap:port" => SetType::BitmapPort {
            first: read_port(attribute(header, ATTR_PORT)?)?,
            last: read_port(attribute(header, ATTR_PORT_TO)?)?,
        },
        _ => return None,
    })
}

fn read_port(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.try_into().ok()?))
}

fn parse_entry(type_name: &str, data: &[u8]) -> Option<Entry> {
    let ip = |kind| {
        let nested = attribute(data, kind)?;
        read_ip(attributes(nested).next()?.1)
    };
    let port = || read_port(attribute(data, ATTR_PORT)?);
    let protocol = || attribute(data, ATTR_PROTO)?.first().copied();
    Some(match type_name {
        "hash:ip" => {
            // A set that somebody made with a netmask holds networks.
            if attribute(data, ATTR_CIDR).is_some() {
                return None;
            }
            Entry::Ip(ip(ATTR_IP)?)
        }
        "hash:ip,port" => Entry::IpPort(ip(ATTR_IP)?, protocol()?, port()?),
        "hash:ip,port,ip" => Entry::IpPortIp(ip(ATTR_IP)?, protocol()?, port()?, ip(ATTR_IP2)?),
        "hash:ip,port,net" => {
            let length = attribute(data, ATTR_CIDR2)?.first()?;
            let network = Prefix::new(ip(ATTR_IP2)?, *length)?;
            Entry::IpPortNet(ip(ATTR_IP)?, protocol()?, port()?, network)
        }
        "bitmap:port" => Entry::Port(port()?),
        _ => return None,
    })
}

/// Puts the parts of each set together.
pub(super) fn join(parts: Vec<Listed>) -> Vec<Listed> {
    let mut sets: Vec<Listed> = Vec::new();
    for mut part in parts {
        match sets.iter_mut().find(|set| set.name == part.name) {
            Some(set) => set.entries.append(&mut part.entries),
            None => sets.push(part),
        }
    }
    for set in &mut sets {
        set.entries.sort();
    }
    sets.sort_by(|a, b| a.name.cmp(&b.name));
    sets
}

/// What an error number of ipset's own means (`enum ipset_errno`): no other part of the kernel has any.
pub(crate) fn refusal(number: i32) -> Error {
    let (errno, text) = match number {
        4097 => (
            Errno::INVAL,
            "the kernel does not understand it: the address has another family than the set, or the protocol another version",
        ),
        4098 => (
            Errno::OPNOTSUPP,
            "the kernel does not know this type of set: are module ip_set and that of the type there?",
        ),
        4099 => (Errno::NOSPC, "there are as many sets as the kernel can hold"),
        4100 | 4108 => (Errno::BUSY, "the set is in use by a rule"),
        4101 => (Errno::EXIST, "there is a set of the new name already"),
        4102 => (Errno::INVAL, "the sets have different types"),
        4103 => (Errno::EXIST, "the entry or set is there already"),
        4104 => (Errno::INVAL, "the kernel takes no network of this length"),
        4106 => (Errno::INVAL, "this type of set does not have that family"),
        4352 => (Errno::NOSPC, "the set is full"),
        _ => (Errno::INVAL, "the kernel does not say more"),
    };
    let mut error = Error::new("change an ipset", errno);
    error.detail = Some(format!("{text} (error {number} of ipset)"));
    error
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::messages;

    #[test]
    fn an_entry_is_written_as_ipset_writes_it() {
        // What ipset 7.17 sent for `add E 10.96.0.1,sctp:53,10.244.1.2`, without headers: its attribute DATA.
        let captured = b"\x0c\x00\x01\x80\x08\x00\x01\x40\x0a\x60\x00\x01\x06\x00\x04\x40\x00\x35\x00\x00\x05\x00\x07\x00\x84\x00\x00\x00\x0c\x00\x14\x80\x08\x00\x01\x40\x0a\xf4\x01\x02\x08\x00\x09\x40\x00\x00\x00\x00";
        let ip = |last| IpAddr::from([10, last, 0, 1]);
        let client = IpAddr::from([10, 244, 1, 2]);
        let mut writer = Writer::default();
        entries(&mut writer, ADD, "E", &[Entry::IpPortIp(ip(96), 132, 53, client)]);
        let sent = messages(writer.bytes()).next().unwrap();
        assert_eq!(sent.kind, 0x609);
        let adt = attributes_after(sent.payload, NFGENMSG_LEN).find(|(k, _)| *k == ATTR_ADT);
        assert_eq!(attribute(adt.unwrap().1, ATTR_DATA), Some(&captured[..]));
    }
}
