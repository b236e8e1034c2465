//! The chain of pods whose policies say the same.

use std::collections::BTreeSet;
use std::sync::Arc;

use netlink::nftables::{
    Chain as NftChain, ElementChange, Expression, RuleTag, Transaction, Verdict,
};
use netpol::compile::{Chain, ChainKey, Matches, Rest, Step, Touched};
use netpol::model::{Action, Direction};

use super::layout::{SELF, TABLE};
use super::sets::{Kind, kinds};
use crate::text::shortened;

/// Denied packets are handed to listeners of this group, a few a second from each chain.
pub const LOG_GROUP: u16 = 86;
const LOGGED_PER_SECOND: u64 = 10;
/// Of each so many bytes.
pub const LOGGED_BYTES: u32 = 128;
/// The longest comment that `nft` shows.
const COMMENT: usize = 120;

/// How the names of chains end that drop, and that only count and log.
const DENY: &str = ".deny";
const AUDIT: &str = ".audit";

/// A chain as it is in the kernel.
pub(super) struct Installed {
    name: String,
    direction: Direction,
    chain: Arc<Chain>,
    /// Who says so.
    why: String,
}

/// What a change of elements did.
pub(super) struct Changed {
    pub(super) elements: usize,
    /// Whether something is denied now that was allowed.
    pub(super) restricts: bool,
}

