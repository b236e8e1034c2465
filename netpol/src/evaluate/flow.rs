//! Who talks to whom.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::model::Protocol;
use crate::world::{Pod, PodName, World};

/// One end of a connection.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum End {
    /// A pod.
    Pod(PodName),
    /// A node, or a pod in its network.
    Node(Arc<str>),
    /// Any other address.
    Address(IpAddr),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Pod(pod) => write!(f, "pod {pod}"),
            End::Node(node) => write!(f, "node {node}"),
            End::Address(address) => address.fmt(f),
        }
    }
}

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Family; 2] = [Family::V4, Family::V6];

    /// That of an address.
    pub fn of(address: IpAddr) -> Family {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Family::V4 { "IPv4" } else { "IPv6" })
    }
}

/// A connection, as it is once Services are translated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Who opens it.
    pub from: End,
    /// From this address.
    pub from_address: IpAddr,
    /// Who answers: the endpoint, not the Service.
    pub to: End,
    /// At this address.
    pub to_address: IpAddr,
    /// `None`: a protocol without ports, such as ICMP.
    pub protocol: Option<Protocol>,
    /// The port of the one who answers.
    pub port: u16,
}

impl Flow {
    /// The connection between two ends over one family. An end given as an address is whoever has that
    /// address; a pod in its node's network is that node.
    ///
    /// # Errors
    /// An end that is not there, or that has no address of the family: which one.
    pub fn between(
        world: &World,
        from: &End,
        to: &End,
        family: Family,
        protocol: Option<Protocol>,
        port: u16,
    ) -> Result<Flow, String> {
        let (from, from_address) = located(world, from, family)?;
        let (to, to_address) = located(world, to, family)?;
        Ok(Flow { from, from_address, to, to_address, protocol, port })
    }
}

/// Whose address that is.
pub fn owner(world: &World, address: IpAddr) -> End {
    if let Some((name, _)) = claimants(world, address).first() {
        return End::Pod((*name).clone());
    }
    for (name, node) in &world.nodes {
        if node.addresses.contains(&address) {
            return End::Node(name.clone());
        }
    }
    for pod in world.pods.values() {
        if pod.host_network && pod.addresses.contains(&address) {
            return End::Node(pod.node.clone());
        }
    }
    End::Address(address)
}

/// Pods that say that an address is theirs: one, unless something is about to change.
pub(super) fn claimants(world: &World, address: IpAddr) -> Vec<(&PodName, &Pod)> {
    let has = |pod: &Pod| !pod.host_network && pod.addresses.contains(&address);
    world.pods.iter().filter(|(_, pod)| has(pod)).collect()
}

/// Whether this would be the address of a pod, but no pod is known to have it, and that is not allowed.
pub(super) fn is_unknown_pod(world: &World, end: &End) -> bool {
    let End::Address(address) = end else { return false };
    let mut networks = world.nodes.values().flat_map(|node| &node.pod_networks);
    world.deny_unknown_pods && networks.any(|network| network.contains(*address))
}

fn located(world: &World, end: &End, family: Family) -> Result<(End, IpAddr), String> {
    let of_family = |addresses: &[IpAddr]| {
        let found = addresses.iter().find(|address| Family::of(**address) == family);
        found.copied().ok_or_else(|| format!("{end} has no {family} address"))
    };
    // Whose address is also that of a pod, is that pod.
    let node = |name, address| match owner(world, address) {
        End::Pod(pod) => End::Pod(pod),
        End::Node(_) | End::Address(_) => End::Node(name),
    };
    match end {
        End::Pod(name) => {
            let pod = world.pods.get(name).ok_or_else(|| format!("there is no pod {name}"))?;
            let address = of_family(&pod.addresses)?;
            let found =
                if pod.host_network { node(pod.node.clone(), address) } else { end.clone() };
            Ok((found, address))
        }
        End::Node(name) => {
            let known = world.nodes.get(name).ok_or_else(|| format!("there is no node {name}"))?;
            let address = of_family(&known.addresses)?;
            Ok((node(name.clone(), address), address))
        }
        End::Address(address) => Ok((owner(world, *address), of_family(&[*address])?)),
    }
}
