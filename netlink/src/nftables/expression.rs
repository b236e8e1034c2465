//! The instructions of a rule, as the kernel's small machine takes them.
//!
//! A rule loads packet fields into registers, compares or looks them up, and acts. Registers are
//! counted in units of four bytes: slot 0 to 15.

use crate::message::{Writer, attribute, read_be32};

// include/uapi/linux/netfilter/nf_tables.h
const NFTA_LIST_ELEM: u16 = 1;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;
const NFTA_VERDICT_CHAIN: u16 = 2;
/// `NFT_REG32_00`.
const FIRST_REGISTER: u32 = 8;
/// `NFT_REG_VERDICT`.
const VERDICT_REGISTER: u32 = 0;

/// A register of four bytes; longer values take the following ones too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Register(pub u32);

impl Register {
    fn number(self) -> u32 {
        FIRST_REGISTER + self.0
    }
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It goes on to the next base chain.
    Accept,
    /// It is gone.
    Drop,
    /// It goes on in a chain and comes back.
    Jump(String),
    /// It goes on in a chain and does not come back here.
    Goto(String),
    /// Back to the calling chain.
    Return,
}

/// A [`Verdict`], borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VerdictRef<'a> {
    /// It goes on to the next base chain.
    Accept,
    /// It is gone.
    Drop,
    /// It goes on in a chain and comes back.
    Jump(&'a str),
    /// It goes on in a chain and does not come back here.
    Goto(&'a str),
    /// Back to the calling chain.
    Return,
}

impl Verdict {
    /// The same, borrowed.
    pub fn borrow(&self) -> VerdictRef<'_> {
        match self {
            Verdict::Accept => VerdictRef::Accept,
            Verdict::Drop => VerdictRef::Drop,
            Verdict::Jump(chain) => VerdictRef::Jump(chain),
            Verdict::Goto(chain) => VerdictRef::Goto(chain),
            Verdict::Return => VerdictRef::Return,
        }
    }
}

impl VerdictRef<'_> {
    /// A copy that lives on its own.
    pub fn to_owned(&self) -> Verdict {
        match *self {
            VerdictRef::Accept => Verdict::Accept,
            VerdictRef::Drop => Verdict::Drop,
            VerdictRef::Jump(chain) => Verdict::Jump(chain.to_owned()),
            VerdictRef::Goto(chain) => Verdict::Goto(chain.to_owned()),
            VerdictRef::Return => Verdict::Return,
        }
    }
}

// `NF_*`, `NFT_JUMP`, `NFT_GOTO`, `NFT_RETURN`.
const NF_DROP: u32 = 0;
const NF_ACCEPT: u32 = 1;
const NFT_JUMP: u32 = -3i32 as u32;
const NFT_GOTO: u32 = -4i32 as u32;
const NFT_RETURN: u32 = -5i32 as u32;

pub(super) fn write_verdict(m: &mut Writer, verdict: VerdictRef<'_>) {
    let (code, chain) = match verdict {
        VerdictRef::Drop => (NF_DROP, None),
        VerdictRef::Accept => (NF_ACCEPT, None),
        VerdictRef::Jump(chain) => (NFT_JUMP, Some(chain)),
        VerdictRef::Goto(chain) => (NFT_GOTO, Some(chain)),
        VerdictRef::Return => (NFT_RETURN, None),
    };
    m.nest(NFTA_DATA_VERDICT, |m| {
        m.be32(NFTA_VERDICT_CODE, code);
        if let Some(chain) = chain {
            m.string(NFTA_VERDICT_CHAIN, chain);
        }
    });
}

/// The verdict in an element's data.
pub(super) fn read_verdict(data: &[u8]) -> Option<VerdictRef<'_>> {
    let verdict = attribute(data, NFTA_DATA_VERDICT)?;
    let chain = || {
        let name = attribute(verdict, NFTA_VERDICT_CHAIN)?;
        std::str::from_utf8(name.strip_suffix(&[0]).unwrap_or(name)).ok()
    };
    Some(match attribute(verdict, NFTA_VERDICT_CODE).and_then(read_be32)? {
        NF_DROP => VerdictRef::Drop,
        NF_ACCEPT => VerdictRef::Accept,
        NFT_JUMP => VerdictRef::Jump(chain()?),
        NFT_GOTO => VerdictRef::Goto(chain()?),
        NFT_RETURN => VerdictRef::Return,
        _ => return None,
    })
}

