//! The words of `nft` for what rules load, and for the constants beside it.

use std::fmt::Write;

use netlink::nftables::{Ct, DataType, Meta, Payload};

use super::super::layout::RTN_LOCAL;
use super::value::{Fields, write_bytes};

/// What the constants beside a value mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    Field(DataType),
    /// `NF_CT_STATE_*` bits.
    State,
    /// `IPS_*` bits.
    Status,
    /// A `tc` handle.
    Priority,
    /// `RTN_*`.
    AddressType,
    Number,
}

/// The words for a header field, and its meaning.
pub(super) fn payload(field: Payload) -> (String, Meaning) {
    let (text, meaning) = match field {
        Payload::ETHER_SADDR => ("ether saddr", DataType::EtherAddr),
        Payload::IP_SADDR => ("ip saddr", DataType::Ipv4Addr),
        Payload::IP_DADDR => ("ip daddr", DataType::Ipv4Addr),
        Payload::IP6_SADDR => ("ip6 saddr", DataType::Ipv6Addr),
        Payload::IP6_DADDR => ("ip6 daddr", DataType::Ipv6Addr),
        Payload::TH_DPORT => ("th dport", DataType::InetService),
        Payload { base, offset, length } => {
            let base = ["ll", "nh", "th"].get(base as usize).unwrap_or(&"ih");
            let text = format!("@{base},{},{}", offset * 8, length * 8);
            return (text, Meaning::Number);
        }
    };
    (text.to_owned(), Meaning::Field(meaning))
}

/// The words for a packet's property, its meaning and its bytes.
pub(super) fn meta(key: Meta) -> (&'static str, Meaning, u32) {
    match key {
        Meta::Priority => ("meta priority", Meaning::Priority, 4),
        Meta::Mark => ("meta mark", Meaning::Field(DataType::Mark), 4),
        Meta::IifName => ("iifname", Meaning::Field(DataType::IfName), 16),
        Meta::IifKind => ("meta iifkind", Meaning::Field(DataType::IfName), 16),
        Meta::OifName => ("oifname", Meaning::Field(DataType::IfName), 16),
        Meta::NfProto => ("meta nfproto", Meaning::Number, 1),
        Meta::L4Proto => ("meta l4proto", Meaning::Field(DataType::InetProto), 1),
    }
}

/// The words for a connection's property after `ct`, its meaning and its bytes.
pub(super) fn ct(key: Ct) -> (&'static str, Meaning, u32) {
    match key {
        Ct::State => ("state", Meaning::State, 4),
        Ct::Status => ("status", Meaning::Status, 4),
        Ct::Mark => ("mark", Meaning::Field(DataType::Mark), 4),
        Ct::Protocol => ("protocol", Meaning::Field(DataType::InetProto), 1),
        Ct::DestinationPort => ("proto-dst", Meaning::Field(DataType::InetService), 2),
        Ct::SourcePort => ("proto-src", Meaning::Field(DataType::InetService), 2),
        Ct::SourceIp => ("ip saddr", Meaning::Field(DataType::Ipv4Addr), 4),
        Ct::SourceIp6 => ("ip6 saddr", Meaning::Field(DataType::Ipv6Addr), 16),
        Ct::DestinationIp => ("ip daddr", Meaning::Field(DataType::Ipv4Addr), 4),
        Ct::DestinationIp6 => ("ip6 daddr", Meaning::Field(DataType::Ipv6Addr), 16),
    }
}

/// `NF_CT_STATE_*` and `IPS_*` (include/uapi/linux/netfilter/nf_conntrack_common.h).
const STATES: [(u32, &str); 5] = [
    (1 << 0, "invalid"),
    (1 << 1, "established"),
    (1 << 2, "related"),
    (1 << 3, "new"),
    (1 << 6, "untracked"),
];
const STATUSES: [(u32, &str); 4] =
    [(1 << 1, "seen-reply"), (1 << 2, "assured"), (1 << 4, "snat"), (1 << 5, "dnat")];

/// A constant beside something of this meaning.
pub(super) fn constant(meaning: Meaning, bytes: &[u8]) -> String {
    let number = <[u8; 4]>::try_from(bytes).map(u32::from_ne_bytes);
    let mut text = String::new();
    let written = match (meaning, number) {
        (Meaning::Field(field), _) => write!(text, "{}", Fields(&[field], bytes)),
        (Meaning::State, Ok(bits)) => write!(text, "{}", names(&STATES, bits)),
        (Meaning::Status, Ok(bits)) => write!(text, "{}", names(&STATUSES, bits)),
        (Meaning::Priority, Ok(0)) => text.write_str("none"),
        (Meaning::Priority, Ok(handle)) => {
            write!(text, "{:x}:{:x}", handle >> 16, handle & 0xffff)
        }
        (Meaning::AddressType, Ok(RTN_LOCAL)) => text.write_str("local"),
        (Meaning::AddressType, Ok(other)) => write!(text, "{other}"),
        _ => write_bytes(&mut text, bytes),
    };
    debug_assert!(written.is_ok(), "a String takes everything");
    text
}

fn names(known: &[(u32, &str)], bits: u32) -> String {
    let own = known.iter().filter(|(bit, _)| bits & bit != 0);
    let (all, names): (Vec<u32>, Vec<&str>) = own.copied().unzip();
    if all.iter().sum::<u32>() == bits { names.join(",") } else { format!("{bits:#x}") }
}

/// How many bits a mask has, if they are its first ones.
pub(super) fn prefix_length(mask: &[u8]) -> Option<u32> {
    let ones: u32 = mask.iter().map(|byte| byte.count_ones()).sum();
    let leading = mask
        .iter()
        .position(|byte| *byte != 255)
        .map_or(mask.len() as u32 * 8, |at| at as u32 * 8 + mask[at].leading_ones());
    (ones == leading).then_some(ones)
}

/// As `nft` writes it: `1d2h3m4s5ms`, without what is zero.
pub(super) fn duration(mut milliseconds: u64) -> String {
    let mut text = String::new();
    for (unit, length) in
        [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)]
    {
        if milliseconds >= length {
            text += &format!("{}{unit}", milliseconds / length);
            milliseconds %= length;
        }
    }
    text
}
