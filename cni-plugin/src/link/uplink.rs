//! The way out of the node: which MTU it leaves to pods, and that the node forwards.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink::{Family, Link, RouteSocket, sysctl};
use overlay::{Backend, Vxlan};

use crate::config::{Config, OverlayConfig};
use crate::error::Result;

/// The MTU of a node without any way out.
const DEFAULT_MTU: u32 = 1500;
/// Addresses that no network of a user has (documentation): the route to them is the default route.
const ELSEWHERE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];

/// The MTU of a pod's interface in bytes: as configured, or the uplink's less what the overlay adds.
pub(crate) fn pod_mtu(socket: &mut RouteSocket, config: &Config) -> Result<u32> {
    if let Some(mtu) = config.mtu {
        return Ok(mtu);
    }
    let Some(OverlayConfig { overlay, nodes }) = &config.overlay else {
        return Ok(uplink(socket, None)?.map_or(DEFAULT_MTU, |(link, _)| link.mtu));
    };
    if let Backend::Vxlan(vxlan) = &overlay.backend
        && let Some(tunnel) = socket.link_by_name(&overlay::vxlan_device_name(vxlan.vni))?
    {
        return Ok(tunnel.mtu);
    }
    let own = nodes.iter().flatten().find(|node| node.name == overlay.node_name);
    let found = match own {
        Some(node) => {
            let underlay = overlay::Underlay::observe(socket, overlay, std::slice::from_ref(node))?;
            Some((underlay.mtu, Family::of(node.address)))
        }
        None => uplink(socket, overlay.device.as_deref())?.map(|(link, family)| (link.mtu, family)),
    };
    let (mtu, outer) = found.unwrap_or((DEFAULT_MTU, Family::V4));
    Ok(match overlay.backend {
        Backend::Vxlan(_) => mtu.saturating_sub(Vxlan::overhead(outer)),
        Backend::HostGw => mtu,
    })
}

/// The link of the default route and the route's family, IPv4 first; or the link of this name.
fn uplink(socket: &mut RouteSocket, device: Option<&str>) -> Result<Option<(Link, Family)>> {
    let mut named = None;
    if let Some(device) = device {
        named = socket.link_by_name(device)?;
    }
    for destination in ELSEWHERE {
        let route = socket.route_to(destination)?;
        if let Some(index) = route.and_then(|route| route.link) {
            let link = match named {
                Some(link) => Some(link),
                None => socket.link_by_index(index)?,
            };
            return Ok(link.map(|link| (link, Family::of(destination))));
        }
    }
    Ok(named.map(|link| (link, Family::V4)))
}

/// Lets the node forward packets of a family from and to a device of ours.
///
/// With a daemon the node-wide switches are its business. Alone, the plugin sets them, as the
/// reference plugins do: without them no answer would ever come back to a pod.
pub(crate) fn enable_forwarding(
    socket: &mut RouteSocket,
    family: Family,
    device: &str,
    alone: bool,
) -> Result<()> {
    match (family, alone) {
        (Family::V4, true) => sysctl::ensure("net/ipv4/ip_forward", "1").map(drop)?,
        (Family::V4, false) => {
            sysctl::ensure(&format!("net/ipv4/conf/{device}/forwarding"), "1").map(drop)?;
        }
        (Family::V6, true) => enable_ipv6_forwarding(socket)?,
        (Family::V6, false) => {
            sysctl::ensure_if_present(&format!("net/ipv6/conf/{device}/forwarding"), "1")?;
        }
    }
    Ok(())
}

/// A forwarding node ignores router advertisements unless told otherwise (`accept_ra` 2): an uplink
/// that lives by them would lose its default route.
fn enable_ipv6_forwarding(socket: &mut RouteSocket) -> Result<()> {
    const ALL: &str = "net/ipv6/conf/all/forwarding";
    if sysctl::read(ALL).is_ok_and(|value| value == "1") {
        return Ok(());
    }
    if let Some(route) = socket.route_to(ELSEWHERE[1])?
        && let Some(index) = route.link
        && let Some(link) = socket.link_by_index(index)?
    {
        let accept_ra = format!("net/ipv6/conf/{}/accept_ra", link.name);
        if sysctl::read(&accept_ra).is_ok_and(|value| value == "1") {
            sysctl::ensure(&accept_ra, "2")?;
        }
    }
    sysctl::ensure_if_present(ALL, "1")?;
    Ok(())
}
