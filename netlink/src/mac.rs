//! [`MacAddress`]: an Ethernet address.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use crate::Prefix;

/// An Ethernet (48-bit) address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddress(pub [u8; 6]);

/// A text that is no MAC address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a MAC address: write six hexadecimal bytes like 0a:58:0a:f4:01:02")]
pub struct MacAddressError(String);

impl MacAddress {
    /// The locally administered address that belongs to an IP address.
    ///
    /// IPv4 addresses keep all their bits, so no two share one; IPv6 addresses are hashed to 40 bits.
    /// `prefix` keeps different uses apart and must have the "locally administered" bit.
    pub fn for_address(prefix: [u8; 2], address: IpAddr) -> MacAddress {
        debug_assert!(prefix[0] & 0b11 == 0b10, "locally administered, unicast");
        let [a, b] = prefix;
        match address {
            IpAddr::V4(v4) => {
                let [c, d, e, f] = v4.octets();
                MacAddress([a, b, c, d, e, f])
            }
            IpAddr::V6(v6) => {
                let [c, d, e, f, ..] = fnv1a(&v6.octets()).to_be_bytes();
                // The second byte differs from IPv4's, so that the families never meet.
                MacAddress([a, b ^ 0x80, c, d, e, f])
            }
        }
    }

    /// The link-local IPv6 address that a link with this address gives itself (RFC 4291, EUI-64).
    pub fn link_local(self) -> Prefix {
        let [a, b, c, d, e, f] = self.0;
        let word = |high: u8, low: u8| u16::from_be_bytes([high, low]);
        let address = Ipv6Addr::new(
            0xfe80,
            0,
            0,
            0,
            word(a ^ 2, b),
            word(c, 0xff),
            word(0xfe, d),
            word(e, f),
        );
        Prefix::with_length(address.into(), 64)
    }

    /// Whether a single station can have it: not multicast, not all zero.
    pub fn is_unicast(self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }
}

/// 64-bit FNV-1a: the small hash behind derived names and addresses. Not for hostile input.
pub fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

impl FromStr for MacAddress {
    type Err = MacAddressError;

    fn from_str(text: &str) -> Result<MacAddress, MacAddressError> {
        let bad = || MacAddressError(text.to_owned());
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().ok_or_else(bad)?;
            if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(bad());
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| bad())?;
        }
        if parts.next().is_some() { Err(bad()) } else { Ok(MacAddress(bytes)) }
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for MacAddress {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for MacAddress {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<MacAddress, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_what_it_prints_and_nothing_else() {
        let mac: MacAddress = "0a:58:0A:f4:01:02".parse().unwrap();
        assert_eq!(mac.to_string(), "0a:58:0a:f4:01:02");
        for bad in
            ["", "0a:58:0a:f4:01", "0a:58:0a:f4:01:02:03", "0a-58-0a-f4-01-02", "+a:58:0a:f4:01:02"]
        {
            assert!(bad.parse::<MacAddress>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn derived_addresses_are_stable_local_unicast() {
        let derived = |ip: &str| MacAddress::for_address([0x0a, 0x58], ip.parse().unwrap());
        assert_eq!(derived("10.244.1.2").to_string(), "0a:58:0a:f4:01:02");
        assert_eq!(derived("fd00::1"), derived("fd00::1"));
        assert_ne!(derived("fd00::1"), derived("fd00::2"));
        assert!(derived("fd00::1").is_unicast());
        assert_eq!(derived("10.244.1.2").link_local().to_string(), "fe80::858:aff:fef4:102/64");
    }
}
