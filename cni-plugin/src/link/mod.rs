//! The link between a pod and its node.
//!
//! - [`bridge`]: the bridge, its addresses, the container's port
//! - [`routed`]: host routes instead of a bridge
//! - [`pod`]: the container's end
//! - [`uplink`]: the way out of the node: MTU and forwarding

pub(crate) mod bridge;
pub(crate) mod pod;
pub(crate) mod routed;
pub(crate) mod uplink;

use attachment::{Change, Owner};
use netlink::{IfIndex, Link, MacAddress, Namespace, OperState, RouteSocket, Veth, VethPeer};
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::AsFd;
use std::thread::sleep;
use std::time::Duration;

use crate::error::{CniError, Result, code};

/// Polls until the node's end can pass packets: on Linux before 6.9 the kernel settles it later.
const SETTLE_ATTEMPTS: u32 = 400;
const SETTLE_PAUSE: Duration = Duration::from_millis(5);

/// The kernel joins the group in which neighbours ask from a work queue: mostly at once.
const ANSWER_ATTEMPTS: u32 = 4000;
const ANSWER_PAUSE: Duration = Duration::from_micros(500);

/// Applies one change. A sysctl that only hardens and cannot be set is a line on standard error.
pub(crate) fn apply(change: &Change, socket: &mut RouteSocket) -> Result<()> {
    if let Some(error) = change.apply(socket)? {
        eprintln!("viaduct: {error}; the network works");
    }
    Ok(())
}

/// The pair of a new attachment.
pub(crate) struct Pair {
    pub(crate) host_mac: MacAddress,
    pub(crate) container_mac: MacAddress,
    pub(crate) mtu: u32,
    pub(crate) master: Option<IfIndex>,
}

/// Creates the pair: the node's end up, the other in the container's namespace.
///
/// A node-side link of this very attachment that has no end in the container is what an interrupted
/// ADD left behind; it is replaced.
pub(crate) fn create_pair(
    socket: &mut RouteSocket,
    inside: &mut RouteSocket,
    container: &Namespace,
    owner: &Owner,
    pair: &Pair,
) -> Result<()> {
    let name = owner.host_link();
    let ifname = &owner.attachment.ifname;
    let veth = Veth {
        name: &name,
        mac: pair.host_mac,
        mtu: pair.mtu,
        master: pair.master,
        peer: VethPeer { name: ifname, mac: pair.container_mac, namespace: container.as_fd() },
    };
    match socket.create_veth(&veth) {
        Err(error) if error.already_exists() => {}
        other => return Ok(other?),
    }
    if inside.link_by_name(ifname)?.is_some() {
        return Err(CniError::new(
            code::CONFLICT,
            format!("interface {ifname:?} already exists in the container's network namespace"),
        ));
    }
    socket.delete_link_by_name(&name)?;
    Ok(socket.create_veth(&veth)?)
}

/// Waits until a device of the calling thread's namespace answers neighbours that ask for these
/// addresses. IPv4 does at once.
pub(crate) fn wait_until_answering(device: &str, addresses: &[IpAddr]) -> Result<()> {
    let v6 = |address: &IpAddr| match address {
        IpAddr::V6(v6) => Some(*v6),
        IpAddr::V4(_) => None,
    };
    let addresses: Vec<Ipv6Addr> = addresses.iter().filter_map(v6).collect();
    if addresses.is_empty() {
        return Ok(());
    }
    for _ in 0..ANSWER_ATTEMPTS {
        if netlink::multicast::answers_for(device, &addresses)? {
            return Ok(());
        }
        sleep(ANSWER_PAUSE);
    }
    let message = format!("device {device:?} does not answer for {addresses:?} within two seconds");
    Err(CniError::new(code::IO, message))
}

/// Waits until a link passes packets, and describes it.
pub(crate) fn settled(socket: &mut RouteSocket, index: IfIndex) -> Result<Link> {
    for _ in 0..SETTLE_ATTEMPTS {
        let link = socket.link_by_index(index)?.ok_or_else(|| {
            CniError::new(code::IO, "the node's end of the link vanished while it came up")
        })?;
        let forwards = link.port.is_none_or(|port| port.forwarding);
        if link.state != OperState::Down && forwards {
            return Ok(link);
        }
        sleep(SETTLE_PAUSE);
    }
    Err(CniError::new(code::IO, format!("link {index} does not come up within two seconds")))
}
