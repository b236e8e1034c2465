//! The sets of a step: which there are, what they hold, and how a rule asks them.

use std::net::IpAddr;

use netlink::Family;
use netlink::nftables::{Ct, DataType, Element, ElementRef, Expression, Key, Register, Set};
use netpol::Protocol;
use netpol::compile::Matches;
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
            rule.push(Expression::LoadCt(Ct::Protocol, next));
        }
        if matches!(self, Kind::Ports | Kind::PeerPorts(_) | Kind::BlockPorts(_)) {
            rule.push(Expression::LoadCtReply(Ct::SourcePort, Register(next.0 + 1)));
        }
        let set = self.set_name(step);
        rule.push(Expression::LookupSet { set, key: Register(0), inverted: false });
        rule
    }

    /// What it holds, in order.
    pub(super) fn items(self, matches: &Matches) -> Vec<Item> {
        let of = |family, address: IpAddr| Family::of(address) == family;
        let protocol = |key: Key, protocol: Protocol| key.protocol(protocol.number());
        let mut items: Vec<Item> = match self {
            Kind::Ports => matches
                .ports
                .iter()
                .map(|(of, first, last)| {
                    let key = |port| protocol(Key::new(), *of).port(port);
                    Item::range(key(*first), key(*last))
                })
                .collect(),
            Kind::Peers(family) => {
                let own = matches.peers.iter().filter(|ip| of(family, **ip));
                own.map(|ip| Item::key(Key::new().ip(*ip))).collect()
            }
            Kind::PeerProtocols(family) => {
                let own = matches.peer_protocols.iter().filter(|(ip, _)| of(family, *ip));
                own.map(|(ip, number)| Item::key(protocol(Key::new().ip(*ip), *number))).collect()
            }
            Kind::PeerPorts(family) => {
                let own = matches.peer_ports.iter().filter(|(ip, ..)| of(family, *ip));
                let key = |(ip, number, port): &(IpAddr, Protocol, u16)| {
                    Item::key(protocol(Key::new().ip(*ip), *number).port(*port))
                };
                own.map(key).collect()
            }
            Kind::Blocks(family) => {
                let own = matches.blocks.iter().filter(|(first, _)| of(family, *first));
                own.flat_map(|(first, last)| Item::span(*first, *last)).collect()
            }
            Kind::BlockPorts(family) => {
                let own = matches.block_ports.iter().filter(|((ip, _), _)| of(family, *ip));
                own.map(|((first, last), (number, from, to))| {
                    let key = |ip, port| protocol(Key::new().ip(ip), *number).port(port);
                    Item::range(key(*first, *from), key(*last, *to))
                })
                .collect()
            }
        };
        items.sort_unstable();
        items
    }
}

/// The sets that a step needs.
pub(super) fn kinds(matches: &Matches) -> Vec<Kind> {
    Kind::ALL.into_iter().filter(|kind| !kind.items(matches).is_empty()).collect()
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
