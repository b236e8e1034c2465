//! [`Prefix`]: an address with a prefix length, parsed strictly and once.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4: 32-bit addresses.
    V4,
    /// IPv6: 128-bit addresses.
    V6,
}

impl Family {
    /// The family of `address`.
    pub fn of(address: IpAddr) -> Family {
        match address {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        }
    }

    /// Bits in an address: 32 or 128.
    pub fn bits(self) -> u8 {
        match self {
            Family::V4 => 32,
            Family::V6 => 128,
        }
    }

    /// `AF_INET` or `AF_INET6`.
    pub fn af(self) -> u8 {
        match self {
            Family::V4 => libc::AF_INET as u8,
            Family::V6 => libc::AF_INET6 as u8,
        }
    }

    /// The family with this `AF_` number.
    pub fn from_af(af: u8) -> Option<Family> {
        match i32::from(af) {
            libc::AF_INET => Some(Family::V4),
            libc::AF_INET6 => Some(Family::V6),
            _ => None,
        }
    }

    /// `0.0.0.0` or `::`.
    pub fn unspecified(self) -> IpAddr {
        match self {
            Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        })
    }
}

/// An address and a prefix length: `10.1.2.3/24`, `fd00::/64`.
///
/// Parsing wants the length, refuses leading zeros and dotted masks. Host bits are kept, because
/// an interface address has them; [`Prefix::is_network`] tells, where a network is meant.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

/// Why a text is no [`Prefix`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// No `/` in the text.
    #[error("{0:?} has no prefix length: write address/length")]
    NoLength(String),
    /// The part before `/` is not an address.
    #[error("{0:?} does not begin with an IP address")]
    Address(String),
    /// The part after `/` is no number, has leading zeros, or is too large for the family.
    #[error("{0:?} has a bad prefix length")]
    Length(String),
}

impl Prefix {
    /// `address/length`; `None` if the length is larger than the family allows.
    pub fn new(address: IpAddr, length: u8) -> Option<Prefix> {
        (length <= Family::of(address).bits()).then_some(Prefix { address, length })
    }

    /// `address/length` where the length is known to fit.
    pub(crate) fn with_length(address: IpAddr, length: u8) -> Prefix {
        debug_assert!(length <= Family::of(address).bits());
        Prefix { address, length }
    }

    /// The prefix that holds `address` alone: `/32` or `/128`.
    pub fn host(address: IpAddr) -> Prefix {
        Prefix { address, length: Family::of(address).bits() }
    }

    /// Everything of a family: `0.0.0.0/0` or `::/0`.
    pub fn default_route(family: Family) -> Prefix {
        Prefix { address: family.unspecified(), length: 0 }
    }

    /// The address, host bits included.
    pub fn address(self) -> IpAddr {
        self.address
    }

    /// The prefix length in bits.
    pub fn length(self) -> u8 {
        self.length
    }

    /// IPv4 or IPv6.
    pub fn family(self) -> Family {
        Family::of(self.address)
    }

    fn host_mask(self) -> u128 {
        let host_bits = self.family().bits() - self.length;
        if host_bits == 128 { u128::MAX } else { (1u128 << host_bits) - 1 }
    }

    /// The same prefix with all host bits zero.
    pub fn network(self) -> Prefix {
        Prefix {
            address: from_number(self.family(), to_number(self.address) & !self.host_mask()),
            length: self.length,
        }
    }

    /// Whether no host bit is set.
    pub fn is_network(self) -> bool {
        self.network() == self
    }

    /// The first address: the network address itself.
    pub fn first(self) -> IpAddr {
        self.network().address
    }

    /// The last address: in IPv4 the broadcast address.
    pub fn last(self) -> IpAddr {
        from_number(self.family(), to_number(self.address) | self.host_mask())
    }

    /// Whether `address` is of this family and inside.
    pub fn contains(self, address: IpAddr) -> bool {
        Family::of(address) == self.family()
            && to_number(address) & !self.host_mask() == to_number(self.first())
    }

    /// Whether every address of `other` is inside.
    pub fn covers(self, other: Prefix) -> bool {
        self.length <= other.length && self.contains(other.address)
    }

    /// Whether the two share an address.
    pub fn overlaps(self, other: Prefix) -> bool {
        self.covers(other) || other.covers(self)
    }
}

/// The address as a number, so that addresses can be counted.
pub fn to_number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

/// The address of `family` with this number; IPv4 takes the low 32 bits.
pub fn from_number(family: Family, number: u128) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::from(number as u32).into(),
        Family::V6 => Ipv6Addr::from(number).into(),
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Prefix, PrefixError> {
        let (address, length) =
            text.split_once('/').ok_or_else(|| PrefixError::NoLength(text.to_owned()))?;
        let address: IpAddr = address.parse().map_err(|_| PrefixError::Address(text.to_owned()))?;
        let bad_length = || PrefixError::Length(text.to_owned());
        let plain = !length.is_empty()
            && length.bytes().all(|b| b.is_ascii_digit())
            && (length == "0" || !length.starts_with('0'));
        let length = plain.then(|| length.parse().ok()).flatten().ok_or_else(bad_length)?;
        Prefix::new(address, length).ok_or_else(bad_length)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Prefix {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Prefix {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Prefix, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn parsing_is_strict() {
        for bad in [
            "10.0.0.1",
            "10.0.0.0/33",
            "10.0.0.0/",
            "10.0.0.0/08",
            "010.0.0.0/8",
            "10.0.0.0/+8",
            "10.0.0.0/255.0.0.0",
            "fd00::/129",
            "/8",
            "",
            "10.0.0.0/8/8",
            " 10.0.0.0/8",
        ] {
            assert!(bad.parse::<Prefix>().is_err(), "{bad:?} was accepted");
        }
        assert_eq!(prefix("10.1.2.3/24").to_string(), "10.1.2.3/24");
        assert_eq!(prefix("fd00:0::1/64").to_string(), "fd00::1/64");
    }

    #[test]
    fn first_last_and_contains_at_the_edges() {
        assert_eq!(prefix("10.1.2.3/24").first().to_string(), "10.1.2.0");
        assert_eq!(prefix("10.1.2.3/24").last().to_string(), "10.1.2.255");
        assert_eq!(prefix("0.0.0.0/0").last().to_string(), "255.255.255.255");
        assert_eq!(prefix("::/0").last().to_string(), "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff");
        assert!(prefix("10.1.2.3/32").contains("10.1.2.3".parse().unwrap()));
        assert!(!prefix("10.1.2.0/24").contains("10.1.3.0".parse().unwrap()));
        assert!(!prefix("0.0.0.0/0").contains("::".parse().unwrap()));
        assert!(prefix("10.0.0.0/8").overlaps(prefix("10.9.0.0/16")));
        assert!(!prefix("10.8.0.0/16").overlaps(prefix("10.9.0.0/16")));
        assert!(!prefix("10.1.2.3/24").is_network());
    }
}
