//! Netfilter state of attachments: constant rules, and elements that carry their owner.
//!
//! `plan::Plan` is the desired state. Each commit observes, compares, and sends one transaction for the
//! generation that it observed. If another process commits in between, the kernel refuses the transaction
//! and the comparison starts again. So no lock is needed, and no rule is ever searched.

mod diff;
mod exclusions;
mod observed;
mod plan;
mod rules;

use std::collections::HashSet;
use std::net::IpAddr;

use netlink::nftables::{Element, Generation, NftSocket, Transaction};
use netlink::{Errno, Family};

use crate::observe::node_addresses;
use crate::{Error, Protocol, Record, Records, Result};
use diff::{Holders, host_port_of};
use observed::Observed;
use plan::Plan;

/// Attempts to commit while other processes commit too.
const ATTEMPTS: usize = 200;

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// What a commit changed besides adding an attachment.
#[derive(Debug, Default)]
pub struct Outcome {
    /// One line for each kind of object that was damaged.
    pub repairs: Vec<String>,
    /// One line for each host port that changed hands, or could not.
    pub notices: Vec<String>,
    /// UDP host ports that no longer lead to where they did.
    pub freed_udp_ports: Vec<(Family, u16)>,
}

fn open(wanted: &'static str) -> Result<NftSocket> {
    NftSocket::open().map_err(|error| match is_missing(&error) {
        true => Error::NoNetfilter { wanted, error },
        false => Error::Kernel(error),
    })
}

/// Whether the kernel was built without nfnetlink.
fn is_missing(error: &netlink::Error) -> bool {
    matches!(error.errno, Errno::PROTONOSUPPORT | Errno::AFNOSUPPORT | Errno::PROTOTYPE)
}

/// Observes and commits until no other process commits in between.
fn commit(
    socket: &mut NftSocket,
    mut prepare: impl FnMut(&mut NftSocket, Generation) -> Result<Transaction>,
) -> Result<()> {
    for _ in 0..ATTEMPTS {
        let generation = socket.generation()?;
        let transaction = prepare(socket, generation)?;
        match socket.commit(transaction) {
            Err(error) if error.is_stale_generation() => continue,
            other => return Ok(other?),
        }
    }
    Err(Error::Contention(ATTEMPTS))
}

/// Brings the elements of an attachment into the kernel.
///
/// If the constant rules are damaged, or the exclusions of networks overlap, the elements of all recorded
/// attachments are compared too. A host port whose holder's link is gone is taken over.
pub fn install(record: &Record, records: &Records) -> Result<Outcome> {
    let plan = Plan::of([record]);
    let mut outcome = Outcome::default();
    if plan.is_empty() {
        return Ok(outcome);
    }
    let mut socket = open("this configuration (ipMasq, host ports or macspoofchk)")?;
    commit(&mut socket, |socket, generation| {
        outcome = Outcome::default();
        let holders = Holders::new(records);
        let tag = record.owner.tag();
        let is_new = |element: &Element| element.comment.as_deref() == Some(&*tag);
        let observed = Observed::read(socket, &plan)?;
        if observed.is_intact(&plan) {
            return diff::transaction(&plan, &observed, generation, &holders, is_new, &mut outcome);
        }
        let mut all = live(records)?;
        all.retain(|other| other.owner != record.owner);
        all.push(record.clone());
        let plan = Plan::of(&all);
        let observed = Observed::dump(socket, &plan)?;
        diff::transaction(&plan, &observed, generation, &holders, is_new, &mut outcome)
    })?;
    Ok(outcome)
}

/// Brings the elements of all attachments with a link into the kernel, and reports what was damaged.
/// Does nothing on a kernel without nftables.
pub fn converge(records: &Records) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let mut socket = match NftSocket::open() {
        Err(error) if is_missing(&error) => return Ok(outcome),
        other => other?,
    };
    commit(&mut socket, |socket, generation| {
        outcome = Outcome::default();
        // Read after the generation: an attachment that DEL removes meanwhile changes the generation too.
        let all = live(records)?;
        let plan = Plan::of(&all);
        let observed = Observed::dump(socket, &plan)?;
        let holders = Holders::new(records);
        diff::transaction(&plan, &observed, generation, &holders, |_| false, &mut outcome)
    })?;
    Ok(outcome)
}

/// The recorded attachments whose link is there, oldest first.
fn live(records: &Records) -> Result<Vec<Record>> {
    let (mut all, _) = records.list()?;
    if !all.is_empty() {
        let links = crate::observe::LinkNames::read()?;
        all.retain(|record| links.has_link_of(record));
    }
    Ok(all)
}

/// What is missing or different of an attachment's elements, in one sentence. `None` if nothing is.
pub fn check(record: &Record) -> Result<Option<String>> {
    let plan = Plan::of([record]);
    if plan.is_empty() {
        return Ok(None);
    }
    let observed = Observed::read(&mut open("CHECK")?, &plan)?;
    Ok(observed.first_damage(&plan, &record.owner))
}

/// Elements that [`remove`] removed.
#[derive(Default)]
pub struct Removed {
    /// UDP host ports that are free now.
    pub udp_ports: Vec<(Family, u16)>,
}

/// Removes every element whose owner's tag matches. The rules stay. Does nothing on a kernel without
/// nftables.
pub fn remove(matches: impl Fn(&str) -> bool) -> Result<Removed> {
    let mut removed = Removed::default();
    let mut socket = match NftSocket::open() {
        Err(error) if is_missing(&error) => return Ok(removed),
        other => other?,
    };
    commit(&mut socket, |socket, generation| {
        removed = Removed::default();
        let mut transaction = Transaction::new(Some(generation));
        let mut missing = None;
        for (place, set) in rules::owned_sets() {
            if missing == Some(place) {
                continue;
            }
            let table = rules::table(place);
            let Some(elements) = socket.elements(table, set)? else {
                missing = socket.table_comment(table)?.is_none().then_some(place);
                continue;
            };
            let gone: Vec<&Element> = elements
                .iter()
                .filter(|element| element.comment.as_deref().is_some_and(&matches))
                .collect();
            removed.udp_ports.extend(gone.iter().filter_map(|element| {
                let (family, protocol, port) = host_port_of(set, element)?;
                (protocol == Some(Protocol::Udp)).then_some((family, port))
            }));
            transaction.delete_elements(table, set, gone);
        }
        Ok(transaction)
    })?;
    Ok(removed)
}

/// The addresses on which host ports on any address answer.
fn own_addresses() -> Result<HashSet<IpAddr>> {
    node_addresses(&mut netlink::RouteSocket::open()?)
}
