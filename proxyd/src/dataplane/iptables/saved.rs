//! What the kernel holds, as `iptables-save` prints it.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::Ipv6Addr;

use super::fixed::Jump;
use super::names::{OURS, PREFIX, Table};
use super::services::restricted_by;
use crate::service::FrontendKey;

/// What the kernel holds of ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    /// Our chains.
    pub(super) chains: HashMap<(Table, String), Content>,
    /// Rules of other chains that lead to ours.
    pub(super) jumps: BTreeSet<Jump>,
    /// Those that are there more than once.
    pub(super) repeated: Vec<Jump>,
    /// Frontends out of which somebody was kept when this was read.
    pub(super) restricted: Vec<FrontendKey>,
}

/// What is in a chain, as far as it is kept: how many rules, and a hash of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Content {
    pub(super) rules: usize,
    hash: u64,
}

impl<'a> FromIterator<&'a str> for Content {
    fn from_iter<I: IntoIterator<Item = &'a str>>(rules: I) -> Content {
        let mut reader = Reader::default();
        rules.into_iter().for_each(|rule| reader.add(rule));
        reader.content()
    }
}

#[derive(Default)]
struct Reader {
    rules: usize,
    hasher: DefaultHasher,
}

impl Reader {
    fn add(&mut self, rule: &str) {
        self.rules += 1;
        rule.hash(&mut self.hasher);
    }

    fn content(&self) -> Content {
        Content { rules: self.rules, hash: self.hasher.finish() }
    }
}

impl Held {
    /// Reads what `iptables-save` printed.
    pub(super) fn parse(saved: &str) -> Held {
        let mut held = Held::default();
        let mut table = None;
        let mut rules: HashMap<(Table, &str), Reader> = HashMap::new();
        for line in saved.lines() {
            if let Some(name) = line.strip_prefix('*') {
                table = Table::parse(name);
                continue;
            }
            let Some(table) = table else { continue };
            if let Some(declared) = line.strip_prefix(':') {
                let chain = declared.split(' ').next().unwrap_or_default();
                if chain.starts_with(PREFIX) {
                    rules.entry((table, chain)).or_default();
                }
            } else if let Some((chain, rule)) =
                line.strip_prefix("-A ").map(|rule| rule.split_once(' ').unwrap_or((rule, "")))
            {
                if chain.starts_with(PREFIX) {
                    let rule = canonical(rule);
                    if table == Table::Mangle {
                        held.restricted.extend(restricted_by(&rule));
                    }
                    rules.entry((table, chain)).or_default().add(&rule);
                } else if leads_to_ours(rule) {
                    let rule = rule.to_owned();
                    let jump = Jump { table, chain: chain.to_owned(), rule };
                    if !held.jumps.insert(jump.clone()) {
                        held.repeated.push(jump);
                    }
                }
            }
        }
        let chains = rules.into_iter();
        held.chains = chains
            .map(|((table, name), rules)| ((table, name.to_owned()), rules.content()))
            .collect();
        held
    }

    /// What differs from this, in words.
    pub(super) fn differences(&self, wanted: &Held) -> Vec<String> {
        let mut differences = Vec::new();
        for jump in wanted.jumps.difference(&self.jumps) {
            let (table, chain) = (jump.table.name(), &jump.chain);
            differences
                .push(format!("the rule of {table} {chain} that leads to our chains was gone"));
        }
        let mut chains: Vec<String> = Vec::new();
        for (key, hash) in &wanted.chains {
            let (table, chain) = (key.0.name(), &key.1);
            match self.chains.get(key) {
                Some(there) if there == hash => {}
                Some(_) => chains.push(format!("{table} chain {chain} was changed")),
                None => chains.push(format!("{table} chain {chain} was gone")),
            }
        }
        let foreign = self.chains.keys().filter(|chain| !wanted.chains.contains_key(*chain));
        chains.extend(
            foreign.map(|(table, chain)| format!("{} chain {chain} was not ours", table.name())),
        );
        chains.sort();
        differences.extend(chains);
        differences
    }
}

/// Whether a rule is one of ours that lead to our chains: others may have rules that do.
fn leads_to_ours(rule: &str) -> bool {
    let words: Vec<&str> = rule.split(' ').collect();
    rule.contains(OURS)
        && words
            .windows(2)
            .any(|pair| matches!(pair[0], "-j" | "-g") && pair[1].starts_with(PREFIX))
}

/// A rule as we write it: C libraries do not agree on how to print an IPv6 address that begins with zeros.
fn canonical(rule: &str) -> Cow<'_, str> {
    if !rule.contains(" ::") {
        return Cow::Borrowed(rule);
    }
    let word = |word: &str| {
        let address = |text: &str| text.parse::<Ipv6Addr>().ok();
        match word.split_once('/').map(|(ip, mask)| (address(ip), address(mask), mask)) {
            Some((Some(ip), Some(mask), _)) => format!("{ip}/{mask}"),
            Some((Some(ip), None, length)) => format!("{ip}/{length}"),
            _ => word.to_owned(),
        }
    };
    Cow::Owned(rule.split(' ').map(word).collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAVED: &str = "\
# Generated by ip6tables-save
*raw
:VIADUCT-OTHERS - [0:0]
COMMIT
*nat
:PREROUTING ACCEPT [1:80]
:VIADUCT-A - [0:0]
:VIADUCT-B - [0:0]
:KUBE-SERVICES - [0:0]
-A PREROUTING -m comment --comment \"viaduct: Services\" -j VIADUCT-A
-A PREROUTING -j KUBE-SERVICES
-A OUTPUT -d 2001:db8::1/128 -j VIADUCT-B
-A VIADUCT-A -d ::0.80.0.0/::0.240.0.0 -g VIADUCT-B
COMMIT
";

    #[test]
    fn only_ours_is_read_though_others_may_lead_to_it_and_addresses_are_as_we_write_them() {
        let held = Held::parse(SAVED);
        let rule = "-d ::50:0/::f0:0 -g VIADUCT-B";
        let mut chains: Vec<_> = held.chains.iter().collect();
        chains.sort();
        let (a, b) = ((Table::Nat, "VIADUCT-A".into()), (Table::Nat, "VIADUCT-B".into()));
        assert_eq!(chains, [(&a, &Content::from_iter([rule])), (&b, &Content::from_iter([]))]);
        assert_eq!(held.jumps.len(), 1);
    }

    #[test]
    fn what_is_missing_is_told() {
        let wanted = Held::parse(SAVED);
        let flushed = SAVED.lines().filter(|line| !line.starts_with("-A VIADUCT-A"));
        let flushed = Held::parse(&flushed.collect::<Vec<_>>().join("\n"));
        assert_eq!(flushed.differences(&wanted), ["nat chain VIADUCT-A was changed"]);
        let gone = Held::parse("*nat\n:PREROUTING ACCEPT [0:0]\n:VIADUCT-A - [0:0]\nCOMMIT\n");
        assert_eq!(
            gone.differences(&wanted),
            [
                "the rule of nat PREROUTING that leads to our chains was gone",
                "nat chain VIADUCT-A was changed",
                "nat chain VIADUCT-B was gone"
            ]
        );
        assert!(wanted.differences(&wanted).is_empty());
    }
}
