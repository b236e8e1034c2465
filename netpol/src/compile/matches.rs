//! Which connections a step is about, as sets: a few look-ups tell, however many rules there were.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::model::Protocol;

/// More elements than this in one step, and it fails closed.
const ELEMENTS: usize = 1 << 18;
/// More overlapping networks with ports than this, and it fails closed.
const BLOCKS: usize = 1 << 12;
/// A port range of no more than this is told port by port.
const SHORT_RANGE: u16 = 16;

/// Addresses, from the first to the last.
pub type Range = (IpAddr, IpAddr);
/// Ports of a protocol, from the first to the last.
pub type Ports = (Protocol, u16, u16);

/// A step would need more elements than the kernel should hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge;

/// A connection matches if it is in any of these. Each list is sorted; ranges do not overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Matches {
    /// Everything matches.
    pub everything: bool,
    /// Any peer.
    pub ports: Vec<Ports>,
    /// Any port of any protocol.
    pub peers: Vec<IpAddr>,
    /// Any port of the protocol.
    pub peer_protocols: Vec<(IpAddr, Protocol)>,
    /// One port.
    pub peer_ports: Vec<(IpAddr, Protocol, u16)>,
    /// Any port of any protocol.
    pub blocks: Vec<Range>,
    /// Networks and ports.
    pub block_ports: Vec<(Range, Ports)>,
}

impl Matches {
    /// What matches everything.
    pub fn everything() -> Matches {
        Matches { everything: true, ..Matches::default() }
    }

    /// Whether nothing matches.
    pub fn is_empty(&self) -> bool {
        *self == Matches::default()
    }

    /// How many elements it has.
    pub fn len(&self) -> usize {
        self.ports.len()
            + self.peers.len()
            + self.peer_protocols.len()
            + self.peer_ports.len()
            + self.blocks.len()
            + self.block_ports.len()
    }

    /// Whether a connection matches; `port` is of no meaning without `protocol`.
    pub fn contains(&self, peer: IpAddr, protocol: Option<Protocol>, port: u16) -> bool {
        let in_range = |(first, last): &Range| {
            first.is_ipv4() == peer.is_ipv4() && *first <= peer && peer <= *last
        };
        let in_ports =
            |(of, first, last): &Ports| protocol == Some(*of) && *first <= port && port <= *last;
        self.everything
            || self.ports.iter().any(in_ports)
            || self.peers.binary_search(&peer).is_ok()
            || self.blocks.iter().any(in_range)
            || self.block_ports.iter().any(|(range, ports)| in_range(range) && in_ports(ports))
            || protocol.is_some_and(|protocol| {
                self.peer_protocols.binary_search(&(peer, protocol)).is_ok()
                    || self.peer_ports.binary_search(&(peer, protocol, port)).is_ok()
            })
    }

    pub(super) fn add(&mut self, other: Matches) {
        self.everything |= other.everything;
        self.ports.extend(other.ports);
        self.peers.extend(other.peers);
        self.peer_protocols.extend(other.peer_protocols);
        self.peer_ports.extend(other.peer_ports);
        self.blocks.extend(other.blocks);
        self.block_ports.extend(other.block_ports);
    }

    pub(super) fn add_peer_ports(&mut self, peer: IpAddr, ports: Ports) {
        let (protocol, first, last) = ports;
        if are_range(ports) {
            self.block_ports.push(((peer, peer), ports));
        } else if first == 0 && last == u16::MAX {
            self.peer_protocols.push((peer, protocol));
        } else {
            self.peer_ports.extend((first..=last).map(|port| (peer, protocol, port)));
        }
    }

    /// Whether another one says something else of some addresses, as far as they are told one by one.
    pub(super) fn differs(&self, part: &Matches, addresses: &BTreeSet<IpAddr>) -> bool {
        !self.everything
            && addresses.iter().any(|ip| {
                about(&self.peers, *ip) != about(&part.peers, *ip)
                    || about(&self.peer_protocols, *ip) != about(&part.peer_protocols, *ip)
                    || about(&self.peer_ports, *ip) != about(&part.peer_ports, *ip)
            })
    }

