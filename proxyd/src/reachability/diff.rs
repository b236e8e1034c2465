//! What opens and what closes between two states of the objects.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use netpol::evaluate::{End, Family, Flow, Verdict, evaluate, owner};
use netpol::model::{ClusterPeer, Direction, Peer};
use netpol::{Cidr, Protocol, World};
use serde_json::{Value, json};

use super::ports::{Port, ranges};
use super::{prepared, why, word};

/// Connections whose verdict is another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Who opens them.
    pub from: End,
    /// Who answers.
    pub to: End,
    /// Over IPv4 or IPv6.
    pub family: Family,
    /// At these ports, each to the last of its range.
    pub ports: Vec<(Port, u16)>,
    /// What became of them before, and what becomes of them now.
    pub verdicts: (Verdict, Verdict),
    /// Why, now.
    pub reason: String,
}

/// All that changes.
#[derive(Clone, Debug, Default)]
pub struct Diff {
    /// Connections between pods that both states have, and with addresses that policies speak of.
    pub changes: Vec<Change>,
    /// What cannot be told exactly, and pods that one state alone has.
    pub notes: Vec<String>,
}

/// Compares two states. It misses nothing between pods: at ports where no policy and no pod's name makes a
/// difference, one port speaks for all. Beyond the cluster an address speaks for each network in the policies.
pub fn diff(old: &World, new: &World) -> Diff {
    let ((old, old_notes), (new, new_notes)) = (prepared(old), prepared(new));
    let mut notes: BTreeSet<String> = old_notes.into_iter().chain(new_notes).collect();
    let gone = old.pods.keys().filter(|pod| !new.pods.contains_key(*pod));
    notes.extend(gone.map(|pod| format!("pod {pod} is there no more")));
    let come = new.pods.keys().filter(|pod| !old.pods.contains_key(*pod));
    notes.extend(come.map(|pod| format!("pod {pod} is new")));
    let both = old.pods.keys().filter(|pod| new.pods.contains_key(*pod));
    let mut ends: Vec<End> = both.map(|pod| End::Pod(pod.clone())).collect();
    ends.extend(beyond([&old, &new]).into_iter().map(End::Address));
    let ranges = ranges([&old, &new]);
    let mut changes = Vec::new();
    for from in &ends {
        for to in &ends {
            for family in Family::ALL {
                compare([&old, &new], (from, to, family), &ranges, &mut changes);
            }
        }
    }
    Diff { changes, notes: notes.into_iter().collect() }
}

fn compare(
    [old, new]: [&World; 2],
    (from, to, family): (&End, &End, Family),
    ranges: &[(Port, u16)],
    changes: &mut Vec<Change>,
) {
    if !matches!((from, to), (End::Pod(_), _) | (_, End::Pod(_))) {
        return;
    }
    for (port, last) in ranges {
        let flow = |world| Flow::between(world, from, to, family, port.protocol, port.number);
        let (Ok(before), Ok(after)) = (flow(old), flow(new)) else { return };
        let (before, after) = (evaluate(old, &before), evaluate(new, &after));
        if before.verdict == after.verdict {
            continue;
        }
        let (verdicts, reason) = ((before.verdict, after.verdict), why(&after));
        let same = |change: &&mut Change| {
            (&change.from, &change.to, change.family) == (from, to, family)
                && (change.verdicts, &change.reason) == (verdicts, &reason)
        };
        if let Some(change) = changes.iter_mut().rev().take(ranges.len()).find(same) {
            change.add(*port, *last);
        } else {
            let (from, to) = (from.clone(), to.clone());
            let ports = vec![(*port, *last)];
            changes.push(Change { from, to, family, ports, verdicts, reason });
        }
    }
}

/// One address for each network that policies speak of, and one of each family for all others; none of a pod.
fn beyond(worlds: [&World; 2]) -> BTreeSet<IpAddr> {
    let mut networks: BTreeSet<Cidr> = BTreeSet::new();
    for world in worlds {
        for policy in world.policies.values() {
            let rules = Direction::ALL.into_iter().flat_map(|way| policy.rules(way)).flatten();
            for peer in rules.filter_map(|rule| rule.peers.as_ref()).flatten() {
                if let Peer::Block { cidr, except } = peer {
                    networks.insert(*cidr);
                    networks.extend(except);
                }
            }
        }
        for policy in world.cluster_policies.values() {
            let rules = Direction::ALL.into_iter().flat_map(|way| policy.rules(way));
            for peer in rules.flat_map(|rule| &rule.peers) {
                if let ClusterPeer::Networks(all) = peer {
                    networks.extend(all);
                }
            }
        }
    }
    let others = [IpAddr::from([192, 0, 2, 1]), IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1])];
    let all = networks.iter().map(|network| network.range().1).chain(others);
    all.filter(|ip| worlds.iter().all(|world| owner(world, *ip) == End::Address(*ip))).collect()
}

impl Change {
    /// More ports, higher than those before.
    fn add(&mut self, port: Port, last: u16) {
        match self.ports.last_mut() {
            Some((before, end))
                if before.protocol == port.protocol && end.checked_add(1) == Some(port.number) =>
            {
                *end = last;
            }
            _ => self.ports.push((port, last)),
        }
    }

    /// The ports in words.
    fn ports(&self) -> String {
        let full = |(port, last): &(Port, u16)| {
            port.protocol.is_none() || (port.number, *last) == (0, u16::MAX)
        };
        if self.ports.len() == 1 + Protocol::ALL.len() && self.ports.iter().all(full) {
            return "everything".to_owned();
        }
        let one = |range: &(Port, u16)| match (range, range.0.protocol) {
            (_, Some(protocol)) if full(range) => format!("all {protocol}"),
            ((port, last), Some(protocol)) if port.number < *last => {
                format!("{}-{last}/{protocol}", port.number)
            }
            ((port, _), _) => port.to_string(),
        };
        self.ports.iter().map(one).collect::<Vec<_>>().join(", ")
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Change { from, to, family, verdicts: (old, new), reason, .. } = self;
        let what = match (old, new) {
            (_, Verdict::Allowed) => "opens",
            (Verdict::Allowed, Verdict::Denied) => "closes",
            _ => "is not decided the same any more",
        };
        write!(f, "{from} to {to}, {} over {family}: {what}: {reason}", self.ports())
    }
}

impl Diff {
    /// Whether nothing opens and nothing closes.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// A line for each change, and in numbers.
    pub fn to_text(&self) -> String {
        let mut lines: Vec<String> = self.changes.iter().map(ToString::to_string).collect();
        let mut numbers: BTreeMap<&str, usize> = BTreeMap::new();
        for change in &self.changes {
            *numbers.entry(word(change.verdicts.1)).or_default() += 1;
        }
        lines.extend(numbers.into_iter().map(|(word, number)| format!("now {word}: {number}")));
        if self.is_empty() {
            lines.push("nothing opens and nothing closes".to_owned());
        }
        lines.extend(self.notes.iter().map(|note| format!("note: {note}")));
        lines.join("\n") + "\n"
    }

    /// The same for programs.
    pub fn to_json(&self) -> Value {
        let change = |change: &Change| {
            json!({
                "from": change.from.to_string(), "to": change.to.to_string(),
                "ports": change.ports(), "family": change.family.to_string(),
                "before": word(change.verdicts.0), "after": word(change.verdicts.1),
                "reason": change.reason,
            })
        };
        let changes: Vec<Value> = self.changes.iter().map(change).collect();
        json!({"changes": changes, "notes": self.notes})
    }
}
