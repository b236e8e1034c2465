//! Sets of the tables, and their elements.

use std::net::IpAddr;

use netlink::ipvs::ServiceKey;
use netlink::nftables::{DataType, ElementRef, Key, Set};
use netlink::{Family, Prefix, from_number, to_number};

/// A set of a family's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum SetId {
    /// Addresses on our device: nothing else of the node's answers there.
    Vips,
    /// Where connections are served.
    Frontends,
    /// Frontends without any endpoint.
    Rejected,
    /// Frontends whose policy asks for an endpoint on this node, where there is none.
    Dropped,
    /// The same, but pods and the node itself may use endpoints elsewhere.
    InsideOnly,
    /// Frontends whose endpoints see the node instead of the client.
    Masquerade,
    /// Frontends whose endpoints see the node instead of a client from elsewhere.
    ClusterIps,
    /// Endpoints of this node, which could reach themselves.
    Hairpin,
    SourceRestricted,
    SourceAllowed,
    PodCidrs,
    ServiceCidrs,
}

impl SetId {
    pub(super) const ALL: [SetId; 12] = [
        SetId::Vips,
        SetId::Frontends,
        SetId::Rejected,
        SetId::Dropped,
        SetId::InsideOnly,
        SetId::Masquerade,
        SetId::ClusterIps,
        SetId::Hairpin,
        SetId::SourceRestricted,
        SetId::SourceAllowed,
        SetId::PodCidrs,
        SetId::ServiceCidrs,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            SetId::Vips => "service-addresses",
            SetId::Frontends => "frontends",
            SetId::Rejected => "no-endpoints",
            SetId::Dropped => "no-local-endpoints",
            SetId::InsideOnly => "no-local-endpoints-for-others",
            SetId::Masquerade => "masquerade",
            SetId::ClusterIps => "cluster-ips",
            SetId::Hairpin => "hairpin",
            SetId::SourceRestricted => "source-restricted",
            SetId::SourceAllowed => "source-allowed",
            SetId::PodCidrs => "pod-cidrs",
            SetId::ServiceCidrs => "service-cidrs",
        }
    }

    /// The set as the kernel knows it.
    pub(super) fn spec(self, family: Family) -> Set<'static> {
        use DataType::{InetProto, InetService, Ipv4Addr, Ipv6Addr};
        const FRONTEND: [&[DataType]; 2] =
            [&[Ipv4Addr, InetProto, InetService], &[Ipv6Addr, InetProto, InetService]];
        const SOURCE: [&[DataType]; 2] = [
            &[Ipv4Addr, InetProto, InetService, Ipv4Addr],
            &[Ipv6Addr, InetProto, InetService, Ipv6Addr],
        ];
        const SINGLE: [&[DataType]; 2] = [&[Ipv4Addr], &[Ipv6Addr]];
        const PAIR: [&[DataType]; 2] = [&[Ipv4Addr, Ipv4Addr], &[Ipv6Addr, Ipv6Addr]];
        let of = crate::dataplane::index(family);
        let name = self.name();
        match self {
            SetId::Vips => Set::new(name, SINGLE[of]),
            SetId::Hairpin => Set::new(name, PAIR[of]),
            SetId::SourceAllowed => Set::new(name, SOURCE[of]).ranges(),
            SetId::PodCidrs | SetId::ServiceCidrs => Set::new(name, SINGLE[of]).ranges(),
            _ => Set::new(name, FRONTEND[of]),
        }
    }
}

/// An element of a set.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Item {
    pub(super) family: Family,
    pub(super) set: SetId,
    key: Vec<u8>,
    /// The last key, of a range over several fields.
    last: Option<Vec<u8>>,
    /// The key is the first one after a range.
    range_end: bool,
}

impl Item {
    fn new(family: Family, set: SetId, key: Key) -> Item {
        Item { family, set, key: key.0, last: None, range_end: false }
    }

    /// An element as the kernel tells it.
    pub(super) fn read(family: Family, set: SetId, element: ElementRef<'_>) -> Item {
        Item {
            family,
            set,
            key: element.key.to_vec(),
            last: element.key_end.map(<[u8]>::to_vec),
            range_end: element.interval_end,
        }
    }

    /// The frontend of an element whose key begins with one.
    pub(super) fn frontend(&self) -> &[u8] {
        let length = match self.family {
            Family::V4 => 12,
            Family::V6 => 24,
        };
        self.key.get(..length).unwrap_or_default()
    }

    /// The element as the kernel takes it.
    pub(super) fn element(&self) -> ElementRef<'_> {
        let mut element = ElementRef::new(&self.key);
        element.key_end = self.last.as_deref();
        element.interval_end = self.range_end;
        element
    }
}

fn frontend(key: &ServiceKey) -> Key {
    Key::new().ip(key.address).protocol(key.protocol).port(key.port)
}

/// A frontend in a set of frontends.
pub(super) fn frontend_item(set: SetId, key: &ServiceKey) -> Item {
    Item::new(key.family(), set, frontend(key))
}

/// A source that a frontend lets in.
pub(super) fn source_item(key: &ServiceKey, range: Prefix) -> Item {
    let first = frontend(key).ip(range.first());
    let last = frontend(key).ip(range.last()).0;
    Item { last: Some(last), ..Item::new(key.family(), SetId::SourceAllowed, first) }
}

/// An endpoint that could reach itself.
pub(super) fn hairpin_item(ip: IpAddr) -> Item {
    Item::new(Family::of(ip), SetId::Hairpin, Key::new().ip(ip).ip(ip))
}

/// An address on our device.
pub(super) fn vip_item(ip: IpAddr) -> Item {
    Item::new(Family::of(ip), SetId::Vips, Key::new().ip(ip))
}

/// Networks as ranges that do not touch.
pub(super) fn range_items(family: Family, set: SetId, prefixes: &[Prefix]) -> Vec<Item> {
    let mut own: Vec<Prefix> = prefixes.iter().copied().filter(|p| p.family() == family).collect();
    own.sort_by_key(|prefix| (prefix.first(), prefix.length()));
    let mut ranges: Vec<(u128, u128)> = Vec::new();
    for prefix in own {
        let (first, last) = (to_number(prefix.first()), to_number(prefix.last()));
        match ranges.last_mut() {
            Some((_, end)) if first <= end.saturating_add(1) => *end = (*end).max(last),
            _ => ranges.push((first, last)),
        }
    }
    let highest = to_number(Prefix::default_route(family).last());
    let mut items = Vec::new();
    for (first, last) in ranges {
        let key = |number| Key::new().ip(from_number(family, number));
        items.push(Item::new(family, set, key(first)));
        if last < highest {
            items.push(Item { range_end: true, ..Item::new(family, set, key(last + 1)) });
        }
    }
    items
}
