//! The sets of a step: which there are, what they hold, and how a rule asks them.

use std::net::IpAddr;

use netlink::Family;
use netlink::nftables::{Ct, DataType, Element, ElementRef, Expression, Key, Register, Set};
use netpol::Protocol;
use netpol::compile::{Matches, OfAddress, Touched, about};
use netpol::model::Direction;

use super::layout::{address_type, after_address, destination, source};

/// What a set of a step holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Ports,
    Peers(Family),
    PeerProtocols(Family),
    PeerPorts(Family),
    Blocks(Family),
    BlockPorts(Family),
}

const V4: Family = Family::V4;
const V6: Family = Family::V6;

impl Kind {
    const ALL: [Kind; 11] = [
        Kind::Ports,
        Kind::Peers(V4),
        Kind::Peers(V6),
        Kind::PeerProtocols(V4),
        Kind::PeerProtocols(V6),
        Kind::PeerPorts(V4),
        Kind::PeerPorts(V6),
        Kind::Blocks(V4),
        Kind::Blocks(V6),
        Kind::BlockPorts(V4),
        Kind::BlockPorts(V6),
    ];

    fn name(self) -> &'static str {
        match self {
            Kind::Ports => "ports",
            Kind::Peers(V4) => "peers-4",
            Kind::Peers(V6) => "peers-6",
            Kind::PeerProtocols(V4) => "peer-protocols-4",
            Kind::PeerProtocols(V6) => "peer-protocols-6",
            Kind::PeerPorts(V4) => "peer-ports-4",
            Kind::PeerPorts(V6) => "peer-ports-6",
            Kind::Blocks(V4) => "blocks-4",
            Kind::Blocks(V6) => "blocks-6",
            Kind::BlockPorts(V4) => "block-ports-4",
            Kind::BlockPorts(V6) => "block-ports-6",
        }
    }

    pub(super) fn set_name(self, step: &str) -> String {
        format!("{step}.{}", self.name())
    }

    fn fields(self) -> Vec<DataType> {
        let (protocol, port) = (DataType::InetProto, DataType::InetService);
        match self {
            Kind::Ports => vec![protocol, port],
            Kind::Peers(family) | Kind::Blocks(family) => vec![address_type(family)],
            Kind::PeerProtocols(family) => vec![address_type(family), protocol],
            Kind::PeerPorts(family) | Kind::BlockPorts(family) => {
                vec![address_type(family), protocol, port]
            }
        }
    }

    fn is_ranges(self) -> bool {
        matches!(self, Kind::Ports | Kind::Blocks(_) | Kind::BlockPorts(_))
    }

    /// Calls with the set's definition.
    pub(super) fn define(self, step: &str, mut with: impl FnMut(&Set<'_>)) {
        let (name, fields) = (self.set_name(step), self.fields());
        let set = Set::new(&name, &fields);
        with(&if self.is_ranges() { set.ranges() } else { set });
    }

    /// Loads the key and asks the set.
    pub(super) fn ask(self, step: &str, direction: Direction) -> Vec<Expression> {
        let mut rule = Vec::new();
        let mut next = Register(0);
        if let Kind::Peers(family)
        | Kind::PeerProtocols(family)
        | Kind::PeerPorts(family)
        | Kind::Blocks(family)
        | Kind::BlockPorts(family) = self
        {
            // The peer is the other end.
            rule.push(match direction {
                Direction::Ingress => source(family, next),
                Direction::Egress => destination(family, next),
            });
            next = after_address(family);
        }
        if !matches!(self, Kind::Peers(_) | Kind::Blocks(_)) {
            // Not the packet's: behind an IPv6 authentication header conntrack sees the ports, and nftables does not.
            rule.push(Expression::LoadCt(Ct::Protocol, next));
        }
        if matches!(self, Kind::Ports | Kind::PeerPorts(_) | Kind::BlockPorts(_)) {
            rule.push(Expression::LoadCtReply(Ct::SourcePort, Register(next.0 + 1)));
        }
        let set = self.set_name(step);
        rule.push(Expression::LookupSet { set, key: Register(0), inverted: false });
        rule
    }

    /// What it holds.
    pub(super) fn items(self, matches: &Matches) -> Vec<Item> {
        self.changes(&Matches::default(), matches, &Touched::Whole).1
    }

    /// What goes and what comes, from one content to another that differs in what was touched.
    pub(super) fn changes(
        self,
        old: &Matches,
        new: &Matches,
        touched: &Touched,
    ) -> (Vec<Item>, Vec<Item>) {
        let of = |family, address: IpAddr| Family::of(address) == family;
        let protocol = |key: Key, protocol: Protocol| key.protocol(protocol.number());
        if let Touched::Addresses(_) = touched
            && matches!(self, Kind::Ports | Kind::Blocks(_) | Kind::BlockPorts(_))
        {
            return (Vec::new(), Vec::new());
        }
        match self {
            Kind::Ports => difference(&old.ports, &new.ports, |(of, first, last), items| {
                let key = |port| protocol(Key::new(), *of).port(port);
                items.push(Item::range(key(*first), key(*last)));
            }),
            Kind::Peers(family) => of_addresses((&old.peers, &new.peers), touched, |ip, items| {
                if of(family, *ip) {
                    items.push(Item::key(Key::new().ip(*ip)));
                }
            }),
            Kind::PeerProtocols(family) => {
                let lists = (&*old.peer_protocols, &*new.peer_protocols);
                of_addresses(lists, touched, |(ip, number), items| {
                    if of(family, *ip) {
                        items.push(Item::key(protocol(Key::new().ip(*ip), *number)));
                    }
                })
            }
            Kind::PeerPorts(family) => {
                let lists = (&*old.peer_ports, &*new.peer_ports);
                of_addresses(lists, touched, |(ip, number, port), items| {
                    if of(family, *ip) {
                        items.push(Item::key(protocol(Key::new().ip(*ip), *number).port(*port)));
                    }
                })
            }
            Kind::Blocks(family) => difference(&old.blocks, &new.blocks, |(first, last), items| {
                if of(family, *first) {
                    items.extend(Item::span(*first, *last));
                }
            }),
            Kind::BlockPorts(family) => {
                difference(&old.block_ports, &new.block_ports, |block, items| {
                    let ((first, last), (number, from, to)) = block;
                    if of(family, *first) {
                        let key = |ip, port| protocol(Key::new().ip(ip), *number).port(port);
                        items.push(Item::range(key(*first, *from), key(*last, *to)));
                    }
                })
            }
        }
    }

    /// Whether a step has anything of this kind. Lists are in order, IPv4 first.
    fn is_in(self, matches: &Matches) -> bool {
        fn has<T>(list: &[T], family: Family, address: impl Fn(&T) -> IpAddr) -> bool {
            let one = match family {
                Family::V4 => list.first(),
                Family::V6 => list.last(),
            };
            one.is_some_and(|one| Family::of(address(one)) == family)
        }
        match self {
            Kind::Ports => !matches.ports.is_empty(),
            Kind::Peers(family) => has(&matches.peers, family, |ip| *ip),
            Kind::PeerProtocols(family) => has(&matches.peer_protocols, family, |(ip, _)| *ip),
            Kind::PeerPorts(family) => has(&matches.peer_ports, family, |(ip, ..)| *ip),
            Kind::Blocks(family) => has(&matches.blocks, family, |(first, _)| *first),
            Kind::BlockPorts(family) => has(&matches.block_ports, family, |((first, _), _)| *first),
        }
    }
}

