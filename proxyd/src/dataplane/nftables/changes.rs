//! Changes of the tables, and how they become one transaction.

use std::collections::BTreeSet;

use netlink::Family;
use netlink::nftables::{ElementChange, ElementRef, Transaction, VerdictRef};

use super::chains::Chains;
use super::element::{Data, Item};
use super::layout::Layout;
use super::names::{Pick, SetId, Target, table};

/// What is in one list of items and not in the other: (removed, added).
pub(super) fn difference(mut old: Vec<Item>, mut new: Vec<Item>) -> (Vec<Item>, Vec<Item>) {
    if old.is_empty() {
        return (old, new);
    }
    old.sort_unstable();
    new.sort_unstable();
    let (mut removed, mut added) = (Vec::new(), Vec::new());
    let (mut old, mut new) = (old.into_iter().peekable(), new.into_iter().peekable());
    loop {
        match (old.peek(), new.peek()) {
            (Some(o), Some(n)) if o == n => {
                old.next();
                new.next();
            }
            (Some(o), Some(n)) if o < n => removed.extend(old.next()),
            (_, Some(_)) => added.extend(new.next()),
            (Some(_), None) => removed.extend(old.next()),
            (None, None) => return (removed, added),
        }
    }
}

/// Changes that become visible together.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Tables to delete, if they are there, and to make anew.
    pub(super) recreate: BTreeSet<Family>,
    /// Tables whose base chains get their rules anew.
    pub(super) rules: BTreeSet<Family>,
    /// Chains that get their rules anew.
    pub(super) rewrite: BTreeSet<(Family, Target)>,
    deletes: Vec<(Family, Item)>,
    adds: Vec<(Family, Item)>,
    inert: usize,
}

impl Changes {
    /// Takes in a [`difference`].
    pub(super) fn differ(&mut self, family: Family, (removed, added): (Vec<Item>, Vec<Item>)) {
        self.inert += added.iter().filter(|item| item.set.is_inert()).count();
        self.deletes.extend(removed.into_iter().map(|item| (family, item)));
        self.adds.extend(added.into_iter().map(|item| (family, item)));
    }

    /// Elements that change.
    pub(super) fn len(&self) -> usize {
        self.deletes.len() + self.adds.len()
    }

    /// New elements that could be committed ahead of the others. With deletions none can: they may be
    /// of the same keys.
    pub(super) fn inert(&self) -> usize {
        if self.deletes.is_empty() { self.inert } else { 0 }
    }

    /// Takes those out.
    pub(super) fn take_inert(&mut self) -> Changes {
        let (inert, rest) =
            std::mem::take(&mut self.adds).into_iter().partition(|(_, item)| item.set.is_inert());
        self.adds = rest;
        self.inert = 0;
        Changes { adds: inert, ..Changes::default() }
    }

    /// Takes out what must come last.
    pub(super) fn take_service_cidrs(&mut self) -> Changes {
        let late = |(_, item): &(Family, Item)| item.set == SetId::ServiceCidrs;
        let (adds, rest) = std::mem::take(&mut self.adds).into_iter().partition(late);
        self.adds = rest;
        Changes { adds, ..Changes::default() }
    }

    /// Writes what concerns one family.
    pub(super) fn write(
        &mut self,
        layout: &Layout<'_>,
        chains: &mut Chains,
        transaction: &mut Transaction,
    ) {
        let family = layout.family;
        let table = table(family);
        let recreate = self.recreate.contains(&family);
        if recreate {
            // Adding it first makes deleting it right in any case.
            transaction.add_table(table);
            transaction.delete_table(table);
            layout.create(transaction);
            *chains = Chains::default();
        }
        if self.rules.contains(&family) {
            chains.insert(Target::Reject);
            layout.write_target(Target::Reject, transaction);
            layout.write_rules(transaction);
        }
        for (_, target) in self.rewrite.iter().filter(|(of, _)| *of == family) {
            layout.write_target(*target, transaction);
        }
        for target in self.new_chains(family, chains) {
            layout.write_target(target, transaction);
        }
        for (number, target) in self.new_numbers(family, chains) {
            let (number, chain) = (number.to_ne_bytes(), target.to_string());
            let element = ElementRef::new(&number).verdict(VerdictRef::Goto(&chain));
            let name = SetId::Targets.name();
            transaction.change_element(ElementChange::Create, table, name, element);
        }
        // What leads somewhere is deleted before, and added after, that to which it leads.
        self.deletes.sort_by_key(|(_, item)| std::cmp::Reverse(item.set));
        self.adds.sort_by_key(|(_, item)| item.set);
        if !recreate {
            for (_, item) in self.deletes.iter().filter(|(of, _)| *of == family) {
                item.write(chains, |element| {
                    let name = item.set.name();
                    transaction.change_element(ElementChange::Delete, table, name, element);
                });
            }
        }
        for (_, item) in self.adds.iter().filter(|(of, _)| *of == family) {
            item.write(chains, |element| {
                let name = item.set.name();
                transaction.change_element(ElementChange::Create, table, name, element);
            });
        }
    }

    /// Chains that new elements of a family lead to and that are not there yet; from now on they are.
    pub(super) fn new_chains(&self, family: Family, chains: &mut Chains) -> Vec<Target> {
        let mut new = Vec::new();
        for item in self.added(family) {
            let Data::Goto(target) = item.data else { continue };
            // One that marks goes on in the one that does not.
            if let Target::Pick(pick) = target
                && pick.masquerade
            {
                let plain = Target::Pick(Pick { masquerade: false, ..pick });
                new.extend(chains.insert(plain).then_some(plain));
            }
            new.extend(chains.insert(target).then_some(target));
        }
        new
    }

    /// Chains that new frontends of a family lead to and that have no number yet, with the one that each
    /// has from now on.
    pub(super) fn new_numbers(&self, family: Family, chains: &mut Chains) -> Vec<(u32, Target)> {
        let leads = self.added(family).filter(|item| matches!(item.set, SetId::Services(_)));
        let mut leads: Vec<&Item> = leads.collect();
        // In the same order whatever was written before.
        leads.sort_by_key(|item| item.set);
        let numbered = leads.into_iter().filter_map(|item| {
            let Data::Goto(target) = item.data else { return None };
            Some((chains.give_number(target)?, target))
        });
        numbered.collect()
    }

    /// New elements of a family.
    pub(super) fn added(&self, family: Family) -> impl Iterator<Item = &Item> {
        self.adds.iter().filter(move |(of, _)| *of == family).map(|(_, item)| item)
    }
}
