//! What judges the connections of pods whose policies say the same.

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use super::claims::Claims;
use super::matches::{Matches, Ports, Range, TooLarge, are_range, without};
use super::selectors::{Contested, Namespaces, PodSet, Selectors};
use crate::cidr::Cidr;
use crate::labels::Selector;
use crate::model::{
    Action, ClusterPeer, ClusterRule, Direction, Numbers, Peer, PolicyName, Port, Protocol, Rule,
    Tier,
};
use crate::world::{PodName, World};

/// What a chain depends on: chains of the same key are the same chain.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChainKey {
    /// Which way.
    pub direction: Direction,
    /// NetworkPolicies that isolate.
    pub policies: Vec<PolicyName>,
    /// ClusterNetworkPolicies, in the order in which they are asked.
    pub cluster_policies: Vec<Arc<str>>,
    /// What the pods call their ports, of the names that the policies use.
    pub named: Vec<(Arc<str>, Protocol, u16)>,
    /// Whether what NetworkPolicies deny is only counted and logged.
    pub audit: bool,
    /// Whether everything is denied: nobody knows (yet) what may be done.
    pub blocked: bool,
}

impl ChainKey {
    /// The chain that denies everything.
    pub fn blocked(direction: Direction) -> ChainKey {
        ChainKey {
            direction,
            policies: Vec::new(),
            cluster_policies: Vec::new(),
            named: Vec::new(),
            audit: false,
            blocked: true,
        }
    }
}

/// The policies that it is made of.
impl fmt::Display for ChainKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.blocked {
            return f.write_str("it is not known what this pod may do");
        }
        let cluster = self.cluster_policies.iter().map(|name| format!("cluster policy {name}"));
        let all = cluster.chain(self.policies.iter().map(PolicyName::to_string));
        f.write_str(&all.collect::<Vec<_>>().join(", "))
    }
}

/// Connections, and what becomes of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What becomes of those that match.
    pub action: Action,
    /// Which they are.
    pub matches: Matches,
}

/// The steps, in order: the first that matches decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// The Admin tier; Pass goes on with the rest.
    pub admin: Vec<Step>,
    /// What comes after it.
    pub rest: Rest,
}

/// What comes after the Admin tier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rest {
    /// NetworkPolicies isolate: what is not allowed is denied.
    Isolated {
        /// What they allow.
        allowed: Matches,
        /// Whether what is denied is only counted and logged.
        audit: bool,
    },
    /// The Baseline tier; what no step is about, or is passed, is allowed.
    Open(Vec<Step>),
}

impl Chain {
    /// Denies everything.
    pub fn deny() -> Chain {
        Chain {
            admin: Vec::new(),
            rest: Rest::Isolated { allowed: Matches::default(), audit: false },
        }
    }

    /// Whether a connection with a peer is allowed; `port` is of no meaning without `protocol`.
    pub fn allows(&self, peer: IpAddr, protocol: Option<Protocol>, port: u16) -> bool {
        let first = |steps: &[Step]| {
            let step = steps.iter().find(|step| step.matches.contains(peer, protocol, port));
            step.map(|step| step.action)
        };
        match first(&self.admin) {
            Some(Action::Accept) => return true,
            Some(Action::Deny) => return false,
            Some(Action::Pass) | None => {}
        }
        match &self.rest {
            Rest::Isolated { allowed, audit } => *audit || allowed.contains(peer, protocol, port),
            Rest::Open(steps) => first(steps) != Some(Action::Deny),
        }
    }
}

impl Chain {
    fn lists(&self) -> impl Iterator<Item = &Matches> {
        let rest: &[Step] = if let Rest::Open(steps) = &self.rest { steps } else { &[] };
        let allowed = match &self.rest {
            Rest::Isolated { allowed, .. } => Some(allowed),
            Rest::Open(_) => None,
        };
        self.admin.iter().chain(rest).map(|step| &step.matches).chain(allowed)
    }

    /// Whether a part of the same chain says something else of some addresses; `None`: its shape is another one.
    pub(super) fn differs(&self, part: &Chain, addresses: &BTreeSet<IpAddr>) -> Option<bool> {
        let same = self.lists().count() == part.lists().count();
        let mut pairs = self.lists().zip(part.lists());
        same.then(|| pairs.any(|(own, part)| own.differs(part, addresses)))
    }

    /// Takes over what a part says of some addresses.
    pub(super) fn put(&mut self, part: Chain, addresses: &BTreeSet<IpAddr>) {
        let steps = |own: &mut [Step], part: Vec<Step>| {
            let pairs = own.iter_mut().zip(part);
            pairs.for_each(|(own, part)| own.matches.put(part.matches, addresses));
        };
        steps(&mut self.admin, part.admin);
        match (&mut self.rest, part.rest) {
            (Rest::Isolated { allowed, .. }, Rest::Isolated { allowed: part, .. }) => {
                allowed.put(part, addresses);
            }
            (Rest::Open(own), Rest::Open(part)) => steps(own, part),
            _ => {}
        }
    }