/// The difference of two lists, which can only be in what they say of the touched addresses.
fn of_addresses<T: OfAddress>(
    (old, new): (&[T], &[T]),
    touched: &Touched,
    item: impl Fn(&T, &mut Vec<Item>),
) -> (Vec<Item>, Vec<Item>) {
    let Touched::Addresses(addresses) = touched else { return difference(old, new, item) };
    let about = |list| addresses.iter().flat_map(|ip| about(list, *ip)).copied().collect();
    let (old, new): (Vec<T>, Vec<T>) = (about(old), about(new));
    difference(&old, &new, item)
}

/// The items of what is in one ordered list alone: in the old one, and in the new one.
fn difference<T: Ord>(
    old: &[T],
    new: &[T],
    item: impl Fn(&T, &mut Vec<Item>),
) -> (Vec<Item>, Vec<Item>) {
    let (mut gone, mut added) = (Vec::new(), Vec::new());
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    loop {
        match (old.peek(), new.peek()) {
            (Some(a), Some(b)) if a == b => {
                old.next();
                new.next();
            }
            (Some(a), Some(b)) if a > b => {
                item(b, &mut added);
                new.next();
            }
            (Some(a), _) => {
                item(a, &mut gone);
                old.next();
            }
            (None, Some(b)) => {
                item(b, &mut added);
                new.next();
            }
            (None, None) => return (gone, added),
        }
    }
}

/// The sets that a step needs.
pub(super) fn kinds(matches: &Matches) -> Vec<Kind> {
    Kind::ALL.into_iter().filter(|kind| kind.is_in(matches)).collect()
}

/// An element of a set.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Item {
    key: Vec<u8>,
    key_end: Option<Vec<u8>>,
    interval_end: bool,
}

impl Item {
    fn key(key: Key) -> Item {
        Item { key: key.0, key_end: None, interval_end: false }
    }

    fn range(first: Key, last: Key) -> Item {
        Item { key: first.0, key_end: Some(last.0), interval_end: false }
    }

    /// A range of a single field: where it begins, and before which address it ends.
    fn span(first: IpAddr, last: IpAddr) -> Vec<Item> {
        let mut items = vec![Item::key(Key::new().ip(first))];
        let next = match last {
            IpAddr::V4(v4) => u32::from(v4).checked_add(1).map(|n| IpAddr::V4(n.into())),
            IpAddr::V6(v6) => u128::from(v6).checked_add(1).map(|n| IpAddr::V6(n.into())),
        };
        if let Some(next) = next {
            items.push(Item { interval_end: true, ..Item::key(Key::new().ip(next)) });
        }
        items
    }

    pub(super) fn element(&self) -> ElementRef<'_> {
        ElementRef {
            key_end: self.key_end.as_deref(),
            interval_end: self.interval_end,
            ..ElementRef::new(&self.key)
        }
    }
}

/// An element of an address.
pub(super) fn address(ip: IpAddr) -> Element {
    Element::new(Key::new().ip(ip))
}
