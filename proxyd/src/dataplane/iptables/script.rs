//! The difference between what is held and what is to be, as input of `iptables-restore --noflush`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::fixed::Jump;
use super::names::Table;
use super::saved::{Content, Held};
use super::services::Plan;

/// What `iptables-restore` is given, and what is held once it succeeded.
#[derive(Debug, Default)]
pub(super) struct Script {
    pub(super) text: String,
    /// Lines that add or delete something.
    pub(super) lines: u64,
    /// Tables that are committed.
    pub(super) tables: u64,
    chains: Vec<((Table, String), Option<Content>)>,
    /// Rules that are written, by table.
    pub(super) rules: BTreeMap<Table, usize>,
    jumps: BTreeSet<Jump>,
}

/// What of a table changes.
#[derive(Default)]
struct Part<'a> {
    changed: Vec<(&'a str, &'a [String])>,
    gone: Vec<&'a str>,
    unwanted: Vec<&'a Jump>,
    missing: Vec<&'a Jump>,
}

impl Script {
    /// What makes `held` as planned; chains that the plan does not mention stay, unless it is about `all`.
    pub(super) fn new(held: &Held, plan: &Plan, jumps: Vec<Jump>, all: bool) -> Script {
        let jumps = BTreeSet::from_iter(jumps);
        let mut script = Script::default();
        let mut parts: BTreeMap<Table, Part<'_>> = BTreeMap::new();
        for (key, rules) in plan {
            match rules {
                Some(rules) => {
                    let content = Content::from_iter(rules.iter().map(String::as_str));
                    if held.chains.get(key) != Some(&content) {
                        parts.entry(key.0).or_default().changed.push((&key.1, rules));
                        script.chains.push((key.clone(), Some(content)));
                    }
                }
                None if held.chains.contains_key(key) => {
                    parts.entry(key.0).or_default().gone.push(&key.1);
                    script.chains.push((key.clone(), None));
                }
                None => {}
            }
        }
        if all {
            let stale = held.chains.keys().filter(|key| !plan.contains_key(*key));
            for key in BTreeSet::from_iter(stale) {
                parts.entry(key.0).or_default().gone.push(&key.1);
                script.chains.push((key.clone(), None));
            }
        }
        for jump in held.jumps.difference(&jumps).chain(&held.repeated) {
            parts.entry(jump.table).or_default().unwanted.push(jump);
        }
        for jump in jumps.difference(&held.jumps) {
            parts.entry(jump.table).or_default().missing.push(jump);
        }
        for (table, part) in &parts {
            script.write(*table, part);
        }
        script.jumps = jumps;
        script
    }

    fn write(&mut self, table: Table, part: &Part<'_>) {
        let text = &mut self.text;
        let changed = part.changed.iter();
        // Writing to a String does not fail. To declare a chain empties it.
        let _ = writeln!(text, "*{}", table.name());
        for chain in changed.clone().map(|(chain, _)| chain).chain(&part.gone) {
            let _ = writeln!(text, ":{chain} - [0:0]");
        }
        for jump in &part.unwanted {
            let _ = writeln!(text, "-D {} {}", jump.chain, jump.rule);
        }
        for (chain, rules) in changed {
            for rule in *rules {
                let _ = writeln!(text, "-A {chain} {rule}");
            }
            self.lines += rules.len() as u64;
            *self.rules.entry(table).or_default() += rules.len();
        }
        for jump in &part.missing {
            let _ = writeln!(text, "-I {} 1 {}", jump.chain, jump.rule);
        }
        for chain in &part.gone {
            let _ = writeln!(text, "-X {chain}");
        }
        let _ = writeln!(text, "COMMIT");
        let others = part.gone.len() + part.unwanted.len() + part.missing.len();
        self.lines +=
            others as u64 + part.changed.iter().filter(|(_, r)| r.is_empty()).count() as u64;
        self.tables += 1;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tables == 0
    }

    /// Those of our chains that it writes.
    pub(super) fn chains(&self) -> impl Iterator<Item = &(Table, String)> {
        self.chains.iter().map(|(key, _)| key)
    }

    /// What `iptables-restore` was told in this line, from 1.
    pub(super) fn line(&self, number: usize) -> Option<&str> {
        self.text.lines().nth(number.checked_sub(1)?)
    }

    /// It succeeded.
    pub(super) fn committed(self, held: &mut Held) {
        for (key, content) in self.chains {
            match content {
                Some(content) => held.chains.insert(key, content),
                None => held.chains.remove(&key),
            };
        }
        held.jumps = self.jumps;
        held.repeated.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(chains: &[(&str, Option<&[&str]>)]) -> Plan {
        let rules = |rules: &[&str]| rules.iter().map(|rule| (*rule).to_owned()).collect();
        let chains = chains.iter();
        chains.map(|(name, r)| ((Table::Nat, (*name).to_owned()), r.map(rules))).collect()
    }

    fn jump(rule: &str) -> Jump {
        Jump { table: Table::Nat, chain: "OUTPUT".into(), rule: rule.into() }
    }

    #[test]
    fn what_is_there_already_is_not_written_and_references_go_before_chains() {
        let before = plan(&[("VIADUCT-A", Some(&["-g VIADUCT-B"])), ("VIADUCT-B", Some(&[]))]);
        let mut held = Held::default();
        let script = Script::new(&held, &before, vec![jump("-j VIADUCT-A")], true);
        assert_eq!(
            script.text,
            "*nat\n:VIADUCT-A - [0:0]\n:VIADUCT-B - [0:0]\n-A VIADUCT-A -g VIADUCT-B\n\
             -I OUTPUT 1 -j VIADUCT-A\nCOMMIT\n"
        );
        assert_eq!((script.lines, script.line(4)), (3, Some("-A VIADUCT-A -g VIADUCT-B")));
        script.committed(&mut held);
        assert!(Script::new(&held, &before, vec![jump("-j VIADUCT-A")], true).is_empty());

        let after = plan(&[("VIADUCT-A", Some(&["-j RETURN"])), ("VIADUCT-B", None)]);
        let script = Script::new(&held, &after, vec![jump("-g VIADUCT-A")], false);
        assert_eq!(
            script.text,
            "*nat\n:VIADUCT-A - [0:0]\n:VIADUCT-B - [0:0]\n-D OUTPUT -j VIADUCT-A\n\
             -A VIADUCT-A -j RETURN\n-I OUTPUT 1 -g VIADUCT-A\n-X VIADUCT-B\nCOMMIT\n"
        );
        script.committed(&mut held);
        assert_eq!(held.chains.len(), 1);
        // A chain that nobody planned goes too, if everything is compared.
        assert_eq!(Script::new(&held, &plan(&[]), Vec::new(), false).lines, 1);
        assert_eq!(Script::new(&held, &plan(&[]), Vec::new(), true).lines, 2);
    }
}
