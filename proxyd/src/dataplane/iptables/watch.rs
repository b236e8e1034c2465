//! Whether somebody else may have changed something: what is cheap to ask.
//!
//! Of the nft variant every transaction of nftables is told, anybody's. So before `iptables-save` is run, which takes
//! seconds for tens of thousands of rules, the rules are counted, with a digest of what they do.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};

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

/// The rules of each chain of the nft variant: of ours, and of those that lead to ours.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Counts(HashMap<(Table, String), Count>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Count {
    rules: usize,
    /// Of what they do, in order, if that is known.
    digest: Option<u64>,
}

impl Counts {
    /// Counts them; `None` for the legacy variant, which has no such question.
    pub(super) fn now(variant: Variant, family: Family, held: &Held) -> Result<Option<Counts>> {
        if variant == Variant::Legacy {
            return Ok(None);
        }
        let mut socket = NftSocket::open()?;
        let mut counts: HashMap<(Table, String), Count> = HashMap::new();
        for table in Table::ALL {
            let in_nft = NftTable { family: table_family(family), name: table.name() };
            let chains = socket.chains(in_nft)?.into_iter();
            let jumps = held.jumps.iter().filter(|jump| jump.table == table);
            let lead: Vec<&str> = jumps.map(|jump| jump.chain.as_str()).collect();
            let counted = chains.filter(|name| name.starts_with(PREFIX) || lead.contains(&&**name));
            let mut hashers: HashMap<String, (usize, DefaultHasher)> =
                counted.map(|chain| (chain, Default::default())).collect();
            for (rule, digest) in socket.rule_digests(in_nft)?.unwrap_or_default() {
                if let Some((rules, hasher)) = hashers.get_mut(&rule.chain) {
                    *rules += 1;
                    digest.hash(hasher);
                }
            }
            counts.extend(hashers.into_iter().map(|(chain, (rules, hasher))| {
                ((table, chain), Count { rules, digest: Some(hasher.finish()) })
            }));
        }
        Ok(Some(Counts(counts)))
    }

    /// We wrote this chain ourselves: its digest is not known any more.
    pub(super) fn rewritten(&mut self, table: Table, chain: &str) {
        if let Some(count) = self.0.get_mut(&(table, chain.to_owned())) {
            count.digest = None;
        }
    }

    /// Whether our chains are as long as they should be, and the others as long as they were `before`; and in all
    /// of which that was known then, whether the rules are the same.
    pub(super) fn are_right(&self, before: &Counts, held: &Held) -> bool {
        let right = |(chain, now): (&(Table, String), &Count)| {
            let was = before.0.get(chain);
            let known = was.and_then(|was| was.digest);
            let long = match held.chains.get(chain) {
                Some(content) => Some(content.rules),
                None if chain.1.starts_with(PREFIX) => None,
                None => was.map(|was| was.rules),
            };
            long == Some(now.rules) && known.is_none_or(|digest| now.digest == Some(digest))
        };
        let ours = self.0.keys().filter(|(_, chain)| chain.starts_with(PREFIX));
        ours.count() == held.chains.len()
            && self.0.iter().all(right)
            && held.jumps.iter().all(|jump| self.0.contains_key(&(jump.table, jump.chain.clone())))
    }
}
