//! Ranges of addresses, and sets of them of which an attachment gets one address.

use std::net::IpAddr;

use netlink::{Family, Prefix, from_number, to_number};
use serde_json::Value;

use super::{Error, Result};

/// A part of a subnet whose addresses may be given away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) subnet: Prefix,
    /// First and last address, as numbers.
    pub(crate) first: u128,
    pub(crate) last: u128,
    pub(crate) gateway: IpAddr,
}

/// Ranges of one family, tried in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RangeSet(pub(crate) Vec<Range>);

/// A range as it is written, and where.
struct Written<'a> {
    value: &'a Value,
    place: String,
}

impl Written<'_> {
    fn error(&self, key: &str, problem: impl Into<String>) -> Error {
        Error::Config {
            key: format!("{}.{key}", self.place),
            value: self.value.get(key).map(Value::to_string),
            problem: problem.into(),
        }
    }

    fn text(&self, key: &str) -> Result<Option<&str>> {
        match self.value.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => {
                Ok(Some(text).filter(|t| !t.is_empty()).map(String::as_str))
            }
            Some(_) => Err(self.error(key, "must be a string")),
        }
    }

    fn address(&self, key: &str, family: Family) -> Result<Option<IpAddr>> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        let address: IpAddr = text.parse().map_err(|_| self.error(key, "is not an IP address"))?;
        // Plugins in Go read an IPv4-mapped address as IPv4.
        let address = address.to_canonical();
        if Family::of(address) != family {
            return Err(self.error(key, format!("is not {family} like the subnet")));
        }
        Ok(Some(address))
    }
}

impl Range {
    /// Reads one range; `place` is its path in the configuration.
    pub(crate) fn parse(value: &Value, place: String) -> Result<Range> {
        let written = Written { value, place };
        let text = written
            .text("subnet")?
            .ok_or_else(|| written.error("subnet", "every range needs one"))?;
        let subnet: Prefix = text.parse().map_err(|e| written.error("subnet", format!("{e}")))?;
        if !subnet.is_network() {
            let problem = format!("has host bits set, write {}", subnet.network());
            return Err(written.error("subnet", problem));
        }
        if subnet.address().to_canonical() != subnet.address() {
            return Err(written.error("subnet", "holds IPv4-mapped addresses, write it as IPv4"));
        }
        let family = subnet.family();
        if subnet.length() > family.bits() - 2 {
            let problem =
                "is too small: network, gateway and one address need at least two host bits";
            return Err(written.error("subnet", problem));
        }
        let network = to_number(subnet.first());
        // IPv4 has a broadcast address at the end.
        let end = to_number(subnet.last()) - u128::from(family == Family::V4);
        let bound = |key| -> Result<Option<u128>> {
            let Some(address) = written.address(key, family)? else { return Ok(None) };
            let number = to_number(address);
            if !subnet.contains(address) || number <= network || number > end {
                return Err(written.error(key, format!("is no host address of subnet {subnet}")));
            }
            Ok(Some(number))
        };
        let first = bound("rangeStart")?.unwrap_or(network + 1);
        let last = bound("rangeEnd")?.unwrap_or(end);
        if first > last {
            return Err(written.error("rangeEnd", "is before rangeStart"));
        }
        let gateway = written.address("gateway", family)?;
        let gateway = gateway.unwrap_or_else(|| from_number(family, network + 1));
        Ok(Range { subnet, first, last, gateway })
    }

    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        self.subnet.contains(address) && (self.first..=self.last).contains(&to_number(address))
    }

    pub(crate) fn address(&self, number: u128) -> IpAddr {
        from_number(self.subnet.family(), number)
    }

    fn overlaps(&self, other: &Range) -> bool {
        self.subnet.family() == other.subnet.family()
            && self.first <= other.last
            && other.first <= self.last
    }
}

impl std::fmt::Display for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.address(self.first), self.address(self.last))
    }
}

impl std::fmt::Display for RangeSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ranges: Vec<String> = self.0.iter().map(Range::to_string).collect();
        f.write_str(&ranges.join(","))
    }
}

impl RangeSet {
    /// Reads one set; `place` is its path in the configuration.
    pub(crate) fn parse(value: &Value, place: &str) -> Result<RangeSet> {
        let refused = |problem: &str| Error::Config {
            key: place.to_owned(),
            value: Some(value.to_string()),
            problem: problem.to_owned(),
        };
        let list = value.as_array().ok_or_else(|| refused("must be a list of ranges"))?;
        let parsed: Result<Vec<Range>> = list
            .iter()
            .enumerate()
            .map(|(at, range)| Range::parse(range, format!("{place}[{at}]")))
            .collect();
        let ranges = parsed?;
        let Some(first) = ranges.first() else { return Err(refused("holds no range")) };
        if ranges.iter().any(|range| range.subnet.family() != first.subnet.family()) {
            return Err(refused("mixes IPv4 and IPv6: each family needs its own list"));
        }
        Ok(RangeSet(ranges))
    }

    pub(crate) fn range_of(&self, address: IpAddr) -> Option<&Range> {
        self.0.iter().find(|range| range.contains(address))
    }

    pub(crate) fn is_gateway(&self, address: IpAddr) -> bool {
        self.0.iter().any(|range| range.gateway == address)
    }
}

/// No address may be in two ranges.
pub(crate) fn refuse_overlaps(sets: &[RangeSet]) -> Result<()> {
    let all: Vec<&Range> = sets.iter().flat_map(|set| &set.0).collect();
    for (at, range) in all.iter().enumerate() {
        if let Some(other) = all[..at].iter().find(|other| other.overlaps(range)) {
            return Err(Error::Config {
                key: "ipam.ranges".to_owned(),
                value: None,
                problem: format!("{other} and {range} overlap"),
            });
        }
    }
    Ok(())
}
