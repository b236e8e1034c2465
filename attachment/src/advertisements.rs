//! Router advertisements on a node that starts to forward IPv6.
//!
//! A forwarding node ignores advertisements on links whose `accept_ra` is 1, so an uplink that lives by them
//! would lose its addresses and its default route. Links that lead to pods or to containers must never
//! believe one.

use netlink::{Link, OperState, RouteSocket, sysctl};

use crate::sysctls::of_device;

/// Kinds of virtual devices that can be a node's uplink. Hardware has no kind.
const UPLINK_KINDS: [&str; 6] = ["bond", "ipvlan", "macvlan", "team", "vlan", "virt_wifi"];

/// Whether a link may be an uplink that lives by router advertisements.
///
/// A veth is one if it has the name of an Ethernet card, as in a node that is itself a container. Bridges,
/// ports of bridges, tunnels and ends of other veths are not.
pub fn may_be_uplink(link: &Link) -> bool {
    let is_port = link.port.is_some() || (link.master.is_some() && link.state == OperState::Up);
    match link.kind.as_deref() {
        _ if link.name == "lo" || is_port => false,
        None => true,
        Some("veth") => link.name.starts_with("eth") || link.name.starts_with("en"),
        Some(kind) => UPLINK_KINDS.contains(&kind),
    }
}

/// Lets the uplinks keep what they have from router advertisements when the node forwards IPv6. Returns the
/// sysctls that it set to 2.
pub fn keep_on_uplinks(socket: &mut RouteSocket) -> netlink::Result<Vec<String>> {
    let mut kept = Vec::new();
    for link in socket.links()?.iter().filter(|link| may_be_uplink(link)) {
        let name = of_device(6, &link.name, "accept_ra");
        if sysctl::read(&name).is_ok_and(|value| value == "1") && sysctl::ensure(&name, "2")? {
            kept.push(name);
        }
    }
    Ok(kept)
}
