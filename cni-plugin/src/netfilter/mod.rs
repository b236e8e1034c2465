//! Netfilter state of the plugin: constant rules, and elements that carry their owner.
//!
//! The project's shape again: [`Wanted`] is the plan; [`install`] observes, compares and commits one
//! transaction, made for the generation that was observed: if anybody else commits in between, the
//! kernel refuses it and it is made anew. So no lock is needed, and no rule is ever searched.

mod plan;
mod rules;

use netlink::nftables::{Element, Generation, Key, NftSocket, Table, Transaction};
use netlink::{Family, Result as KernelResult};

pub(crate) use plan::Wanted;
use plan::{Place, Placed, Rivalry};

use crate::attachment::Owner;
use crate::error::{CniError, Result, code};
use crate::hostport::Protocol;

/// Others commit too, but not in every fraction of a millisecond.
const ATTEMPTS: usize = 200;

/// What the kernel holds of what is wanted.
struct Observed {
    /// Tables whose rules are missing or of another version.
    incomplete: Vec<Place>,
    /// What is there under the key of each wanted element.
    present: Vec<Option<Element>>,
    /// All exclusions, per family.
    excludes: [Vec<Element>; 2],
    /// All host ports on one address, per family, if ports on any address are wanted.
    specific_ports: [Vec<Element>; 2],
    /// For each wanted element that is a port on one address: the same port on any address.
    any_ports: Vec<Option<Element>>,
}

fn table(place: Place) -> Table<'static> {
    match place {
        Place::Host => rules::HOST_TABLE,
        Place::Bridge => rules::BRIDGE_TABLE,
    }
}

fn ruleset(place: Place) -> rules::Ruleset {
    match place {
        Place::Host => rules::host(),
        Place::Bridge => rules::bridge(),
    }
}

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

impl Observed {
    fn read(socket: &mut NftSocket, wanted: &Wanted) -> KernelResult<Observed> {
        let mut observed = Observed {
            incomplete: Vec::new(),
            present: Vec::with_capacity(wanted.elements.len()),
            excludes: Default::default(),
            specific_ports: Default::default(),
            any_ports: Vec::with_capacity(wanted.elements.len()),
        };
        for place in [Place::Host, Place::Bridge] {
            if wanted.elements.iter().any(|placed| placed.place == place) {
                let found = socket.rules(table(place))?.unwrap_or_default();
                if !rules::same_rules(&found, &ruleset(place).tags()) {
                    observed.incomplete.push(place);
                }
            }
        }
        for placed in &wanted.elements {
            let found = socket.element(table(placed.place), placed.set, &placed.element)?;
            observed.present.push(found);
            let any = match rules::HOSTPORTS.iter().position(|set| *set == placed.set) {
                Some(at) => {
                    let key = Element::new(Key(port_key(&placed.element).to_vec()));
                    socket.element(rules::HOST_TABLE, rules::HOSTPORTS_ANY[at], &key)?
                }
                None => None,
            };
            observed.any_ports.push(any);
        }
        let mut all = |sets: [&str; 2]| -> KernelResult<[Vec<Element>; 2]> {
            let mut list = |set| Ok(socket.elements(rules::HOST_TABLE, set)?.unwrap_or_default());
            Ok([list(sets[0])?, list(sets[1])?])
        };
        if wanted.excludes.is_some() {
            observed.excludes = all(rules::MASQUERADE_EXCLUDE)?;
        }
        if wanted.elements.iter().any(|placed| rules::HOSTPORTS_ANY.contains(&placed.set)) {
            observed.specific_ports = all(rules::HOSTPORTS)?;
        }
        Ok(observed)
    }
}

/// Brings the elements of an attachment into the kernel, and the constant rules if they are not there.
pub(crate) fn install(wanted: &Wanted) -> Result<()> {
    if wanted.is_empty() {
        return Ok(());
    }
    commit(|socket, generation| {
        let observed = Observed::read(socket, wanted)?;
        diff(wanted, &observed, generation)
    })
}

