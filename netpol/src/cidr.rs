//! Networks, as policies write them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A network: its address has no host bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    address: IpAddr,
    length: u8,
}

/// A text that is no network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CidrError(String);

impl fmt::Display for CidrError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not a network such as 10.1.0.0/16", self.0)
    }
}

impl std::error::Error for CidrError {}

/// Bits of an address, and how many there are.
fn bits(address: IpAddr) -> (u128, u8) {
    match address {
        IpAddr::V4(v4) => (u128::from(u32::from(v4)), 32),
        IpAddr::V6(v6) => (u128::from(v6), 128),
    }
}

fn of_bits(bits: u128, like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::from(bits as u32).into(),
        IpAddr::V6(_) => Ipv6Addr::from(bits).into(),
    }
}

impl Cidr {
    /// The network of that length around an address; `None` if the length is too large.
    pub fn new(address: IpAddr, length: u8) -> Option<Cidr> {
        let (value, width) = bits(address);
        let host = width.checked_sub(length)?;
        let kept = value.checked_shr(u32::from(host)).unwrap_or(0);
        let kept = kept.checked_shl(u32::from(host)).unwrap_or(0);
        Some(Cidr { address: of_bits(kept, address), length })
    }

    /// The network of one address.
    pub fn host(address: IpAddr) -> Cidr {
        Cidr { address, length: bits(address).1 }
    }

    /// Whether an address is in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4()
            && Cidr::new(address, self.length).is_some_and(|network| network == *self)
    }

    /// Its first and its last address.
    pub fn range(&self) -> (IpAddr, IpAddr) {
        let (value, width) = bits(self.address);
        let host = u32::from(width - self.length);
        let last = value | 1u128.checked_shl(host).map_or(u128::MAX, |next| next - 1);
        (self.address, of_bits(last, self.address))
    }

    /// Whether it is of IPv4.
    pub fn is_ipv4(&self) -> bool {
        self.address.is_ipv4()
    }
}

/// As objects that were stored before the API was strict may hold it: host bits and leading zeros, which
/// are decimal, are accepted.
impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Cidr, CidrError> {
        let error = || CidrError(text.to_owned());
        let (address, length) = text.split_once('/').ok_or_else(error)?;
        if !length.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(error());
        }
        let length: u8 = length.parse().map_err(|_| error())?;
        let address = if address.contains(':') {
            address.parse::<IpAddr>().map_err(|_| error())?
        } else {
            IpAddr::V4(lenient_v4(address).ok_or_else(error)?)
        };
        Cidr::new(address, length).ok_or_else(error)
    }
}

fn lenient_v4(text: &str) -> Option<Ipv4Addr> {
    let mut octets = [0u8; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let part = parts.next()?;
        if part.is_empty() || !part.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        *octet = part.parse().ok()?;
    }
    parts.next().is_none().then(|| octets.into())
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl fmt::Debug for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_taken_leniently() {
        for (text, expected) in [
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("010.001.0.0/16", "10.1.0.0/16"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("10.0.0.1/32", "10.0.0.1/32"),
            ("FD00:0:0::1/64", "fd00::/64"),
            ("::/0", "::/0"),
        ] {
            assert_eq!(text.parse::<Cidr>().unwrap().to_string(), expected, "{text}");
        }
        for text in [
            "",
            "10.0.0.0",
            "10.0.0.0/33",
            "fd00::/129",
            "10.0.0/8",
            "10.0.0.0/+8",
            "x/8",
            "10..0.0/8",
        ] {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_network_holds_its_family_alone() {
        let all: Cidr = "0.0.0.0/0".parse().unwrap();
        assert!(all.contains("255.255.255.255".parse().unwrap()));
        assert!(!all.contains("::".parse().unwrap()));
        let six: Cidr = "fd00::/8".parse().unwrap();
        assert_eq!(
            six.range().1,
            "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".parse::<IpAddr>().unwrap()
        );
        assert_eq!(all.range().1, "255.255.255.255".parse::<IpAddr>().unwrap());
    }
}
