//! Which pods a peer selects: every distinct selector is asked once about each pod, and remembers.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::chain::ChainKey;
use super::claims::Claims;
use super::dirty::Dirty;
use super::matches::number;
use crate::labels::Selector;
use crate::world::{Pod, PodName, World};

/// Pods by their labels and their namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct PodSet {
    pub(super) namespaces: Namespaces,
    pub(super) pods: Selector,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Namespaces {
    /// All, known or not.
    Any,
    One(Arc<str>),
    Selected(Selector),
}

impl PodSet {
    fn matches(&self, world: &World, name: &PodName, pod: &Pod) -> bool {
        // A pod in a node's network is the node.
        !pod.host_network
            && self.matches_namespace(world, &name.namespace)
            && self.pods.matches(&pod.labels)
    }

    fn matches_namespace(&self, world: &World, name: &Arc<str>) -> bool {
        match &self.namespaces {
            Namespaces::Any => true,
            Namespaces::One(own) => own == name,
            Namespaces::Selected(selector) => match world.namespaces.get(name) {
                Some(namespace) => selector.matches(&namespace.labels),
                // Its labels are not known: nobody is let in by them.
                None => false,
            },
        }
    }
}

#[derive(Debug, Default)]
struct Selected {
    pods: BTreeSet<PodName>,
    users: BTreeSet<ChainKey>,
    /// Their addresses, in order, for each [`Contested`]; made when they are asked for.
    addresses: [Option<Arc<[IpAddr]>>; 2],
}

/// When an address counts that several pods claim: the old holder's end can be told late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Contested {
    /// If the set has all of them: what lets somebody in.
    All,
    /// If the set has any of them: what keeps somebody out.
    Any,
}

fn pods_of<'a>(
    world: &'a World,
    namespace: &'a Arc<str>,
) -> impl Iterator<Item = (&'a PodName, &'a Pod)> {
    let first = PodName { namespace: Arc::clone(namespace), name: "".into() };
    world.pods.range(first..).take_while(|(pod, _)| pod.namespace == *namespace)
}

/// All selectors that chains use.
#[derive(Debug, Default)]
pub(super) struct Selectors {
    sets: HashMap<PodSet, Selected>,
    of_chain: HashMap<ChainKey, BTreeSet<PodSet>>,
}

impl Selectors {
    /// The addresses of the pods of a set, on behalf of a chain.
    pub(super) fn addresses(
        &mut self,
        world: &World,
        claims: &Claims,
        (set, contested): (&PodSet, Contested),
        user: &ChainKey,
    ) -> Arc<[IpAddr]> {
        let selected = self.select(world, set, user);
        if let Some(known) = &selected.addresses[contested as usize] {
            return Arc::clone(known);
        }
        let all = selected.pods.iter().flat_map(|pod| claims.of_pod(world, pod)).copied();
        let counts = |address: &IpAddr| selected.counts(claims.of_address(*address), contested);
        let mut all: Vec<IpAddr> = all.filter(counts).collect();
        all.sort_unstable_by_key(|address| number(*address));
        all.dedup();
        let all: Arc<[IpAddr]> = all.into();
        selected.addresses[contested as usize] = Some(Arc::clone(&all));
        all
    }

    /// The same of some addresses alone; of sets that a chain asks already.
    pub(super) fn among(
        &self,
        claims: &Claims,
        (set, contested): (&PodSet, Contested),
        addresses: &BTreeSet<IpAddr>,
    ) -> Arc<[IpAddr]> {
        let Some(selected) = self.sets.get(set) else { return Arc::new([]) };
        let counts = |ip: &&IpAddr| selected.counts(claims.of_address(**ip), contested);
        addresses.iter().filter(counts).copied().collect()
    }

