//! Who has which address. Two pods may claim one: the old holder's end can be told after the new one's start.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::world::PodName;

#[derive(Debug, Default)]
pub(super) struct Claims {
    of_address: HashMap<IpAddr, Vec<PodName>>,
    of_pod: HashMap<PodName, Vec<IpAddr>>,
}

impl Claims {
    /// The addresses of a pod.
    pub(super) fn of_pod(&self, name: &PodName) -> &[IpAddr] {
        self.of_pod.get(name).map_or(&[], Vec::as_slice)
    }

    /// Everybody who claims an address.
    pub(super) fn of_address(&self, address: IpAddr) -> &[PodName] {
        self.of_address.get(&address).map_or(&[], Vec::as_slice)
    }

    /// A pod has these addresses now. Tells who shares an address with it, or did.
    pub(super) fn set(&mut self, name: &PodName, addresses: Vec<IpAddr>) -> Vec<PodName> {
        let mut others = Vec::new();
        for address in self.of_pod.remove(name).unwrap_or_default() {
            let Some(claimants) = self.of_address.get_mut(&address) else { continue };
            claimants.retain(|claimant| claimant != name);
            others.extend(claimants.iter().cloned());
            if claimants.is_empty() {
                self.of_address.remove(&address);
            }
        }
        for address in &addresses {
            let claimants = self.of_address.entry(*address).or_default();
            others.extend(claimants.iter().cloned());
            claimants.push(name.clone());
        }
        if !addresses.is_empty() {
            self.of_pod.insert(name.clone(), addresses);
        }
        others
    }
}
