//! Services in nftables: constant chains and rules, one element per frontend and endpoint.
//!
//! - `names`: tables, sets, chains; `layout`: what never changes; `rules`, `targets`: the rules of chains
//! - `element`: what a frontend needs; `slots`, `ids`: places and numbers of endpoints; `state`: all of it
//! - `chains`: those that are there, and their numbers
//! - `changes`: the difference between two states, in transactions
//! - `counters`: what the kernel has counted, for the metrics
//! - `found`: what the kernel holds, read once at the start and whenever something went wrong
//! - `render`: the same objects as text that `nft` can load
//!
//! The state that was committed is in memory, so that a change costs what it changes. After any error
//! nothing is assumed: [`Nftables::reconcile`] reads the tables and writes the differences.

mod chains;
mod changes;
mod counters;
mod element;
mod found;
mod ids;
mod layout;
mod names;
mod render;
mod rules;
mod slots;
mod state;
mod targets;

use std::collections::BTreeMap;
use std::time::Instant;

use netlink::nftables::{Generation, NftSocket, Transaction};
use netlink::{Error, Family, Prefix, Result};

// What the rules of other modes' tables are made of.
pub(in crate::dataplane) use layout::{Layout, R, RTN_LOCAL, Rule, TCP, equal};
pub(in crate::dataplane) use names::table;
pub(in crate::dataplane) use rules::{CT_INVALID, CT_NEW, state as ct_state};

pub use counters::{Counted, Counters, Reason};
pub use render::render;

use super::{FAMILIES, Node, Written, index};
use crate::service::table::Delta;
use crate::service::{Frontend, FrontendKey};
use chains::Chains;
use changes::{Changes, difference};
use element::{Item, range_items};
use found::Found;
use names::{Keys, SetId, Target};
use state::State;

/// Elements after which a transaction is committed, so that others are not kept waiting.
const CHUNK: usize = 8192;
/// How often the tables are read anew when others write meanwhile.
const ATTEMPTS: usize = 50;

/// Something has to be written, so what is there must be known for sure.
const UNSETTLED: netlink::Errno = netlink::Errno::AGAIN;

/// The elements that a node's settings need.
fn node_items(node: &Node, family: Family) -> Vec<Item> {
    let mut items = Vec::new();
    let sets = [
        (SetId::PodCidrs, &node.pod_cidrs),
        (SetId::NodePortAddresses, &node.nodeport_addresses),
        (SetId::ServiceCidrs, &node.service_cidrs),
    ];
    for (set, prefixes) in sets {
        let own: Vec<Prefix> =
            prefixes.iter().copied().filter(|prefix| prefix.family() == family).collect();
        range_items(set, &own, &mut items);
    }
    items
}

/// Services in nftables.
pub struct Nftables {
    socket: NftSocket,
    nodes: Option<[Node; 2]>,
    state: State,
    chains: [Chains; 2],
    written: Written,
    /// What was found may lack elements: good enough to see that nothing needs to be written.
    glance: bool,
    /// What was there before anything was known of the Services, and at which generation.
    ahead: Option<(Generation, [Found; 2])>,
}

impl Nftables {
    /// Opens the connection in the calling thread's network namespace.
    pub fn open() -> Result<Nftables> {
        Ok(Nftables {
            socket: NftSocket::open()?,
            nodes: None,
            state: State::default(),
            chains: Default::default(),
            written: Written::default(),
            glance: false,
            ahead: None,
        })
    }

    /// The number by which our own changes are known among the kernel's notifications.
    pub fn port(&self) -> Result<u32> {
        self.socket.port()
    }

    /// Reads the tables while others read the Services, for the first [`Nftables::reconcile`].
    pub fn read_ahead(&mut self) -> Result<()> {
        let generation = self.socket.generation()?;
        self.ahead = Some((generation, self.read(false)?));
        Ok(())
    }

    fn read(&mut self, settled: bool) -> Result<[Found; 2]> {
        let [v4, v6] = FAMILIES.map(|family| Found::read(&mut self.socket, family, settled));
        Ok([v4?, v6?])
    }

