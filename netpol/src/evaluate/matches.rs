//! Whether a rule is about a connection.

use std::net::IpAddr;

use super::flow::{Flow, claimants};
use crate::labels::Selector;
use crate::model::{ClusterPeer, ClusterRule, Direction, Numbers, Peer, Port, Rule};
use crate::world::{PodName, World};

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

    /// Whether the other end is a pod, and selected. If several pods claim its address, all must be.
    fn peer_is(&self, selected: impl Fn(&PodName, &crate::world::Pod) -> bool) -> bool {
        let pods = claimants(self.world, self.peer_address());
        !pods.is_empty() && pods.iter().all(|(name, pod)| selected(name, pod))
    }

    /// A namespace that is not known is never selected, not even by a selector without conditions.
    pub(super) fn selects(&self, namespaces: &Selector, namespace: &str) -> bool {
        let known = self.world.namespaces.get(namespace);
        known.is_some_and(|known| namespaces.matches(&known.labels))
    }

    fn peer_is_of(&self, namespaces: &Selector, pods: &Selector) -> bool {
        self.peer_is(|name, pod| {
            self.selects(namespaces, &name.namespace) && pods.matches(&pod.labels)
        })
    }

    /// Whether a peer of a NetworkPolicy of that namespace is the other end.
    fn peer(&self, peer: &Peer, own: &str) -> bool {
        match peer {
            Peer::Pods(pods) => {
                self.peer_is(|name, pod| *name.namespace == *own && pods.matches(&pod.labels))
            }
            Peer::PodsOf { namespaces, pods } => self.peer_is_of(namespaces, pods),
            Peer::Block { cidr, except } => {
                let address = self.peer_address();
                cidr.contains(address) && !except.iter().any(|cidr| cidr.contains(address))
            }
        }
    }

    fn cluster_peer(&self, peer: &ClusterPeer) -> bool {
        let address = self.peer_address();
        match peer {
            ClusterPeer::PodsOf { namespaces, pods } => self.peer_is_of(namespaces, pods),
            ClusterPeer::Networks(networks) => {
                networks.iter().any(|network| network.contains(address))
            }
            ClusterPeer::Nodes(nodes) => {
                let mut all = self.world.nodes.values();
                all.any(|node| nodes.matches(&node.labels) && node.addresses.contains(&address))
            }
            ClusterPeer::Unknown => false,
        }
    }

    /// Whether a port is the connection's. A name is what the pod that answers calls it; what a rule reaches
    /// as a mere address has no names.
    fn port(&self, port: &Port, peer_is_address: bool) -> bool {
        if self.flow.protocol != Some(port.protocol) {
            return false;
        }
        match &port.numbers {
            Numbers::Range(first, last) => (*first..=*last).contains(&self.flow.port),
            Numbers::Named(_) if self.direction == Direction::Egress && peer_is_address => false,
            Numbers::Named(name) => {
                let pods = claimants(self.world, self.flow.to_address);
                let calls_it_so = |pod: &crate::world::Pod| {
                    pod.ports.iter().any(|port| {
                        port.name == *name
                            && Some(port.protocol) == self.flow.protocol
                            && port.number == self.flow.port
                    })
                };
                !pods.is_empty() && pods.iter().all(|(_, pod)| calls_it_so(pod))
            }
        }
    }

    /// Which peer and which port of a rule match, if it does; `None` inside: it takes any.
    pub(super) fn rule(&self, rule: &Rule, own: &str) -> Option<(Option<usize>, Option<usize>)> {
        let port = |peer_is_address: bool| match &rule.ports {
            None => Some(None),
            Some(ports) => ports.iter().position(|port| self.port(port, peer_is_address)).map(Some),
        };
        let Some(peers) = &rule.peers else {
            return port(false).map(|port| (None, port));
        };
        for (at, peer) in peers.iter().enumerate() {
            let peer_is_address = matches!(peer, Peer::Block { .. });
            if self.peer(peer, own)
                && let Some(port) = port(peer_is_address)
            {
                return Some((Some(at), port));
            }
        }
        None
    }

    pub(super) fn cluster_rule(&self, rule: &ClusterRule) -> Match {
        if rule.peers.contains(&ClusterPeer::Unknown) {
            return match rule.action {
                crate::model::Action::Accept => Match::No,
                _ => Match::Closed,
            };
        }
        let matches = rule.peers.iter().any(|peer| {
            let peer_is_address = !matches!(peer, ClusterPeer::PodsOf { .. });
            let ports = rule.ports.as_ref();
            self.cluster_peer(peer)
                && ports.is_none_or(|ports| ports.iter().any(|p| self.port(p, peer_is_address)))
        });
        if matches { Match::Yes } else { Match::No }
    }
}
