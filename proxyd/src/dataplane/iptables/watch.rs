//! Whether somebody else may have changed something: what is cheap to ask.

use std::collections::BTreeMap;

use netlink::nftables::{Generation, NftSocket};
use netlink::xtables::{Extent, extent};
use netlink::{Family, Result};

use super::names::Table;
use crate::dataplane::programs::{Variant, legacy_tables};

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
