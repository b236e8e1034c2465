//! Tables and chains, and what they are called.

use std::fmt;

use ring::digest::{SHA256, digest};

use crate::cluster::ServicePortName;
use crate::service::FrontendKey;

/// The longest name that a chain can have (`XT_EXTENSION_MAXNAMELEN` less its end).
pub(super) const LONGEST: usize = 28;

/// What all of our chains begin with.
pub(super) const PREFIX: &str = "VIADUCT-";

/// What the comments of our rules that lead to them begin with.
pub(super) const OURS: &str = "--comment \"viaduct: ";

/// A table of iptables, in the order in which they are committed: who may not come in is kept out before
/// a Service is served, and refused only once it is not. That nobody is kept out any more comes last: see
/// `Services::open`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Table {
    Mangle,
    Nat,
    Filter,
}

impl Table {
    pub(super) const ALL: [Table; 3] = [Table::Mangle, Table::Nat, Table::Filter];

    pub(super) fn parse(name: &str) -> Option<Table> {
        Table::ALL.into_iter().find(|table| table.name() == name)
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Table::Mangle => "mangle",
            Table::Nat => "nat",
            Table::Filter => "filter",
        }
    }
}

/// Chains that are always there.
pub(super) const SERVICES: &str = "VIADUCT-SERVICES";
pub(super) const POSTROUTING: &str = "VIADUCT-POSTROUTING";
pub(super) const MASQUERADE: &str = "VIADUCT-MASQUERADE";
pub(super) const ELSEWHERE: &str = "VIADUCT-ELSEWHERE";
pub(super) const INPUT: &str = "VIADUCT-INPUT";
pub(super) const FORWARD: &str = "VIADUCT-FORWARD";
pub(super) const NEW: &str = "VIADUCT-NEW";
pub(super) const REJECT: &str = "VIADUCT-REJECT";

/// A chain that a Service port has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Own {
    /// One of the Cluster policy's endpoints. The name is kube-proxy's, as the others.
    Cluster,
    /// One of the Local policy's endpoints.
    Local,
    /// External traffic with the Local policy.
    External,
}

impl Own {
    pub(super) const ALL: [Own; 3] = [Own::Cluster, Own::Local, Own::External];

    pub(super) fn of(self, owner: &ServicePortName) -> String {
        let kind = match self {
            Own::Cluster => "SVC",
            Own::Local => "SVL",
            Own::External => "EXT",
        };
        format!("{PREFIX}{kind}-{}", short(owner))
    }
}

/// The chain of the clients that a frontend lets in.
pub(super) fn clients(key: &FrontendKey) -> String {
    format!("{PREFIX}FW-{}", short(key))
}

/// The list (of `xt_recent`) of an endpoint's clients.
pub(super) fn client_list(owner: &ServicePortName, backend: impl fmt::Display) -> String {
    format!("{PREFIX}{}", short(format_args!("{owner} {backend}")))
}

/// So many letters tell names apart; the kernel takes 28 in all.
const LENGTH: usize = 16;

/// Letters of what is too long to be in a name: 80 bits.
pub(super) fn short(what: impl fmt::Display) -> String {
    const LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    // Of names that users choose: nobody must find another one with the same letters.
    let digest = digest(&SHA256, what.to_string().as_bytes());
    let hash =
        digest.as_ref().iter().take(16).fold(0u128, |hash, byte| hash << 8 | u128::from(*byte));
    (0..LENGTH).map(|at| char::from(LETTERS[(hash >> (at * 5)) as usize & 31])).collect()
}

/// A comment as iptables takes and prints it.
pub(super) fn comment(what: impl fmt::Display) -> String {
    const LONGEST: usize = 250;
    let harmless =
        |c: char| if c.is_ascii_alphanumeric() || " .:/_-".contains(c) { c } else { '_' };
    let text: String = what.to_string().chars().map(harmless).take(LONGEST).collect();
    format!("-m comment --comment \"{text}\"")
}