pub(super) fn write_value(m: &mut Writer, kind: u16, value: &[u8]) {
    m.nest(kind, |m| m.attr(NFTA_DATA_VALUE, value));
}

/// A header field: which header, offset and length in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Payload {
    /// `NFT_PAYLOAD_*_HEADER`: 0 link layer, 1 network, 2 transport.
    pub base: u32,
    /// Bytes from the start of the header.
    pub offset: u32,
    /// Bytes to load.
    pub length: u32,
}

impl Payload {
    /// Ethernet type; that of the tag, where a frame has a VLAN tag.
    pub const ETHER_TYPE: Payload = Payload { base: 0, offset: 12, length: 2 };
    /// The sender's Ethernet address.
    pub const ETHER_SADDR: Payload = Payload { base: 0, offset: 6, length: 6 };
    /// IPv4 source address.
    pub const IP_SADDR: Payload = Payload { base: 1, offset: 12, length: 4 };
    /// IPv4 destination address.
    pub const IP_DADDR: Payload = Payload { base: 1, offset: 16, length: 4 };
    /// IPv6 source address.
    pub const IP6_SADDR: Payload = Payload { base: 1, offset: 8, length: 16 };
    /// IPv6 destination address.
    pub const IP6_DADDR: Payload = Payload { base: 1, offset: 24, length: 16 };
    /// The sender's IPv4 address in an ARP message.
    pub const ARP_SADDR: Payload = Payload { base: 1, offset: 14, length: 4 };
    /// Destination port of TCP, UDP, SCTP.
    pub const TH_DPORT: Payload = Payload { base: 2, offset: 2, length: 2 };
    /// Type of ICMP and ICMPv6.
    pub const ICMP_TYPE: Payload = Payload { base: 2, offset: 0, length: 1 };
    /// What a neighbour solicitation or advertisement is about.
    pub const ND_TARGET: Payload = Payload { base: 2, offset: 8, length: 16 };
}

/// A packet's property that is in none of its headers (`enum nft_meta_keys`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Meta {
    /// Packet priority, which Viaduct uses as scratch space for the first packet of a connection.
    Priority = 2,
    /// Packet mark.
    Mark = 3,
    /// Name of the interface it came in by.
    IifName = 6,
    /// Name of the interface it leaves by.
    OifName = 7,
    /// `NFPROTO_IPV4` or `NFPROTO_IPV6`.
    NfProto = 15,
    /// Transport protocol number.
    L4Proto = 16,
    /// Kind of the interface it came in by, such as `veth`, as wide as a name.
    IifKind = 26,
}

/// A property of the packet's connection (`enum nft_ct_keys`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ct {
    /// `NF_CT_STATE_*` bits.
    State = 0,
    /// `IPS_*` bits.
    Status = 2,
    /// The connection's mark.
    Mark = 3,
    /// Transport protocol number.
    Protocol = 10,
    /// Source port, or what the protocol has in its place; only of one direction.
    SourcePort = 11,
    /// Destination port; likewise.
    DestinationPort = 12,
    /// IPv4 source; only of one direction ([`Expression::LoadCtOriginal`], [`Expression::LoadCtReply`]).
    SourceIp = 19,
    /// IPv4 destination; likewise.
    DestinationIp = 20,
    /// IPv6 source; likewise.
    SourceIp6 = 21,
    /// IPv6 destination; likewise.
    DestinationIp6 = 22,
}

/// What a rule does to a dynamic set or map (`enum nft_dynset_ops`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DynsetOperation {
    /// Adds an element, or refreshes the timer of the one that is there; its data stays.
    Update = 1,
    /// Deletes an element, if it is there.
    Delete = 2,
}

