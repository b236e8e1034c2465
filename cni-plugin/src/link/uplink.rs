//! The way out of the node, and which MTU it leaves to pods.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink::{Family, Link, RouteSocket};
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
