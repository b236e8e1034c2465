//! Tables, chains, sets and elements as data.

use std::net::IpAddr;

use super::expression::{Verdict, VerdictRef};
use crate::MacAddress;

/// The packets a table sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TableFamily {
    /// IPv4 and IPv6.
    Inet,
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
    /// Frames that pass a bridge.
    Bridge,
}

impl TableFamily {
    /// `NFPROTO_*` (`include/uapi/linux/netfilter.h`).
    pub(crate) fn number(self) -> u8 {
        match self {
            TableFamily::Inet => 1,
            TableFamily::Ip => 2,
            TableFamily::Bridge => 7,
            TableFamily::Ip6 => 10,
        }
    }
}

/// A table: the name under which everything else lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table<'a> {
    /// Its family.
    pub family: TableFamily,
    /// Its name, unique in the family.
    pub name: &'a str,
}

/// Where a base chain sees packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hook {
    /// `filter`, `nat` or `route`.
    pub kind: &'static str,
    /// `NF_INET_*`: 0 prerouting, 1 input, 2 forward, 3 output, 4 postrouting.
    pub number: u32,
    /// Lower comes first.
    pub priority: i32,
}

impl Hook {
    /// Before routing.
    pub const PREROUTING: u32 = 0;
    /// To the node itself.
    pub const INPUT: u32 = 1;
    /// Through the node.
    pub const FORWARD: u32 = 2;
    /// From the node itself.
    pub const OUTPUT: u32 = 3;
    /// On the way out.
    pub const POSTROUTING: u32 = 4;
}

/// A chain of rules; without a hook it is only reached by jumps. Policy is always accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain<'a> {
    /// Its name, unique in the table.
    pub name: &'a str,
    /// Where it sees packets.
    pub hook: Option<Hook>,
}

/// The type of one field of a key or value. Numbers are those of `nft` (its `datatypes` enum).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DataType {
    /// IPv4 address.
    Ipv4Addr,
    /// IPv6 address.
    Ipv6Addr,
    /// Ethernet address.
    EtherAddr,
    /// Transport protocol number.
    InetProto,
    /// Port.
    InetService,
    /// Packet mark.
    Mark,
    /// Packet priority, which `nft` writes as `MAJOR:MINOR`.
    ClassId,
    /// Interface name.
    IfName,
}

impl DataType {
    pub(crate) fn number(self) -> u32 {
        match self {
            DataType::Ipv4Addr => 7,
            DataType::Ipv6Addr => 8,
            DataType::EtherAddr => 9,
            DataType::InetProto => 12,
            DataType::InetService => 13,
            DataType::Mark => 19,
            DataType::ClassId => 23,
            DataType::IfName => 41,
        }
    }

    /// Bytes of a value.
    pub fn length(self) -> u32 {
        match self {
            DataType::InetProto => 1,
            DataType::InetService => 2,
            DataType::Ipv4Addr | DataType::Mark | DataType::ClassId => 4,
            DataType::EtherAddr => 6,
            DataType::Ipv6Addr | DataType::IfName => 16,
        }
    }

    /// Whether values are in the host's byte order.
    pub(crate) fn is_host_order(self) -> bool {
        matches!(self, DataType::Mark | DataType::ClassId | DataType::IfName)
    }

    /// Bytes in registers: fields of a concatenation begin at multiples of four.
    pub fn padded_length(self) -> u32 {
        self.length().next_multiple_of(4)
    }

    /// The number of a concatenation: six bits each.
    pub(crate) fn concatenation(types: &[DataType]) -> u32 {
        types.iter().fold(0, |number, field| (number << 6) | field.number())
    }

    /// Bytes of a key of these fields. A single field is not padded.
    pub(crate) fn key_length(types: &[DataType]) -> u32 {
        match types {
            [single] => single.length(),
            fields => fields.iter().map(|field| field.padded_length()).sum(),
        }
    }
}

/// What a map gives for a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetData<'a> {
    /// Where the packet goes on.
    Verdict,
    /// A value.
    Value(&'a [DataType]),
}

/// A named set, or a map if it has data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Set<'a> {
    /// Its name, unique in the table.
    pub name: &'a str,
    /// The fields of its key.
    pub key: &'a [DataType],
    /// The type of its data; `None` is a plain set.
    pub data: Option<SetData<'a>>,
    /// Whether elements are ranges.
    pub interval: bool,
    /// Whether the packet path adds elements, which then expire: at most so many.
    pub dynamic: Option<u32>,
    /// Whether each element counts the packets that found it.
    pub counters: bool,
}

impl<'a> Set<'a> {
    /// A plain set of single values.
    pub const fn new(name: &'a str, key: &'a [DataType]) -> Set<'a> {
        Set { name, key, data: None, interval: false, dynamic: None, counters: false }
    }

    /// A map to values of these fields.
    pub const fn map(self, data: &'a [DataType]) -> Set<'a> {
        Set { data: Some(SetData::Value(data)), ..self }
    }

    /// A map to verdicts.
    pub const fn verdict_map(self) -> Set<'a> {
        Set { data: Some(SetData::Verdict), ..self }
    }

    /// With ranges as elements.
    pub const fn ranges(self) -> Set<'a> {
        Set { interval: true, ..self }
    }

    /// With elements that the packet path adds, at most `size`, each with a life of its own.
    pub const fn dynamic(self, size: u32) -> Set<'a> {
        Set { dynamic: Some(size), ..self }
    }

    /// With a counter in each element.
    pub const fn counted(self) -> Set<'a> {
        Set { counters: true, ..self }
    }
}

