//! What the overlay is made of: its settings, the node list, and this node's underlay.

use std::net::IpAddr;

use netlink::{Family, IfIndex, MacAddress, Prefix, RouteSocket};
use serde::Deserialize;

use crate::{Error, Result};

/// How nodes reach each other's pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backend {
    /// Frames in UDP between nodes.
    Vxlan(Vxlan),
    /// Routes through the nodes, which must share a subnet.
    HostGw,
}

/// Settings of a VXLAN tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vxlan {
    /// VXLAN network identifier, 1 to 16777215.
    pub vni: u32,
    /// UDP port. Some hypervisors drop 8472 or 4789.
    pub port: u16,
    /// Peers on a subnet of this node are reached without the tunnel.
    pub direct_routing: bool,
    /// Transmit checksum offload of the tunnel device; `None` leaves the kernel's choice. Some
    /// drivers and hypervisors corrupt the inner checksum of translated packets: then `false` helps.
    pub tx_checksum_offload: Option<bool>,
}

/// The overlay of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// How nodes reach each other's pods.
    pub backend: Backend,
    /// This node's name in the node list.
    pub node_name: String,
    /// The underlay device; `None` is the one that has this node's address.
    pub device: Option<String>,
}

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its address in the underlay.
    pub address: IpAddr,
    /// Further addresses: with host-gw, pods of a family need a node address of that family.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    /// The subnets of its pods.
    #[serde(default, rename = "podCIDRs")]
    pub pod_cidrs: Vec<Prefix>,
    /// The Ethernet address of its tunnel end, where it is not the derived one.
    #[serde(default, rename = "vtepMAC")]
    pub vtep_mac: Option<MacAddress>,
}

impl Node {
    /// Its address in an underlay of a family, and the Ethernet address of its tunnel end there.
    pub(crate) fn vtep(&self, underlay: Family) -> Option<(IpAddr, MacAddress)> {
        let address = self.address_of(underlay)?;
        Some((address, self.vtep_mac.unwrap_or_else(|| vtep_mac(address))))
    }

    /// Its address of a family.
    pub fn address_of(&self, family: Family) -> Option<IpAddr> {
        std::iter::once(&self.address)
            .chain(&self.addresses)
            .copied()
            .find(|address| Family::of(*address) == family)
    }
}

/// The family of the addresses between which nodes send tunnelled packets. All nodes find the same one.
///
/// If the nodes agree, it is that of their first addresses. Otherwise some list their addresses in another
/// order, and it is IPv4, unless this node has none.
pub(crate) fn underlay_family(own: &Node, nodes: &[Node]) -> Family {
    let first = Family::of(own.address);
    if nodes.iter().all(|node| Family::of(node.address) == first) {
        return first;
    }
    own.address_of(Family::V4).map_or(first, |_| Family::V4)
}

/// The family of this node's addresses on the device that the configuration names, if it has one family only.
pub(crate) fn device_family(config: &Config, own: &Node, underlay: &Underlay) -> Option<Family> {
    config.device.as_ref()?;
    let is_held = |family| {
        let mut own_addresses = std::iter::once(&own.address).chain(&own.addresses);
        own_addresses.any(|own| {
            Family::of(*own) == family && underlay.subnets.iter().any(|s| s.address() == *own)
        })
    };
    match (is_held(Family::V4), is_held(Family::V6)) {
        (true, false) => Some(Family::V4),
        (false, true) => Some(Family::V6),
        _ => None,
    }
}

/// The Ethernet address of the tunnel end of the node with this address: known to every peer without
/// being told, and the same after a restart.
pub fn vtep_mac(address: IpAddr) -> MacAddress {
    MacAddress::for_address([0x0e, 0x56], address)
}

/// The name of the tunnel device for a VNI.
pub fn vxlan_device_name(vni: u32) -> String {
    format!("{VXLAN_DEVICE_PREFIX}{vni}")
}

pub(crate) const VXLAN_DEVICE_PREFIX: &str = "vdvxlan";

/// What lies below the overlay on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Underlay {
    /// The device's number.
    pub link: IfIndex,
    /// The device's name.
    pub name: String,
    /// The device's MTU in bytes.
    pub mtu: u32,
    /// The device's addresses with their subnets.
    pub subnets: Vec<Prefix>,
}

impl Underlay {
    /// Finds the underlay: the device that the configuration names, or the one with this node's
    /// address.
    pub fn observe(socket: &mut RouteSocket, config: &Config, nodes: &[Node]) -> Result<Underlay> {
        let own = own_node(config, nodes)?;
        let own_address = own.address_of(underlay_family(own, nodes)).unwrap_or(own.address);
        let addresses = socket.addresses(None)?;
        let link = match &config.device {
            Some(name) => {
                socket.link_by_name(name)?.ok_or_else(|| Error::NoDevice(name.clone()))?
            }
            None => {
                let holder = addresses
                    .iter()
                    .find(|a| a.prefix.address() == own_address)
                    .ok_or(Error::NoUnderlay(own_address))?;
                socket.link_by_index(holder.link)?.ok_or(Error::NoUnderlay(own_address))?
            }
        };
        let subnets = addresses.iter().filter(|a| a.link == link.index).map(|a| a.prefix).collect();
        Ok(Underlay { link: link.index, name: link.name, mtu: link.mtu, subnets })
    }

    /// Whether an address is on a subnet of the device.
    pub(crate) fn is_on_link(&self, address: IpAddr) -> bool {
        self.subnets.iter().any(|subnet| subnet.contains(address))
    }
}

pub(crate) fn own_node<'a>(config: &Config, nodes: &'a [Node]) -> Result<&'a Node> {
    nodes
        .iter()
        .find(|node| node.name == config.node_name)
        .ok_or_else(|| Error::UnknownNode(config.node_name.clone()))
}

impl Vxlan {
    /// Bytes that the tunnel adds to a packet: outer IP, UDP and VXLAN headers, inner Ethernet header.
    pub fn overhead(outer: Family) -> u32 {
        match outer {
            Family::V4 => 20 + 8 + 8 + 14,
            Family::V6 => 40 + 8 + 8 + 14,
        }
    }
}
