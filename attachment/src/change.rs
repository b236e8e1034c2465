//! [`Change`]: one difference between the desired and the observed state, and how it is mended.

use std::fmt;

use netlink::{
    AddressOptions, Bridge, IfIndex, Link, PortFlags, Prefix, Route, RouteSocket, Scope, sysctl,
};

use crate::advertisements::{IPV6_FORWARDING, enable_ipv6_forwarding};
use crate::state::{AddressOwner, RouteKind};
use crate::{BridgeState, Error, PROTOCOL, Result, sysctls};

/// One difference, in the words of what is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A bridge is missing.
    CreateBridge(String, BridgeState),
    /// A link has another MAC address.
    SetMac(String, netlink::MacAddress),
    /// A link is down.
    SetUp(String),
    /// A bridge is not promiscuous.
    SetPromiscuous(String),
    /// A bridge does not filter by VLAN.
    EnableVlanFiltering(String),
    /// A sysctl has another value.
    SetSysctl(String, String),
    /// A link lacks an address.
    AddAddress {
        /// The device.
        device: String,
        /// The address.
        address: Prefix,
        /// Whether it is marked as ours.
        owner: AddressOwner,
        /// Whether IPv6 waits for duplicate address detection.
        detect_duplicates: bool,
    },
    /// A bridge has a gateway address of ours that no attachment uses.
    DeleteAddress(String, Prefix),
    /// A link is not a port of its bridge.
    AddPort(String, String),
    /// A link has another MTU.
    SetMtu(String, u32),
    /// A bridge port has other settings.
    SetPort(String, PortFlags),
    /// A bridge port is in other VLANs.
    SetVlans(String, Vec<(u16, bool)>),
    /// A route to a pod is missing.
    AddRoute(Prefix, String, RouteKind),
}

impl Change {
    /// The kind of object, as the metric of repairs has it.
    pub fn kind(&self) -> &'static str {
        match self {
            Change::CreateBridge(..)
            | Change::SetPromiscuous(_)
            | Change::EnableVlanFiltering(_) => "bridge",
            Change::SetMac(..) | Change::SetUp(_) | Change::SetMtu(..) => "link",
            Change::SetSysctl(..) => "sysctl",
            Change::AddAddress { .. } | Change::DeleteAddress(..) => "address",
            Change::AddPort(..) | Change::SetPort(..) | Change::SetVlans(..) => "port",
            Change::AddRoute(..) => "route",
        }
    }

    /// Whether it must wait for the netfilter rules: `route_localnet` opens the node's loopback addresses to
    /// a device, and a rule guards them.
    pub fn needs_netfilter(&self) -> bool {
        matches!(self, Change::SetSysctl(name, _) if name.ends_with("/route_localnet"))
    }

    /// Mends it. Idempotent. Returns the error of a sysctl that only hardens and cannot be set.
    pub fn apply(&self, socket: &mut RouteSocket) -> Result<Option<netlink::Error>> {
        match self {
            Change::CreateBridge(name, bridge) => create_bridge(socket, name, bridge)?,
            Change::SetMac(name, mac) => {
                let index = index(socket, name)?;
                socket.set_mac(index, *mac)?;
            }
            Change::SetUp(name) => {
                let index = index(socket, name)?;
                socket.set_up(index)?;
            }
            Change::SetPromiscuous(name) => {
                let index = index(socket, name)?;
                socket.set_promiscuous(index, true)?;
            }
            Change::EnableVlanFiltering(name) => {
                let index = index(socket, name)?;
                socket.enable_vlan_filtering(index).map_err(no_vlan_filtering)?;
            }
            Change::SetSysctl(name, value) => {
                if name == IPV6_FORWARDING {
                    enable_ipv6_forwarding(socket)?;
                } else {
                    return set_sysctl(name, value);
                }
            }
            Change::AddAddress { device, address, owner, detect_duplicates } => {
                let protocol = if *owner == AddressOwner::Viaduct { PROTOCOL } else { 0 };
                let options = AddressOptions { detect_duplicates: *detect_duplicates, protocol };
                let index = index(socket, device)?;
                match socket.add_address_with(index, *address, options) {
                    // A parallel ADD was faster.
                    Err(error) if error.already_exists() => {}
                    other => other?,
                }
            }
            Change::DeleteAddress(device, address) => {
                let index = index(socket, device)?;
                socket.delete_address(index, *address)?;
            }
            Change::AddPort(name, bridge) => {
                let (port, bridge) = (index(socket, name)?, index(socket, bridge)?);
                socket.set_master(port, bridge)?;
            }
            Change::SetMtu(name, mtu) => {
                let index = index(socket, name)?;
                socket.set_mtu(index, *mtu)?;
            }
            Change::SetPort(name, flags) => {
                let index = index(socket, name)?;
                socket.set_bridge_port(index, *flags)?;
            }
            Change::SetVlans(name, vlans) => {
                let index = index(socket, name)?;
                set_vlans(socket, index, vlans)?;
            }
            Change::AddRoute(destination, device, kind) => {
                let index = index(socket, device)?;
                let route = route(*destination, index, *kind);
                match kind {
                    // A route to the pod by another link is left over from a former owner of the address.
                    RouteKind::Pod => socket.replace_route(&route)?,
                    // Other devices have the same one.
                    RouteKind::Connected(_) => socket.append_route(&route)?,
                }
            }
        }
        Ok(None)
    }
}

