//! Who has which address. Two pods may claim one: the old holder's end can be told after the new one's start.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::world::{PodName, World};

#[derive(Debug, Default)]
pub(super) struct Claims {
    of_v4: HashMap<Ipv4Addr, Claimants>,
    of_v6: HashMap<Ipv6Addr, Claimants>,
    /// Pods that claim something else than what the API server says they have.
    others: HashMap<PodName, Vec<IpAddr>>,
}

/// Nearly always it is one.
#[derive(Debug)]
enum Claimants {
    One(PodName),
    More(Vec<PodName>),
}

impl Claimants {
    fn all(&self) -> &[PodName] {
        match self {
            Claimants::One(name) => std::slice::from_ref(name),
            Claimants::More(names) => names,
        }
    }
}

impl Claims {
    /// The addresses of a pod.
    pub(super) fn of_pod<'a>(&'a self, world: &'a World, name: &PodName) -> &'a [IpAddr] {
        if let Some(addresses) = self.others.get(name) {
            return addresses;
        }
        let pod = world.pods.get(name).filter(|pod| !pod.host_network);
        pod.map_or(&[], |pod| &pod.addresses)
    }

    /// Everybody who claims an address.
    pub(super) fn of_address(&self, address: IpAddr) -> &[PodName] {
        let claimants = match address {
            IpAddr::V4(v4) => self.of_v4.get(&v4),
            IpAddr::V6(v6) => self.of_v6.get(&v6),
        };
        claimants.map_or(&[], Claimants::all)
    }

    /// A pod that claimed the addresses `before` claims others now. Tells who shares an address with it, or did.
    pub(super) fn set(
        &mut self,
        world: &World,
        name: &PodName,
        before: &[IpAddr],
        now: Vec<IpAddr>,
    ) -> Vec<PodName> {
        let mut others = Vec::new();
        for address in before {
            let mut left = self.of_address(*address).to_vec();
            left.retain(|claimant| claimant != name);
            others.extend(left.iter().cloned());
            self.put(*address, left);
        }
        for address in &now {
            let mut claimants = self.of_address(*address).to_vec();
            others.extend(claimants.iter().cloned());
            claimants.push(name.clone());
            self.put(*address, claimants);
        }
        self.others.remove(name);
        if self.of_pod(world, name) != now {
            self.others.insert(name.clone(), now);
        }
        others
    }

    fn put(&mut self, address: IpAddr, mut claimants: Vec<PodName>) {
        let claimants = match claimants.len() {
            0 => None,
            1 => Some(Claimants::One(claimants.remove(0))),
            _ => Some(Claimants::More(claimants)),
        };
        match address {
            IpAddr::V4(v4) => set(&mut self.of_v4, v4, claimants),
            IpAddr::V6(v6) => set(&mut self.of_v6, v6, claimants),
        }
    }
}

fn set<A: Eq + Hash>(all: &mut HashMap<A, Claimants>, address: A, claimants: Option<Claimants>) {
    match claimants {
        None => drop(all.remove(&address)),
        Some(claimants) => drop(all.insert(address, claimants)),
    }
}
