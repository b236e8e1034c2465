//! Services in iptables: a search tree of chains leads to a chain for each Service port.
//!
//! - `names`: tables and chains; `fixed`: chains that are always there, and what leads to them
//! - `tree`: how a packet finds its frontend in some tens of rules
//! - `services`: the chains of Services, and which of them a change concerns
//! - `saved`: what the kernel holds; `script`: the difference, as `iptables-restore` takes it
//! - `watch`: whether somebody else changed something; `render`: everything, as text
//!
//! One run of `iptables-restore` per family and sync has only the chains that change, and happens as a whole
//! or not at all in each table; source ranges are lifted by a second run. What was committed is in memory, as a
//! hash of each chain. After any error nothing is assumed: [`Iptables::reconcile`] reads everything, once, and
//! writes what differs; chains that are to go come last, since a rule of somebody else's may hold them.

mod fixed;
mod names;
mod render;
mod saved;
mod script;
mod services;
#[cfg(test)]
mod tests;
mod tree;
mod watch;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use netlink::{Errno, Error, Family, Result};

pub use render::render;

use super::programs::{Failure, Variant};
use super::{FAMILIES, Node, Written, index};
use crate::service::table::Delta;
use crate::service::{Frontend, FrontendKey};
use names::Table;
use saved::Held;
use script::Script;
use services::{Plan, Services};
use watch::{Counts, Stamp};

/// Services in iptables.
pub struct Iptables {
    variant: Variant,
    families: [Option<Of>; 2],
    /// When it is looked for what others changed.
    look_at: Option<Instant>,
}

/// How often it is looked for what others changed, as nobody tells.
const LOOK_EVERY: Duration = Duration::from_secs(4);
/// If that takes long, a tenth of the time is spent on it.
const LOOK_SHARE: u32 = 10;

/// Services of a family.
struct Of {
    family: Family,
    services: Services,
    held: Held,
    stamp: Option<Stamp>,
    /// The rules that there were when everything was as it should be.
    counts: Option<Counts>,
    /// Rules that the last sync wrote.
    last: BTreeMap<Table, usize>,
}

impl Iptables {
    /// Finds out which variant this host uses.
    pub fn open() -> Result<Iptables> {
        let (variant, why) = Variant::of_host()?;
        tracing::info!("iptables is the {variant} variant: {why}");
        Ok(Iptables { variant, families: [None, None], look_at: None })
    }

    /// Which variant is used.
    pub fn variant(&self) -> Variant {
        self.variant
    }

    /// Whether what is in the kernel is known of a family, so that [`Iptables::apply`] can be used.
    pub fn is_known(&self) -> bool {
        self.families.iter().any(Option::is_some)
    }

    /// Commits what changed, in the families that are known. After an error a family is not known any more.
    pub fn apply(&mut self, delta: &Delta, nodes: &[Node; 2], now: Instant) -> Result<Written> {
        self.look_at.get_or_insert(now + LOOK_EVERY);
        let mut written = Written::default();
        for (slot, node) in self.families.iter_mut().zip(nodes) {
            let Some(mut of) = slot.take() else { continue };
            let done = match locked(&written) {
                Some(error) => Err(error),
                None => of.apply(self.variant, delta, node, &mut written),
            };
            match done {
                Ok(()) => *slot = Some(of),
                Err(error) => written.failed.push((of.family, error)),
            }
        }
        self.unless_all_failed(written)
    }

    /// Reads what is in the kernel, and writes what differs from these frontends.
    pub fn reconcile(
        &mut self,
        frontends: &[(FrontendKey, &Frontend)],
        nodes: &[Node; 2],
        now: Instant,
    ) -> Result<Written> {
        self.look_at = Some(now + LOOK_EVERY);
        let mut written = Written::default();
        for (family, node) in FAMILIES.into_iter().zip(nodes).filter(|(family, _)| has(*family)) {
            let done = match locked(&written) {
                Some(error) => Err(error),
                None => Of::reconcile(family, self.variant, frontends, node, &mut written),
            };
            let done = done.map_err(|error| written.failed.push((family, error)));
            self.families[index(family)] = done.ok();
        }
        self.unless_all_failed(written)
    }

