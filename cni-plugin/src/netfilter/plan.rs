//! Which elements an attachment needs. Pure.

use std::net::IpAddr;

use netlink::nftables::{Element, Key};
use netlink::{Family, MacAddress, Prefix};

use super::rules;
use crate::attachment::Owner;
use crate::hostport::HostPort;

/// One of the two tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Host,
    Bridge,
}

/// An element and the set it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) place: Place,
    pub(crate) set: &'static str,
    pub(crate) element: Element,
    /// What to do if the key is there with another owner.
    pub(crate) rivalry: Rivalry,
}

/// What a key that belongs to somebody else means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rivalry {
    /// It cannot be ours as well: the other keeps it.
    Refuse,
    /// The key is ours by the lease, so the other is a left-over.
    Replace,
    /// It belongs to all.
    Share,
}

/// What an attachment needs of netfilter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) elements: Vec<Placed>,
    pub(crate) excludes: Option<Excludes>,
}

/// Where a network's pods are not masqueraded: pairs of source and destination networks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Excludes {
    /// What the elements carry as comment.
    pub(crate) network: String,
    /// Sorted, none within another.
    pub(crate) pairs: Vec<(Prefix, Prefix)>,
}

fn index(family: Family) -> usize {
    match family {
        Family::V4 => 0,
        Family::V6 => 1,
    }
}

impl Wanted {
    pub(crate) fn is_empty(&self) -> bool {
        self.elements.is_empty()
    }

    fn add(&mut self, place: Place, set: &'static str, element: Element, rivalry: Rivalry) {
        self.elements.push(Placed { place, set, element, rivalry });
    }

    /// The pod's addresses (with the prefix lengths of their subnets) are masqueraded, but not to
    /// their subnets, to multicast groups and to `exclude`.
    pub(crate) fn masquerade(&mut self, owner: &Owner, pod: &[Prefix], exclude: &[Prefix]) {
        let mut pairs = Vec::new();
        for address in pod {
            let element = Element::new(Key::new().ip(address.address())).comment(owner.tag());
            let set = rules::MASQUERADE[index(address.family())];
            self.add(Place::Host, set, element, Rivalry::Replace);
            let subnet = address.network();
            let multicast = Prefix::new(
                match address.family() {
                    Family::V4 => std::net::Ipv4Addr::new(224, 0, 0, 0).into(),
                    Family::V6 => std::net::Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0).into(),
                },
                if address.family() == Family::V4 { 4 } else { 8 },
            );
            let all = exclude.iter().copied().chain([subnet]).chain(multicast);
            pairs.extend(
                outermost(all.filter(|p| p.family() == subnet.family()).collect())
                    .into_iter()
                    .map(|destination| (subnet, destination)),
            );
        }
        pairs.sort();
        pairs.dedup();
        self.excludes = Some(Excludes { network: owner.network.clone(), pairs });
    }

    /// The node's ports lead to the pod, which is reached by `device`. Several pods may be behind one
    /// device (a bridge), or it may be the attachment's own.
    pub(crate) fn host_ports(
        &mut self,
        owner: &Owner,
        ports: &[HostPort],
        device: &str,
        shared_device: bool,
    ) {
        for port in ports {
            let family = index(Family::of(port.pod_ip));
            let (set, key) = match port.host_ip {
                Some(ip) => (rules::HOSTPORTS[family], Key::new().ip(ip)),
                None => (rules::HOSTPORTS_ANY[family], Key::new()),
            };
            let key = key.protocol(port.mapping.protocol.number()).port(port.mapping.host_port);
            let target = Key::new().ip(port.pod_ip).port(port.mapping.container_port);
            let element = Element::new(key).value(target).comment(owner.tag());
            self.add(Place::Host, set, element, Rivalry::Refuse);
        }
        if ports.is_empty() {
            return;
        }
        let mut pod_ips: Vec<IpAddr> = ports.iter().map(|port| port.pod_ip).collect();
        pod_ips.sort();
        pod_ips.dedup();
        for ip in pod_ips {
            let pair = Element::new(Key::new().ip(ip).ip(ip)).comment(owner.tag());
            let set = rules::HAIRPIN[index(Family::of(ip))];
            self.add(Place::Host, set, pair, Rivalry::Replace);
        }
        let (comment, rivalry) = if shared_device {
            (format!("device {device}"), Rivalry::Share)
        } else {
            (owner.tag(), Rivalry::Replace)
        };
        let name = Element::new(Key::new().ifname(device)).comment(comment.clone());
        let pair = Element::new(Key::new().ifname(device).ifname(device)).comment(comment);
        self.add(Place::Host, rules::DEVICES, name, rivalry);
        self.add(Place::Host, rules::LOOPS, pair, rivalry);
    }

    /// What comes in by the bridge port must have this source address.
    pub(crate) fn mac_check(&mut self, owner: &Owner, port: &str, mac: MacAddress) {
        let name = Element::new(Key::new().ifname(port)).comment(owner.tag());
        let pair = Element::new(Key::new().ifname(port).mac(mac)).comment(owner.tag());
        self.add(Place::Bridge, rules::ALLOWED, pair, Rivalry::Replace);
        self.add(Place::Bridge, rules::CHECKED, name, Rivalry::Replace);
    }
}

