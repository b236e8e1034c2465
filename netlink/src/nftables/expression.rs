//! The instructions of a rule, as the kernel's small machine takes them.
//!
//! A rule loads packet fields into registers, compares or looks them up, and acts. Registers are
//! counted in units of four bytes: slot 0 to 15.

use crate::message::Writer;

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

impl Verdict {
    /// (`NFTA_VERDICT_CODE`, chain): `NF_*`, `NFT_JUMP`, `NFT_GOTO`, `NFT_RETURN`.
    fn parts(&self) -> (u32, Option<&str>) {
        match self {
            Verdict::Drop => (0, None),
            Verdict::Accept => (1, None),
            Verdict::Jump(chain) => (-3i32 as u32, Some(chain)),
            Verdict::Goto(chain) => (-4i32 as u32, Some(chain)),
            Verdict::Return => (-5i32 as u32, None),
        }
    }
}

pub(super) fn write_verdict(m: &mut Writer, verdict: &Verdict) {
    let (code, chain) = verdict.parts();
    m.nest(NFTA_DATA_VERDICT, |m| {
        m.be32(NFTA_VERDICT_CODE, code);
        if let Some(chain) = chain {
            m.string(NFTA_VERDICT_CHAIN, chain);
        }
    });
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
    /// Destination port of TCP, UDP, SCTP.
    pub const TH_DPORT: Payload = Payload { base: 2, offset: 2, length: 2 };
}

/// A packet's property that is in none of its headers (`enum nft_meta_keys`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Meta {
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
}

/// A property of the packet's connection (`enum nft_ct_keys`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ct {
    /// `IPS_*` bits.
    Status = 2,
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
    /// Loads the type of the destination address as routing sees it (`fib daddr type`).
    LoadDestinationType(Register),
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
    /// Counts packets and bytes.
    Counter,
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
const NFTA_FIB_DREG: u16 = 1;
const NFTA_FIB_RESULT: u16 = 2;
const NFTA_FIB_FLAGS: u16 = 3;
const NFT_FIB_RESULT_ADDRTYPE: u32 = 3;
const NFTA_FIB_F_DADDR: u32 = 1 << 1;
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
            Expression::LoadCt(..) => "ct",
            Expression::LoadDestinationType(_) => "fib",
            Expression::Compare(..) => "cmp",
            Expression::Bitwise { .. } => "bitwise",
            Expression::LookupSet { .. }
            | Expression::LookupMap { .. }
            | Expression::LookupVerdict { .. } => "lookup",
            Expression::Verdict(_) => "immediate",
            Expression::Nat { .. } => "nat",
            Expression::Masquerade => "masq",
            Expression::Counter => "counter",
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
            Expression::LoadDestinationType(to) => {
                m.be32(NFTA_FIB_FLAGS, NFTA_FIB_F_DADDR);
                m.be32(NFTA_FIB_RESULT, NFT_FIB_RESULT_ADDRTYPE);
                m.be32(NFTA_FIB_DREG, to.number());
            }
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
                m.nest(NFTA_IMMEDIATE_DATA, |m| write_verdict(m, verdict));
            }
            Expression::Nat { kind, family, address, port } => {
                m.be32(NFTA_NAT_TYPE, *kind as u32);
                m.be32(NFTA_NAT_FAMILY, u32::from(*family));
                m.be32(NFTA_NAT_REG_ADDR_MIN, address.number());
                m.be32(NFTA_NAT_REG_PROTO_MIN, port.number());
            }
            Expression::Masquerade => m.be32(NFTA_MASQ_FLAGS, NF_NAT_RANGE_PROTO_RANDOM_FULLY),
            Expression::Counter => {}
        }
    }
}
