//! Policies in nftables: tables `inet viaduct-policy` and `bridge viaduct-policy`.
//!
//! - `layout`: the base chain; `chain`: the chain of pods whose policies say the same; `sets`: what it asks
//! - `unknown`: addresses of pods that no pod is known to have
//! - `source_check`: whether packets are from the pod by whose link they come
//!
//! What was committed is in memory, so that a change costs what it changes. At the start, and after any
//! error, both tables are replaced by whole new ones in a single transaction.

mod chain;
mod layout;
mod sets;
mod source_check;
mod unknown;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use netlink::conntrack::Conntrack;
use netlink::nftables::{Element, ElementChange, Key, NftSocket, RuleTag, Transaction, Verdict};
use netlink::{Errno, Family, Result};
use netpol::compile::{ChainKey, Compiler, Sources, Update, Verdicts};
use netpol::model::Direction;

use chain::Installed;
pub use chain::{LOG_GROUP, LOGGED_BYTES, logged_by};
use layout::{EGRESS, INGRESS, ISOLATED, KNOWN, SELF, TABLE, of};
pub use source_check::LOG_PREFIX as SOURCE_LOG_PREFIX;
pub use unknown::unknown_pod;

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Elements added and deleted.
    pub elements: usize,
    /// Whether the whole table was written.
    pub full: bool,
    /// Whether every live connection is judged once more.
    pub judged_anew: bool,
}

/// Policies in nftables.
pub struct Policies {
    /// Whether the table was there at the start.
    had_table: bool,
    socket: NftSocket,
    /// `None`: not known. Connections may carry any then.
    generation: Option<u16>,
    /// What was committed last; `None`: not known.
    state: Option<State>,
    settings: Settings,
    /// Chains that nobody needs any more, to be deleted after the commit that left them.
    litter: Vec<Installed>,
}

/// What is enforced, and where.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Whether IPVS forwards what pods send to Services, ours or another proxy's: that is judged on its way out.
    pub ipvs: bool,
    /// Whether pods may send from their own addresses only.
    pub check_sources: bool,
}

/// What there is any need for: without any there is no table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Shape {
    /// Connections of some pod are judged.
    judges: bool,
    /// Source addresses of some pod are checked.
    checks: bool,
}

#[derive(Default)]
struct State {
    shape: Shape,
    chains: BTreeMap<ChainKey, Installed>,
    addresses: BTreeMap<IpAddr, Verdicts>,
    sources: Sources,
    /// Whether every local address must be known.
    denies_unknown: bool,
    /// How many chains there were, for their names.
    serial: u64,
}

/// What the chain of pods that have the same policies has denied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    /// The chain's name.
    pub chain: String,
    /// Which connections of these pods.
    pub direction: Direction,
    /// The policies.
    pub policies: String,
    /// How many packets, since the chain was written.
    pub packets: u64,
}

/// Reads what every chain has denied, and how many packets each of the two tables has dropped for their source
/// address since it was written, in the calling thread's network namespace.
pub fn denied() -> Result<(Vec<Denied>, [u64; 2])> {
    let mut socket = NftSocket::open()?;
    let tables = [TABLE, source_check::BRIDGE];
    let [inet, bridge] =
        tables.map(|table| socket.rule_packets(table).map(Option::unwrap_or_default));
    let (inet, bridge) = (inet?, bridge?);
    let sources = [source_check::denied(&inet), source_check::denied(&bridge)];
    let of_rule = |(tag, packets): (RuleTag, u64)| {
        let (chain, direction) = chain::denying(&tag)?;
        Some(Denied { chain, direction, policies: tag.comment, packets })
    };
    Ok((inet.into_iter().filter_map(of_rule).collect(), sources))
}

/// Removes both tables; tells whether there was one.
pub fn remove() -> Result<bool> {
    let mut socket = NftSocket::open()?;
    let checked = source_check::remove(&mut socket)?;
    if socket.table_comment(TABLE)?.is_none() {
        return Ok(checked);
    }
    let mut transaction = Transaction::default();
    transaction.delete_table(TABLE);
    socket.commit(transaction)?;
    Ok(true)
}

impl Policies {
    /// Opens the connection in the calling thread's network namespace.
    pub fn open(settings: Settings) -> Result<Policies> {
        let mut socket = NftSocket::open()?;
        if !settings.check_sources {
            // They may have been checked before. From here on nothing is asked of the bridge family, which not
            // every kernel has.
            source_check::remove(&mut socket)?;
        }
        let before = socket.rules(TABLE)?.unwrap_or_default();
        let generation = before.iter().find_map(layout::generation_of);
        let had_table = socket.table_comment(TABLE)?.is_some();
        Ok(Policies { socket, generation, state: None, settings, litter: Vec::new(), had_table })
    }