    /// Whether what is in the kernel is known, so that [`Nftables::apply`] can be used.
    pub fn is_known(&self) -> bool {
        self.nodes.is_some()
    }

    /// Commits what changed. After an error the state is not known any more.
    pub fn apply(&mut self, delta: &Delta, nodes: &[Node; 2], now: Instant) -> Result<Written> {
        self.written = Written::default();
        let outcome = self.try_apply(delta, nodes, now);
        if outcome.is_err() {
            self.nodes = None;
        }
        outcome.map(|()| std::mem::take(&mut self.written))
    }

    fn try_apply(&mut self, delta: &Delta, nodes: &[Node; 2], now: Instant) -> Result<()> {
        let mut changes = Changes::default();
        let before = self.nodes.take();
        for (family, node) in FAMILIES.into_iter().zip(nodes) {
            let known = before.as_ref().map(|nodes| &nodes[index(family)]);
            if known == Some(node) {
                continue;
            }
            if known.is_none_or(|known| known.settings != node.settings) {
                changes.rules.insert(family);
                let chains = &self.chains[index(family)];
                let depend = [Keys::Ip, Keys::NodePort].map(Target::External);
                let there = depend.into_iter().filter(|target| chains.contains(*target));
                changes.rewrite.extend(there.map(|target| (family, target)));
            }
            let old = known.map(|known| node_items(known, family)).unwrap_or_default();
            changes.differ(family, difference(old, node_items(node, family)));
        }
        let nodes = nodes.clone();
        let entries = delta.iter().map(|(key, frontend)| (*key, frontend.as_ref()));
        self.change_frontends(entries.collect(), &mut changes, &nodes, now, None)?;
        self.commit(&mut changes, &nodes, None)?;
        self.nodes = Some(nodes);
        Ok(())
    }

    /// Changes frontends, Service by Service, and commits whenever enough has gathered.
    fn change_frontends(
        &mut self,
        mut entries: Vec<(FrontendKey, Option<&Frontend>)>,
        changes: &mut Changes,
        nodes: &[Node; 2],
        now: Instant,
        mut found: Option<&mut [Found; 2]>,
    ) -> Result<()> {
        // A Service's frontends become visible together.
        self.state.sort(&mut entries);
        let mut service = None;
        for (key, frontend) in entries {
            let owner = frontend.map(|frontend| frontend.lists.owner.service.clone());
            if owner.is_none() || owner != service {
                if changes.len() >= CHUNK {
                    self.commit(changes, nodes, None)?;
                }
                service = owner;
            } else if changes.inert() >= CHUNK {
                let mut inert = changes.take_inert();
                self.commit(&mut inert, nodes, None)?;
            }
            let family = key.family();
            let found = found.as_deref_mut().map(|found| &mut found[index(family)]);
            self.state.change(key, frontend, changes, now, found);
        }
        Ok(())
    }

    /// Commits the changes in one transaction, and empties them.
    fn commit(
        &mut self,
        changes: &mut Changes,
        nodes: &[Node; 2],
        generation: Option<Generation>,
    ) -> Result<()> {
        let mut transaction = Transaction::new(generation);
        for family in FAMILIES {
            let layout = Layout { family, settings: &nodes[index(family)].settings };
            changes.write(&layout, &mut self.chains[index(family)], &mut transaction);
        }
        if transaction.is_empty() {
            return Ok(());
        }
        if self.glance {
            return Err(Error::new("write after a glance", UNSETTLED));
        }
        self.written.elements += changes.len() as u64;
        self.written.transactions += 1;
        self.written.bytes += transaction.bytes() as u64;
        *changes = Changes::default();
        self.socket.commit(transaction)
    }

