//! [`Observed`]: what the kernel holds of a plan.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;

use netlink::Family;
use netlink::nftables::{Element, Key, NftSocket};

use super::diff::port_key;
use super::exclusions::{Area, is_covered};
use super::plan::{Plan, PlannedElement, Rivalry, TablePlace, index};
use super::{FAMILIES, own_addresses, rules};
use crate::{Owner, Result};

/// What the kernel holds of a plan.
pub(super) struct Observed {
    /// Whether all attachments were observed, not one.
    pub(super) is_whole: bool,
    /// Tables whose rules are missing or of another version.
    pub(super) incomplete: Vec<TablePlace>,
    /// What is there under the key of each planned element.
    pub(super) present: Vec<Option<Element>>,
    /// All exclusions, by family.
    pub(super) exclusions: [Vec<Element>; 2],
    /// All host ports on one address, by family, if a port on any address is planned.
    pub(super) specific_ports: [Vec<Element>; 2],
    /// For each planned element that is a port on one address: the same port on any address.
    pub(super) any_ports: Vec<Option<Element>>,
    /// The set of the node's addresses, by family, and the addresses that it should hold.
    pub(super) node_addresses: Option<([Vec<Element>; 2], HashSet<IpAddr>)>,
    /// Elements without an owner, which no attachment of any version made.
    pub(super) strangers: Vec<(TablePlace, &'static str, Element)>,
    /// Pod addresses that are masqueraded, with or without a record.
    masqueraded: Vec<IpAddr>,
}

impl Observed {
    fn empty(plan: &Plan, is_whole: bool) -> Observed {
        Observed {
            is_whole,
            incomplete: Vec::new(),
            present: Vec::with_capacity(plan.elements.len()),
            exclusions: Default::default(),
            specific_ports: Default::default(),
            any_ports: Vec::with_capacity(plan.elements.len()),
            node_addresses: None,
            strangers: Vec::new(),
            masqueraded: Vec::new(),
        }
    }

    /// Looks up the planned elements one by one: for one attachment among many.
    pub(super) fn read(socket: &mut NftSocket, plan: &Plan) -> Result<Observed> {
        let mut observed = Observed::empty(plan, false);
        observed.read_rules(socket, plan)?;
        for planned in &plan.elements {
            let table = rules::table(planned.place);
            observed.present.push(socket.element(table, planned.set, &planned.element)?);
            let any = match rules::HOSTPORTS.iter().position(|set| *set == planned.set) {
                Some(at) => {
                    let key = Element::new(Key(port_key(&planned.element).to_vec()));
                    socket.element(table, rules::HOSTPORTS_ANY[at], &key)?
                }
                None => None,
            };
            observed.any_ports.push(any);
        }
        if !plan.exclusions.is_empty() {
            observed.exclusions = pair(socket, rules::MASQUERADE_EXCLUDE)?;
        }
        observed.read_ports(socket, plan)?;
        Ok(observed)
    }

    /// Lists whole sets: for all attachments.
    pub(super) fn dump(socket: &mut NftSocket, plan: &Plan) -> Result<Observed> {
        let mut observed = Observed::empty(plan, true);
        observed.read_rules(socket, plan)?;
        let mut sets: BTreeMap<&str, Vec<Element>> = BTreeMap::new();
        let mut places: BTreeMap<&str, TablePlace> = BTreeMap::new();
        for (place, set) in rules::owned_sets() {
            sets.insert(set, socket.elements(rules::table(place), set)?.unwrap_or_default());
            places.insert(set, place);
        }
        let find = |set: &str, key: &[u8]| -> Option<Element> {
            let elements = sets.get(set)?;
            let at = elements.binary_search_by(|element| element.key.as_slice().cmp(key)).ok()?;
            Some(elements[at].clone())
        };
        for planned in &plan.elements {
            observed.present.push(find(planned.set, &planned.element.key));
            let any = rules::HOSTPORTS.iter().position(|set| *set == planned.set);
            let key = port_key(&planned.element);
            observed.any_ports.push(any.and_then(|at| find(rules::HOSTPORTS_ANY[at], key)));
        }
        for (set, elements) in &sets {
            let place = places[set];
            let set = rules::owned_sets().map(|(_, name)| name).find(|name| name == set);
            let strangers = elements.iter().filter(|element| element.comment.is_none());
            observed
                .strangers
                .extend(strangers.filter_map(|element| Some((place, set?, element.clone()))));
        }
        observed.exclusions = pair(socket, rules::MASQUERADE_EXCLUDE)?;
        for (at, family) in FAMILIES.into_iter().enumerate() {
            let keys = sets[rules::MASQUERADE[at]].iter().map(|element| element.key.as_slice());
            observed.masqueraded.extend(keys.filter_map(|key| address(family, key)));
        }
        observed.read_ports(socket, plan)?;
        Ok(observed)
    }

