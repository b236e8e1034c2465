//! What policies are about.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::cidr::Cidr;
use crate::labels::Labels;
use crate::model::{ClusterPolicy, Policy, PolicyName, Protocol};

/// A pod's name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodName {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespace {
    /// Its labels.
    pub labels: Labels,
    /// Whether its NetworkPolicies only count and log what they would deny.
    pub audit: bool,
    /// Whether its pods may send from addresses that are not theirs.
    pub any_source: bool,
}

/// A named port of a container.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerPort {
    /// Its name.
    pub name: Arc<str>,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its number.
    pub number: u16,
}

/// A UID, by a number that follows from it: two are never the same by chance. None is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uid(u64);

impl Uid {
    /// Whether they can be those of the same object: one that is not known can be any.
    pub fn may_be(self, other: Uid) -> bool {
        self.0 == 0 || other.0 == 0 || self == other
    }
}

impl From<&str> for Uid {
    fn from(text: &str) -> Uid {
        // FNV-1a.
        let hash = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        match text {
            "" => Uid::default(),
            _ => Uid(text.as_bytes().iter().fold(0xcbf2_9ce4_8422_2325, hash).max(1)),
        }
    }
}

/// A pod that has not ended. There may be very many, so what they have in common is shared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// Tells it from an earlier pod of the same name.
    pub uid: Uid,
    /// Its labels.
    pub labels: Labels,
    /// Its addresses, one per family; none as long as it has none.
    pub addresses: Box<[IpAddr]>,
    /// The node where it runs.
    pub node: Arc<str>,
    /// Whether it lives in the node's own network: then it is the node, to policies.
    pub host_network: bool,
    /// Ports that have a name.
    pub ports: Arc<[ContainerPort]>,
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Its labels.
    pub labels: Labels,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Where its pods' addresses are.
    pub pod_networks: Vec<Cidr>,
}

/// Everything that verdicts depend on.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// Whether an address of a node's pods is denied everything while no pod is known to have it.
    pub deny_unknown_pods: bool,
    /// Namespaces.
    pub namespaces: BTreeMap<Arc<str>, Namespace>,
    /// Pods that have not ended.
    pub pods: BTreeMap<PodName, Pod>,
    /// Nodes.
    pub nodes: BTreeMap<Arc<str>, Node>,
    /// NetworkPolicies.
    pub policies: BTreeMap<PolicyName, Policy>,
    /// ClusterNetworkPolicies by name.
    pub cluster_policies: BTreeMap<Arc<str>, ClusterPolicy>,
}
