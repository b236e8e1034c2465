//! [`Converger`]: compares the node with the records of all attachments, and repairs what differs.

use netlink::{Prefix, RouteSocket};

use crate::advertisements::keep_on_late_uplinks;
use crate::diff::owned_but_undesired;
use crate::firewall::{self, Firewalls};
use crate::observe::{LinkNames, observe};
use crate::{Change, LinkRecord, Record, Records, Result, State, diff, netfilter, plan};

/// One repair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repair {
    /// The kind of object, as the metric of repairs has it.
    pub kind: &'static str,
    /// What was wrong, in one sentence.
    pub damage: String,
}

/// What a comparison found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What was repaired.
    pub repairs: Vec<Repair>,
    /// What is left out or contradicts, one sentence each.
    pub problems: Vec<String>,
    /// What could not be repaired and why, one sentence each.
    pub failures: Vec<String>,
    /// Attachments whose link is there.
    pub attachments: usize,
}

/// Compares the whole node with the records.
pub struct Converger {
    routes: RouteSocket,
    records: Records,
    firewalls: Firewalls,
}

impl Converger {
    /// Works in the calling thread's network namespace.
    pub fn open() -> Result<Converger> {
        let records = Records::of_current_namespace()?;
        Ok(Converger { routes: RouteSocket::open()?, records, firewalls: Firewalls::default() })
    }

    /// Repairs what differs from the records, and from the sysctls that the node needs besides. `cluster` are
    /// the networks of all pods, whose packets a firewall must not drop.
    pub fn converge(&mut self, sysctls: &[(&str, &str)], cluster: &[Prefix]) -> Result<Report> {
        let mut report = Report::default();
        let (records, unreadable) = self.records.list()?;
        report.problems.extend(unreadable);
        let links = self.routes.links()?;
        let names = LinkNames::of(&links);
        let live: Vec<&Record> =
            records.iter().filter(|record| names.has_link_of(record)).collect();
        report.attachments = live.len();
        let mut desired = plan(live.iter().copied());
        for (name, value) in sysctls {
            desired.sysctls.insert((*name).to_owned(), (*value).to_owned());
        }
        let observed = observe(&mut self.routes, &links, &desired)?;
        let mut changes = diff(&desired, &observed);
        changes.extend(stale_gateways(&desired, &observed));
        let (late, early): (Vec<Change>, Vec<Change>) =
            changes.into_iter().partition(Change::needs_netfilter);
        for change in &early {
            self.apply(change, &mut report);
        }
        self.repair_limits(&live, &mut report);
        match keep_on_late_uplinks(&self.records, &links) {
            Ok(kept) => report.repairs.extend(kept.into_iter().map(|name| Repair {
                kind: "sysctl",
                damage: format!("sysctl {name} of an uplink was 1 although the node forwards"),
            })),
            Err(error) => report.failures.push(error.to_string()),
        }
        match netfilter::converge(&self.records) {
            Ok(outcome) => {
                report.problems.extend(outcome.notices);
                report.repairs.extend(
                    outcome.repairs.into_iter().map(|damage| Repair { kind: "netfilter", damage }),
                );
            }
            Err(error) => report.failures.push(error.to_string()),
        }
        for change in &late {
            self.apply(change, &mut report);
        }
        let admitted = self.firewalls.admit(&live, cluster);
        report.problems.extend(admitted.problems);
        let repairs = admitted.repairs.into_iter();
        report.repairs.extend(repairs.map(|damage| Repair { kind: "firewall", damage }));
        Ok(report)
    }

    fn apply(&mut self, change: &Change, report: &mut Report) {
        match change.apply(&mut self.routes) {
            Ok(Some(error)) => report.problems.push(error.to_string()),
            Ok(None) => {
                let (kind, damage) = (change.kind(), change.to_string());
                report.repairs.push(Repair { kind, damage });
            }
            Err(error) => report.failures.push(format!("{change}: {error}")),
        }
    }

    fn repair_limits(&mut self, live: &[&Record], report: &mut Report) {
        for record in live.iter().filter(|record| record.limits.any()) {
            let name = match &record.link {
                LinkRecord::Chained { peer, .. } => peer.as_ref().map(|(name, _)| name.clone()),
                _ => Some(record.owner.host_link()),
            };
            let Some(name) = name else { continue };
            let damage = format!("the bandwidth limits of link {name} were damaged");
            let mut repair = || -> Result<bool> {
                let Some(link) = self.routes.link_by_name(&name)? else { return Ok(false) };
                let (limits, owner) = (&record.limits, &record.owner);
                if limits.are_in_force(&mut self.routes, owner, link.index)? {
                    return Ok(false);
                }
                limits.repair(&mut self.routes, owner, link.index, link.mtu)?;
                Ok(true)
            };
            match repair() {
                Ok(true) => report.repairs.push(Repair { kind: "limit", damage }),
                Ok(false) => {}
                Err(error) => report.failures.push(format!("{damage}: {error}")),
            }
        }
    }
}

fn stale_gateways(desired: &State, observed: &State) -> Vec<Change> {
    owned_but_undesired(desired, observed)
        .map(|(device, address)| Change::DeleteAddress(device.clone(), *address))
        .collect()
}

/// Keeps iptables from dropping packets of one attachment's pod. Returns a line for each firewall that did, or
/// still does.
pub fn admit(record: &Record) -> Vec<String> {
    if !firewall::may_drop() {
        return Vec::new();
    }
    let outcome = Firewalls::default().admit(&[record], &[]);
    outcome.repairs.into_iter().chain(outcome.problems).collect()
}

/// Compares the whole node once. For GC, and for an ADD that found damage.
pub fn converge() -> Result<Report> {
    Converger::open()?.converge(&[], &[])
}