    /// The number by which our own changes are known among the kernel's notifications.
    pub fn port(&self) -> Result<u32> {
        self.socket.port()
    }

    /// Whether the table was there when the connection was opened.
    pub fn has_table(&self) -> bool {
        self.had_table
    }

    /// Assumes nothing of what is in the kernel.
    pub fn forget(&mut self) {
        self.state = None;
    }

    /// How many chains, local addresses that are judged, and links that are checked there are.
    pub fn counts(&self) -> (usize, usize, usize) {
        let count = |state: &State| (state.chains.len(), state.judged(), state.sources.len());
        self.state.as_ref().map_or((0, 0, 0), count)
    }

    /// Whose chain this is: denied packets are logged with its name.
    pub fn key_of(&self, prefix: &str) -> Option<&ChainKey> {
        let (chain, _) = logged_by(prefix);
        let chains = self.state.as_ref()?.chains.iter();
        chains.into_iter().find(|(_, installed)| installed.name() == chain).map(|(key, _)| key)
    }

    /// Writes what changed.
    pub fn sync(&mut self, compiler: &Compiler, update: &Update) -> Result<Written> {
        let shape = self.shape(compiler);
        let known = self.state.take().filter(|state| state.shape == shape && !update.networks);
        let outcome = match known {
            Some(state) => self.change(state, compiler, update),
            None => self.write_all(compiler, shape),
        };
        if outcome.is_err() {
            self.state = None;
        }
        self.sweep();
        outcome
    }

    fn shape(&self, compiler: &Compiler) -> Shape {
        Shape {
            judges: !compiler.addresses().is_empty() || !compiler.denied_networks().is_empty(),
            checks: self.settings.check_sources && !compiler.sources().is_empty(),
        }
    }

    fn next_generation(&self) -> u16 {
        if let Some(next) = self.generation.and_then(|generation| generation.checked_add(1)) {
            return next;
        }
        // Connections may carry what is to come now: of a table that is no more, or if they were idle for so long.
        let cleared = Conntrack::open().and_then(|mut conntrack| {
            let mut families = [Family::V4, Family::V6].into_iter();
            families.try_for_each(|family| {
                conntrack.clear_marks(family, layout::GENERATION_MASK).map(drop)
            })
        });
        if let Err(error) = cleared {
            tracing::warn!(
                "{error}: connections that an earlier policy table allowed may go on, whatever policies say"
            );
        }
        // 0 is what connections carry that were never judged.
        1
    }

    /// Writes everything in place of what was there.
    fn write_all(&mut self, compiler: &Compiler, shape: Shape) -> Result<Written> {
        let mut transaction = Transaction::default();
        self.clear(&mut transaction);
        let mut state = State { shape, ..State::default() };
        let (mut elements, mut generation) = (0, self.generation);
        if shape != Shape::default() {
            transaction.add_table(TABLE);
        }
        if shape.checks {
            state.sources.clone_from(compiler.sources());
            elements += source_check::write(&mut transaction, &state.sources);
        }
        if shape.judges {
            let next = self.next_generation();
            let networks = compiler.denied_networks();
            layout::write(&mut transaction, next, self.settings.ipvs, networks);
            generation = Some(next);
            state.denies_unknown = !networks.is_empty();
            elements += state.write_chains(&mut transaction, compiler);
        }
        self.socket.commit(transaction)?;
        self.litter.clear();
        self.generation = generation;
        self.state = Some(state);
        Ok(Written { elements, full: elements > 0, judged_anew: shape.judges })
    }

    fn clear(&self, transaction: &mut Transaction) {
        let bridge = self.settings.check_sources.then_some(source_check::BRIDGE);
        for table in [TABLE].into_iter().chain(bridge) {
            // Adding before deleting: a table that is not there cannot be deleted.
            transaction.add_table(table);
            transaction.delete_table(table);
        }
    }

