//! [`Plan`]: the elements that attachments need. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink::nftables::{Element, Key};
use netlink::{Family, Prefix};

use super::exclusions::Area;
use super::rules;
use crate::{LinkRecord, Record};

/// One of the two tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum TablePlace {
    Host,
    Bridge,
}

/// An element and the set that it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PlannedElement {
    pub(super) place: TablePlace,
    pub(super) set: &'static str,
    pub(super) element: Element,
    /// What to do if the key is there with another owner.
    pub(super) rivalry: Rivalry,
}

/// What to do with an element of another owner that has the same key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rivalry {
    /// The other owner keeps it while it is alive.
    Refuse,
    /// It goes: the key is ours by the lease.
    Replace,
    /// It belongs to all.
    Share,
}

/// What attachments need of netfilter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) elements: Vec<PlannedElement>,
    /// Where pods are not masqueraded. The areas may overlap.
    pub(super) exclusions: Vec<Area>,
    /// Whether a host port is on any address, so that the node's own addresses must be known.
    pub(super) needs_node_addresses: bool,
}

pub(super) fn index(family: Family) -> usize {
    match family {
        Family::V4 => 0,
        Family::V6 => 1,
    }
}

fn multicast(family: Family) -> Option<Prefix> {
    match family {
        Family::V4 => Prefix::new(Ipv4Addr::new(224, 0, 0, 0).into(), 4),
        Family::V6 => Prefix::new(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0).into(), 8),
    }
}

impl Plan {
    /// The plan for these attachments. Of two records of one network and subnet the later one has the
    /// network's current exclusions.
    pub(super) fn of<'a>(records: impl IntoIterator<Item = &'a Record>) -> Plan {
        let mut plan = Plan::default();
        let mut networks: Vec<((&str, Prefix), &[Prefix])> = Vec::new();
        for record in records {
            plan.add_record(record);
            let Some(exclusions) = &record.masquerade_exclusions else { continue };
            for address in &record.addresses {
                let key = (record.owner.network.as_str(), address.network());
                match networks.iter_mut().find(|(known, _)| *known == key) {
                    Some((_, known)) => *known = exclusions,
                    None => networks.push((key, exclusions)),
                }
            }
        }
        for ((network, subnet), exclusions) in networks {
            plan.exclude(network, subnet, exclusions);
        }
        plan
    }

    pub(super) fn is_empty(&self) -> bool {
        self.elements.is_empty()
    }

    fn add(&mut self, place: TablePlace, set: &'static str, element: Element, rivalry: Rivalry) {
        let planned = PlannedElement { place, set, element, rivalry };
        if rivalry != Rivalry::Share || !self.elements.contains(&planned) {
            self.elements.push(planned);
        }
    }

    /// Pods of a subnet are not masqueraded to the subnet, to multicast groups and to `exclusions`.
    fn exclude(&mut self, network: &str, subnet: Prefix, exclusions: &[Prefix]) {
        let all = exclusions.iter().copied().chain([subnet]).chain(multicast(subnet.family()));
        let all = all.filter(|prefix| prefix.family() == subnet.family()).collect();
        for destination in outermost(all) {
            self.exclusions.push(Area::new(network, subnet, destination));
        }
    }

    fn add_record(&mut self, record: &Record) {
        let tag = record.owner.tag();
        if record.masquerade_exclusions.is_some() {
            for ip in record.ips() {
                let element = Element::new(Key::new().ip(ip)).comment(tag.clone());
                let set = rules::MASQUERADE[index(Family::of(ip))];
                self.add(TablePlace::Host, set, element, Rivalry::Replace);
            }
        }
        self.add_host_ports(record, &tag);
        if let Some(mac) = record.allowed_mac {
            let port = record.owner.host_link();
            let name = Element::new(Key::new().ifname(&port)).comment(tag.clone());
            let pair = Element::new(Key::new().ifname(&port).mac(mac)).comment(tag);
            self.add(TablePlace::Bridge, rules::ALLOWED, pair, Rivalry::Replace);
            self.add(TablePlace::Bridge, rules::CHECKED, name, Rivalry::Replace);
        }
    }

    fn add_host_ports(&mut self, record: &Record, tag: &str) {
        for port in &record.host_ports {
            let family = index(Family::of(port.pod_ip));
            let (set, key) = match port.host_ip {
                Some(ip) => (rules::HOSTPORTS[family], Key::new().ip(ip)),
                None => (rules::HOSTPORTS_ANY[family], Key::new()),
            };
            self.needs_node_addresses |= port.host_ip.is_none();
            let key = key.protocol(port.protocol.number()).port(port.host_port);
            let target = Key::new().ip(port.pod_ip).port(port.container_port);
            let element = Element::new(key).value(target).comment(tag);
            self.add(TablePlace::Host, set, element, Rivalry::Refuse);
        }
        if record.host_ports.is_empty() {
            return;
        }
        let mut pod_ips: Vec<IpAddr> = record.host_ports.iter().map(|port| port.pod_ip).collect();
        pod_ips.sort();
        pod_ips.dedup();
        for ip in pod_ips {
            let pair = Element::new(Key::new().ip(ip).ip(ip)).comment(tag);
            let set = rules::HAIRPIN[index(Family::of(ip))];
            self.add(TablePlace::Host, set, pair, Rivalry::Replace);
        }
        let device = record.device();
        // Several pods are behind a bridge. A routed link is the attachment's own.
        let (comment, rivalry) = match record.link {
            LinkRecord::Routed => (tag.to_owned(), Rivalry::Replace),
            _ => (format!("device {device}"), Rivalry::Share),
        };
        let name = Element::new(Key::new().ifname(&device)).comment(comment.clone());
        let pair = Element::new(Key::new().ifname(&device).ifname(&device)).comment(comment);
        self.add(TablePlace::Host, rules::DEVICES, name, rivalry);
        self.add(TablePlace::Host, rules::LOOPS, pair, rivalry);
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

#[cfg(test)]
mod tests {
    use super::super::exclusions::apart;
    use super::*;
    use crate::record::tests::record;

    fn masqueraded(id: &str, address: &str, exclusions: &[&str]) -> Record {
        let exclusions = exclusions.iter().map(|text| text.parse().unwrap()).collect();
        Record { masquerade_exclusions: Some(exclusions), ..record(id, address) }
    }

    #[test]
    fn exclusions_hold_subnet_and_multicast() {
        let pod =
            masqueraded("a", "10.244.1.5/24", &["10.244.0.0/16", "10.244.7.0/24", "fd00::/8"]);
        let plan = Plan::of([&pod]);
        let wanted = ["224.0.0.0/4", "10.244.0.0/16"].map(|destination| {
            Area::new("net", "10.244.1.0/24".parse().unwrap(), destination.parse().unwrap())
        });
        assert_eq!(plan.exclusions, wanted);
        assert_eq!(plan.elements.len(), 1);
        assert!(!plan.needs_node_addresses);
    }

    #[test]
    fn newest_exclusions_of_a_subnet_count() {
        let old = masqueraded("a", "10.244.1.5/24", &["10.0.0.0/8"]);
        let new = masqueraded("b", "10.244.1.6/24", &["172.16.0.0/12"]);
        let plan = Plan::of([&old, &new]);
        assert_eq!(plan.exclusions, Plan::of([&new]).exclusions);
        assert_eq!(apart(plan.exclusions).len(), 3);
    }
}