/// `RTPROT_KERNEL`, and the metric of the IPv6 routes that the kernel adds with an address.
const PROTOCOL_KERNEL: u8 = 2;
const METRIC_KERNEL: u32 = 256;

fn route(destination: Prefix, link: IfIndex, kind: RouteKind) -> Route {
    let is_ipv4 = destination.address().is_ipv4();
    let scope = is_ipv4.then_some(Scope::LINK);
    let plain = Route { link: Some(link), scope, ..Route::new(destination) };
    match kind {
        RouteKind::Pod => plain,
        RouteKind::Connected(address) => Route {
            protocol: PROTOCOL_KERNEL,
            source: Some(address).filter(|_| is_ipv4),
            priority: (!is_ipv4).then_some(METRIC_KERNEL),
            ..plain
        },
    }
}

fn link(socket: &mut RouteSocket, name: &str) -> Result<Link> {
    let gone = || netlink::Error::new(format!("look up link {name:?}"), netlink::Errno::NODEV);
    Ok(socket.link_by_name(name)?.ok_or_else(gone)?)
}

fn index(socket: &mut RouteSocket, name: &str) -> Result<IfIndex> {
    Ok(link(socket, name)?.index)
}

fn create_bridge(socket: &mut RouteSocket, name: &str, state: &BridgeState) -> Result<()> {
    let BridgeState { mac, mtu, vlan_filtering, .. } = *state;
    match socket.create_bridge(&Bridge { name, mac, mtu, vlan_filtering }) {
        // A parallel ADD was faster.
        Err(error) if error.already_exists() => refuse_other_kinds(&link(socket, name)?),
        Err(error) if vlan_filtering => Err(no_vlan_filtering(error)),
        other => Ok(other?),
    }
}

/// Refuses a device with the bridge's name that is of another kind.
pub fn refuse_other_kinds(link: &Link) -> Result<()> {
    if link.kind.as_deref() == Some("bridge") {
        return Ok(());
    }
    let kind = link.kind.clone().unwrap_or_else(|| "physical device".to_owned());
    Err(Error::NotABridge { name: link.name.clone(), kind })
}

fn no_vlan_filtering(error: netlink::Error) -> Error {
    if error.unsupported() { Error::NoVlanFiltering } else { error.into() }
}

fn set_sysctl(name: &str, value: &str) -> Result<Option<netlink::Error>> {
    if sysctls::only_hardens(name) {
        return Ok(sysctl::harden(name, value)?);
    }
    match sysctl::ensure(name, value) {
        Err(error) if error.not_found() && name.starts_with("net/ipv6") => {
            if name.ends_with("/disable_ipv6") {
                let device = name.split('/').nth(3).unwrap_or_default().to_owned();
                return Err(Error::NoIpv6 { device });
            }
            Ok(None)
        }
        other => Ok(other.map(|_| None)?),
    }
}

/// Puts a port into exactly these VLANs.
fn set_vlans(socket: &mut RouteSocket, port: IfIndex, vlans: &[(u16, bool)]) -> Result<()> {
    for (vid, _) in socket.port_vlans(port)? {
        if !vlans.iter().any(|(wanted, _)| *wanted == vid) {
            socket.delete_port_vlan(port, vid)?;
        }
    }
    for (vid, own) in vlans {
        socket.add_port_vlan(port, *vid, *own)?;
    }
    Ok(())
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::CreateBridge(name, _) => write!(f, "bridge {name} was missing"),
            Change::SetMac(name, mac) => write!(f, "link {name} lacked its MAC address {mac}"),
            Change::SetUp(name) => write!(f, "link {name} was down"),
            Change::SetPromiscuous(name) => write!(f, "bridge {name} was not promiscuous"),
            Change::EnableVlanFiltering(name) => write!(f, "bridge {name} did not filter VLANs"),
            Change::SetSysctl(name, value) => write!(f, "sysctl {name} was not {value}"),
            Change::AddAddress { device, address, .. } => {
                write!(f, "link {device} lacked its address {address}")
            }
            Change::DeleteAddress(device, address) => {
                write!(f, "link {device} had the unused gateway address {address}")
            }
            Change::AddPort(name, bridge) => write!(f, "link {name} was not a port of {bridge}"),
            Change::SetMtu(name, mtu) => write!(f, "the MTU of link {name} was not {mtu}"),
            Change::SetPort(name, _) => write!(f, "bridge port {name} had other settings"),
            Change::SetVlans(name, _) => write!(f, "bridge port {name} was in other VLANs"),
            Change::AddRoute(destination, device, _) => {
                write!(f, "the route to {destination} by link {device} was missing")
            }
        }
    }
}