    /// What a family lacks, a kernel module or a program, does not concern the other one.
    fn unless_all_failed(&self, mut written: Written) -> Result<Written> {
        if !self.is_known() && !written.failed.is_empty() {
            return Err(written.failed.swap_remove(0).1);
        }
        Ok(written)
    }

    /// When [`Iptables::look`] is due.
    pub fn look_at(&self) -> Option<Instant> {
        self.look_at
    }

    /// Looks whether somebody else changed our chains, or what leads to them; tells what. That costs next to
    /// nothing while nothing changes.
    pub fn look(&mut self, now: Instant) -> Result<Vec<String>> {
        if self.look_at.is_none_or(|at| at > now) {
            return Ok(Vec::new());
        }
        let found = if self.is_known() { self.differences() } else { Ok(Vec::new()) };
        self.look_at = Some(now + LOOK_EVERY.max(now.elapsed() * LOOK_SHARE));
        found
    }

    fn differences(&mut self) -> Result<Vec<String>> {
        let mut differences = Vec::new();
        for of in self.families.iter_mut().flatten() {
            let seen = Stamp::now(self.variant, of.family)?;
            if of.stamp.as_ref() == Some(&seen) {
                continue;
            }
            let counts = Counts::now(self.variant, of.family, &of.held)?;
            if let (Some(now), Some(before)) = (&counts, &of.counts)
                && now.are_right(before, &of.held)
            {
                of.stamp = Some(seen);
                continue;
            }
            let (there, stamp) = read(self.variant, of.family)?;
            let found = there.differences(&of.held);
            if found.is_empty() {
                (of.stamp, of.counts) = (stamp, counts);
            }
            differences.extend(found.into_iter().map(|what| format!("{}: {what}", of.family)));
        }
        Ok(differences)
    }

    /// Rules in each table, and those that the last sync wrote.
    pub fn rules(&self, family: Family) -> Vec<(&'static str, usize, usize)> {
        let Some(of) = &self.families[index(family)] else { return Vec::new() };
        let mut all: BTreeMap<Table, usize> = Table::ALL.map(|table| (table, 0)).into();
        for ((table, _), content) in &of.held.chains {
            *all.entry(*table).or_default() += content.rules;
        }
        let last = |table| of.last.get(table).copied().unwrap_or_default();
        all.iter().map(|(table, rules)| (table.name(), *rules, last(table))).collect()
    }

    /// Frontends and endpoints of a family that are in the kernel.
    pub fn counts(&self, family: Family) -> (usize, usize) {
        let Some(of) = &self.families[index(family)] else { return (0, 0) };
        let frontends = of.services.frontends();
        let endpoints = frontends.values().map(|frontend| frontend.lists.cluster.len()).sum();
        (frontends.len(), endpoints)
    }
}

impl Of {
    fn apply(
        &mut self,
        variant: Variant,
        delta: &Delta,
        node: &Node,
        written: &mut Written,
    ) -> Result<()> {
        let entries = delta.iter().filter(|(key, _)| key.family() == self.family);
        let entries = entries.map(|(key, frontend)| (*key, frontend.as_ref()));
        let mut plan = self.services.change(entries);
        if self.services.node() != node {
            // Most rules depend on it.
            self.services.set_node(node.clone());
            plan.extend(self.services.everything());
        }
        self.last.clear();
        self.run(variant, self.script(&plan, false), written)?;
        let plan = self.services.open();
        self.run(variant, self.script(&plan, false), written)
    }

    fn reconcile(
        family: Family,
        variant: Variant,
        frontends: &[(FrontendKey, &Frontend)],
        node: &Node,
        written: &mut Written,
    ) -> Result<Of> {
        let mut services = Services::new(family, node.clone());
        let own = frontends.iter().filter(|(key, _)| key.family() == family);
        services.change(own.map(|(key, frontend)| (*key, Some(*frontend))));
        let (held, stamp) = read(variant, family)?;
        services.were_restricted(held.restricted.iter().copied());
        let mut of = Of { family, services, held, stamp, counts: None, last: BTreeMap::new() };
        let before = of.held.clone();
        let plan = of.services.everything();
        of.run(variant, of.script(&plan, false), written)?;
        let opened = !of.services.open().is_empty();
        if opened || of.held.chains.keys().any(|chain| !plan.contains_key(chain)) {
            let plan = if opened { of.services.everything() } else { plan };
            of.finish(variant, plan, written)?;
        }
        let repairs = before.differences(&of.held).into_iter();
        written.repairs.extend(repairs.map(|what| format!("{family}: {what}")));
        // Else the first transaction of a stranger's would have everything read again.
        let counts = Counts::now(variant, family, &of.held)?;
        let undisturbed = Some(Stamp::now(variant, family)?) == of.stamp;
        of.counts = counts.filter(|counts| undisturbed && counts.are_right(counts, &of.held));
        Ok(of)
    }