impl Installed {
    pub(super) fn new(key: &ChainKey, chain: Arc<Chain>, serial: u64) -> Installed {
        let side = if key.direction == Direction::Ingress { "to" } else { "from" };
        Installed {
            name: format!("{side}-{serial}"),
            direction: key.direction,
            chain,
            why: shortened(&key.to_string(), COMMENT),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Where what the Admin tier leaves is judged: in the same chain if there is no such tier.
    fn rest_name(&self) -> String {
        if self.chain.admin.is_empty() { self.name.clone() } else { format!("{}.rest", self.name) }
    }

    /// Where what NetworkPolicies do not allow ends. What the Admin tier denies is denied also where these only audit.
    fn rest_end(&self) -> String {
        let audit = matches!(self.chain.rest, Rest::Isolated { audit: true, .. });
        if audit { format!("{}{AUDIT}", self.name) } else { self.deny_name() }
    }

    fn names(&self) -> BTreeSet<String> {
        BTreeSet::from([self.name.clone(), self.rest_name(), self.deny_name(), self.rest_end()])
    }

    fn deny_name(&self) -> String {
        format!("{}{DENY}", self.name)
    }

    /// All steps, with the names that their sets begin with.
    fn steps(&self) -> Vec<(String, Action, &Matches)> {
        let tier = |tier: &str, steps| named(&self.name, tier, steps);
        let mut all = tier("admin", &self.chain.admin);
        match &self.chain.rest {
            Rest::Isolated { allowed, .. } => {
                all.push((format!("{}.allowed", self.name), Action::Accept, allowed));
            }
            Rest::Open(steps) => all.extend(tier("baseline", steps)),
        }
        all
    }

    /// Writes chain, sets and elements; tells how many elements there are.
    pub(super) fn write(&self, transaction: &mut Transaction) -> usize {
        let mut elements = 0;
        for name in self.names() {
            transaction.add_chain(TABLE, &NftChain { name: &name, hook: None });
        }
        for (step, _, matches) in self.steps() {
            for kind in kinds(matches) {
                kind.define(&step, |set| transaction.add_set(TABLE, set));
                let (name, items) = (kind.set_name(&step), kind.items(matches));
                elements += items.len();
                for item in &items {
                    let change = ElementChange::Add;
                    transaction.change_element(change, TABLE, &name, item.element());
                }
            }
        }
        self.write_rules(transaction);
        elements
    }

    fn write_rules(&self, transaction: &mut Transaction) {
        let goto = |name: String| Expression::Verdict(Verdict::Goto(name));
        let back = Expression::Verdict(Verdict::Return);
        let rest = self.rest_name();
        for (step, action, matches) in named(&self.name, "admin", &self.chain.admin) {
            let verdict = match action {
                Action::Accept => back.clone(),
                Action::Deny => goto(self.deny_name()),
                Action::Pass => goto(rest.clone()),
            };
            self.write_step(transaction, &self.name, &step, matches, &verdict);
        }
        if rest != self.name {
            transaction.add_rule(TABLE, &self.name, "", &[goto(rest.clone())]);
        }
        match &self.chain.rest {
            Rest::Isolated { allowed, .. } => {
                let step = format!("{}.allowed", self.name);
                self.write_step(transaction, &rest, &step, allowed, &back);
                transaction.add_rule(TABLE, &rest, "", &[goto(self.rest_end())]);
            }
            Rest::Open(steps) => {
                for (step, action, matches) in named(&self.name, "baseline", steps) {
                    let verdict = match action {
                        Action::Deny => goto(self.deny_name()),
                        Action::Accept | Action::Pass => back.clone(),
                    };
                    self.write_step(transaction, &rest, &step, matches, &verdict);
                }
            }
        }
        for end in BTreeSet::from([self.deny_name(), self.rest_end()]) {
            let itself = Expression::Verdict(Verdict::Jump(SELF.to_owned()));
            transaction.add_rule(TABLE, &end, "", &[itself]);
            let (prefix, verdict) = match end.ends_with(AUDIT) {
                true => (end.clone(), back.clone()),
                false => (self.name.clone(), Expression::Verdict(Verdict::Drop)),
            };
            transaction.add_rule(TABLE, &end, "", &log(&prefix));
            transaction.add_rule(TABLE, &end, &self.why, &[Expression::Counter, verdict]);
        }
    }

    fn write_step(
        &self,
        transaction: &mut Transaction,
        chain: &str,
        step: &str,
        matches: &Matches,
        verdict: &Expression,
    ) {
        if matches.everything {
            transaction.add_rule(TABLE, chain, "", std::slice::from_ref(verdict));
        }
        for kind in kinds(matches) {
            let mut rule = kind.ask(step, self.direction);
            rule.push(verdict.clone());
            transaction.add_rule(TABLE, chain, "", &rule);
        }
    }

    /// Writes the difference of elements; `None` if rules would have to change.
    pub(super) fn change(
        &mut self,
        chain: &Arc<Chain>,
        touched: &Touched,
        transaction: &mut Transaction,
    ) -> Option<Changed> {
        let new = Installed {
            name: self.name.clone(),
            direction: self.direction,
            chain: Arc::clone(chain),
            why: String::new(),
        };
        let mut diffs: Vec<(String, Kind, &Matches, &Matches)> = Vec::new();
        let same_rest = match (&self.chain.rest, &chain.rest) {
            (Rest::Isolated { audit, .. }, Rest::Isolated { audit: other, .. }) => audit == other,
            (Rest::Open(_), Rest::Open(_)) => true,
            _ => false,
        };
        let (before, after) = (self.steps(), new.steps());
        if !same_rest || before.len() != after.len() {
            return None;
        }
        for ((step, action, old), (other, other_action, new)) in before.into_iter().zip(after) {
            let shape = |matches: &Matches| (matches.everything, kinds(matches));
            if (&step, action) != (&other, other_action) || shape(old) != shape(new) {
                return None;
            }
            diffs.extend(kinds(old).into_iter().map(|kind| (step.clone(), kind, old, new)));
        }
        let mut changed = Changed { elements: 0, restricts: false };
        let lists_only =
            self.chain.admin.is_empty() && matches!(self.chain.rest, Rest::Isolated { .. });
        for (step, kind, old, new) in diffs {
            let name = kind.set_name(&step);
            let (gone, added) = kind.changes(old, new, touched);
            changed.elements += gone.len() + added.len();
            changed.restricts |= !gone.is_empty() || (!lists_only && !added.is_empty());
            // What goes first: ranges must not overlap in between.
            for (change, items) in [(ElementChange::Delete, gone), (ElementChange::Add, added)] {
                for item in &items {
                    transaction.change_element(change, TABLE, &name, item.element());
                }
            }
        }
        drop(new);
        self.chain = Arc::clone(chain);
        Some(changed)
    }

    /// Deletes all of it; nothing may lead to it any more.
    pub(super) fn delete(&self, transaction: &mut Transaction) {
        let names = self.names();
        for name in &names {
            transaction.flush_chain(TABLE, name);
        }
        for name in &names {
            transaction.delete_chain(TABLE, name);
        }
        for (step, _, matches) in self.steps() {
            for kind in kinds(matches) {
                transaction.delete_set(TABLE, &kind.set_name(&step));
            }
        }
    }
}

/// Hands a packet to whoever listens, a few a second.
pub(super) fn log(prefix: &str) -> [Expression; 2] {
    [
        Expression::Limit { per_second: LOGGED_PER_SECOND, burst: 5 },
        Expression::Log { group: LOG_GROUP, prefix: prefix.to_owned(), snaplen: LOGGED_BYTES },
    ]
}

/// The chain of a rule that denies, or would, and its direction.
pub(super) fn denying(tag: &RuleTag) -> Option<(String, Direction)> {
    // The rule before it logs, and has no comment.
    let ends = tag.chain.ends_with(DENY) || tag.chain.ends_with(AUDIT);
    let ingress = tag.chain.starts_with("to-");
    let direction = if ingress { Direction::Ingress } else { Direction::Egress };
    (ends && !tag.comment.is_empty()).then(|| (tag.chain.clone(), direction))
}

/// Of what a packet was logged with: its chain, and whether that only audits.
pub fn logged_by(prefix: &str) -> (&str, bool) {
    prefix.strip_suffix(AUDIT).map_or((prefix, false), |chain| (chain, true))
}

fn named<'a>(chain: &str, tier: &str, steps: &'a [Step]) -> Vec<(String, Action, &'a Matches)> {
    let each = |(at, step): (usize, &'a Step)| {
        (format!("{chain}.{tier}-{at}"), step.action, &step.matches)
    };
    steps.iter().enumerate().map(each).collect()
}
