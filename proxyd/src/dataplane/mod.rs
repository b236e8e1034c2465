//! From the abstract service table to the kernel: one table, a writer for each proxy mode.
//!
//! - `node`: what every writer depends on besides Services
//! - `nftables`, `iptables`: the writers; `programs`: what the latter executes
//! - `policy`: what judges connections of pods, in every mode
//! - `leftovers`: what another mode, or another proxy, left

pub mod iptables;
pub mod leftovers;
pub mod nftables;
mod node;
pub mod policy;
pub mod programs;

use std::time::Instant;

use netlink::{Errno, Error, Family, Result};

pub use node::{FAMILIES, Node, NodePorts, PodTraffic, Settings, Written, index};

use crate::config::Mode;
use crate::service::table::Delta;
use crate::service::{Frontend, FrontendKey};
use iptables::Iptables;
use leftovers::Keep;
use nftables::Nftables;

/// The writer of a mode. Each keeps what it committed, so that a change costs what it changes; after any error
/// nothing is assumed, and [`Dataplane::reconcile`] compares everything.
pub enum Dataplane {
    /// See [`nftables`].
    Nftables(Box<Nftables>),
    /// See [`iptables`].
    Iptables(Box<Iptables>),
}

impl Dataplane {
    /// Opens what the mode needs in the calling thread's network namespace.
    pub fn open(mode: Mode) -> Result<Dataplane> {
        match mode {
            Mode::Nftables => Ok(Dataplane::Nftables(Box::new(Nftables::open()?))),
            Mode::Iptables => Ok(Dataplane::Iptables(Box::new(Iptables::open()?))),
            other => Err(Error::new(format!("--proxy-mode {other}"), Errno::OPNOTSUPP)),
        }
    }

    /// The netlink port by which our own changes are known among the kernel's notifications of nftables, if
    /// that is how they are made.
    pub fn port(&self) -> Result<Option<u32>> {
        match self {
            Dataplane::Nftables(nft) => nft.port().map(Some),
            Dataplane::Iptables(_) => Ok(None),
        }
    }

    /// Looks whether somebody else changed something, where the kernel does not tell; says what.
    pub fn look(&mut self) -> Result<Vec<String>> {
        match self {
            Dataplane::Nftables(_) => Ok(Vec::new()),
            Dataplane::Iptables(iptables) => iptables.look(),
        }
    }

    /// What of our own must stay when the leavings of others go.
    pub fn keep(&self) -> Keep {
        match self {
            Dataplane::Nftables(_) => Keep::Nothing,
            Dataplane::Iptables(iptables) => Keep::OursIn(iptables.variant()),
        }
    }

    /// Reads what is in the kernel while others read the Services, for the first [`Dataplane::reconcile`].
    pub fn read_ahead(&mut self) -> Result<()> {
        match self {
            Dataplane::Nftables(nft) => nft.read_ahead(),
            // What is there is read when it is compared.
            Dataplane::Iptables(_) => Ok(()),
        }
    }

    /// Whether what is in the kernel is known, so that [`Dataplane::apply`] can be used.
    pub fn is_known(&self) -> bool {
        match self {
            Dataplane::Nftables(nft) => nft.is_known(),
            Dataplane::Iptables(iptables) => iptables.is_known(),
        }
    }

    /// Commits what changed. After an error the state is not known any more.
    pub fn apply(&mut self, delta: &Delta, nodes: &[Node; 2], now: Instant) -> Result<Written> {
        match self {
            Dataplane::Nftables(nft) => nft.apply(delta, nodes, now),
            Dataplane::Iptables(iptables) => iptables.apply(delta, nodes),
        }
    }

    /// Reads what is in the kernel, and writes what differs from these frontends.
    pub fn reconcile<'a>(
        &mut self,
        frontends: impl Fn() -> Vec<(FrontendKey, &'a Frontend)>,
        nodes: &[Node; 2],
        now: Instant,
    ) -> Result<Written> {
        match self {
            Dataplane::Nftables(nft) => nft.reconcile(frontends, nodes, now),
            Dataplane::Iptables(iptables) => iptables.reconcile(&frontends(), nodes),
        }
    }

    /// Rules in each table of iptables, and those that the last sync wrote, if that is the mode.
    pub fn rules(&self, family: Family) -> Vec<(&'static str, usize, usize)> {
        match self {
            Dataplane::Nftables(_) => Vec::new(),
            Dataplane::Iptables(iptables) => iptables.rules(family),
        }
    }

    /// Frontends and endpoints of a family that are in the kernel.
    pub fn counts(&self, family: Family) -> (usize, usize) {
        match self {
            Dataplane::Nftables(nft) => nft.counts(family),
            Dataplane::Iptables(iptables) => iptables.counts(family),
        }
    }
}