    fn script(&self, plan: &Plan, all: bool) -> Script {
        let jumps = fixed::jumps(self.services.restricted());
        Script::new(&self.held, plan, jumps, all)
    }

    /// Makes everything as it is to be, and removes the chains that nothing of ours leads to any more.
    fn finish(&mut self, variant: Variant, mut plan: Plan, written: &mut Written) -> Result<()> {
        let refusal = match self.run(variant, self.script(&plan, true), written) {
            Err(error) if error.errno == Errno::INVAL => error,
            done => return done,
        };
        // Somebody else's rule leads to one of them, which is no reason to hold up anything else: empty, it does
        // no harm.
        (self.held, self.stamp) = read(variant, self.family)?;
        for chain in self.held.chains.keys() {
            plan.entry(chain.clone()).or_insert(Some(Vec::new()));
        }
        self.run(variant, self.script(&plan, false), written)?;
        written.kept.push((self.family, refusal));
        Ok(())
    }

    fn run(&mut self, variant: Variant, script: Script, written: &mut Written) -> Result<()> {
        if script.is_empty() {
            return Ok(());
        }
        let family = self.family;
        let before = Stamp::now(variant, family)?;
        variant.restore(family, &script.text).map_err(|failure| explain(failure, &script))?;
        for (table, rules) in &script.rules {
            *self.last.entry(*table).or_default() += rules;
        }
        written.elements += script.lines;
        written.transactions += script.tables;
        written.bytes += script.text.len() as u64;
        // If somebody else wrote before, or meanwhile, what they did is still to be looked at.
        let after = Stamp::now(variant, family)?;
        let undisturbed =
            self.stamp.as_ref() == Some(&before) && after.follows(&before, script.tables);
        self.stamp = undisturbed.then_some(after);
        if let Some(counts) = &mut self.counts {
            script.chains().for_each(|(table, chain)| counts.rewritten(*table, chain));
        }
        script.committed(&mut self.held);
        Ok(())
    }
}

/// Reads what is held, and what will tell whether that has changed since.
fn read(variant: Variant, family: Family) -> Result<(Held, Option<Stamp>)> {
    // The older of the two, so that a change in between is seen next time.
    let stamp = Stamp::now(variant, family)?;
    let saved = variant.save(family).map_err(|failure| explain(failure, &Script::default()))?;
    Ok((Held::parse(&saved), Some(stamp)))
}

/// Whether a family met a lock: it is the other one's too, and need not be waited for again.
fn locked(written: &Written) -> Option<Error> {
    let mut errors = written.failed.iter().map(|(_, error)| error);
    errors.find(|error| error.errno == Errno::AGAIN).cloned()
}

/// Whether this machine has a family.
fn has(family: Family) -> bool {
    family == Family::V4 || std::path::Path::new("/proc/thread-self/net/if_inet6").exists()
}

/// What went wrong, with the line of the script.
fn explain(failure: Failure, script: &Script) -> Error {
    let errno = match &failure {
        Failure::Missing(_) => Errno::NOENT,
        Failure::Run(_, error) => Errno::from_io_error(error).unwrap_or(Errno::IO),
        Failure::Locked { .. } => Errno::AGAIN,
        Failure::Refused { .. } => Errno::INVAL,
    };
    let line = match &failure {
        Failure::Refused { line: Some(number), .. } => script.line(*number),
        _ => None,
    };
    let what = match (&failure, line) {
        (Failure::Missing(_), _) => {
            format!(
                "{failure}, and iptables mode cannot do without: install iptables, or use nftables mode"
            )
        }
        (_, Some(line)) => format!("{failure} (that line is {line:?})"),
        (_, None) => failure.to_string(),
    };
    Error::new(what, errno)
}