    /// Takes over what another one says of some addresses, and of no others, one by one.
    pub(super) fn put(&mut self, part: Matches, addresses: &BTreeSet<IpAddr>) {
        if !self.everything {
            put(&mut self.peers, part.peers, addresses);
            put(&mut self.peer_protocols, part.peer_protocols, addresses);
            put(&mut self.peer_ports, part.peer_ports, addresses);
        }
    }

    /// Whether it has no more elements than it may.
    pub(super) fn fits(&self) -> bool {
        self.len() <= ELEMENTS
    }

    /// Brings everything into order; what is told twice is told once.
    pub(super) fn finish(mut self) -> Result<Matches, TooLarge> {
        if self.everything {
            return Ok(Matches::everything());
        }
        if self.len() > 4 * ELEMENTS {
            return Err(TooLarge);
        }
        // Of some sorted lists one after the other: a stable sort only merges them.
        self.peers.sort();
        self.peers.dedup();
        self.peer_protocols.sort();
        self.peer_protocols.dedup();
        self.peer_ports.sort();
        self.peer_ports.dedup();
        self.ports = merge_ports(self.ports);
        self.blocks = merge_ranges(&self.blocks);
        if self.block_ports.len() > BLOCKS {
            return Err(TooLarge);
        }
        self.block_ports = disjoint(&self.block_ports);
        if self.fits() { Ok(self) } else { Err(TooLarge) }
    }
}

/// Something about an address.
pub trait OfAddress: Ord + Copy {
    /// Which one.
    fn address(&self) -> IpAddr;
}

impl OfAddress for IpAddr {
    fn address(&self) -> IpAddr {
        *self
    }
}

impl OfAddress for (IpAddr, Protocol) {
    fn address(&self) -> IpAddr {
        self.0
    }
}

impl OfAddress for (IpAddr, Protocol, u16) {
    fn address(&self) -> IpAddr {
        self.0
    }
}

fn place<T: OfAddress>(list: &[T], address: IpAddr) -> std::ops::Range<usize> {
    let from = list.partition_point(|one| one.address() < address);
    from..list.partition_point(|one| one.address() <= address)
}

/// What a sorted list says about an address.
pub fn about<T: OfAddress>(list: &[T], address: IpAddr) -> &[T] {
    &list[place(list, address)]
}

fn put<T: OfAddress>(list: &mut Vec<T>, part: Vec<T>, addresses: &BTreeSet<IpAddr>) {
    for address in addresses {
        let of_it = about(&part, *address).iter().copied();
        list.splice(place(list, *address), of_it);
    }
}

/// Whether ports of a peer are told as a range: neither all of them, nor a few.
pub(super) fn are_range((_, first, last): Ports) -> bool {
    last - first >= SHORT_RANGE && (first, last) != (0, u16::MAX)
}

fn merge_ports(mut ports: Vec<Ports>) -> Vec<Ports> {
    ports.sort_unstable();
    let mut merged: Vec<Ports> = Vec::new();
    for (protocol, first, last) in ports {
        match merged.last_mut() {
            Some((of, _, end)) if *of == protocol && u32::from(first) <= u32::from(*end) + 1 => {
                *end = last.max(*end);
            }
            _ => merged.push((protocol, first, last)),
        }
    }
    merged
}

/// An address as a number, with the family before it: the same order, told faster.
pub(super) fn number(address: IpAddr) -> (bool, u128) {
    match address {
        IpAddr::V4(v4) => (false, u128::from(u32::from(v4))),
        IpAddr::V6(v6) => (true, u128::from(v6)),
    }
}

fn address(six: bool, number: u128) -> IpAddr {
    if six { Ipv6Addr::from(number).into() } else { Ipv4Addr::from(number as u32).into() }
}

/// The same addresses by ranges that do not overlap, in order.
fn merge_ranges(ranges: &[Range]) -> Vec<Range> {
    let mut numbers: Vec<((bool, u128), u128)> =
        ranges.iter().map(|(first, last)| (number(*first), number(*last).1)).collect();
    numbers.sort_unstable();
    let mut merged: Vec<((bool, u128), u128)> = Vec::new();
    for ((six, first), last) in numbers {
        match merged.last_mut() {
            Some(((family, _), end)) if *family == six && first <= end.saturating_add(1) => {
                *end = last.max(*end);
            }
            _ => merged.push(((six, first), last)),
        }
    }
    merged
        .into_iter()
        .map(|((six, first), last)| (address(six, first), address(six, last)))
        .collect()
}

