//! The world as one node enforces it.
//!
//! Each local address leads to a chain per direction in which anything is judged; pods whose policies say the
//! same share their chains. A change of the world costs the selectors (each is asked once about the pod that
//! changed) and the chains that it concerns, not what exists.

mod attachments;
mod chain;
mod claims;
mod dirty;
mod matches;
mod selectors;
mod sources;
mod verdicts;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

pub use attachments::Attachment;
pub use chain::{Chain, ChainKey, Rest, Step};
pub use dirty::Touched;
pub use matches::{Matches, OfAddress, Ports, Range, TooLarge, about};
pub use sources::Sources;

use crate::cidr::Cidr;
use crate::model::{ClusterPolicy, Policy, PolicyName};
use crate::world::{Namespace, Node, Pod, PodName, World};
use claims::Claims;
use dirty::Dirty;
use selectors::Selectors;

/// Something is there now, or (`None`) no more.
#[derive(Clone, Debug)]
pub enum Change {
    /// A pod; one that has ended is gone.
    Pod(PodName, Option<Pod>),
    /// A namespace.
    Namespace(Arc<str>, Option<Namespace>),
    /// A node.
    Node(Arc<str>, Option<Node>),
    /// A NetworkPolicy.
    Policy(PolicyName, Option<Policy>),
    /// A ClusterNetworkPolicy.
    ClusterPolicy(Arc<str>, Option<ClusterPolicy>),
}

/// What changed since it was asked last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// Chains that are new or have changed, and what of them.
    pub chains: BTreeMap<ChainKey, Touched>,
    /// Chains that nobody needs any more.
    pub gone: BTreeSet<ChainKey>,
    /// Addresses whose chains are others now.
    pub addresses: BTreeSet<IpAddr>,
    /// Whether other networks are denied than before.
    pub networks: bool,
    /// Links whose pods may send from other addresses now.
    pub links: BTreeSet<Arc<str>>,
}

impl Update {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        *self == Update::default()
    }
}

/// Chains of an address, for ingress and egress; `None`: nothing is judged.
pub type Verdicts = [Option<ChainKey>; 2];

/// The compiled world, kept up to date.
#[derive(Debug)]
pub struct Compiler {
    node: Arc<str>,
    world: World,
    attachments: BTreeMap<Arc<str>, Attachment>,
    /// The same by pod.
    attached: BTreeMap<PodName, BTreeSet<Arc<str>>>,
    /// Pods that run here.
    local: BTreeSet<PodName>,
    /// Who claims an address: pods that do not live in a node's network.
    claims: Claims,
    selectors: Selectors,
    chains: BTreeMap<ChainKey, Arc<Chain>>,
    addresses: BTreeMap<IpAddr, Verdicts>,
    denied_networks: Vec<Cidr>,
    sources: Sources,
    dirty_chains: Dirty,
    /// Whether the chains of local addresses must be looked at.
    dirty_addresses: bool,
    /// Whether attachments or namespaces have changed.
    dirty_sources: bool,
    /// Chains that would be too large; they deny everything.
    too_large: BTreeSet<ChainKey>,
}

impl Compiler {
    /// An empty world, as seen from a node.
    pub fn new(node: impl Into<Arc<str>>) -> Compiler {
        Compiler {
            node: node.into(),
            world: World::default(),
            attachments: BTreeMap::new(),
            attached: BTreeMap::new(),
            local: BTreeSet::new(),
            claims: Claims::default(),
            selectors: Selectors::default(),
            chains: BTreeMap::new(),
            addresses: BTreeMap::new(),
            denied_networks: Vec::new(),
            sources: Sources::new(),
            dirty_chains: Dirty::default(),
            dirty_addresses: false,
            dirty_sources: false,
            too_large: BTreeSet::new(),
        }
    }

    /// Denies everything to addresses of this node's pods that no pod is known to have.
    pub fn deny_unknown_pods(&mut self) {
        self.world.deny_unknown_pods = true;
        self.dirty_addresses = true;
    }

    /// Networks of which every address is denied everything that is not among
    /// [`addresses`](Compiler::addresses).
    pub fn denied_networks(&self) -> &[Cidr] {
        &self.denied_networks
    }

    /// What is known.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// Chains of local addresses, and, where those that are not known are denied, known addresses without any; as
    /// of the last [`update`](Compiler::update).
    pub fn addresses(&self) -> &BTreeMap<IpAddr, Verdicts> {
        &self.addresses
    }

    /// From which addresses local pods may send, as of the last [`update`](Compiler::update).
    pub fn sources(&self) -> &Sources {
        &self.sources
    }

    /// A chain.
    pub fn chain(&self, key: &ChainKey) -> Option<&Arc<Chain>> {
        self.chains.get(key)
    }

    /// All chains.
    pub fn chains(&self) -> impl Iterator<Item = (&ChainKey, &Arc<Chain>)> {
        self.chains.iter()
    }

