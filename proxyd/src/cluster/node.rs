//! Nodes.

use std::net::IpAddr;
use std::sync::Arc;

use netlink::Prefix;

/// What the daemon needs to know of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// `status.addresses` of types InternalIP, then ExternalIP.
    pub addresses: Vec<IpAddr>,
    /// `spec.podCIDRs`.
    pub pod_cidrs: Vec<Prefix>,
    /// Label `topology.kubernetes.io/zone`.
    pub zone: Option<Arc<str>>,
    /// Whether it is being removed: deleted, or tainted `ToBeDeletedByClusterAutoscaler`.
    pub going_away: bool,
}
