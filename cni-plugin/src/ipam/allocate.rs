//! Which address is next: round robin from the last one that was given away.

use std::collections::HashSet;
use std::net::IpAddr;

use netlink::to_number;

use super::range::{Range, RangeSet};
use super::store::{Reservation, Store};
use super::{Allocation, Attachment, Error, Result};

/// Reserves an address of every set; if one fails, those reserved before it are freed again.
pub(super) fn all(
    store: &Store,
    sets: &[RangeSet],
    attachment: &Attachment,
    requested: &[IpAddr],
) -> Result<Vec<Allocation>> {
    let wishes = assign(sets, requested)?;
    let mut allocations: Vec<Allocation> = Vec::with_capacity(sets.len());
    for (at, (set, wish)) in sets.iter().zip(wishes).enumerate() {
        let found = match wish {
            Some(address) => exactly(store, at, set, attachment, address),
            None => next(store, at, set, attachment),
        };
        match found {
            Ok(allocation) => allocations.push(allocation),
            Err(error) => {
                for allocation in &allocations {
                    store.release(allocation.address.address())?;
                }
                store.unmark(attachment, sets.len());
                return Err(error);
            }
        }
    }
    Ok(allocations)
}

/// Which requested address is for which set. Every one must be for one.
fn assign(sets: &[RangeSet], requested: &[IpAddr]) -> Result<Vec<Option<IpAddr>>> {
    let refused =
        |address, reason: &str| Err(Error::NotAvailable { address, reason: reason.to_owned() });
    let mut wishes = vec![None; sets.len()];
    for address in requested {
        let Some(at) = sets.iter().position(|set| set.range_of(*address).is_some()) else {
            return refused(*address, "it is in none of the ranges");
        };
        if sets[at].is_gateway(*address) {
            return refused(*address, "it is the gateway's");
        }
        match wishes[at].replace(*address) {
            Some(other) if other != *address => {
                return refused(
                    *address,
                    "another address of the same range set was requested too",
                );
            }
            _ => {}
        }
    }
    Ok(wishes)
}

fn allocation(range: &Range, address: IpAddr) -> Allocation {
    let length = range.subnet.length();
    let prefix = netlink::Prefix::new(address, length).unwrap_or(range.subnet);
    Allocation { address: prefix, gateway: Some(range.gateway), stale_neighbours: false }
}

fn exactly(
    store: &Store,
    at: usize,
    set: &RangeSet,
    attachment: &Attachment,
    address: IpAddr,
) -> Result<Allocation> {
    let reserved = || Error::NotAvailable { address, reason: "it is reserved".to_owned() };
    let range = set.range_of(address).ok_or_else(reserved)?;
    if store.reserve(address, attachment, at)? {
        Ok(allocation(range, address))
    } else {
        Err(reserved())
    }
}

fn next(store: &Store, at: usize, set: &RangeSet, attachment: &Attachment) -> Result<Allocation> {
    let last = store.last_reserved(at);
    for (range, address) in candidates(set, last) {
        if store.reserve(address, attachment, at)? {
            store.set_last_reserved(at, address);
            return Ok(allocation(range, address));
        }
    }
    Err(Error::Exhausted(set.to_string()))
}

/// Every address of the set once, gateways left out: from the one after `last` to the end of its
/// range, the other ranges in order, and its own range's beginning.
fn candidates(set: &RangeSet, last: Option<IpAddr>) -> impl Iterator<Item = (&Range, IpAddr)> {
    let ranges = &set.0;
    let position = last.and_then(|last| {
        ranges.iter().position(|range| range.contains(last)).map(|at| (at, to_number(last)))
    });
    let (start, after) = match position {
        Some((at, last)) => (at, Some(last)),
        None => (0, None),
    };
    let first = &ranges[start];
    let head = match after {
        None => Some((first, first.first..=first.last)),
        Some(last) if last < first.last => Some((first, last + 1..=first.last)),
        // Nothing is behind the last one, which may be the highest address that there is.
        Some(_) => None,
    };
    let tail = after.map(|last| (first, first.first..=last));
    let whole = |range: &Range| range.first..=range.last;
    let others = ranges[start + 1..].iter().chain(&ranges[..start]);
    head.into_iter()
        .chain(others.map(move |range| (range, whole(range))))
        .chain(tail)
        .flat_map(|(range, numbers)| numbers.map(move |number| (range, range.address(number))))
        .filter(|(_, address)| !set.is_gateway(*address))
}

/// Whether every set has a free address.
pub(super) fn check_room(sets: &[RangeSet], reservations: &[Reservation]) -> Result<()> {
    for set in sets {
        let taken: HashSet<IpAddr> = reservations
            .iter()
            .filter(|r| r.has_owner() && set.range_of(r.address).is_some())
            .map(|r| r.address)
            .collect();
        // Not more candidates than taken addresses and one need be looked at.
        if !candidates(set, None).take(taken.len() + 1).any(|(_, a)| !taken.contains(&a)) {
            return Err(Error::Exhausted(set.to_string()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn order(ranges: serde_json::Value, last: Option<&str>) -> Vec<String> {
        let set = RangeSet::parse(&ranges, "test").unwrap();
        let last = last.map(|last| last.parse().unwrap());
        candidates(&set, last).map(|(_, address)| address.to_string()).collect()
    }

    #[test]
    fn the_order_survives_the_highest_address() {
        let ranges = json!([{"subnet": "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fff8/125"}]);
        let highest = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
        let order = order(ranges, Some(highest));
        assert_eq!((order.len(), order[5].as_str()), (6, highest));
    }

    #[test]
    fn the_order_begins_after_the_last_and_visits_everything_once() {
        let ranges = json!([{"subnet": "10.0.0.0/29"}, {"subnet": "10.0.1.0/29"}]);
        let fresh = order(ranges.clone(), None);
        assert_eq!(fresh.len(), 10, "two ranges of six less a gateway each");
        assert_eq!((fresh[0].as_str(), fresh[9].as_str()), ("10.0.0.2", "10.0.1.6"));
        for last in ["10.0.0.2", "10.0.0.6", "10.0.1.3", "10.0.1.6"] {
            let rotated = order(ranges.clone(), Some(last));
            assert_eq!(rotated[9], last, "the last one comes last");
            assert_eq!(rotated.iter().collect::<HashSet<_>>().len(), 10);
        }
        assert_eq!(order(ranges.clone(), Some("10.0.0.3"))[0], "10.0.0.4");
        assert_eq!(order(ranges, Some("10.9.9.9"))[0], "10.0.0.2", "a last one of elsewhere");
    }
}