    /// Whether no step has more elements than it may.
    pub(super) fn fits(&self) -> bool {
        self.lists().all(Matches::fits)
    }
}

/// The other ends of a rule.
enum Peers {
    Any,
    These { sets: Vec<PodSet>, blocks: Vec<Range> },
}

pub(super) struct Builder<'a> {
    world: &'a World,
    claims: &'a Claims,
    selectors: &'a mut Selectors,
    /// As if nobody else had an address.
    only: Option<&'a BTreeSet<IpAddr>>,
    /// For the rule that is built.
    contested: Contested,
    /// What was said already in this step: policies often say the same.
    said: HashSet<(PodSet, Option<Ports>)>,
    /// Whether ports of pods are told as ranges, which are merged with others.
    ranges: bool,
}

impl<'a> Builder<'a> {
    pub(super) fn new(
        world: &'a World,
        claims: &'a Claims,
        selectors: &'a mut Selectors,
    ) -> Builder<'a> {
        let (only, contested, said) = (None, Contested::All, HashSet::new());
        Builder { world, claims, selectors, only, contested, said, ranges: false }
    }

    /// Of a chain that is there, and whose policies are the same.
    pub(super) fn of(
        world: &'a World,
        claims: &'a Claims,
        selectors: &'a mut Selectors,
        addresses: &'a BTreeSet<IpAddr>,
    ) -> Builder<'a> {
        Builder { only: Some(addresses), ..Builder::new(world, claims, selectors) }
    }

    /// What the chain says of some addresses; `None` if that cannot be told apart from the rest.
    pub(super) fn part(mut self, key: &ChainKey) -> Option<Chain> {
        let chain = self.build(key).ok()?;
        (!self.ranges).then_some(chain)
    }

    pub(super) fn build(&mut self, key: &ChainKey) -> Result<Chain, TooLarge> {
        if key.blocked {
            return Ok(Chain::deny());
        }
        let rest = if key.policies.is_empty() {
            Rest::Open(self.tier(key, Tier::Baseline)?)
        } else {
            let mut allowed = Matches::default();
            self.said.clear();
            let world = self.world;
            for name in &key.policies {
                let Some(policy) = world.policies.get(name) else { continue };
                for rule in policy.rules(key.direction).unwrap_or_default() {
                    allowed.add(self.rule(key, &name.namespace, rule));
                }
            }
            Rest::Isolated { allowed: allowed.finish()?, audit: key.audit }
        };
        Ok(Chain { admin: self.tier(key, Tier::Admin)?, rest })
    }

    fn tier(&mut self, key: &ChainKey, tier: Tier) -> Result<Vec<Step>, TooLarge> {
        let mut steps: Vec<Step> = Vec::new();
        let world = self.world;
        let policies = key.cluster_policies.iter();
        let policies = policies.filter_map(|name| world.cluster_policies.get(name));
        for policy in policies.filter(|policy| policy.tier == tier) {
            for rule in policy.rules(key.direction) {
                let (action, matches) = self.cluster_rule(key, rule);
                match steps.last_mut() {
                    Some(last) if last.action == action => last.matches.add(matches),
                    _ => steps.push(Step { action, matches }),
                }
            }
        }
        let finish = |step: Step| Ok(Step { matches: step.matches.finish()?, ..step });
        steps.into_iter().map(finish).collect()
    }

    fn rule(&mut self, key: &ChainKey, namespace: &Arc<str>, rule: &Rule) -> Matches {
        let peers = match &rule.peers {
            None => Peers::Any,
            Some(peers) => {
                let (mut sets, mut blocks) = (Vec::new(), Vec::new());
                for peer in peers {
                    match peer {
                        Peer::Pods(pods) => {
                            let namespaces = Namespaces::One(Arc::clone(namespace));
                            sets.push(PodSet { namespaces, pods: pods.clone() });
                        }
                        Peer::PodsOf { namespaces, pods } => {
                            let namespaces = Namespaces::Selected(namespaces.clone());
                            sets.push(PodSet { namespaces, pods: pods.clone() });
                        }
                        Peer::Block { cidr, except } => {
                            let except: Vec<_> = except.iter().map(Cidr::range).collect();
                            blocks.extend(without(cidr.range(), &except));
                        }
                    }
                }
                Peers::These { sets, blocks }
            }
        };
        self.combine(key, &peers, rule.ports.as_deref())
    }

    fn cluster_rule(&mut self, key: &ChainKey, rule: &ClusterRule) -> (Action, Matches) {
        if rule.peers.contains(&ClusterPeer::Unknown) {
            // It is not known whom it is about: it accepts nobody, and else denies everybody.
            return match rule.action {
                Action::Accept => (Action::Accept, Matches::default()),
                Action::Deny | Action::Pass => (Action::Deny, Matches::everything()),
            };
        }
        let (mut sets, mut blocks) = (Vec::new(), Vec::new());
        for peer in &rule.peers {
            match peer {
                ClusterPeer::PodsOf { namespaces, pods } => {
                    let namespaces = Namespaces::Selected(namespaces.clone());
                    sets.push(PodSet { namespaces, pods: pods.clone() });
                }
                ClusterPeer::Networks(networks) => blocks.extend(networks.iter().map(Cidr::range)),
                ClusterPeer::Nodes(selector) => {
                    let nodes = self.world.nodes.values();
                    let nodes = nodes.filter(|node| selector.matches(&node.labels));
                    blocks.extend(nodes.flat_map(|node| &node.addresses).map(|ip| (*ip, *ip)));
                }
                ClusterPeer::Unknown => {}
            }
        }
        let peers = Peers::These { sets, blocks };
        self.said.clear();
        self.contested = match rule.action {
            Action::Deny => Contested::Any,
            Action::Accept | Action::Pass => Contested::All,
        };
        let matches = self.combine(key, &peers, rule.ports.as_deref());
        self.contested = Contested::All;
        (rule.action, matches)
    }

    fn combine(&mut self, key: &ChainKey, peers: &Peers, ports: Option<&[Port]>) -> Matches {
        let mut matches = Matches::default();
        let Some(ports) = ports else {
            match peers {
                Peers::Any => matches.everything = true,
                Peers::These { sets, blocks } => {
                    for set in sets {
                        if !self.is_new(set, None) {
                            continue;
                        }
                        matches.peers.extend(&*self.addresses(key, set));
                    }
                    matches.blocks.clone_from(blocks);
                }
            }
            return matches;
        };
        for port in ports {
            match &port.numbers {
                Numbers::Range(first, last) => {
                    self.add(key, peers, (port.protocol, *first, *last), &mut matches);
                }
                // Whatever the pods that are judged here call so.
                Numbers::Named(name) if key.direction == Direction::Ingress => {
                    let own = key.named.iter();
                    for (_, protocol, number) in
                        own.filter(|(own, protocol, _)| own == name && *protocol == port.protocol)
                    {
                        self.add(key, peers, (*protocol, *number, *number), &mut matches);
                    }
                }
                Numbers::Named(name) => {
                    self.add_named(key, peers, (name, port.protocol), &mut matches);
                }
            }
        }
        matches
    }

    fn add(&mut self, key: &ChainKey, peers: &Peers, ports: Ports, matches: &mut Matches) {
        match peers {
            Peers::Any => matches.ports.push(ports),
            Peers::These { sets, blocks } => {
                self.ranges |= !sets.is_empty() && are_range(ports);
                for set in sets {
                    if !self.is_new(set, Some(ports)) {
                        continue;
                    }
                    for address in &*self.addresses(key, set) {
                        matches.add_peer_ports(*address, ports);
                    }
                }
                matches.block_ports.extend(blocks.iter().map(|range| (*range, ports)));
            }
        }
    }

    /// Whatever each peer calls so; beyond the cluster nobody calls anything so.
    fn add_named(
        &mut self,
        key: &ChainKey,
        peers: &Peers,
        (name, protocol): (&Arc<str>, Protocol),
        matches: &mut Matches,
    ) {
        let all = [PodSet { namespaces: Namespaces::Any, pods: Selector::default() }];
        let sets = match peers {
            Peers::Any => &all[..],
            Peers::These { sets, .. } => sets,
        };
        for set in sets {
            for address in &*self.addresses(key, set) {
                let ports = self.named(*address, protocol, name).into_iter();
                matches.peer_ports.extend(ports.map(|number| (*address, protocol, number)));
            }
        }
    }

    /// Ports of an address that have a name, by those who claim the address.
    fn named(&self, address: IpAddr, protocol: Protocol, name: &Arc<str>) -> Vec<u16> {
        let numbers = |pod: &PodName| {
            let ports = self.world.pods.get(pod).into_iter().flat_map(|pod| &*pod.ports);
            let ports = ports.filter(|port| port.name == *name && port.protocol == protocol);
            ports.map(|port| port.number).collect::<Vec<u16>>()
        };
        let Some((one, others)) = self.claims.of_address(address).split_first() else {
            return Vec::new();
        };
        let mut own = numbers(one);
        match self.contested {
            Contested::All => {
                own.retain(|number| others.iter().all(|other| numbers(other).contains(number)));
            }
            Contested::Any => own.extend(others.iter().flat_map(numbers)),
        }
        own
    }

    fn is_new(&mut self, set: &PodSet, ports: Option<Ports>) -> bool {
        self.said.insert((set.clone(), ports))
    }

    fn addresses(&mut self, key: &ChainKey, set: &PodSet) -> Arc<[IpAddr]> {
        let what = (set, self.contested);
        match self.only {
            Some(addresses) => self.selectors.among(self.claims, what, addresses),
            None => self.selectors.addresses(self.world, self.claims, what, key),
        }
    }
}