/// The prefixes that are in no other one, sorted.
fn outermost(mut prefixes: Vec<Prefix>) -> Vec<Prefix> {
    prefixes.sort_by_key(|prefix| (prefix.length(), *prefix));
    let mut kept: Vec<Prefix> = Vec::new();
    for prefix in prefixes {
        if !kept.iter().any(|outer| outer.covers(prefix)) {
            kept.push(prefix);
        }
    }
    kept
}

impl Excludes {
    /// The elements of a family's set.
    pub(crate) fn elements(&self, family: Family) -> Vec<Element> {
        let comment = format!("network {}", self.network);
        self.pairs
            .iter()
            .filter(|(source, _)| source.family() == family)
            .map(|(source, destination)| {
                let key = |a: IpAddr, b: IpAddr| Key::new().ip(a).ip(b);
                Element::new(key(source.first(), destination.first()))
                    .to(key(source.last(), destination.last()))
                    .comment(comment.clone())
            })
            .collect()
    }

    /// The first and last source address of each of this family's source networks, as in a key.
    pub(crate) fn sources(&self, family: Family) -> Vec<(Vec<u8>, Vec<u8>)> {
        let of = self.pairs.iter().filter(|(source, _)| source.family() == family);
        let bytes = |ip: IpAddr| Key::new().ip(ip).0;
        let mut sources: Vec<_> =
            of.map(|(source, _)| (bytes(source.first()), bytes(source.last()))).collect();
        sources.dedup();
        sources
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipam::Attachment;

    fn owner() -> Owner {
        let attachment = Attachment { container_id: "c".into(), ifname: "eth0".into() };
        Owner { network: "net".into(), attachment }
    }

    fn prefixes(texts: &[&str]) -> Vec<Prefix> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn exclusions_never_overlap_and_hold_subnet_and_multicast() {
        let mut wanted = Wanted::default();
        wanted.masquerade(
            &owner(),
            &prefixes(&["10.244.1.5/24", "fd00:1::5/64"]),
            &prefixes(&["10.244.0.0/16", "10.244.7.0/24", "192.168.0.0/16", "10.244.0.0/16"]),
        );
        let pairs = wanted.excludes.clone().unwrap().pairs;
        let printed: Vec<String> = pairs.iter().map(|(s, d)| format!("{s} {d}")).collect();
        assert_eq!(
            printed,
            [
                "10.244.1.0/24 10.244.0.0/16",
                "10.244.1.0/24 192.168.0.0/16",
                "10.244.1.0/24 224.0.0.0/4",
                "fd00:1::/64 fd00:1::/64",
                "fd00:1::/64 ff00::/8",
            ]
        );
        assert_eq!(wanted.elements.len(), 2);
    }
}
