//! The transaction that brings the kernel to a plan. Pure but for the question whether a holder is alive.

use std::collections::HashMap;

use netlink::Family;
use netlink::nftables::{Element, Generation, Key, Transaction};

use super::exclusions::{Area, apart};
use super::observed::Observed;
use super::plan::{Plan, PlannedElement, Rivalry};
use super::{FAMILIES, Outcome, rules};
use crate::observe::LinkNames;
use crate::{Error, Protocol, Records, Result};

/// Whether the holders of host ports are alive. Reads links and records when it is asked first.
pub(super) struct Holders<'a> {
    records: &'a Records,
    known: std::cell::OnceCell<Option<HashMap<String, bool>>>,
}

impl<'a> Holders<'a> {
    pub(super) fn new(records: &'a Records) -> Holders<'a> {
        Holders { records, known: std::cell::OnceCell::new() }
    }

    /// Whether the link of the attachment with this tag is known to be gone. An attachment without a
    /// record is alive: an earlier version may have attached it behind another plugin.
    fn is_dead(&self, tag: &str) -> bool {
        let read = || -> Option<HashMap<String, bool>> {
            let links = LinkNames::read().ok()?;
            let (records, _) = self.records.list().ok()?;
            let alive = |record: &crate::Record| (record.owner.tag(), links.has_link_of(record));
            Some(records.iter().map(alive).collect())
        };
        let known = self.known.get_or_init(read);
        known.as_ref().and_then(|known| known.get(tag)) == Some(&false)
    }
}

/// The transaction that adds what is missing and removes what contradicts the plan.
///
/// An element that `is_new` is of the attachment that is being added: it is not a repair, and a host port
/// that another living attachment holds is an error.
pub(super) fn transaction(
    plan: &Plan,
    observed: &Observed,
    generation: Generation,
    holders: &Holders<'_>,
    is_new: impl Fn(&Element) -> bool,
    outcome: &mut Outcome,
) -> Result<Transaction> {
    let mut transaction = Transaction::new(Some(generation));
    for place in &observed.incomplete {
        rules::ruleset(*place).write(&mut transaction);
        let table = rules::table(*place);
        outcome.repairs.push(format!("rules of nftables table {:?} were missing", table.name));
    }
    for (place, set, element) in &observed.strangers {
        transaction.delete_elements(rules::table(*place), set, [element]);
        outcome.repairs.push(format!("an element without an owner was in nftables set {set:?}"));
    }
    let mut missing: Vec<(&str, usize)> = Vec::new();
    let found = observed.present.iter().zip(&observed.any_ports);
    for (planned, (present, any_port)) in plan.elements.iter().zip(found) {
        let PlannedElement { place, element, set, rivalry } = planned;
        let table = rules::table(*place);
        let rivals = rivals(planned, observed).chain(any_port).chain(present);
        let rivals = rivals.filter(|other| other.comment != element.comment);
        if *rivalry == Rivalry::Refuse
            && let Some(holder) = rivals
                .clone()
                .find(|rival| !holders.is_dead(rival.comment.as_deref().unwrap_or_default()))
        {
            let taken = host_port_taken(planned, holder);
            if is_new(element) {
                return Err(taken);
            }
            outcome.notices.push(taken.to_string());
            continue;
        }
        if *rivalry == Rivalry::Refuse {
            for dead in rivals {
                free_port_of_dead(&mut transaction, dead, set, outcome);
            }
        }
        match present {
            Some(present) if present == element || *rivalry == Rivalry::Share => continue,
            Some(present) if *rivalry == Rivalry::Refuse && present.comment != element.comment => {}
            Some(present) => transaction.delete_elements(table, set, [present]),
            None => {}
        }
        transaction.add_elements(table, set, true, [element]);
        if !is_new(element) {
            match missing.iter_mut().find(|(known, _)| known == set) {
                Some((_, count)) => *count += 1,
                None => missing.push((set, 1)),
            }
        }
    }
    for (set, count) in missing {
        outcome.repairs.push(format!("{count} elements of nftables set {set:?} were missing"));
    }
    write_exclusions(plan, observed, &mut transaction, outcome);
    write_node_addresses(observed, &mut transaction);
    Ok(transaction)
}

fn free_port_of_dead(
    transaction: &mut Transaction,
    dead: &Element,
    set: &str,
    outcome: &mut Outcome,
) {
    // A port on one address collides with the same port on any address, which is in another set.
    let own_set = set_of_port(set, dead);
    transaction.delete_elements(rules::HOST_TABLE, own_set, [dead]);
    let Some((family, protocol, port)) = host_port_of(own_set, dead) else { return };
    if protocol == Some(Protocol::Udp) {
        outcome.freed_udp_ports.push((family, port));
    }
    let protocol = protocol.map(|protocol| protocol.to_string()).unwrap_or_default();
    let holder = dead.comment.as_deref().unwrap_or_default();
    outcome.notices.push(format!(
        "host port {port}/{protocol} is free again because the link of {holder} is gone"
    ));
}

/// The set that holds a host port, given a set of the same family.
fn set_of_port(set: &str, element: &Element) -> &'static str {
    let family = usize::from([rules::HOSTPORTS[1], rules::HOSTPORTS_ANY[1]].contains(&set));
    match element.key.len() > PORT_KEY {
        true => rules::HOSTPORTS[family],
        false => rules::HOSTPORTS_ANY[family],
    }
}