    /// Reads what is in the kernel, and writes what differs from these frontends.
    pub fn reconcile<'a>(
        &mut self,
        frontends: impl Fn() -> Vec<(FrontendKey, &'a Frontend)>,
        nodes: &[Node; 2],
        now: Instant,
    ) -> Result<Written> {
        for attempt in 0..ATTEMPTS {
            self.nodes = None;
            self.written = Written::default();
            // Most often nothing differs, and then one reading of each set shows it.
            self.glance = attempt == 0;
            let outcome = self.try_reconcile(frontends(), nodes, now);
            let glance = std::mem::take(&mut self.glance);
            match outcome {
                Err(error) if glance && error.errno == UNSETTLED => continue,
                Err(error) if error.is_stale_generation() => continue,
                Err(error) => return Err(error),
                Ok(()) => {
                    self.nodes = Some(nodes.clone());
                    return Ok(std::mem::take(&mut self.written));
                }
            }
        }
        Err(Error::new(
            format!("others changed nftables during each of {ATTEMPTS} attempts to compare"),
            netlink::Errno::AGAIN,
        ))
    }

    fn try_reconcile(
        &mut self,
        frontends: Vec<(FrontendKey, &Frontend)>,
        nodes: &[Node; 2],
        now: Instant,
    ) -> Result<()> {
        let generation = self.socket.generation()?;
        let ahead = self.ahead.take().filter(|(at, _)| self.glance && *at == generation);
        let mut found = match ahead {
            Some((_, found)) => found,
            None => self.read(!self.glance)?,
        };
        for (family, found) in FAMILIES.into_iter().zip(&mut found) {
            let layout = Layout { family, settings: &nodes[index(family)].settings };
            found.read_rules(&mut self.socket, &layout)?;
        }
        self.state = State::default();
        let mut changes = Changes::default();
        for (family, found) in FAMILIES.into_iter().zip(&mut found) {
            let there = std::mem::take(&mut found.chains);
            self.chains[index(family)] = Chains::adopt(there, &found.numbers, found.next_number);
            self.written.repairs.append(&mut found.repairs);
            if found.recreate {
                changes.recreate.insert(family);
            }
            if found.rules_differ || found.recreate {
                changes.rules.insert(family);
            }
            changes.rewrite.extend(found.broken_targets.drain(..).map(|target| (family, target)));
            let node = &nodes[index(family)];
            changes.differ(family, difference(found.node_items(), node_items(node, family)));
        }
        self.state.adopt(&frontends, &found, now);
        let whole = !changes.recreate.is_empty() && found.iter().any(|found| found.exists);
        let rules_first = !changes.recreate.is_empty() || !changes.rules.is_empty();
        if rules_first && !whole {
            // Service ranges drop what has no Service: not before the Services are there.
            let late = changes.take_service_cidrs();
            self.commit(&mut changes, nodes, Some(generation))?;
            changes = late;
        }
        let mut entries: BTreeMap<FrontendKey, Option<&Frontend>> =
            found.iter().flat_map(Found::frontends).map(|key| (key, None)).collect();
        entries.extend(frontends.into_iter().map(|(key, frontend)| (key, Some(frontend))));
        let entries = entries.into_iter().collect();
        if whole {
            // A table of another version is replaced at once, with everything.
            self.change_everything(entries, &mut changes, now, &mut found);
        } else {
            self.change_frontends(entries, &mut changes, nodes, now, Some(&mut found))?;
        }
        for (family, found) in FAMILIES.into_iter().zip(&mut found) {
            let unused = found.shared.iter().filter(|item| !self.state.is_shared(family, item));
            let mut deletes: Vec<Item> = unused.copied().collect();
            deletes.append(&mut found.foreign);
            changes.differ(family, (deletes, Vec::new()));
        }
        // The first transaction tells whether anybody wrote since everything was read.
        let first = (self.written.transactions == 0).then_some(generation);
        self.commit(&mut changes, nodes, first)
    }

    fn change_everything(
        &mut self,
        entries: Vec<(FrontendKey, Option<&Frontend>)>,
        changes: &mut Changes,
        now: Instant,
        found: &mut [Found; 2],
    ) {
        for (key, frontend) in entries {
            let found = &mut found[index(key.family())];
            self.state.change(key, frontend, changes, now, Some(found));
        }
    }

    /// Frontends and endpoints of a family that are in the kernel.
    pub fn counts(&self, family: Family) -> (usize, usize) {
        self.state.counts(family)
    }
}
