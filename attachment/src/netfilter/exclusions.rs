//! [`Area`]: where pods are not masqueraded, as pairs of source and destination ranges that never overlap.
//!
//! A set of concatenated ranges accepts no element that overlaps another in both halves. Networks may
//! overlap, for example after a change of the pod subnet. So the union of all networks is cut into areas
//! that are apart from each other.

use std::net::IpAddr;

use netlink::nftables::{Element, Key};
use netlink::{Family, Prefix, from_number, to_number};

/// First and last number of a range of addresses.
type Range = (u128, u128);

/// Packets from one range of addresses to another are not masqueraded.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Area {
    pub(super) family: Family,
    source: Range,
    destination: Range,
    /// The network that excludes it, as in the element's comment.
    network: String,
}

fn range_of(prefix: Prefix) -> Range {
    (to_number(prefix.first()), to_number(prefix.last()))
}

fn contains(outer: Range, inner: Range) -> bool {
    outer.0 <= inner.0 && inner.1 <= outer.1
}

fn overlaps(a: Range, b: Range) -> bool {
    a.0 <= b.1 && b.0 <= a.1
}

/// The parts of `range` that are outside `cut`.
fn outside(range: Range, cut: Range) -> impl Iterator<Item = Range> {
    let before = (range.0 < cut.0).then(|| (range.0, cut.0 - 1));
    let after = (range.1 > cut.1).then(|| (cut.1 + 1, range.1));
    before.into_iter().chain(after)
}

impl Area {
    pub(super) fn new(network: &str, source: Prefix, destination: Prefix) -> Area {
        Area {
            family: source.family(),
            source: range_of(source),
            destination: range_of(destination),
            network: network.to_owned(),
        }
    }

    /// The area of an element as the kernel lists it.
    pub(super) fn of_element(family: Family, element: &Element) -> Option<Area> {
        let last = element.key_end.as_ref().unwrap_or(&element.key);
        let half = element.key.len() / 2;
        let number = |bytes: &[u8]| -> Option<u128> {
            Some(match family {
                Family::V4 => u128::from(u32::from_be_bytes(bytes.try_into().ok()?)),
                Family::V6 => u128::from_be_bytes(bytes.try_into().ok()?),
            })
        };
        let comment = element.comment.as_deref().unwrap_or_default();
        Some(Area {
            family,
            source: (number(element.key.get(..half)?)?, number(last.get(..half)?)?),
            destination: (number(element.key.get(half..)?)?, number(last.get(half..)?)?),
            network: comment.strip_prefix("network ").unwrap_or(comment).to_owned(),
        })
    }

    pub(super) fn element(&self) -> Element {
        let ip = |number| from_number(self.family, number);
        let key = |source, destination| Key::new().ip(ip(source)).ip(ip(destination));
        Element::new(key(self.source.0, self.destination.0))
            .to(key(self.source.1, self.destination.1))
            .comment(format!("network {}", self.network))
    }

    /// Whether both are of one network and source.
    pub(super) fn has_same_origin(&self, other: &Area) -> bool {
        (self.family, self.source, &self.network) == (other.family, other.source, &other.network)
    }

    /// Whether packets from an address can be in it.
    pub(super) fn has_source(&self, address: IpAddr) -> bool {
        let number = to_number(address);
        Family::of(address) == self.family && contains(self.source, (number, number))
    }

    fn covers(&self, other: &Area) -> bool {
        self.family == other.family
            && contains(self.source, other.source)
            && contains(self.destination, other.destination)
    }

    fn overlaps(&self, other: &Area) -> bool {
        self.family == other.family
            && overlaps(self.source, other.source)
            && overlaps(self.destination, other.destination)
    }