/// Brings the exclusions to the union of all planned areas, cut apart. A plan of one attachment finds them
/// so, or is compared together with all others.
fn write_exclusions(
    plan: &Plan,
    observed: &Observed,
    transaction: &mut Transaction,
    outcome: &mut Outcome,
) {
    if !observed.is_whole {
        return;
    }
    let unrecorded = observed.unrecorded_exclusions(plan);
    let wanted = apart(plan.exclusions.iter().cloned().chain(unrecorded).collect());
    for (at, family) in FAMILIES.into_iter().enumerate() {
        let set = rules::MASQUERADE_EXCLUDE[at];
        let wanted: Vec<Element> =
            wanted.iter().filter(|area| area.family == family).map(Area::element).collect();
        let same_key = |a: &Element, b: &Element| a.key == b.key && a.key_end == b.key_end;
        let present = &observed.exclusions[at];
        let stale: Vec<&Element> =
            present.iter().filter(|p| !wanted.iter().any(|w| same_key(w, p))).collect();
        let missing: Vec<&Element> =
            wanted.iter().filter(|w| !present.iter().any(|p| same_key(w, p))).collect();
        if !stale.is_empty() || !missing.is_empty() {
            let (missing, stale) = (missing.len(), stale.len());
            outcome.repairs.push(format!(
                "{missing} exclusions of nftables set {set:?} were missing, {stale} were stale"
            ));
        }
        transaction.delete_elements(rules::HOST_TABLE, set, stale);
        transaction.add_elements(rules::HOST_TABLE, set, true, missing);
    }
}

fn write_node_addresses(observed: &Observed, transaction: &mut Transaction) {
    let Some((present, wanted)) = &observed.node_addresses else { return };
    for (at, family) in FAMILIES.into_iter().enumerate() {
        let set = rules::NODE_ADDRESSES[at];
        let wanted: Vec<Element> = wanted
            .iter()
            .filter(|ip| Family::of(**ip) == family)
            .map(|ip| Element::new(Key::new().ip(*ip)).comment("node"))
            .collect();
        let has = |list: &[Element], key: &[u8]| list.iter().any(|element| element.key == key);
        let stale = present[at].iter().filter(|element| !has(&wanted, &element.key));
        transaction.delete_elements(rules::HOST_TABLE, set, stale);
        let missing = wanted.iter().filter(|element| !has(&present[at], &element.key));
        transaction.add_elements(rules::HOST_TABLE, set, true, missing);
    }
}

/// Ports on one address that a port on any address collides with.
fn rivals<'a>(
    planned: &'a PlannedElement,
    observed: &'a Observed,
) -> impl Iterator<Item = &'a Element> + Clone {
    let at = rules::HOSTPORTS_ANY.iter().position(|set| *set == planned.set);
    let specific = at.map(|at| observed.specific_ports[at].iter()).into_iter().flatten();
    specific.filter(|other| port_key(other) == port_key(&planned.element))
}

/// Bytes of protocol and port in the key of a host port.
const PORT_KEY: usize = 8;

/// Protocol and port, the last two fields of a host port's key.
pub(super) fn port_key(element: &Element) -> &[u8] {
    &element.key[element.key.len().saturating_sub(PORT_KEY)..]
}

fn host_port_taken(planned: &PlannedElement, holder: &Element) -> Error {
    let (protocol, port) = protocol_and_port(&planned.element.key);
    Error::HostPortTaken {
        port,
        protocol: protocol.map(|protocol| protocol.to_string()).unwrap_or_default(),
        holder: holder.comment.clone().unwrap_or_else(|| "an unknown owner".to_owned()),
    }
}

fn protocol_and_port(key: &[u8]) -> (Option<Protocol>, u16) {
    match key {
        [.., protocol, _, _, _, high, low, _, _] => {
            (Protocol::from_number(*protocol), u16::from_be_bytes([*high, *low]))
        }
        _ => (None, 0),
    }
}

/// Family, protocol and port of an element of a set of host ports. `None` for other sets.
pub(super) fn host_port_of(
    set: &str,
    element: &Element,
) -> Option<(Family, Option<Protocol>, u16)> {
    let sets = [rules::HOSTPORTS, rules::HOSTPORTS_ANY];
    let at = sets.iter().find_map(|sets| sets.iter().position(|name| *name == set))?;
    let (protocol, port) = protocol_and_port(&element.key);
    Some((FAMILIES[at], protocol, port))
}
