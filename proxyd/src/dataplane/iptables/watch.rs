//! Whether somebody else may have changed something: what is cheap to ask.
//!
//! Of the nft variant every transaction of nftables is told, anybody's. So before `iptables-save` is run, which takes
//! seconds for tens of thousands of rules, the rules are counted.

use std::collections::{BTreeMap, HashMap};

use netlink::nftables::{Generation, NftSocket, Table as NftTable};
use netlink::xtables::{Extent, extent};
use netlink::{Family, Result};

use super::names::{PREFIX, Table};
use super::saved::Held;
use crate::dataplane::programs::{Variant, legacy_tables, table_family};

/// What changes whenever rules do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stamp {
    /// The number of the last transaction of nftables, anybody's.
    Nft(Generation),
    /// How large our tables are, those of them that are used: to ask for one makes it.
    Legacy(BTreeMap<Table, Extent>),
}

impl Stamp {
    /// As it is now.
    pub(super) fn now(variant: Variant, family: Family) -> Result<Stamp> {
        match variant {
            Variant::Nft => NftSocket::open()?.generation().map(Stamp::Nft),
            Variant::Legacy => {
                let names = legacy_tables(family);
                let tables = names.iter().filter_map(|name| Table::parse(name));
                let extents = tables.map(|table| Ok((table, extent(family, table.name())?)));
                extents.collect::<Result<_>>().map(Stamp::Legacy)
            }
        }
    }

    /// Whether this is `before` after a change of so many tables by ourselves, as far as can be told.
    pub(super) fn follows(&self, before: &Stamp, tables: u64) -> bool {
        match (before, self) {
            (Stamp::Nft(before), Stamp::Nft(after)) => {
                u64::from(after.0.wrapping_sub(before.0)) == tables
            }
            _ => true,
        }
    }
}

/// How many rules there are in each chain of the nft variant: in ours, and in those that lead to ours.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Counts(HashMap<(Table, String), usize>);

impl Counts {
    /// Counts them; `None` for the legacy variant, which has no such question.
    pub(super) fn now(variant: Variant, family: Family, held: &Held) -> Result<Option<Counts>> {
        if variant == Variant::Legacy {
            return Ok(None);
        }
        let mut socket = NftSocket::open()?;
        let mut counts: HashMap<(Table, String), usize> = HashMap::new();
        for table in Table::ALL {
            let in_nft = NftTable { family: table_family(family), name: table.name() };
            let chains = socket.chains(in_nft)?.into_iter();
            let jumps = held.jumps.iter().filter(|jump| jump.table == table);
            let lead: Vec<&str> = jumps.map(|jump| jump.chain.as_str()).collect();
            let counted = chains.filter(|name| name.starts_with(PREFIX) || lead.contains(&&**name));
            counts.extend(counted.map(|chain| ((table, chain), 0)));
            for rule in socket.rules(in_nft)?.unwrap_or_default() {
                if let Some(count) = counts.get_mut(&(table, rule.chain)) {
                    *count += 1;
                }
            }
        }
        Ok(Some(Counts(counts)))
    }

    /// Whether our chains are as long as they should be, and the others as long as they were `before`.
    pub(super) fn are_right(&self, before: &Counts, held: &Held) -> bool {
        let ours = self.0.iter().filter(|((_, chain), _)| chain.starts_with(PREFIX));
        let right = |(chain, count): (&(Table, String), &usize)| {
            held.chains.get(chain).is_some_and(|content| content.rules == *count)
        };
        let mut others = self.0.iter().filter(|((_, chain), _)| !chain.starts_with(PREFIX));
        ours.clone().count() == held.chains.len()
            && ours.clone().all(right)
            && others.all(|(chain, count)| before.0.get(chain) == Some(count))
            && held.jumps.iter().all(|jump| self.0.contains_key(&(jump.table, jump.chain.clone())))
    }
}
