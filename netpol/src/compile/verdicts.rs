//! Which chains judge which local address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::{ChainKey, Compiler, Verdicts};
use crate::model::{Direction, Numbers, Policy, PolicyName, Protocol, Tier};
use crate::world::{Namespace, Pod, PodName};

impl Compiler {
    /// All local addresses for which anything is judged.
    pub(super) fn judged_addresses(&self) -> BTreeMap<IpAddr, Verdicts> {
        let blocked = || Direction::ALL.map(|direction| Some(ChainKey::blocked(direction)));
        let denies_others = !self.denied_networks.is_empty();
        let mut all: BTreeMap<IpAddr, Verdicts> = BTreeMap::new();
        // Attached, and nobody knows yet what may be done.
        let mut attached: BTreeMap<IpAddr, &PodName> = BTreeMap::new();
        for attachment in self.attachments.values() {
            let unknown = !self.knows(attachment);
            for address in &attachment.addresses {
                attached.insert(*address, &attachment.pod);
                if unknown && self.may_be_judged(&attachment.pod.namespace) {
                    all.insert(*address, blocked());
                } else if unknown && denies_others {
                    all.entry(*address).or_default();
                }
            }
        }
        for name in &self.local {
            let Some(pod) = self.world.pods.get(name) else { continue };
            let verdicts = self.verdicts(name, pod);
            for address in self.claims.of_pod(&self.world, name).iter().copied() {
                match attached.get(&address) {
                    // What was attached here is newer than what the API server says of another pod.
                    Some(owner) if *owner != name => continue,
                    _ => {}
                }
                let here = |other: &&PodName| self.local.contains(*other);
                let claimants = self.claims.of_address(address).iter().filter(here).count();
                let contested = !attached.contains_key(&address) && claimants > 1;
                if contested {
                    all.insert(address, blocked());
                } else if verdicts != [None, None] || denies_others {
                    all.entry(address).or_insert_with(|| verdicts.clone());
                }
            }
        }
        all
    }

    fn verdicts(&self, name: &PodName, pod: &Pod) -> Verdicts {
        Direction::ALL.map(|direction| self.key(direction, name, pod))
    }

    /// The chain that judges a pod.
    fn key(&self, direction: Direction, name: &PodName, pod: &Pod) -> Option<ChainKey> {
        let audited =
            self.world.namespaces.get(&name.namespace).is_some_and(|namespace| namespace.audit);
        let first = PolicyName { namespace: Arc::clone(&name.namespace), name: "".into() };
        let of_namespace = self.world.policies.range(first..);
        let of_namespace =
            of_namespace.take_while(|(policy, _)| policy.namespace == name.namespace);
        let isolating: Vec<(&PolicyName, &Policy)> = of_namespace
            .filter(|(_, policy)| {
                policy.rules(direction).is_some() && policy.subject.matches(&pod.labels)
            })
            .collect();
        // Those that only audit count where no other isolates.
        let audit =
            !isolating.is_empty() && isolating.iter().all(|(_, policy)| audited || policy.audit);
        let counted: Vec<_> = isolating
            .into_iter()
            .filter(|(_, policy)| audit || !(audited || policy.audit))
            .collect();
        let cluster_policies = self.cluster_policies(direction, name, pod);
        if counted.is_empty() && cluster_policies.is_empty() {
            return None;
        }
        let mut named = BTreeSet::new();
        if direction == Direction::Ingress {
            let of_policies = counted.iter().flat_map(|(_, policy)| policy.rules(direction));
            let of_policies =
                of_policies.flatten().filter_map(|rule| rule.ports.as_ref()).flatten();
            let of_cluster = cluster_policies.iter();
            let of_cluster = of_cluster.filter_map(|name| self.world.cluster_policies.get(name));
            let of_cluster = of_cluster.flat_map(|policy| policy.rules(direction));
            let of_cluster = of_cluster.filter_map(|rule| rule.ports.as_ref()).flatten();
            for port in of_policies.chain(of_cluster) {
                let Numbers::Named(wanted) = &port.numbers else { continue };
                let ports = pod.ports.iter();
                let ports = ports.filter(|p| p.name == *wanted && p.protocol == port.protocol);
                named.extend(ports.map(|p| (Arc::clone(wanted), p.protocol, p.number)));
            }
        }
        Some(ChainKey {
            direction,
            policies: counted.into_iter().map(|(name, _)| name.clone()).collect(),
            cluster_policies,
            named: named.into_iter().collect::<Vec<(Arc<str>, Protocol, u16)>>(),
            audit,
            blocked: false,
        })
    }

    /// ClusterNetworkPolicies that have rules for a pod, in the order in which they are asked.
    fn cluster_policies(&self, direction: Direction, name: &PodName, pod: &Pod) -> Vec<Arc<str>> {
        let none = Namespace::default();
        let namespace = self.world.namespaces.get(&name.namespace).unwrap_or(&none);
        let mut found: Vec<(Tier, u16, &Arc<str>)> = Vec::new();
        for (name, policy) in &self.world.cluster_policies {
            if !pod.host_network
                && !policy.rules(direction).is_empty()
                && policy.namespaces.matches(&namespace.labels)
                && policy.pods.matches(&pod.labels)
            {
                found.push((policy.tier, policy.priority, name));
            }
        }
        found.sort();
        found.into_iter().map(|(_, _, name)| Arc::clone(name)).collect()
    }
}
