//! [`State`]: what the overlay consists of in the kernel, wanted or found.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use netlink::{Family, IfIndex, Link, MacAddress, Prefix, RouteFilter, RouteSocket};

use crate::config::VXLAN_DEVICE_PREFIX;
use crate::plan::Plan;
use crate::{Error, ROUTE_PROTOCOL, Result};

/// The tunnel device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// VXLAN network identifier.
    pub vni: u32,
    /// UDP port.
    pub port: u16,
    /// The underlay device.
    pub lower: IfIndex,
    /// The outer source address.
    pub local: IpAddr,
    /// Its Ethernet address.
    pub mac: MacAddress,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Its addresses: the first of each pod subnet, as source of what the node itself sends to pods.
    pub addresses: BTreeSet<Prefix>,
    /// Whether it is up.
    pub up: bool,
    /// Transmit checksum offload, where it is set or asked for.
    pub tx_checksum_offload: Option<bool>,
}

/// Which device a peer is reached by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Through {
    /// The tunnel device.
    Tunnel,
    /// The underlay device.
    Underlay,
    /// A device that is neither: a tunnel of an earlier configuration.
    Former(IfIndex),
}

/// The route to a peer's pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PeerRoute {
    /// The peer: the first address of its pod subnet, or its node address.
    pub gateway: IpAddr,
    /// By which device.
    pub through: Through,
}

/// The overlay as it is, or as it should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// The tunnel device, if there is one.
    pub device: Option<Device>,
    /// Permanent neighbours on the tunnel device.
    pub neighbours: BTreeMap<IpAddr, MacAddress>,
    /// The tunnel device's forwarding database: VTEP's Ethernet address to node address.
    pub forwarding: BTreeMap<MacAddress, IpAddr>,
    /// Routes to the pod subnets of peers.
    pub routes: BTreeMap<Prefix, PeerRoute>,
}

impl State {
    /// Reads from the kernel what a plan is about.
    ///
    /// Routes count if they carry our protocol number and leave by the tunnel, by the underlay, or,
    /// where the plan has the same destination, by a tunnel device of an earlier configuration.
    pub fn observe(socket: &mut RouteSocket, plan: &Plan) -> Result<State> {
        let mut state = State::default();
        let mut tunnel = None;
        if let Some(wanted) = &plan.desired.device
            && let Some(link) = socket.link_by_name(&wanted.name)?
        {
            tunnel = Some(link.index);
            state.device = Some(observe_device(socket, &link, wanted.tx_checksum_offload)?);
            for family in [Family::V4, Family::V6] {
                let found = socket.neighbours(link.index, family)?;
                state.neighbours.extend(found.into_iter().map(|n| (n.address, n.mac)));
            }
            let found = socket.forwarding_database(link.index)?;
            state.forwarding.extend(found.into_iter().map(|n| (n.mac, n.address)));
        }
        for family in [Family::V4, Family::V6] {
            let filter = RouteFilter { family, link: None, protocol: Some(ROUTE_PROTOCOL) };
            for route in socket.routes(filter)? {
                let (Some(gateway), Some(link)) = (route.gateway, route.link) else { continue };
                let through = if Some(link) == tunnel {
                    Through::Tunnel
                } else if link == plan.underlay {
                    Through::Underlay
                } else if plan.desired.routes.contains_key(&route.destination)
                    && is_former_tunnel(socket, link)?
                {
                    Through::Former(link)
                } else {
                    continue;
                };
                state.routes.insert(route.destination, PeerRoute { gateway, through });
            }
        }
        Ok(state)
    }
}

fn is_former_tunnel(socket: &mut RouteSocket, link: IfIndex) -> Result<bool> {
    let link = socket.link_by_index(link)?;
    Ok(link.is_some_and(|l| l.vxlan.is_some() && l.name.starts_with(VXLAN_DEVICE_PREFIX)))
}

fn observe_device(
    socket: &mut RouteSocket,
    link: &Link,
    wanted_offload: Option<bool>,
) -> Result<Device> {
    let vxlan = link.vxlan.ok_or_else(|| Error::NotVxlan {
        name: link.name.clone(),
        kind: link.kind.clone().unwrap_or_else(|| "physical device".into()),
    })?;
    let addresses = socket.addresses(Some(link.index))?;
    let tx_checksum_offload = match wanted_offload {
        Some(_) => Some(netlink::ethtool::tx_checksum_offload(&link.name)?),
        None => None,
    };
    Ok(Device {
        name: link.name.clone(),
        vni: vxlan.vni,
        port: vxlan.port,
        // What no device can have makes `diff` create it anew: a tunnel that learns, or has no
        // underlay or no address of its own, was not made by us.
        lower: vxlan.lower.filter(|_| !vxlan.learning).unwrap_or(IfIndex(0)),
        local: vxlan.local.unwrap_or(Family::V4.unspecified()),
        mac: link.mac.unwrap_or(MacAddress([0; 6])),
        mtu: link.mtu,
        addresses: addresses.iter().filter(|a| a.global).map(|a| a.prefix).collect(),
        up: link.up,
        tx_checksum_offload,
    })
}
