//! Whether a rule is about a connection.

use std::net::IpAddr;

use super::flow::{Flow, claimants};
use crate::labels::Selector;
use crate::model::{Action, ClusterPeer, ClusterRule, Direction, Numbers, Peer, Port, Rule};
use crate::world::{Pod, PodName, World};

/// A connection, as seen from the pod whose policies are asked.
pub(super) struct Question<'a> {
    pub(super) world: &'a World,
    pub(super) flow: &'a Flow,
    pub(super) direction: Direction,
}

/// How a rule of a ClusterNetworkPolicy is about a connection.
pub(super) enum Match {
    No,
    Yes,
    /// It cannot be understood, and must deny.
    Closed,
}

impl Question<'_> {
    /// The address of the other end.
    fn peer_address(&self) -> IpAddr {
        match self.direction {
            Direction::Ingress => self.flow.from_address,
            Direction::Egress => self.flow.to_address,
        }
    }

    /// If the other end is a pod that is selected, by which peer. If several pods claim its address, each
    /// must be selected by what lets it in; one is enough for what keeps it out.
    fn peer_is(
        &self,
        denies: bool,
        selecting: impl Fn((&PodName, &Pod)) -> Option<usize>,
    ) -> Option<usize> {
        let mut found = claimants(self.world, self.peer_address()).into_iter().map(selecting);
        if denies {
            return found.flatten().next();
        }
        let found: Option<Vec<usize>> = found.by_ref().collect();
        found?.first().copied()
    }

    /// A namespace that is not known is never selected, not even by a selector without conditions.
    pub(super) fn selects(&self, namespaces: &Selector, namespace: &str) -> bool {
        let known = self.world.namespaces.get(namespace);
        known.is_some_and(|known| namespaces.matches(&known.labels))
    }

    fn is_of(&self, pod: (&PodName, &Pod), namespaces: &Selector, pods: &Selector) -> bool {
        self.selects(namespaces, &pod.0.namespace) && pods.matches(&pod.1.labels)
    }

    /// Whether a peer of a NetworkPolicy of that namespace selects a pod.
    fn peer_selects(&self, peer: &Peer, own: &str, pod: (&PodName, &Pod)) -> bool {
        match peer {
            Peer::Pods(pods) => *pod.0.namespace == *own && pods.matches(&pod.1.labels),
            Peer::PodsOf { namespaces, pods } => self.is_of(pod, namespaces, pods),
            Peer::Block { .. } => false,
        }
    }

    fn peer_contains(&self, peer: &Peer) -> bool {
        let address = self.peer_address();
        match peer {
            Peer::Block { cidr, except } => {
                cidr.contains(address) && !except.iter().any(|cidr| cidr.contains(address))
            }
            Peer::Pods(_) | Peer::PodsOf { .. } => false,
        }
    }

    fn cluster_peer_selects(&self, peer: &ClusterPeer, pod: (&PodName, &Pod)) -> bool {
        match peer {
            ClusterPeer::PodsOf { namespaces, pods } => self.is_of(pod, namespaces, pods),
            ClusterPeer::Networks(_) | ClusterPeer::Nodes(_) | ClusterPeer::Unknown => false,
        }
    }

    fn cluster_peer_contains(&self, peer: &ClusterPeer) -> bool {
        let address = self.peer_address();
        match peer {
            ClusterPeer::Networks(networks) => {
                networks.iter().any(|network| network.contains(address))
            }
            ClusterPeer::Nodes(nodes) => {
                let mut all = self.world.nodes.values();
                all.any(|node| nodes.matches(&node.labels) && node.addresses.contains(&address))
            }
            ClusterPeer::PodsOf { .. } | ClusterPeer::Unknown => false,
        }
    }

    /// Whether a port is the connection's. A name is what the pod that answers calls it; what a rule reaches
    /// as a mere address has no names.
    fn port(&self, port: &Port, peer_is_address: bool, denies: bool) -> bool {
        if self.flow.protocol != Some(port.protocol) {
            return false;
        }
        match &port.numbers {
            Numbers::Range(first, last) => (*first..=*last).contains(&self.flow.port),
            Numbers::Named(_) if self.direction == Direction::Egress && peer_is_address => false,
            Numbers::Named(name) => {
                let pods = claimants(self.world, self.flow.to_address);
                let calls_it_so = |pod: &Pod| {
                    pod.ports.iter().any(|port| {
                        port.name == *name
                            && Some(port.protocol) == self.flow.protocol
                            && port.number == self.flow.port
                    })
                };
                if denies && self.direction == Direction::Egress {
                    return pods.iter().any(|(_, pod)| calls_it_so(pod));
                }
                !pods.is_empty() && pods.iter().all(|(_, pod)| calls_it_so(pod))
            }
        }
    }

    /// Which peer and which port of a rule match, if it does; `None` inside: it takes any.
    pub(super) fn rule(&self, rule: &Rule, own: &str) -> Option<(Option<usize>, Option<usize>)> {
        let port = |peer_is_address: bool| match &rule.ports {
            None => Some(None),
            Some(ports) => {
                ports.iter().position(|port| self.port(port, peer_is_address, false)).map(Some)
            }
        };
        let Some(peers) = &rule.peers else {
            return port(false).map(|port| (None, port));
        };
        if let Some(at) = peers.iter().position(|peer| self.peer_contains(peer))
            && let Some(port) = port(true)
        {
            return Some((Some(at), port));
        }
        let selecting =
            |pod: (&PodName, &Pod)| peers.iter().position(|peer| self.peer_selects(peer, own, pod));
        let at = self.peer_is(false, selecting)?;
        port(false).map(|port| (Some(at), port))
    }

    pub(super) fn cluster_rule(&self, rule: &ClusterRule) -> Match {
        if rule.peers.contains(&ClusterPeer::Unknown) {
            return if rule.action == Action::Accept { Match::No } else { Match::Closed };
        }
        let denies = rule.action == Action::Deny;
        let port = |peer_is_address: bool| match &rule.ports {
            None => true,
            Some(ports) => ports.iter().any(|port| self.port(port, peer_is_address, denies)),
        };
        let contained = || rule.peers.iter().any(|peer| self.cluster_peer_contains(peer));
        let selecting = |pod: (&PodName, &Pod)| {
            rule.peers.iter().position(|p| self.cluster_peer_selects(p, pod))
        };
        let matches = (contained() && port(true))
            || (self.peer_is(denies, selecting).is_some() && port(false));
        if matches { Match::Yes } else { Match::No }
    }
}
