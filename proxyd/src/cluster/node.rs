//! Nodes.

use std::net::IpAddr;
use std::sync::Arc;

use netlink::{MacAddress, Prefix};

/// What the daemon needs to know of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// `status.addresses` of types InternalIP, then ExternalIP.
    pub addresses: Vec<IpAddr>,
    /// `spec.podCIDRs`.
    pub pod_cidrs: Vec<Prefix>,
    /// Label `topology.kubernetes.io/zone`.
    pub zone: Option<Arc<str>>,
    /// Annotation `viaduct.io/address`: where the overlay reaches it, if not at its first address.
    pub overlay_address: Option<IpAddr>,
    /// Annotation `viaduct.io/vtep-mac`: the Ethernet address of its tunnel end, if not the derived one.
    pub vtep_mac: Option<MacAddress>,
    /// Its condition `NetworkUnavailable`, if it has one that says yes or no.
    pub network_unavailable: Option<bool>,
    /// Whether its condition `Ready` says otherwise than `True`.
    pub not_ready: bool,
    /// `metadata.creationTimestamp`, whose text is in the order of time.
    pub created: Option<Arc<str>>,
    /// Its labels.
    pub labels: netpol::Labels,
    /// Whether it is being removed: deleted, or tainted `ToBeDeletedByClusterAutoscaler`.
    pub going_away: bool,
}
