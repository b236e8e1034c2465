//! Constants as `nft` writes them.

use std::fmt::{self, Display, Formatter};
use std::net::IpAddr;

use netlink::nftables::DataType;
use netlink::{Family, MacAddress, Prefix};

use crate::cluster::Protocol;

/// The types of fields.
pub(super) struct Types<'a>(pub(super) &'a [DataType]);

impl Display for Types<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write_joined(f, self.0, |field| match field {
            DataType::Ipv4Addr => "ipv4_addr",
            DataType::Ipv6Addr => "ipv6_addr",
            DataType::EtherAddr => "ether_addr",
            DataType::InetProto => "inet_proto",
            DataType::InetService => "inet_service",
            DataType::Mark => "mark",
            DataType::ClassId => "classid",
            DataType::IfName => "ifname",
        })
    }
}

/// Fields of a list of endpoints, told by something that has the type.
pub(super) struct Selectors<'a>(pub(super) &'a [DataType]);

impl Display for Selectors<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write_joined(f, self.0, |field| match field {
            DataType::Ipv4Addr => "ip daddr",
            DataType::Ipv6Addr => "ip6 daddr",
            DataType::EtherAddr => "ether daddr",
            DataType::InetProto => "meta l4proto",
            DataType::InetService => "th dport",
            DataType::Mark => "numgen random mod 65536",
            DataType::ClassId => "meta priority",
            DataType::IfName => "iifname",
        })
    }
}

fn write_joined(
    f: &mut Formatter<'_>,
    fields: &[DataType],
    text: impl Fn(&DataType) -> &'static str,
) -> fmt::Result {
    for (at, field) in fields.iter().enumerate() {
        f.write_str(if at == 0 { "" } else { " . " })?;
        f.write_str(text(field))?;
    }
    Ok(())
}

/// The fields of a key or value, padded as in registers.
pub(super) struct Fields<'a>(pub(super) &'a [DataType], pub(super) &'a [u8]);

impl Display for Fields<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut rest = self.1;
        for (at, field) in self.0.iter().enumerate() {
            f.write_str(if at == 0 { "" } else { " . " })?;
            let (own, more) =
                rest.split_at_checked(field.padded_length() as usize).unwrap_or((rest, &[]));
            write_field(f, *field, own.get(..field.length() as usize).unwrap_or(own))?;
            rest = more;
        }
        Ok(())
    }
}

/// One field, without padding.
fn write_field(f: &mut Formatter<'_>, field: DataType, bytes: &[u8]) -> fmt::Result {
    match (field, bytes) {
        (DataType::Ipv4Addr | DataType::Ipv6Addr, _) => match address(bytes) {
            Some(address) => address.fmt(f),
            None => write_bytes(f, bytes),
        },
        (DataType::InetProto, &[number]) => match Protocol::from_number(number) {
            Some(protocol) => protocol.fmt(f),
            None => number.fmt(f),
        },
        (DataType::InetService, &[high, low]) => u16::from_be_bytes([high, low]).fmt(f),
        (DataType::Mark, &[a, b, c, d]) => write!(f, "{:#010x}", u32::from_ne_bytes([a, b, c, d])),
        (DataType::ClassId, &[a, b, c, d]) => {
            let handle = u32::from_ne_bytes([a, b, c, d]);
            write!(f, "{:x}:{:x}", handle >> 16, handle & 0xffff)
        }
        (DataType::EtherAddr, &[a, b, c, d, e, g]) => MacAddress([a, b, c, d, e, g]).fmt(f),
        (DataType::IfName, _) => {
            let name = String::from_utf8_lossy(bytes);
            let name = name.trim_end_matches('\0');
            // Fewer bytes than a name has are the beginning of one.
            if bytes.len() < field.length() as usize {
                return write!(f, "\"{name}*\"");
            }
            match name.strip_suffix('*') {
                Some(start) => write!(f, "\"{start}\\*\""),
                None => write!(f, "\"{name}\""),
            }
        }
        _ => write_bytes(f, bytes),
    }
}

/// A number of any length, in the order of the network.
pub(super) fn write_bytes(f: &mut impl fmt::Write, bytes: &[u8]) -> fmt::Result {
    f.write_str("0x")?;
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

/// The address of either family in the bytes of a field.
pub(super) fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from);
    v4.or_else(|| <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from))
}

/// Addresses from the first to the last.
pub(super) struct Range {
    pub(super) first: IpAddr,
    pub(super) last: IpAddr,
}

impl Display for Range {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Range { first, last } = *self;
        let prefixes = (0..=Family::of(first).bits()).filter_map(|l| Prefix::new(first, l));
        let mut same = prefixes.filter(|prefix| prefix.is_network() && prefix.last() == last);
        match same.next() {
            _ if first == last => first.fmt(f),
            Some(prefix) => prefix.fmt(f),
            None => write!(f, "{first}-{last}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_written_by_their_types() {
        let types = [DataType::Ipv4Addr, DataType::InetProto, DataType::InetService];
        let bytes = [10, 96, 0, 1, 6, 0, 0, 0, 0, 80, 0, 0];
        assert_eq!(Types(&types).to_string(), "ipv4_addr . inet_proto . inet_service");
        assert_eq!(Fields(&types, &bytes).to_string(), "10.96.0.1 . tcp . 80");
        let types = [DataType::InetProto, DataType::Mark];
        let bytes = [[47, 0, 0, 0], 0x1_0002u32.to_ne_bytes()].concat();
        assert_eq!(Fields(&types, &bytes).to_string(), "47 . 0x00010002");
    }

    #[test]
    fn ranges_are_prefixes_where_they_can_be() {
        for (first, last, text) in [
            ("10.0.0.0", "10.255.255.255", "10.0.0.0/8"),
            ("10.0.0.0", "10.0.2.255", "10.0.0.0-10.0.2.255"),
            ("10.0.0.1", "10.0.0.1", "10.0.0.1"),
            ("10.0.0.1", "10.0.0.2", "10.0.0.1-10.0.0.2"),
            ("0.0.0.0", "255.255.255.255", "0.0.0.0/0"),
            ("fd00::", "fd00::ffff", "fd00::/112"),
        ] {
            let [first, last] = [first, last].map(|address| address.parse().unwrap());
            assert_eq!(Range { first, last }.to_string(), text);
        }
    }
}
