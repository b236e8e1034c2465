//! Address management in process, in the format of the reference plugin `host-local`.
//!
//! A network's folder (`dataDir/NETWORK/`) holds a file per reserved address, named by it, with the
//! container ID and the interface name as content; `last_reserved_ip.N` per range set; and `lock`,
//! which every user of the folder holds. Both plugins can take over from each other at any moment.
//!
//! - [`range`]: ranges and range sets, validated
//! - [`config`]: the `ipam` section
//! - [`store`]: the folder; a reservation appears whole or not at all
//! - [`allocate`]: which address is next

mod allocate;
mod config;
mod range;
mod store;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub(crate) use attachment::Attachment;
use netlink::Prefix;

pub(crate) use config::{Config, Dns, Route};

use crate::error::code;
use store::{Reservation, Store};

/// A reservation that is not older may belong to an ADD that has not made its link yet.
const NEW: Duration = Duration::from_secs(120);

/// An address for an attachment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Allocation {
    /// The address with the length of its subnet.
    pub(crate) address: Prefix,
    /// The subnet's gateway.
    pub(crate) gateway: Option<IpAddr>,
    /// Neighbours may remember the address with a MAC address that does not follow from it.
    pub(crate) stale_neighbours: bool,
}

/// Why there is no address.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A value of the `ipam` section, or of the capability `ipRanges`, is wrong.
    #[error("{key}{}: {problem}", value.as_ref().map(|v| format!(" {v}")).unwrap_or_default())]
    Config { key: String, value: Option<String>, problem: String },
    /// The folder or a file in it cannot be used.
    #[error("IPAM: {operation} {path}: {source}", path = path.display())]
    Io { operation: &'static str, path: PathBuf, source: std::io::Error },
    /// Every address of a range set is reserved.
    #[error("no IP addresses available in range set: {0}")]
    Exhausted(String),
    /// The attachment has an address already.
    #[error("{attachment} already has address {address} in network {network:?}: DEL it first")]
    AlreadyAllocated { attachment: Attachment, address: IpAddr, network: String },
    /// The address that was asked for is somebody else's.
    #[error("requested address {address} is not available: {reason}")]
    NotAvailable { address: IpAddr, reason: String },
    /// CHECK: the attachment has no address.
    #[error("{attachment} has no address in network {network:?}")]
    NotAllocated { attachment: Attachment, network: String },
}

impl Error {
    /// The CNI error code.
    pub(crate) fn code(&self) -> u32 {
        match self {
            Error::Config { .. } => code::INVALID_CONFIG,
            Error::Io { .. } => code::IO,
            Error::Exhausted(_) => code::EXHAUSTED,
            Error::AlreadyAllocated { .. } | Error::NotAvailable { .. } => code::ADDRESS_TAKEN,
            Error::NotAllocated { .. } => code::CHECK_FAILED,
        }
    }
}

/// The result of an IPAM operation.
pub(crate) type Result<T> = std::result::Result<T, Error>;

impl Config {
    fn store(&self, network: &str) -> Result<Store> {
        Store::create(&self.data_dir.join(network))
    }

    /// The store, if the network's folder is there.
    fn existing_store(&self, network: &str) -> Result<Option<Store>> {
        Store::open(&self.data_dir.join(network))
    }

    /// Reserves an address of every range set, the requested ones where they fit; all or none.
    ///
    /// `chosen_mac` tells that the interface's MAC address will not follow from its address.
    pub(crate) fn add(
        &self,
        network: &str,
        attachment: &Attachment,
        requested: &[IpAddr],
        chosen_mac: bool,
    ) -> Result<Vec<Allocation>> {
        let store = self.store(network)?;
        store.forget_earlier_boots(self.range_sets.len())?;
        if let Some(address) = store.held(attachment, self.range_sets.len())? {
            return Err(Error::AlreadyAllocated {
                attachment: attachment.clone(),
                address,
                network: network.to_owned(),
            });
        }
        let mut allocations = allocate::all(&store, &self.range_sets, attachment, requested)?;
        for allocation in &mut allocations {
            let address = allocation.address.address();
            allocation.stale_neighbours = store.swap_foreign_mac(address, chosen_mac) || chosen_mac;
        }
        Ok(allocations)
    }