/// Observes and commits until nobody else commits in between.
fn commit(
    mut prepare: impl FnMut(&mut NftSocket, Generation) -> Result<Transaction>,
) -> Result<()> {
    let mut socket = NftSocket::open()?;
    for _ in 0..ATTEMPTS {
        let generation = socket.generation()?;
        let transaction = prepare(&mut socket, generation)?;
        match socket.commit(transaction) {
            Err(error) if error.is_stale_generation() => continue,
            other => return other.map_err(CniError::from),
        }
    }
    Err(CniError::new(
        code::TRY_LATER,
        format!("nftables: others changed the ruleset during each of {ATTEMPTS} attempts"),
    ))
}

/// The transaction that adds what is missing; an error if a key belongs to somebody else.
fn diff(wanted: &Wanted, observed: &Observed, generation: Generation) -> Result<Transaction> {
    let mut transaction = Transaction::new(Some(generation));
    for place in &observed.incomplete {
        ruleset(*place).write(&mut transaction);
    }
    let found = observed.present.iter().zip(&observed.any_ports);
    for (placed, (present, any_port)) in wanted.elements.iter().zip(found) {
        let Placed { element, set, rivalry, .. } = placed;
        let foreign = |other: &&Element| other.comment != element.comment;
        let holder = holder_of_port(placed, observed).or(any_port.as_ref()).filter(foreign);
        if let Some(holder) = holder {
            return Err(port_taken(placed, holder));
        }
        match present {
            Some(present) if present == element || *rivalry == Rivalry::Share => continue,
            Some(present) if *rivalry == Rivalry::Refuse && present.comment != element.comment => {
                return Err(port_taken(placed, present));
            }
            Some(present) => {
                transaction.delete_elements(table(placed.place), set, [present]);
            }
            None => {}
        }
        transaction.add_elements(table(placed.place), set, true, [element]);
    }
    if let Some(excludes) = &wanted.excludes {
        for (at, family) in FAMILIES.into_iter().enumerate() {
            let set = rules::MASQUERADE_EXCLUDE[at];
            let wanted = excludes.elements(family);
            let sources = excludes.sources(family);
            // What is there for the same source networks but not wanted: of an earlier configuration.
            let stale = observed.excludes[at].iter().filter(|present| {
                let same_key = |e: &&Element| e.key == present.key && e.key_end == present.key_end;
                is_of_source(present, &sources) && !wanted.iter().any(|e| same_key(&e))
            });
            transaction.delete_elements(rules::HOST_TABLE, set, stale);
            let missing = wanted.iter().filter(|element| {
                let same_key = |e: &&Element| e.key == element.key && e.key_end == element.key_end;
                !observed.excludes[at].iter().any(|e| same_key(&e))
            });
            transaction.add_elements(rules::HOST_TABLE, set, true, missing);
        }
    }
    Ok(transaction)
}

fn is_of_source(element: &Element, sources: &[(Vec<u8>, Vec<u8>)]) -> bool {
    let half = element.key.len() / 2;
    let end = element.key_end.as_ref().unwrap_or(&element.key);
    sources.iter().any(|(first, last)| {
        element.key.get(..half) == Some(first.as_slice())
            && end.get(..half) == Some(last.as_slice())
    })
}

/// A port on any address collides with a port on one address of somebody else.
fn holder_of_port<'a>(placed: &Placed, observed: &'a Observed) -> Option<&'a Element> {
    let at = rules::HOSTPORTS_ANY.iter().position(|set| *set == placed.set)?;
    observed.specific_ports[at].iter().find(|other| {
        port_key(other) == port_key(&placed.element) && other.comment != placed.element.comment
    })
}

/// Protocol and port, the last two fields of a host port's key.
fn port_key(element: &Element) -> &[u8] {
    &element.key[element.key.len().saturating_sub(8)..]
}