/// The data of a map's element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ElementData {
    /// Fields, padded as in registers.
    Value(Vec<u8>),
    /// Where the packet goes on.
    Verdict(Verdict),
}

/// The data of a map's element, borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElementDataRef<'a> {
    /// Fields, padded as in registers.
    Value(&'a [u8]),
    /// Where the packet goes on.
    Verdict(VerdictRef<'a>),
}

/// An element without copies, for sets of many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ElementRef<'a> {
    /// The key's fields, padded as in registers.
    pub key: &'a [u8],
    /// The last of a range, in a set of ranges over concatenations.
    pub key_end: Option<&'a [u8]>,
    /// In a set of ranges over a single field: the range ends before this key.
    pub interval_end: bool,
    /// A map's data.
    pub data: Option<ElementDataRef<'a>>,
    /// What `nft` shows as comment.
    pub comment: Option<&'a str>,
    /// Packets that found it, in a set with counters; for reading only.
    pub packets: u64,
}

impl<'a> ElementRef<'a> {
    /// An element with a key alone.
    pub fn new(key: &'a [u8]) -> ElementRef<'a> {
        ElementRef {
            key,
            key_end: None,
            interval_end: false,
            data: None,
            comment: None,
            packets: 0,
        }
    }

    /// A copy that lives on its own.
    pub fn to_owned(&self) -> Element {
        Element {
            key: self.key.to_vec(),
            key_end: self.key_end.map(<[u8]>::to_vec),
            data: self.data.map(|data| match data {
                ElementDataRef::Value(value) => ElementData::Value(value.to_vec()),
                ElementDataRef::Verdict(verdict) => ElementData::Verdict(verdict.to_owned()),
            }),
            comment: self.comment.map(str::to_owned),
        }
    }

    /// With a value.
    pub fn value(self, value: &'a [u8]) -> ElementRef<'a> {
        ElementRef { data: Some(ElementDataRef::Value(value)), ..self }
    }

    /// With a verdict.
    pub fn verdict(self, verdict: VerdictRef<'a>) -> ElementRef<'a> {
        ElementRef { data: Some(ElementDataRef::Verdict(verdict)), ..self }
    }
}

/// An element of a set or map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    /// The key's fields, padded as in registers; the first of a range.
    pub key: Vec<u8>,
    /// The last of a range, in a set of ranges over concatenations.
    pub key_end: Option<Vec<u8>>,
    /// A map's data.
    pub data: Option<ElementData>,
    /// What `nft` shows as comment; at most 127 bytes. Viaduct names the owner here.
    pub comment: Option<String>,
}

impl Element {
    /// The same, borrowed.
    pub fn borrow(&self) -> ElementRef<'_> {
        ElementRef {
            key: &self.key,
            key_end: self.key_end.as_deref(),
            interval_end: false,
            data: self.data.as_ref().map(|data| match data {
                ElementData::Value(value) => ElementDataRef::Value(value),
                ElementData::Verdict(verdict) => ElementDataRef::Verdict(verdict.borrow()),
            }),
            comment: self.comment.as_deref(),
            packets: 0,
        }
    }

    /// An element with a key alone.
    pub fn new(key: Key) -> Element {
        Element { key: key.0, key_end: None, data: None, comment: None }
    }

    /// With a value.
    pub fn value(mut self, value: Key) -> Element {
        self.data = Some(ElementData::Value(value.0));
        self
    }

    /// With a verdict.
    pub fn verdict(mut self, verdict: Verdict) -> Element {
        self.data = Some(ElementData::Verdict(verdict));
        self
    }

    /// With a range's last key.
    pub fn to(mut self, last: Key) -> Element {
        self.key_end = Some(last.0);
        self
    }

    /// With a comment.
    pub fn comment(mut self, comment: impl Into<String>) -> Element {
        self.comment = Some(comment.into());
        self
    }
}

/// Builds a key or a value field by field, each padded to four bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Key(pub Vec<u8>);

impl Key {
    /// An empty key.
    pub fn new() -> Key {
        Key::default()
    }

    fn field(mut self, bytes: &[u8]) -> Key {
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// An address of either family.
    pub fn ip(self, address: IpAddr) -> Key {
        match address {
            IpAddr::V4(v4) => self.field(&v4.octets()),
            IpAddr::V6(v6) => self.field(&v6.octets()),
        }
    }

    /// An Ethernet address.
    pub fn mac(self, address: MacAddress) -> Key {
        self.field(&address.0)
    }

    /// A transport protocol.
    pub fn protocol(self, number: u8) -> Key {
        self.field(&[number])
    }

    /// A port.
    pub fn port(self, port: u16) -> Key {
        self.field(&port.to_be_bytes())
    }

    /// A number in the host's byte order: a mark, a random number.
    pub fn mark(self, number: u32) -> Key {
        self.field(&number.to_ne_bytes())
    }

    /// An interface name.
    pub fn ifname(self, name: &str) -> Key {
        let mut bytes = [0u8; 16];
        let length = name.len().min(15);
        bytes[..length].copy_from_slice(&name.as_bytes()[..length]);
        self.field(&bytes)
    }
}