    fn change(
        &mut self,
        mut state: State,
        compiler: &Compiler,
        update: &Update,
    ) -> Result<Written> {
        let mut transaction = Transaction::default();
        let (mut elements, mut restricts) = (0, false);
        let mut litter = Vec::new();
        // Addresses whose elements must be written, as their chain is another one.
        let mut moved: BTreeSet<ChainKey> = BTreeSet::new();
        for (key, touched) in &update.chains {
            let Some(chain) = compiler.chain(key) else { continue };
            if let Some(installed) = state.chains.get_mut(key) {
                if let Some(changed) = installed.change(chain, touched, &mut transaction) {
                    elements += changed.elements;
                    restricts |= changed.restricts;
                    continue;
                }
                moved.insert(key.clone());
            }
            let installed = Installed::new(key, Arc::clone(chain), state.next_serial());
            elements += installed.write(&mut transaction);
            litter.extend(state.chains.insert(key.clone(), installed));
        }
        let mut addresses = update.addresses.clone();
        if !moved.is_empty() {
            let uses =
                |verdicts: &Verdicts| verdicts.iter().flatten().any(|key| moved.contains(key));
            let users = compiler.addresses().iter().filter(|(_, verdicts)| uses(verdicts));
            addresses.extend(users.map(|(address, _)| *address));
        }
        for address in &addresses {
            if let Some(before) = state.addresses.remove(address) {
                restricts = true;
                let delete = ElementChange::Delete;
                elements += state.change_address(&mut transaction, delete, *address, &before);
            }
            if let Some(now) = compiler.addresses().get(address) {
                restricts |= *now != NOT_JUDGED;
                let add = ElementChange::Add;
                elements += state.change_address(&mut transaction, add, *address, now);
                state.addresses.insert(*address, now.clone());
            }
        }
        for key in &update.gone {
            litter.extend(state.chains.remove(key));
        }
        if state.shape.checks && !update.links.is_empty() {
            for link in &update.links {
                let (before, now) = (&state.sources, compiler.sources());
                elements += source_check::change(&mut transaction, link, before, now);
            }
            state.sources.clone_from(compiler.sources());
        }
        let mut generation = self.generation;
        if restricts {
            let next = self.next_generation();
            layout::change_generation(&mut transaction, next, self.settings.ipvs);
            generation = Some(next);
        }
        if elements > 0 || restricts {
            self.socket.commit(transaction)?;
        }
        self.generation = generation;
        self.litter.extend(litter);
        self.state = Some(state);
        Ok(Written { elements, full: false, judged_anew: restricts })
    }

    /// Deletes chains that nobody needs. The kernel may still be busy with what led to them; then the next
    /// change tries again.
    fn sweep(&mut self) {
        if self.litter.is_empty() || self.state.is_none() {
            return;
        }
        let mut transaction = Transaction::default();
        for installed in &self.litter {
            installed.delete(&mut transaction);
        }
        match self.socket.commit(transaction) {
            Ok(()) => self.litter.clear(),
            Err(error) if error.errno == Errno::BUSY => {}
            Err(error) => {
                tracing::warn!("{error}: the policy table is written anew");
                self.state = None;
            }
        }
    }
}

impl State {
    /// Writes all chains and the addresses that lead to them; tells how many elements that takes.
    fn write_chains(&mut self, transaction: &mut Transaction, compiler: &Compiler) -> usize {
        let mut elements = 0;
        for (key, chain) in compiler.chains() {
            let installed = Installed::new(key, Arc::clone(chain), self.next_serial());
            elements += installed.write(transaction);
            self.chains.insert(key.clone(), installed);
        }
        for (address, verdicts) in compiler.addresses() {
            elements += self.change_address(transaction, ElementChange::Add, *address, verdicts);
        }
        self.addresses.clone_from(compiler.addresses());
        elements
    }

    fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }
}

/// The maps in which an address leads to its chains, by the order of [`Verdicts`].
const MAPS: [&str; 2] = [INGRESS, EGRESS];

/// Of an address that is only known.
const NOT_JUDGED: Verdicts = [None, None];

impl State {
    /// How many addresses are judged.
    fn judged(&self) -> usize {
        self.addresses.values().filter(|verdicts| **verdicts != NOT_JUDGED).count()
    }

    /// The elements that an address needs, with the sets and maps that have them.
    fn elements(&self, address: IpAddr, verdicts: &Verdicts) -> Vec<(String, Element)> {
        let family = Family::of(address);
        let mut all = Vec::new();
        if self.denies_unknown {
            all.push((of(KNOWN, family), sets::address(address)));
        }
        if *verdicts != NOT_JUDGED {
            all.push((of(ISOLATED, family), sets::address(address)));
            let both = Element::new(Key::new().ip(address).ip(address));
            all.push((of(SELF, family), both));
        }
        for (map, key) in MAPS.into_iter().zip(verdicts) {
            let installed = key.as_ref().and_then(|key| self.chains.get(key));
            let verdict = installed.map(|chain| Verdict::Goto(chain.name().to_owned()));
            let leading = |verdict| (of(map, family), sets::address(address).verdict(verdict));
            all.extend(verdict.map(leading));
        }
        all
    }

    /// Adds the elements of an address, or deletes them; tells how many.
    fn change_address(
        &self,
        transaction: &mut Transaction,
        change: ElementChange,
        address: IpAddr,
        verdicts: &Verdicts,
    ) -> usize {
        let elements = self.elements(address, verdicts);
        for (set, element) in &elements {
            transaction.change_element(change, TABLE, set, element.borrow());
        }
        elements.len()
    }
}