    /// Frees every address of an attachment; tells which.
    pub(crate) fn del(&self, network: &str, attachment: &Attachment) -> Result<Vec<IpAddr>> {
        let Some(store) = self.existing_store(network)? else { return Ok(Vec::new()) };
        let mut freed = Vec::new();
        for reservation in store.reservations()? {
            if reservation.belongs_to(attachment) {
                store.release(reservation.address)?;
                freed.push(reservation.address);
            }
        }
        store.unmark(attachment, self.range_sets.len());
        Ok(freed)
    }

    /// Takes back what one [`Config::add`] gave, and nothing that the attachment had before.
    pub(crate) fn give_back(
        &self,
        network: &str,
        attachment: &Attachment,
        addresses: &[IpAddr],
    ) -> Result<()> {
        let store = self.store(network)?;
        for address in addresses {
            store.release(*address)?;
        }
        store.unmark(attachment, self.range_sets.len());
        Ok(())
    }

    /// The addresses of an attachment.
    pub(crate) fn held(&self, network: &str, attachment: &Attachment) -> Result<Vec<IpAddr>> {
        let Some(store) = self.existing_store(network)? else { return Ok(Vec::new()) };
        let reservations = store.reservations()?;
        Ok(reservations.iter().filter(|r| r.belongs_to(attachment)).map(|r| r.address).collect())
    }

    /// The addresses of an attachment; none is an error.
    pub(crate) fn check(&self, network: &str, attachment: &Attachment) -> Result<Vec<IpAddr>> {
        let reservations = match self.existing_store(network)? {
            Some(store) => store.reservations()?,
            None => Vec::new(),
        };
        let held: Vec<IpAddr> =
            reservations.iter().filter(|r| r.belongs_to(attachment)).map(|r| r.address).collect();
        if held.is_empty() {
            let (attachment, network) = (attachment.clone(), network.to_owned());
            return Err(Error::NotAllocated { attachment, network });
        }
        Ok(held)
    }

    /// The reservations that belong to none of the valid attachments.
    pub(crate) fn stale(
        &self,
        network: &str,
        valid: &[Attachment],
    ) -> Result<Vec<(Attachment, IpAddr)>> {
        let Some(store) = self.existing_store(network)? else { return Ok(Vec::new()) };
        Ok(stale(store.reservations()?, valid)
            .into_iter()
            .map(|r| (r.attachment().unwrap_or_else(without_owner), r.address))
            .collect())
    }

    /// Frees the reservations that belong to none of the valid attachments, and those of nobody.
    pub(crate) fn gc(&self, network: &str, valid: &[Attachment]) -> Result<Vec<IpAddr>> {
        let Some(store) = self.existing_store(network)? else { return Ok(Vec::new()) };
        let mut freed = Vec::new();
        for reservation in stale(store.reservations()?, valid) {
            store.release(reservation.address)?;
            freed.push(reservation.address);
        }
        store.sweep()?;
        Ok(freed)
    }

    /// Frees the addresses of attachments that are dead: somebody killed their ADD, or deleted their link
    /// and never called DEL. What was reserved lately may have no link yet. Tells what it freed.
    pub(crate) fn reclaim(
        &self,
        network: &str,
        is_dead: impl Fn(&Attachment) -> bool,
    ) -> Result<Vec<(Attachment, IpAddr)>> {
        let Some(store) = self.existing_store(network)? else { return Ok(Vec::new()) };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // A reservation of the future is of a time before the clock was set back.
        let new = now.saturating_sub(NEW).as_secs() as i64..=(now + NEW).as_secs() as i64;
        let mut freed = Vec::new();
        for reservation in store.own_outside(&new, self.range_sets.len())? {
            if let Some(attachment) = reservation.attachment().filter(&is_dead) {
                store.release(reservation.address)?;
                freed.push((attachment, reservation.address));
            }
        }
        store.sweep()?;
        Ok(freed)
    }

    /// Whether every range set has a free address.
    pub(crate) fn status(&self, network: &str) -> Result<()> {
        let reservations = match self.existing_store(network)? {
            Some(store) => store.reservations()?,
            None => Vec::new(),
        };
        allocate::check_room(&self.range_sets, &reservations)
    }
}

/// The attachment of a reservation without an owner.
fn without_owner() -> Attachment {
    Attachment { container_id: "(no owner)".to_owned(), ifname: String::new() }
}

fn stale(reservations: Vec<Reservation>, valid: &[Attachment]) -> Vec<Reservation> {
    let is_stale = |r: &Reservation| !valid.iter().any(|attachment| r.belongs_to(attachment));
    reservations.into_iter().filter(is_stale).collect()
}

#[cfg(test)]
mod tests;
