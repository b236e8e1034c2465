//! What policies are about.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

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

/// A pod that has not ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// Tells it from an earlier pod of the same name.
    pub uid: Arc<str>,
    /// Its labels.
    pub labels: Labels,
    /// Its addresses, one per family; none as long as it has none.
    pub addresses: Vec<IpAddr>,
    /// The node where it runs.
    pub node: Arc<str>,
    /// Whether it lives in the node's own network: then it is the node, to policies.
    pub host_network: bool,
    /// Ports that have a name.
    pub ports: Vec<ContainerPort>,
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Its labels.
    pub labels: Labels,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// Everything that verdicts depend on.
#[derive(Clone, Debug, Default)]
pub struct World {
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
