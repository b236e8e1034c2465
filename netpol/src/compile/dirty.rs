//! What has to be brought up to date.

use std::collections::{BTreeMap, BTreeSet, btree_map};
use std::net::IpAddr;

use super::chain::ChainKey;

/// More addresses than this, and the chain is built anew.
const MANY: usize = 256;

/// What of a chain changed, or may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Touched {
    /// Anything.
    Whole,
    /// What it says of these peers' addresses.
    Addresses(BTreeSet<IpAddr>),
}

/// Chains that have to be looked at.
#[derive(Debug, Default)]
pub(super) struct Dirty(BTreeMap<ChainKey, Touched>);

impl Dirty {
    pub(super) fn whole(&mut self, chains: impl IntoIterator<Item = ChainKey>) {
        self.0.extend(chains.into_iter().map(|key| (key, Touched::Whole)));
    }

    pub(super) fn addresses(&mut self, chain: &ChainKey, more: &[IpAddr]) {
        if !self.0.contains_key(chain) {
            self.0.insert(chain.clone(), Touched::Addresses(BTreeSet::new()));
        }
        let Some(touched) = self.0.get_mut(chain) else { return };
        let Touched::Addresses(addresses) = touched else { return };
        addresses.extend(more);
        if addresses.len() > MANY {
            *touched = Touched::Whole;
        }
    }

    pub(super) fn remove(&mut self, chain: &ChainKey) {
        self.0.remove(chain);
    }
}

impl IntoIterator for Dirty {
    type Item = (ChainKey, Touched);
    type IntoIter = btree_map::IntoIter<ChainKey, Touched>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}
