//! The chains that are there, and the numbers by which frontends lead to them.
//!
//! A frontend's element holds a number, and map `targets` has the chain of each. Were it a verdict itself,
//! the kernel would check all frontends of the table whenever one changes.

use std::collections::{HashMap, HashSet};

use super::layout::ID_PREFIX;
use super::names::Target;

/// Chains of one family's table.
#[derive(Debug, Default)]
pub(super) struct Chains {
    /// Those that are there.
    there: HashSet<Target>,
    /// Those that map `targets` has.
    numbers: HashMap<Target, u32>,
    next: u32,
}

impl Chains {
    /// Takes over what was found. Numbers from `next` on are nobody's, not even a stranger's.
    pub(super) fn adopt(
        there: HashSet<Target>,
        numbers: &HashMap<u32, Target>,
        next: u32,
    ) -> Chains {
        let numbers = numbers.iter().map(|(number, target)| (*target, *number)).collect();
        Chains { there, numbers, next }
    }

    /// Whether a chain is there.
    pub(super) fn contains(&self, target: Target) -> bool {
        self.there.contains(&target)
    }

    /// Notes that a chain is there; `false` if it was already.
    pub(super) fn insert(&mut self, target: Target) -> bool {
        self.there.insert(target)
    }

    /// The number of a chain, if it has one.
    pub(super) fn number(&self, target: Target) -> Option<u32> {
        self.numbers.get(&target).copied()
    }

    /// Gives a chain a number; `None` if it has one already.
    pub(super) fn give_number(&mut self, target: Target) -> Option<u32> {
        if self.numbers.contains_key(&target) {
            return None;
        }
        let number = ID_PREFIX | self.next;
        self.next += 1;
        self.numbers.insert(target, number);
        Some(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_on_after_those_that_were_found() {
        let found = HashMap::from([(ID_PREFIX | 7, Target::Reject)]);
        let mut chains = Chains::adopt(HashSet::from([Target::Reject]), &found, 8);
        assert!(!chains.insert(Target::Reject) && chains.insert(Target::Drop));
        assert_eq!(chains.give_number(Target::Reject), None);
        assert_eq!(chains.number(Target::Reject), Some(ID_PREFIX | 7));
        assert_eq!(chains.give_number(Target::Drop), Some(ID_PREFIX | 8));
        assert_eq!(chains.number(Target::Drop), Some(ID_PREFIX | 8));
    }
}