/// What is in the first range and not in the others.
pub(super) fn without(range: Range, except: &[Range]) -> Vec<Range> {
    let (six, first) = number(range.0);
    let last = number(range.1).1;
    let own: Vec<Range> =
        except.iter().copied().filter(|(first, _)| number(*first).0 == six).collect();
    let mut left = Vec::new();
    let mut next = Some(first);
    for (from, to) in merge_ranges(&own) {
        let (from, to) = (number(from).1, number(to).1);
        let Some(at) = next else { break };
        if from > last {
            break;
        }
        if from > at {
            left.push((address(six, at), address(six, from - 1)));
        }
        if to >= at {
            next = to.checked_add(1);
        }
    }
    if let Some(at) = next.filter(|at| *at <= last) {
        left.push((address(six, at), address(six, last)));
    }
    left
}

/// The same connections by ranges that do not overlap: addresses are cut where the answer changes.
fn disjoint(all: &[(Range, Ports)]) -> Vec<(Range, Ports)> {
    let mut cut = Vec::new();
    for six in [false, true] {
        let own: Vec<(u128, u128, Ports)> = all
            .iter()
            .filter(|((first, _), _)| number(*first).0 == six)
            .map(|((first, last), ports)| (number(*first).1, number(*last).1, *ports))
            .collect();
        let mut starts: Vec<u128> = own.iter().map(|(first, _, _)| *first).collect();
        starts.extend(own.iter().filter_map(|(_, last, _)| last.checked_add(1)));
        starts.sort_unstable();
        starts.dedup();
        let mut segments: Vec<(u128, u128, Vec<Ports>)> = Vec::new();
        for (at, start) in starts.iter().enumerate() {
            let max = if six { u128::MAX } else { u128::from(u32::MAX) };
            let end = starts.get(at + 1).map_or(max, |next| next - 1);
            let covering = own.iter().filter(|(first, last, _)| first <= start && end <= *last);
            let ports = merge_ports(covering.map(|(_, _, ports)| *ports).collect());
            match segments.last_mut() {
                Some((_, last, same)) if *same == ports && *last + 1 == *start => *last = end,
                _ => segments.push((*start, end, ports)),
            }
        }
        for (first, last, ports) in segments {
            let range = (address(six, first), address(six, last));
            cut.extend(ports.into_iter().map(|ports| (range, ports)));
        }
    }
    cut.sort_unstable();
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> Range {
        let (first, last) = text.split_once('-').unwrap();
        (first.parse().unwrap(), last.parse().unwrap())
    }

    #[test]
    fn exceptions_are_cut_out() {
        let all = range("10.0.0.0-10.0.0.255");
        let out =
            [range("10.0.0.0-10.0.0.9"), range("10.0.0.5-10.0.0.20"), range("10.0.0.255-10.0.1.9")];
        assert_eq!(without(all, &out), [range("10.0.0.21-10.0.0.254")]);
        assert_eq!(without(all, &[all]), []);
        assert_eq!(without(all, &[range("fd00::-fd00::9")]), [all]);
        let everything = range("0.0.0.0-255.255.255.255");
        assert_eq!(
            without(everything, &[range("0.0.0.0-9.255.255.255")]),
            [range("10.0.0.0-255.255.255.255")]
        );
        let six = range("::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff");
        assert_eq!(without(six, &[six]), []);
    }

    #[test]
    fn overlapping_networks_with_ports_are_cut() {
        let tcp = |first, last| (Protocol::Tcp, first, last);
        let cut = disjoint(&[
            (range("10.0.0.0-10.0.0.255"), tcp(80, 80)),
            (range("10.0.0.128-10.0.0.255"), tcp(81, 90)),
            (range("10.0.0.0-10.0.0.255"), tcp(80, 80)),
        ]);
        assert_eq!(
            cut,
            [
                (range("10.0.0.0-10.0.0.127"), tcp(80, 80)),
                (range("10.0.0.128-10.0.0.255"), tcp(80, 90))
            ]
        );
    }

    #[test]
    fn too_much_is_refused() {
        let peers = (0..1u32 << 21).map(|n| IpAddr::from(Ipv4Addr::from(n))).collect();
        assert_eq!(Matches { peers, ..Matches::default() }.finish(), Err(TooLarge));
    }
}