/// How a packet is refused (`enum nft_reject_types`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RejectWith {
    /// ICMP or ICMPv6 destination unreachable with this code.
    IcmpUnreachable(u8),
    /// A TCP reset.
    TcpReset,
}

/// `enum nft_cmp_ops`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compare {
    /// Equal.
    Equal = 0,
    /// Not equal.
    NotEqual = 1,
}

/// `enum nft_nat_types`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NatKind {
    /// Change the source.
    Source = 0,
    /// Change the destination.
    Destination = 1,
}

/// One instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expression {
    /// Loads a header field.
    LoadPayload(Payload, Register),
    /// Loads a packet property.
    LoadMeta(Meta, Register),
    /// Sets a packet property.
    StoreMeta(Meta, Register),
    /// Loads a connection property.
    LoadCt(Ct, Register),
    /// Loads a connection property of the original direction (`ct original …`).
    LoadCtOriginal(Ct, Register),
    /// Loads a connection property of the reply direction (`ct reply …`).
    LoadCtReply(Ct, Register),
    /// Sets a connection property: the mark alone can be set.
    StoreCt(Ct, Register),
    /// Loads a constant.
    LoadValue(Vec<u8>, Register),
    /// Loads a random number below the modulus (`numgen random mod N`).
    LoadRandom {
        /// One more than the largest number.
        modulus: u32,
        /// Where it goes, in the host's byte order.
        to: Register,
    },
    /// Loads the type of the destination address as routing sees it (`fib daddr type`).
    LoadDestinationType(Register),
    /// Loads the kind of the destination address (`RTN_*`) on the device that the packet came in by.
    /// Valid in chains of prerouting, input and forward only.
    LoadDestinationTypeOnDevice(Register),
    /// Loads the type of the source address as routing sees it (`fib saddr type`).
    LoadSourceType(Register),
    /// Ends the rule unless the comparison holds.
    Compare(Compare, Register, Vec<u8>),
    /// `register = (register & mask) ^ xor`.
    Bitwise {
        /// The register, source and destination.
        register: Register,
        /// Bits to keep.
        mask: Vec<u8>,
        /// Bits to flip afterwards.
        xor: Vec<u8>,
    },
    /// Ends the rule unless the registers are in the set (or are not, if inverted).
    LookupSet {
        /// The set.
        set: String,
        /// First register of the key.
        key: Register,
        /// Whether absence is what is wanted.
        inverted: bool,
    },
    /// Loads a map's value; ends the rule if the key is not there.
    LookupMap {
        /// The map.
        map: String,
        /// First register of the key.
        key: Register,
        /// First register of the value.
        value: Register,
    },
    /// Obeys a verdict map; goes on if the key is not there.
    LookupVerdict {
        /// The map.
        map: String,
        /// First register of the key.
        key: Register,
    },
    /// Obeys a verdict.
    Verdict(Verdict),
    /// Changes an address and a port, both from registers.
    Nat {
        /// Source or destination.
        kind: NatKind,
        /// `NFPROTO_IPV4` (2) or `NFPROTO_IPV6` (10).
        family: u8,
        /// Register of the address.
        address: Register,
        /// Register of the port.
        port: Register,
    },
    /// Changes the source to the outgoing interface's address, with a port drawn at random
    /// (`NF_NAT_RANGE_PROTO_RANDOM_FULLY`), which avoids that two flows race for one port.
    Masquerade,
    /// Changes a dynamic set or map from the packet path.
    Dynset {
        /// The set or map.
        set: String,
        /// What is done.
        operation: DynsetOperation,
        /// First register of the key.
        key: Register,
        /// First register of a map's data; the kernel wants it for deletions too.
        data: Option<Register>,
        /// Life of an element in milliseconds; 0 is the set's own.
        timeout_ms: u64,
    },
    /// Refuses the packet with an answer to its sender.
    Reject(RejectWith),
    /// Counts packets and bytes.
    Counter,
    /// Ends the rule for what is more than so many packets a second, after a burst.
    Limit {
        /// Packets a second.
        per_second: u64,
        /// Packets at once.
        burst: u32,
    },
    /// Hands a copy of the packet's beginning to whoever listens to the group.
    Log {
        /// `NFLOG` group.
        group: u16,
        /// What is told with it.
        prefix: String,
        /// Bytes of the packet.
        snaplen: u32,
    },
}