    /// Chains that would be too large; they deny everything.
    pub fn too_large(&self) -> &BTreeSet<ChainKey> {
        &self.too_large
    }

    /// Takes a change in.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Pod(name, pod) => self.set_pod(name, pod),
            Change::Namespace(name, namespace) => {
                let old = match &namespace {
                    Some(new) => self.world.namespaces.insert(Arc::clone(&name), new.clone()),
                    None => self.world.namespaces.remove(&name),
                };
                if old != namespace {
                    self.dirty_addresses = true;
                    self.dirty_sources = true;
                    let (world, claims) = (&self.world, &self.claims);
                    self.selectors.namespace_changed(world, claims, &name, &mut self.dirty_chains);
                }
            }
            Change::Node(name, node) => {
                let old = match &node {
                    Some(new) => self.world.nodes.insert(name, new.clone()),
                    None => self.world.nodes.remove(&name),
                };
                if old != node {
                    let asking = self.chains.keys().filter(|key| self.asks_nodes(key));
                    let asking: Vec<ChainKey> = asking.cloned().collect();
                    self.dirty_chains.whole(asking);
                    self.dirty_addresses = true;
                }
            }
            Change::Policy(name, policy) => {
                let old = match &policy {
                    Some(new) => self.world.policies.insert(name.clone(), new.clone()),
                    None => self.world.policies.remove(&name),
                };
                if old != policy {
                    self.dirty_addresses = true;
                    let of_it = |key: &&ChainKey| key.policies.contains(&name);
                    self.dirty_chains.whole(self.chains.keys().filter(of_it).cloned());
                }
            }
            Change::ClusterPolicy(name, policy) => {
                let old = match &policy {
                    Some(new) => self.world.cluster_policies.insert(Arc::clone(&name), new.clone()),
                    None => self.world.cluster_policies.remove(&name),
                };
                if old != policy {
                    self.dirty_addresses = true;
                    let of_it = |key: &&ChainKey| key.cluster_policies.contains(&name);
                    self.dirty_chains.whole(self.chains.keys().filter(of_it).cloned());
                }
            }
        }
    }

    /// Whose address this is; of several pods that claim it, any.
    pub fn pod_at(&self, address: IpAddr) -> Option<&PodName> {
        self.claims.of_address(address).first()
    }

    /// Addresses of a pod have changed without the pod.
    fn reconsider(&mut self, name: &PodName) {
        self.dirty_addresses = true;
        self.dirty_sources = true;
        let before = self.claims.of_pod(&self.world, name).to_vec();
        self.claim(name, &before);
        self.settle(name);
    }

    /// Notes whether a pod runs here: the API server says so, or it was attached here.
    fn settle(&mut self, name: &PodName) {
        let pod = self.world.pods.get(name);
        let here = pod.is_some_and(|pod| {
            pod.node == self.node || self.attachments_of(name, pod).next().is_some()
        });
        if here {
            self.local.insert(name.clone());
        } else {
            self.local.remove(name);
        }
    }

    fn set_pod(&mut self, name: PodName, pod: Option<Pod>) {
        if self.world.pods.get(&name) == pod.as_ref() {
            return;
        }
        let is_here = |pod: &Pod| pod.node == self.node;
        self.dirty_addresses |= pod.as_ref().is_some_and(is_here)
            || self.world.pods.get(&name).is_some_and(is_here)
            || self.attached.contains_key(&name);
        let claimed = self.claims.of_pod(&self.world, &name).to_vec();
        let old = match pod {
            Some(pod) => self.world.pods.insert(name.clone(), pod),
            None => self.world.pods.remove(&name),
        };
        let new = self.world.pods.get(&name);
        // As a peer, a pod is its addresses and what it calls its ports.
        let same = old.zip(new).is_some_and(|(old, new)| {
            (&old.addresses, &old.ports, &old.uid, old.host_network)
                == (&new.addresses, &new.ports, &new.uid, new.host_network)
        });
        let mut addresses = claimed.clone();
        addresses.extend(self.addresses_of(&name));
        self.selectors.pod_changed(&self.world, &name, &addresses, &mut self.dirty_chains);
        if !same {
            self.claim(&name, &claimed);
        }
        self.settle(&name);
    }

    /// Its claims were those `before`; what it calls its ports may have changed too.
    fn claim(&mut self, name: &PodName, before: &[IpAddr]) {
        let now = self.addresses_of(name);
        let touched: Vec<IpAddr> = before.iter().chain(&now).copied().collect();
        self.selectors.addresses_changed(name, &touched, &mut self.dirty_chains);
        for other in self.claims.set(&self.world, name, before, now) {
            self.dirty_addresses = true;
            self.selectors.addresses_changed(&other, &touched, &mut self.dirty_chains);
        }
    }

    /// Addresses of a pod: those that the API tells, and those of its attachments here.
    fn addresses_of(&self, name: &PodName) -> Vec<IpAddr> {
        let Some(pod) = self.world.pods.get(name) else { return Vec::new() };
        if pod.host_network {
            return Vec::new();
        }
        let mut addresses: Vec<IpAddr> = Vec::new();
        let attached = self.attachments_of(name, pod).flat_map(|attachment| &attachment.addresses);
        for address in pod.addresses.iter().chain(attached) {
            if !addresses.contains(address) {
                addresses.push(*address);
            }
        }
        addresses
    }

    fn asks_nodes(&self, key: &ChainKey) -> bool {
        let policies = key.cluster_policies.iter();
        let policies = policies.filter_map(|name| self.world.cluster_policies.get(name));
        let mut rules = policies.flat_map(|policy| policy.rules(key.direction));
        rules.any(|rule| {
            rule.peers.iter().any(|peer| matches!(peer, crate::model::ClusterPeer::Nodes(_)))
        })
    }

    /// Takes no more memory for pods than they need: what grows bit by bit has room that nobody uses.
    pub fn compact(&mut self) {
        self.world.pods = std::mem::take(&mut self.world.pods).into_iter().collect();
    }

    /// Brings chains and addresses up to date, and tells what changed.
    pub fn update(&mut self) -> Update {
        let mut update = Update::default();
        if std::mem::take(&mut self.dirty_addresses) {
            self.update_addresses(&mut update);
        }
        if std::mem::take(&mut self.dirty_sources) {
            self.update_sources(&mut update);
        }
        for (key, touched) in std::mem::take(&mut self.dirty_chains) {
            if !self.chains.contains_key(&key) {
                continue;
            }
            if let Touched::Addresses(addresses) = &touched
                && let Some(changed) = self.patch(&key, addresses)
            {
                if changed {
                    update.chains.insert(key, touched);
                }
                continue;
            }
            let chain = self.build(&key);
            if self.chains.get(&key).is_some_and(|old| **old != chain) {
                self.chains.insert(key.clone(), Arc::new(chain));
                update.chains.insert(key, Touched::Whole);
            }
        }
        update
    }

    /// Brings up to date what a chain says of some addresses, and tells whether that changed; `None`: it has to
    /// be built.
    fn patch(&mut self, key: &ChainKey, addresses: &BTreeSet<IpAddr>) -> Option<bool> {
        let chain = self.chains.get_mut(key).filter(|_| !self.too_large.contains(key))?;
        let (world, claims) = (&self.world, &self.claims);
        let part = chain::Builder::of(world, claims, &mut self.selectors, addresses).part(key)?;
        if !chain.differs(&part, addresses)? {
            return Some(false);
        }
        Arc::make_mut(chain).put(part, addresses);
        chain.fits().then_some(true)
    }

    fn update_addresses(&mut self, update: &mut Update) {
        let node = self.world.nodes.get(&self.node).filter(|_| self.world.deny_unknown_pods);
        let networks = node.map_or(&[][..], |node| &node.pod_networks);
        if *networks != *self.denied_networks {
            self.denied_networks = networks.to_vec();
            update.networks = true;
        }
        let addresses = self.judged_addresses();
        let before = std::mem::replace(&mut self.addresses, addresses);
        for (address, verdicts) in &self.addresses {
            if before.get(address) != Some(verdicts) {
                update.addresses.insert(*address);
            }
        }
        update.addresses.extend(before.keys().filter(|old| !self.addresses.contains_key(*old)));
        let needed: BTreeSet<ChainKey> =
            self.addresses.values().flatten().flatten().cloned().collect();
        let gone: Vec<ChainKey> =
            self.chains.keys().filter(|key| !needed.contains(*key)).cloned().collect();
        for key in gone {
            self.selectors.release(&key);
            self.too_large.remove(&key);
            self.chains.remove(&key);
            update.gone.insert(key);
        }
        for key in needed {
            if !self.chains.contains_key(&key) {
                self.dirty_chains.remove(&key);
                let chain = self.build(&key);
                self.chains.insert(key.clone(), Arc::new(chain));
                update.chains.insert(key, Touched::Whole);
            }
        }
    }

    fn update_sources(&mut self, update: &mut Update) {
        let sources = sources::sources(&self.world, &self.attachments);
        let before = std::mem::replace(&mut self.sources, sources);
        let both = before.keys().chain(self.sources.keys());
        let changed = both.filter(|link| before.get(*link) != self.sources.get(*link));
        update.links.extend(changed.cloned());
    }

    fn build(&mut self, key: &ChainKey) -> Chain {
        let (world, claims) = (&self.world, &self.claims);
        let built = self
            .selectors
            .rebuild(key, |selectors| chain::Builder::new(world, claims, selectors).build(key));
        match built {
            Ok(chain) => {
                self.too_large.remove(key);
                chain
            }
            Err(TooLarge) => {
                self.too_large.insert(key.clone());
                Chain::deny()
            }
        }
    }
}

#[cfg(test)]
mod tests;
