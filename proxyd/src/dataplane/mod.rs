//! From the abstract service table to the kernel: one table, a writer for each proxy mode.
//!
//! - `node`: what every writer depends on besides Services
//! - `nftables`, `iptables`, `ipvs`: the writers; `programs`: what the second executes
//! - `policy`: what judges connections of pods, in every mode
//! - `leftovers`: what another mode, or another proxy, left

pub mod iptables;
pub mod ipvs;
pub mod leftovers;
pub mod nftables;
mod node;
pub mod policy;
pub mod programs;

use std::time::Instant;

use netlink::{Family, Result};

pub use node::{FAMILIES, Node, NodePorts, PodTraffic, Settings, Written, index};

use crate::config::{self, Mode};
use crate::service::table::Delta;
use crate::service::{Frontend, FrontendKey};
use iptables::Iptables;
use ipvs::Ipvs;
use leftovers::Keep;
use nftables::Nftables;

/// The writer of a mode. Each keeps what it committed, so that a change costs what it changes; after any error
/// nothing is assumed, and [`Dataplane::reconcile`] compares everything.
pub enum Dataplane {
    /// See [`nftables`].
    Nftables(Box<Nftables>),
    /// See [`iptables`].
    Iptables(Box<Iptables>),
    /// See [`ipvs`].
    Ipvs(Box<Ipvs>),
}

impl Dataplane {
    /// Opens what a mode needs in the calling thread's network namespace.
    pub fn open(mode: Mode, ipvs: &config::Ipvs) -> Result<Dataplane> {
        match mode {
            Mode::Nftables => Nftables::open().map(Box::new).map(Dataplane::Nftables),
            Mode::Iptables => Iptables::open().map(Box::new).map(Dataplane::Iptables),
            Mode::Ipvs => Ipvs::open(ipvs).map(Box::new).map(Dataplane::Ipvs),
        }
    }

    /// The netlink port by which our own changes are known among the kernel's notifications of nftables, if
    /// that is how they are made.
    pub fn port(&self) -> Result<Option<u32>> {
        match self {
            Dataplane::Nftables(nft) => nft.port().map(Some),
            Dataplane::Iptables(_) => Ok(None),
            Dataplane::Ipvs(ipvs) => ipvs.port().map(Some),
        }
    }

    /// What of our own must stay when the leavings of others go.
    pub fn keep(&self) -> Keep {
        match self {
            Dataplane::Nftables(_) | Dataplane::Ipvs(_) => Keep::Nothing,
            Dataplane::Iptables(iptables) => Keep::OursIn(iptables.variant()),
        }
    }

    /// Reads what is in the kernel while others read the Services, for the first [`Dataplane::reconcile`].
    pub fn read_ahead(&mut self) -> Result<()> {
        match self {
            Dataplane::Nftables(nft) => nft.read_ahead(),
            // What is there is read when it is compared.
            Dataplane::Iptables(_) | Dataplane::Ipvs(_) => Ok(()),
        }
    }

    /// Whether what is in the kernel is known, so that [`Dataplane::apply`] can be used with these settings.
    pub fn is_known(&self, nodes: &[Node; 2]) -> bool {
        match self {
            Dataplane::Nftables(nft) => nft.is_known(),
            Dataplane::Iptables(iptables) => iptables.is_known(),
            Dataplane::Ipvs(ipvs) => ipvs.is_known(nodes),
        }
    }

    /// Commits what changed. After an error the state is not known any more.
    pub fn apply(&mut self, delta: &Delta, nodes: &[Node; 2], now: Instant) -> Result<Written> {
        match self {
            Dataplane::Nftables(nft) => nft.apply(delta, nodes, now),
            Dataplane::Iptables(iptables) => iptables.apply(delta, nodes, now),
            Dataplane::Ipvs(ipvs) => ipvs.apply(delta, nodes, now),
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
            Dataplane::Iptables(iptables) => iptables.reconcile(&frontends(), nodes, now),
            Dataplane::Ipvs(ipvs) => ipvs.reconcile(frontends, nodes, now),
        }
    }

    /// Rules in each table of iptables, and those that the last sync wrote, if that is the mode.
    pub fn rules(&self, family: Family) -> Vec<(&'static str, usize, usize)> {
        match self {
            Dataplane::Nftables(_) | Dataplane::Ipvs(_) => Vec::new(),
            Dataplane::Iptables(iptables) => iptables.rules(family),
        }
    }

    /// Frontends and endpoints of a family that are in the kernel.
    pub fn counts(&self, family: Family) -> (usize, usize) {
        match self {
            Dataplane::Nftables(nft) => nft.counts(family),
            Dataplane::Iptables(iptables) => iptables.counts(family),
            Dataplane::Ipvs(ipvs) => ipvs.counts(family),
        }
    }

    /// When [`Dataplane::look`] is due, where the kernel does not tell what becomes of what was written.
    pub fn look_at(&self) -> Option<Instant> {
        match self {
            Dataplane::Nftables(_) => None,
            Dataplane::Iptables(iptables) => iptables.look_at(),
            Dataplane::Ipvs(ipvs) => ipvs.look_at(),
        }
    }

    /// Finishes what takes its time, and tells what somebody else changed.
    pub fn look(&mut self, now: Instant) -> Result<Vec<String>> {
        match self {
            Dataplane::Nftables(_) => Ok(Vec::new()),
            Dataplane::Iptables(iptables) => iptables.look(now),
            Dataplane::Ipvs(ipvs) => ipvs.look(now),
        }
    }
}
