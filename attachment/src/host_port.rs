//! [`HostPort`]: a port of the node that leads to a pod.

use std::net::IpAddr;

pub use netlink::Protocol;
use serde::{Deserialize, Serialize};

/// A host port that leads to an address of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostPort {
    /// The protocol.
    pub protocol: Protocol,
    /// The address of the node. `None` is every address that belongs to the node itself.
    pub host_ip: Option<IpAddr>,
    /// The port on the node.
    pub host_port: u16,
    /// The pod's address.
    pub pod_ip: IpAddr,
    /// The pod's port.
    pub container_port: u16,
}