// Attributes of the expressions, in the order of nf_tables.h.
const NFTA_IMMEDIATE_DREG: u16 = 1;
const NFTA_IMMEDIATE_DATA: u16 = 2;
const NFTA_PAYLOAD_DREG: u16 = 1;
const NFTA_PAYLOAD_BASE: u16 = 2;
const NFTA_PAYLOAD_OFFSET: u16 = 3;
const NFTA_PAYLOAD_LEN: u16 = 4;
const NFTA_META_DREG: u16 = 1;
const NFTA_META_KEY: u16 = 2;
const NFTA_META_SREG: u16 = 3;
const NFTA_CT_DREG: u16 = 1;
const NFTA_CT_KEY: u16 = 2;
const NFTA_CT_DIRECTION: u16 = 3;
const NFTA_CT_SREG: u16 = 4;
const IP_CT_DIR_ORIGINAL: u8 = 0;
const IP_CT_DIR_REPLY: u8 = 1;
const NFTA_LIMIT_RATE: u16 = 1;
const NFTA_LIMIT_UNIT: u16 = 2;
const NFTA_LIMIT_BURST: u16 = 3;
const NFTA_LOG_GROUP: u16 = 1;
const NFTA_LOG_PREFIX: u16 = 2;
const NFTA_LOG_SNAPLEN: u16 = 3;
const NFTA_NG_DREG: u16 = 1;
const NFTA_NG_MODULUS: u16 = 2;
const NFTA_NG_TYPE: u16 = 3;
const NFTA_NG_OFFSET: u16 = 4;
const NFT_NG_RANDOM: u32 = 1;
const NFTA_DYNSET_SET_NAME: u16 = 1;
const NFTA_DYNSET_OP: u16 = 3;
const NFTA_DYNSET_SREG_KEY: u16 = 4;
const NFTA_DYNSET_SREG_DATA: u16 = 5;
const NFTA_DYNSET_TIMEOUT: u16 = 6;
const NFTA_REJECT_TYPE: u16 = 1;
const NFTA_REJECT_ICMP_CODE: u16 = 2;
const NFT_REJECT_ICMP_UNREACH: u32 = 0;
const NFT_REJECT_TCP_RST: u32 = 1;
const NFTA_FIB_DREG: u16 = 1;
const NFTA_FIB_RESULT: u16 = 2;
const NFTA_FIB_FLAGS: u16 = 3;
const NFT_FIB_RESULT_ADDRTYPE: u32 = 3;
const NFTA_FIB_F_SADDR: u32 = 1 << 0;
const NFTA_FIB_F_DADDR: u32 = 1 << 1;
const NFTA_FIB_F_IIF: u32 = 1 << 3;
const NFTA_CMP_SREG: u16 = 1;
const NFTA_CMP_OP: u16 = 2;
const NFTA_CMP_DATA: u16 = 3;
const NFTA_BITWISE_SREG: u16 = 1;
const NFTA_BITWISE_DREG: u16 = 2;
const NFTA_BITWISE_LEN: u16 = 3;
const NFTA_BITWISE_MASK: u16 = 4;
const NFTA_BITWISE_XOR: u16 = 5;
const NFTA_LOOKUP_SET: u16 = 1;
const NFTA_LOOKUP_SREG: u16 = 2;
const NFTA_LOOKUP_DREG: u16 = 3;
const NFTA_LOOKUP_FLAGS: u16 = 5;
const NFT_LOOKUP_F_INV: u32 = 1;
const NFTA_NAT_TYPE: u16 = 1;
const NFTA_NAT_FAMILY: u16 = 2;
const NFTA_NAT_REG_ADDR_MIN: u16 = 3;
const NFTA_NAT_REG_PROTO_MIN: u16 = 5;
const NFTA_MASQ_FLAGS: u16 = 1;
const NF_NAT_RANGE_PROTO_RANDOM_FULLY: u32 = 1 << 4;

