//! Router advertisements on a node that starts to forward IPv6.
//!
//! A forwarding node ignores advertisements on links whose `accept_ra` is 1, so an uplink that lives by them
//! would lose its addresses and its default route. Links that lead to pods or to containers must never
//! believe one.

use netlink::{Link, OperState, RouteSocket, sysctl};

use crate::Records;
use crate::sysctls::of_device;

/// The sysctl that makes the whole node forward IPv6.
pub const IPV6_FORWARDING: &str = "net/ipv6/conf/all/forwarding";

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

/// Lets the uplinks keep what they have from router advertisements. Returns the sysctls that it set to 2.
fn keep_on_uplinks(links: &[Link]) -> netlink::Result<Vec<String>> {
    let mut kept = Vec::new();
    for link in links.iter().filter(|link| may_be_uplink(link)) {
        let name = of_device(6, &link.name, "accept_ra");
        if sysctl::read(&name).is_ok_and(|value| value == "1") && sysctl::ensure(&name, "2")? {
            kept.push(name);
        }
    }
    Ok(kept)
}

/// Switches IPv6 forwarding of the node on, so that its uplinks keep their addresses and routes. Returns the
/// sysctls that it set for that. Does nothing on a kernel without IPv6.
pub fn enable_ipv6_forwarding(socket: &mut RouteSocket) -> netlink::Result<Vec<String>> {
    match sysctl::read(IPV6_FORWARDING) {
        Ok(value) if value == "0" => {}
        Err(error) if !error.not_found() => return Err(error),
        _ => return Ok(Vec::new()),
    }
    let mut set = keep_on_uplinks(&socket.links()?)?;
    sysctl::ensure(IPV6_FORWARDING, "1")?;
    set.push(IPV6_FORWARDING.to_owned());
    if let Ok(records) = Records::of_current_namespace() {
        records.note_ipv6_forwarding();
    }
    Ok(set)
}

/// The same for uplinks that appeared since. Where the node forwarded IPv6 before we came, no link starts to
/// believe advertisements.
pub(crate) fn keep_on_late_uplinks(
    records: &Records,
    links: &[Link],
) -> netlink::Result<Vec<String>> {
    if records.has_ipv6_forwarding_note() { keep_on_uplinks(links) } else { Ok(Vec::new()) }
}