    fn read_rules(&mut self, socket: &mut NftSocket, plan: &Plan) -> Result<()> {
        for place in [TablePlace::Host, TablePlace::Bridge] {
            if plan.elements.iter().any(|planned| planned.place == place) {
                let found = socket.rules(rules::table(place))?.unwrap_or_default();
                if !rules::same_rules(&found, &rules::ruleset(place).tags()) {
                    self.incomplete.push(place);
                }
            }
        }
        Ok(())
    }

    fn read_ports(&mut self, socket: &mut NftSocket, plan: &Plan) -> Result<()> {
        if plan.needs_node_addresses {
            self.specific_ports = pair(socket, rules::HOSTPORTS)?;
            self.node_addresses = Some((pair(socket, rules::NODE_ADDRESSES)?, own_addresses()?));
        }
        Ok(())
    }

    /// The areas of the exclusions that are there.
    fn present_areas(&self) -> impl Iterator<Item = Area> {
        FAMILIES.into_iter().flat_map(|family| {
            let elements = self.exclusions[index(family)].iter();
            elements.filter_map(move |element| Area::of_element(family, element))
        })
    }

    /// Whether the plan of one attachment can be compared by itself: the rules are complete, and the
    /// exclusions of its network and subnet are exactly the planned ones.
    pub(super) fn is_intact(&self, plan: &Plan) -> bool {
        let planned: HashSet<&Area> = plan.exclusions.iter().collect();
        let of_origin: Vec<Area> = self
            .present_areas()
            .filter(|area| plan.exclusions.iter().any(|planned| planned.has_same_origin(area)))
            .collect();
        self.incomplete.is_empty() && of_origin.iter().collect::<HashSet<_>>() == planned
    }

    /// Exclusions in the kernel of pods that have no record: an earlier version attached them, or their
    /// ADD goes on.
    pub(super) fn unrecorded_exclusions(&self, plan: &Plan) -> Vec<Area> {
        let masqueraded = plan.elements.iter().filter(|p| rules::MASQUERADE.contains(&p.set));
        let recorded: HashSet<&[u8]> = masqueraded.map(|p| p.element.key.as_slice()).collect();
        let has_record = |ip: &IpAddr| recorded.contains(Key::new().ip(*ip).0.as_slice());
        let unrecorded: Vec<&IpAddr> =
            self.masqueraded.iter().filter(|ip| !has_record(ip)).collect();
        self.present_areas()
            .filter(|area| unrecorded.iter().any(|ip| area.has_source(**ip)))
            .filter(|area| !plan.exclusions.iter().any(|planned| planned.has_same_origin(area)))
            .collect()
    }

    /// What is missing or different of a plan of one attachment.
    pub(super) fn first_damage(&self, plan: &Plan, owner: &Owner) -> Option<String> {
        if let Some(place) = self.incomplete.first() {
            let name = rules::table(*place).name;
            return Some(format!("rules of nftables table {name:?} are missing"));
        }
        for (planned, present) in plan.elements.iter().zip(&self.present) {
            let PlannedElement { element, set, rivalry, .. } = planned;
            let state = match present {
                Some(present) if present == element || *rivalry == Rivalry::Share => continue,
                Some(_) => "differs",
                None => "is missing",
            };
            let tag = owner.tag();
            return Some(format!("an element of {tag} in nftables set {set:?} {state}"));
        }
        for (at, family) in FAMILIES.into_iter().enumerate() {
            let present: Vec<Area> = self.exclusions[at]
                .iter()
                .filter_map(|element| Area::of_element(family, element))
                .collect();
            let wanted = plan.exclusions.iter().filter(|area| area.family == family);
            if wanted.into_iter().any(|area| !is_covered(area, &present)) {
                return Some(format!(
                    "an exclusion of network {:?} in nftables set {:?} is missing",
                    owner.network,
                    rules::MASQUERADE_EXCLUDE[at]
                ));
            }
        }
        None
    }
}

fn pair(socket: &mut NftSocket, sets: [&str; 2]) -> Result<[Vec<Element>; 2]> {
    let mut list = |set| Ok(socket.elements(rules::HOST_TABLE, set)?.unwrap_or_default());
    let listed: netlink::Result<[Vec<Element>; 2]> = (|| Ok([list(sets[0])?, list(sets[1])?]))();
    Ok(listed?)
}

fn address(family: Family, key: &[u8]) -> Option<IpAddr> {
    Some(match family {
        Family::V4 => IpAddr::from(<[u8; 4]>::try_from(key).ok()?),
        Family::V6 => IpAddr::from(<[u8; 16]>::try_from(key).ok()?),
    })
}