impl Expression {
    fn name(&self) -> &'static str {
        match self {
            Expression::LoadPayload(..) => "payload",
            Expression::LoadMeta(..) | Expression::StoreMeta(..) => "meta",
            Expression::LoadCt(..)
            | Expression::LoadCtOriginal(..)
            | Expression::LoadCtReply(..)
            | Expression::StoreCt(..) => "ct",
            Expression::LoadRandom { .. } => "numgen",
            Expression::LoadDestinationType(_)
            | Expression::LoadDestinationTypeOnDevice(_)
            | Expression::LoadSourceType(_) => "fib",
            Expression::Compare(..) => "cmp",
            Expression::Bitwise { .. } => "bitwise",
            Expression::LookupSet { .. }
            | Expression::LookupMap { .. }
            | Expression::LookupVerdict { .. } => "lookup",
            Expression::Verdict(_) | Expression::LoadValue(..) => "immediate",
            Expression::Nat { .. } => "nat",
            Expression::Masquerade => "masq",
            Expression::Dynset { .. } => "dynset",
            Expression::Reject(_) => "reject",
            Expression::Counter => "counter",
            Expression::Limit { .. } => "limit",
            Expression::Log { .. } => "log",
        }
    }

    pub(super) fn write(&self, m: &mut Writer) {
        m.nest(NFTA_LIST_ELEM, |m| {
            m.string(NFTA_EXPR_NAME, self.name());
            m.nest(NFTA_EXPR_DATA, |m| self.write_data(m));
        });
    }

    fn write_data(&self, m: &mut Writer) {
        match self {
            Expression::LoadPayload(field, to) => {
                m.be32(NFTA_PAYLOAD_DREG, to.number());
                m.be32(NFTA_PAYLOAD_BASE, field.base);
                m.be32(NFTA_PAYLOAD_OFFSET, field.offset);
                m.be32(NFTA_PAYLOAD_LEN, field.length);
            }
            Expression::LoadMeta(key, to) => {
                m.be32(NFTA_META_KEY, *key as u32);
                m.be32(NFTA_META_DREG, to.number());
            }
            Expression::StoreMeta(key, from) => {
                m.be32(NFTA_META_KEY, *key as u32);
                m.be32(NFTA_META_SREG, from.number());
            }
            Expression::LoadCt(key, to) => {
                m.be32(NFTA_CT_KEY, *key as u32);
                m.be32(NFTA_CT_DREG, to.number());
            }
            Expression::LoadCtOriginal(key, to) => {
                m.be32(NFTA_CT_KEY, *key as u32);
                m.be32(NFTA_CT_DREG, to.number());
                m.u8(NFTA_CT_DIRECTION, IP_CT_DIR_ORIGINAL);
            }
            Expression::LoadCtReply(key, to) => {
                m.be32(NFTA_CT_KEY, *key as u32);
                m.be32(NFTA_CT_DREG, to.number());
                m.u8(NFTA_CT_DIRECTION, IP_CT_DIR_REPLY);
            }
            Expression::StoreCt(key, from) => {
                m.be32(NFTA_CT_KEY, *key as u32);
                m.be32(NFTA_CT_SREG, from.number());
            }
            Expression::LoadValue(value, to) => {
                m.be32(NFTA_IMMEDIATE_DREG, to.number());
                write_value(m, NFTA_IMMEDIATE_DATA, value);
            }
            Expression::LoadRandom { modulus, to } => {
                m.be32(NFTA_NG_DREG, to.number());
                m.be32(NFTA_NG_MODULUS, *modulus);
                m.be32(NFTA_NG_TYPE, NFT_NG_RANDOM);
                m.be32(NFTA_NG_OFFSET, 0);
            }
            Expression::LoadDestinationType(to) => write_fib(m, NFTA_FIB_F_DADDR, *to),
            Expression::LoadDestinationTypeOnDevice(to) => {
                write_fib(m, NFTA_FIB_F_DADDR | NFTA_FIB_F_IIF, *to);
            }
            Expression::LoadSourceType(to) => write_fib(m, NFTA_FIB_F_SADDR, *to),
            Expression::Compare(operation, register, value) => {
                m.be32(NFTA_CMP_SREG, register.number());
                m.be32(NFTA_CMP_OP, *operation as u32);
                write_value(m, NFTA_CMP_DATA, value);
            }
            Expression::Bitwise { register, mask, xor } => {
                m.be32(NFTA_BITWISE_SREG, register.number());
                m.be32(NFTA_BITWISE_DREG, register.number());
                m.be32(NFTA_BITWISE_LEN, mask.len() as u32);
                write_value(m, NFTA_BITWISE_MASK, mask);
                write_value(m, NFTA_BITWISE_XOR, xor);
            }
            Expression::LookupSet { set, key, inverted } => {
                m.string(NFTA_LOOKUP_SET, set);
                m.be32(NFTA_LOOKUP_SREG, key.number());
                if *inverted {
                    m.be32(NFTA_LOOKUP_FLAGS, NFT_LOOKUP_F_INV);
                }
            }
            Expression::LookupMap { map, key, value } => {
                m.string(NFTA_LOOKUP_SET, map);
                m.be32(NFTA_LOOKUP_SREG, key.number());
                m.be32(NFTA_LOOKUP_DREG, value.number());
            }
            Expression::LookupVerdict { map, key } => {
                m.string(NFTA_LOOKUP_SET, map);
                m.be32(NFTA_LOOKUP_SREG, key.number());
                m.be32(NFTA_LOOKUP_DREG, VERDICT_REGISTER);
            }
            Expression::Verdict(verdict) => {
                m.be32(NFTA_IMMEDIATE_DREG, VERDICT_REGISTER);
                m.nest(NFTA_IMMEDIATE_DATA, |m| write_verdict(m, verdict.borrow()));
            }
            Expression::Nat { kind, family, address, port } => {
                m.be32(NFTA_NAT_TYPE, *kind as u32);
                m.be32(NFTA_NAT_FAMILY, u32::from(*family));
                m.be32(NFTA_NAT_REG_ADDR_MIN, address.number());
                m.be32(NFTA_NAT_REG_PROTO_MIN, port.number());
            }
            Expression::Masquerade => m.be32(NFTA_MASQ_FLAGS, NF_NAT_RANGE_PROTO_RANDOM_FULLY),
            Expression::Dynset { set, operation, key, data, timeout_ms } => {
                m.be32(NFTA_DYNSET_SREG_KEY, key.number());
                if let Some(data) = data {
                    m.be32(NFTA_DYNSET_SREG_DATA, data.number());
                }
                m.be32(NFTA_DYNSET_OP, *operation as u32);
                if *timeout_ms != 0 {
                    m.be64(NFTA_DYNSET_TIMEOUT, *timeout_ms);
                }
                m.string(NFTA_DYNSET_SET_NAME, set);
            }
            Expression::Reject(RejectWith::IcmpUnreachable(code)) => {
                m.be32(NFTA_REJECT_TYPE, NFT_REJECT_ICMP_UNREACH);
                m.u8(NFTA_REJECT_ICMP_CODE, *code);
            }
            Expression::Reject(RejectWith::TcpReset) => {
                m.be32(NFTA_REJECT_TYPE, NFT_REJECT_TCP_RST);
            }
            Expression::Counter => {}
            Expression::Limit { per_second, burst } => {
                m.be64(NFTA_LIMIT_RATE, *per_second);
                m.be64(NFTA_LIMIT_UNIT, 1);
                m.be32(NFTA_LIMIT_BURST, *burst);
            }
            Expression::Log { group, prefix, snaplen } => {
                m.string(NFTA_LOG_PREFIX, prefix);
                m.be16(NFTA_LOG_GROUP, *group);
                m.be32(NFTA_LOG_SNAPLEN, *snaplen);
            }
        }
    }
}

fn write_fib(m: &mut Writer, flags: u32, to: Register) {
    m.be32(NFTA_FIB_FLAGS, flags);
    m.be32(NFTA_FIB_RESULT, NFT_FIB_RESULT_ADDRTYPE);
    m.be32(NFTA_FIB_DREG, to.number());
}