    fn select(&mut self, world: &World, set: &PodSet, user: &ChainKey) -> &mut Selected {
        self.of_chain.entry(user.clone()).or_default().insert(set.clone());
        let selected = self.sets.entry(set.clone()).or_insert_with(|| {
            let all: Box<dyn Iterator<Item = (&PodName, &Pod)>> = match &set.namespaces {
                Namespaces::One(namespace) => Box::new(pods_of(world, namespace)),
                Namespaces::Any | Namespaces::Selected(_) => Box::new(world.pods.iter()),
            };
            let pods = all.filter(|(name, pod)| set.matches(world, name, pod));
            Selected { pods: pods.map(|(name, _)| name.clone()).collect(), ..Selected::default() }
        });
        selected.users.insert(user.clone());
        selected
    }

    /// A chain is not there any more.
    pub(super) fn release(&mut self, user: &ChainKey) {
        let used = self.of_chain.remove(user).unwrap_or_default();
        used.iter().for_each(|set| self.leave(set, user));
    }

    /// A chain is built anew by this, and most of what it asks is what it asked before.
    pub(super) fn rebuild<T>(
        &mut self,
        user: &ChainKey,
        build: impl FnOnce(&mut Selectors) -> T,
    ) -> T {
        let before = self.of_chain.remove(user).unwrap_or_default();
        let built = build(self);
        let now = self.of_chain.remove(user).unwrap_or_default();
        before.difference(&now).for_each(|set| self.leave(set, user));
        if !now.is_empty() {
            self.of_chain.insert(user.clone(), now);
        }
        built
    }

    fn leave(&mut self, set: &PodSet, user: &ChainKey) {
        if let Some(selected) = self.sets.get_mut(set) {
            selected.users.remove(user);
            if selected.users.is_empty() {
                self.sets.remove(set);
            }
        }
    }

    /// These addresses of a pod, its ports, or who else claims an address of it, changed: that touches the
    /// chains that have it among their peers.
    pub(super) fn addresses_changed(
        &mut self,
        name: &PodName,
        addresses: &[IpAddr],
        dirty: &mut Dirty,
    ) {
        for selected in self.sets.values_mut().filter(|selected| selected.pods.contains(name)) {
            selected.touch(addresses, dirty);
        }
    }

    /// A pod may be one of a chain's peers now, or none any more, with the addresses that it has or had.
    pub(super) fn pod_changed(
        &mut self,
        world: &World,
        name: &PodName,
        addresses: &[IpAddr],
        dirty: &mut Dirty,
    ) {
        let pod = world.pods.get(name);
        for (set, selected) in &mut self.sets {
            let changed = if pod.is_some_and(|pod| set.matches(world, name, pod)) {
                !selected.pods.contains(name) && selected.pods.insert(name.clone())
            } else {
                selected.pods.remove(name)
            };
            if changed {
                selected.touch(addresses, dirty);
            }
        }
    }

    /// The labels of a namespace changed.
    pub(super) fn namespace_changed(
        &mut self,
        world: &World,
        claims: &Claims,
        name: &Arc<str>,
        dirty: &mut Dirty,
    ) {
        let members: Vec<(&PodName, &Pod)> = pods_of(world, name).collect();
        for (set, selected) in &mut self.sets {
            if !matches!(set.namespaces, Namespaces::Selected(_)) {
                continue;
            }
            let mut addresses = Vec::new();
            for (pod_name, pod) in &members {
                let changed = if set.matches(world, pod_name, pod) {
                    selected.pods.insert((*pod_name).clone())
                } else {
                    selected.pods.remove(*pod_name)
                };
                if changed {
                    addresses.extend(claims.of_pod(world, pod_name));
                }
            }
            if !addresses.is_empty() {
                selected.touch(&addresses, dirty);
            }
        }
    }
}

impl Selected {
    /// What is known of some addresses is not true any more.
    fn touch(&mut self, addresses: &[IpAddr], dirty: &mut Dirty) {
        self.addresses = [None, None];
        self.users.iter().for_each(|chain| dirty.addresses(chain, addresses));
    }

    /// Whether an address counts that these claim.
    fn counts(&self, claimants: &[PodName], contested: Contested) -> bool {
        let selected = |claimant| self.pods.contains(claimant);
        match contested {
            Contested::All => !claimants.is_empty() && claimants.iter().all(selected),
            Contested::Any => claimants.iter().any(selected),
        }
    }
}