fn port_taken(placed: &Placed, holder: &Element) -> CniError {
    let (protocol, port) = protocol_and_port(&placed.element.key);
    let protocol = protocol.map(|p| p.to_string()).unwrap_or_default();
    let owner = holder.comment.as_deref().unwrap_or("an unknown owner");
    CniError::new(code::CONFLICT, format!("host port {port}/{protocol} is held by {owner}"))
        .details("the holder is network/containerID/interface; its DEL frees the port")
}

/// The last two fields of a host port's key.
fn protocol_and_port(key: &[u8]) -> (Option<Protocol>, u16) {
    match key {
        [.., protocol, _, _, _, high, low, _, _] => {
            (Protocol::from_number(*protocol), u16::from_be_bytes([*high, *low]))
        }
        _ => (None, 0),
    }
}

/// Every set whose elements have owners.
fn owned_sets() -> impl Iterator<Item = (Place, &'static str)> {
    let host = [rules::MASQUERADE, rules::HAIRPIN, rules::HOSTPORTS, rules::HOSTPORTS_ANY]
        .into_iter()
        .flatten()
        .chain([rules::DEVICES, rules::LOOPS]);
    host.map(|set| (Place::Host, set))
        .chain([rules::CHECKED, rules::ALLOWED].map(|set| (Place::Bridge, set)))
}

/// What was removed.
#[derive(Default)]
pub(crate) struct Removed {
    /// UDP host ports that are free now.
    pub(crate) udp_ports: Vec<(Family, u16)>,
}

/// Removes every element whose owner's tag matches. The rules stay.
pub(crate) fn remove(matches: impl Fn(&str) -> bool) -> Result<Removed> {
    let mut removed = Removed::default();
    commit(|socket, generation| {
        removed = Removed::default();
        let mut transaction = Transaction::new(Some(generation));
        let mut missing = None;
        for (place, set) in owned_sets() {
            if missing == Some(place) {
                continue;
            }
            let Some(elements) = socket.elements(table(place), set)? else {
                missing = Some(place); // no table: nothing of ours was ever there
                continue;
            };
            let gone: Vec<&Element> = elements
                .iter()
                .filter(|element| element.comment.as_deref().is_some_and(&matches))
                .collect();
            let at = [rules::HOSTPORTS, rules::HOSTPORTS_ANY]
                .iter()
                .find_map(|sets| sets.iter().position(|name| *name == set));
            if let Some(at) = at {
                removed.udp_ports.extend(gone.iter().filter_map(|element| {
                    let (protocol, port) = protocol_and_port(&element.key);
                    (protocol == Some(Protocol::Udp)).then_some((FAMILIES[at], port))
                }));
            }
            transaction.delete_elements(table(place), set, gone);
        }
        Ok(transaction)
    })?;
    Ok(removed)
}

/// Whether everything wanted is in the kernel and belongs to the owner.
pub(crate) fn check(wanted: &Wanted, owner: &Owner) -> Result<()> {
    if wanted.is_empty() {
        return Ok(());
    }
    let observed = Observed::read(&mut NftSocket::open()?, wanted)?;
    let failed = |message: String| Err(CniError::new(code::CHECK_FAILED, message));
    if let Some(place) = observed.incomplete.first() {
        let table = table(*place);
        return failed(format!("rules of nftables table {:?} are missing", table.name));
    }
    for (placed, present) in wanted.elements.iter().zip(&observed.present) {
        let right = present
            .as_ref()
            .is_some_and(|present| present == &placed.element || placed.rivalry == Rivalry::Share);
        if !right {
            let state = if present.is_some() { "differs" } else { "is missing" };
            return failed(format!(
                "an element of {} in nftables set {:?} {state}",
                owner.tag(),
                placed.set
            ));
        }
    }
    if let Some(excludes) = &wanted.excludes {
        for (at, family) in FAMILIES.into_iter().enumerate() {
            for element in excludes.elements(family) {
                if !observed.excludes[at].iter().any(|e| e.key == element.key) {
                    return failed(format!(
                        "an exclusion of network {:?} in nftables set {:?} is missing",
                        excludes.network,
                        rules::MASQUERADE_EXCLUDE[at]
                    ));
                }
            }
        }
    }
    Ok(())
}