    /// The parts of it that are outside `cut`.
    fn without(&self, cut: &Area) -> Vec<Area> {
        if !self.overlaps(cut) {
            return vec![self.clone()];
        }
        let beside = outside(self.source, cut.source).map(|source| Area { source, ..self.clone() });
        let shared = (self.source.0.max(cut.source.0), self.source.1.min(cut.source.1));
        let above = outside(self.destination, cut.destination).map(|destination| Area {
            source: shared,
            destination,
            ..self.clone()
        });
        beside.chain(above).collect()
    }
}

/// Areas with the same union that are apart from each other, in order. Areas that none overlaps stay whole.
pub(super) fn apart(mut areas: Vec<Area>) -> Vec<Area> {
    // The largest come first, so that they stay whole and swallow those inside them.
    let size = |range: Range| range.1 - range.0;
    areas.sort_by(|a, b| {
        (a.family, size(b.destination), size(b.source), a).cmp(&(
            b.family,
            size(a.destination),
            size(a.source),
            b,
        ))
    });
    let mut kept: Vec<Area> = Vec::with_capacity(areas.len());
    for area in areas {
        let mut pieces = vec![area];
        for other in &kept {
            if pieces.iter().any(|piece| piece.overlaps(other)) {
                pieces = pieces.iter().flat_map(|piece| piece.without(other)).collect();
            }
        }
        kept.extend(pieces);
    }
    kept.sort();
    kept
}

/// Whether every packet of `area` is in one of `others`.
pub(super) fn is_covered(area: &Area, others: &[Area]) -> bool {
    let mut pieces = vec![area.clone()];
    for other in others {
        if other.covers(area) {
            return true;
        }
        pieces = pieces.iter().flat_map(|piece| piece.without(other)).collect();
        if pieces.is_empty() {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn area(source: &str, destination: &str) -> Area {
        Area::new("net", source.parse().unwrap(), destination.parse().unwrap())
    }

    fn holds(areas: &[Area], source: &str, destination: &str) -> usize {
        let point = area(source, destination);
        areas.iter().filter(|area| area.covers(&point)).count()
    }

    #[test]
    fn nested_sources_and_destinations_never_overlap() {
        let all = [
            area("10.244.0.0/16", "10.244.0.0/16"),
            area("10.244.1.0/24", "10.244.1.0/24"),
            area("10.244.1.0/24", "10.0.0.0/8"),
            area("10.244.0.0/16", "224.0.0.0/4"),
            area("10.244.1.0/24", "224.0.0.0/4"),
            area("fd00::/48", "fd00::/64"),
            area("fd00::/64", "fd00::/48"),
        ];
        let cut = apart(all.to_vec());
        for (at, one) in cut.iter().enumerate() {
            assert!(!cut[at + 1..].iter().any(|other| one.overlaps(other)), "{cut:?}");
        }
        for (source, destination) in [
            ("10.244.1.5/32", "10.1.2.3/32"),
            ("10.244.1.5/32", "10.244.9.9/32"),
            ("10.244.7.5/32", "10.244.9.9/32"),
            ("10.244.7.5/32", "224.0.0.1/32"),
            ("fd00::1/128", "fd00:0:0:1::1/128"),
            ("fd00:0:0:1::1/128", "fd00::1/128"),
        ] {
            assert_eq!(holds(&cut, source, destination), 1, "{source} {destination}");
        }
        assert_eq!(holds(&cut, "10.244.7.5/32", "10.1.2.3/32"), 0);
        assert_eq!(holds(&cut, "fd00:0:0:1::1/128", "fd00:0:0:2::1/128"), 0);
        assert!(all.iter().all(|area| is_covered(area, &cut)));
        assert!(!is_covered(&area("10.244.0.0/16", "10.0.0.0/8"), &cut));
        assert_eq!(apart(cut.clone()), cut, "areas that are apart stay as they are");
    }

    #[test]
    fn an_area_survives_the_way_through_an_element() {
        for area in [area("10.244.1.0/24", "0.0.0.0/0"), area("fd00::/64", "ff00::/8")] {
            assert_eq!(Area::of_element(area.family, &area.element()), Some(area));
        }
    }
}
