//! nftables: typed objects, one transaction, no external program.
//!
//! [`Transaction`] collects tables, chains, rules, sets and elements; [`NftSocket::commit`] hands
//! them to the kernel, which takes all or nothing. [`NftSocket`] also reads back what a table holds.
//! What is written is what `nft` can list: set types carry its type numbers, comments its user data.

mod expression;
mod monitor;
mod object;
mod read;
mod transaction;

pub use expression::{
    Compare, Ct, DynsetOperation, Expression, Meta, NatKind, Payload, Register, RejectWith,
    Verdict, VerdictRef,
};
pub use monitor::{NftEvent, NftMonitor};
pub use object::{
    Chain, DataType, Element, ElementData, ElementDataRef, ElementRef, Hook, Key, Set, SetData,
    Table, TableFamily,
};
pub use read::{BaseChain, RuleTag};
pub use transaction::{ElementChange, Generation, NftSocket, Transaction};
