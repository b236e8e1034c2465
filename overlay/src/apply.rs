//! Making it so: [`Changes::apply`], and [`Overlay`], which remembers what was committed.

use std::collections::BTreeSet;

use netlink::{
    Errno, Family, IfIndex, Link, Neighbour, Prefix, Route, RouteBatch, RouteFilter, RouteSocket,
    Vxlan, VxlanState, ethtool, sysctl,
};

use crate::config::VXLAN_DEVICE_PREFIX;
use crate::diff::{Changes, DeviceChange, diff};
use crate::plan::Plan;
use crate::state::{Device, PeerRoute, State, Through};
use crate::{Error, ROUTE_PROTOCOL, Result};

/// What [`Overlay::converge`] did.
#[derive(Debug)]
pub struct Converged {
    /// What changed.
    pub changes: Changes,
    /// Why a setting that only hardens could not be set.
    pub unhardened: Option<netlink::Error>,
}

/// The overlay that was committed last.
#[derive(Debug, Default)]
pub struct Overlay {
    committed: Option<State>,
}

impl Overlay {
    /// Brings the kernel to the plan, and tells what changed.
    ///
    /// The first time, after a failure and after [`Overlay::forget`] the kernel is read; otherwise
    /// only what differs from the last plan is sent.
    pub fn converge(&mut self, socket: &mut RouteSocket, plan: &Plan) -> Result<Converged> {
        let current = match self.committed.take() {
            Some(committed) => committed,
            None => State::observe(socket, plan)?,
        };
        let changes = diff(&current, &plan.desired);
        let unhardened = changes.apply(socket, plan)?;
        self.committed = Some(plan.desired.clone());
        Ok(Converged { changes, unhardened })
    }

    /// Makes the next [`Overlay::converge`] read the kernel: somebody else may have changed it.
    pub fn forget(&mut self) {
        self.committed = None;
    }
}

impl Changes {
    /// Sends the changes. Everything is idempotent: after a failure, observe and compare again. Returns the error
    /// of a setting that only hardens.
    pub fn apply(&self, socket: &mut RouteSocket, plan: &Plan) -> Result<Option<netlink::Error>> {
        let unhardened = self.apply_device(socket)?;
        let tunnel = match &plan.desired.device {
            Some(device) => Some(tunnel_link(socket, &device.name)?.index),
            None => None,
        };
        let links = Links { tunnel, underlay: plan.underlay };
        let mut batch = RouteBatch::default();
        for (prefix, route) in &self.removed_routes {
            batch.delete_route(&links.route(*prefix, *route));
        }
        if let Some(link) = tunnel {
            for (mac, address) in &self.removed_forwarding {
                batch.delete_forwarding(&Neighbour { link, address: *address, mac: *mac });
            }
            for (address, mac) in &self.removed_neighbours {
                batch.delete_neighbour(&Neighbour { link, address: *address, mac: *mac });
            }
            for (address, mac) in &self.neighbours {
                batch.replace_neighbour(&Neighbour { link, address: *address, mac: *mac });
            }
            for (mac, address) in &self.forwarding {
                batch.replace_forwarding(&Neighbour { link, address: *address, mac: *mac });
            }
        }
        for (prefix, route) in &self.routes {
            batch.replace_route(&links.route(*prefix, *route));
        }
        socket.execute_batch(batch)?;
        for former in &self.former_devices {
            socket.delete_link(*former)?;
        }
        Ok(unhardened)
    }

    fn apply_device(&self, socket: &mut RouteSocket) -> Result<Option<netlink::Error>> {
        match &self.device {
            DeviceChange::Keep => Ok(None),
            DeviceChange::Create(device) => create(socket, device),
            DeviceChange::Recreate(device) => {
                socket.delete_link_by_name(&device.name)?;
                create(socket, device)
            }
            DeviceChange::Adjust(device) => adjust(socket, device),
        }
    }
}

fn tunnel_link(socket: &mut RouteSocket, name: &str) -> Result<Link> {
    let gone = || netlink::Error::new(format!("look up link {name:?}"), netlink::Errno::NODEV);
    Ok(socket.link_by_name(name)?.ok_or_else(gone)?)
}

fn create(socket: &mut RouteSocket, device: &Device) -> Result<Option<netlink::Error>> {
    let created = socket.create_vxlan(&Vxlan {
        name: &device.name,
        vni: device.vni,
        port: device.port,
        lower: device.lower,
        local: device.local,
        mac: device.mac,
        mtu: device.mtu,
    });
    let is_ours = created.is_ok();
    match created {
        // Another process was faster, with the same plan, or another device has the network identifier.
        Err(error) if error.already_exists() && socket.link_by_name(&device.name)?.is_some() => {}
        Err(error) => return Err(rival(socket, device)?.unwrap_or(error.into())),
        Ok(()) => {}
    }
    adjust(socket, device).inspect_err(|_| {
        if is_ours {
            // It cannot be used, and would be in the way of the next attempt.
            let _ = socket.delete_link_by_name(&device.name);
        }
    })
}

/// The error that names another VXLAN device with our network identifier or our port, if there is one.
fn rival(socket: &mut RouteSocket, device: &Device) -> Result<Option<Error>> {
    let links = socket.links_of_kind("vxlan")?;
    let mut others = links.into_iter().filter(|link| link.name != device.name);
    Ok(others.find_map(|link| {
        let VxlanState { vni, port, .. } = link.vxlan?;
        (port == device.port).then_some(Error::Rival { name: link.name, vni, port })
    }))
}

/// Brings an existing device to its settings. Its address comes before its state, so that no packet
/// leaves with another source. Returns the error of a setting that only hardens.
fn adjust(socket: &mut RouteSocket, device: &Device) -> Result<Option<netlink::Error>> {
    let link = tunnel_link(socket, &device.name)?;
    if link.vxlan.is_none() {
        let kind = link.kind.unwrap_or_else(|| "physical device".into());
        return Err(Error::NotVxlan { name: link.name, kind });
    }
    let setting = |name: &str| format!("net/ipv6/conf/{}/{name}", device.name);
    let unhardened = sysctl::harden(&setting("accept_ra"), "0")?;
    if device.addresses.iter().any(|address| address.family() == Family::V6) {
        sysctl::ensure_if_present(&setting("disable_ipv6"), "0")?;
    }
    if link.mtu != device.mtu {
        socket.set_mtu(link.index, device.mtu)?;
    }
    if link.mac != Some(device.mac) {
        socket.set_mac(link.index, device.mac)?;
    }
    if let Some(on) = device.tx_checksum_offload {
        ethtool::set_tx_checksum_offload(&device.name, on)?;
    }
    let addresses = socket.addresses(Some(link.index))?;
    for address in &device.addresses {
        if !addresses.iter().any(|a| a.prefix == *address) {
            match socket.add_address(link.index, *address, false) {
                Err(error) if error.already_exists() => {}
                other => other?,
            }
        }
    }
    for stray in addresses.iter().filter(|a| a.global && !device.addresses.contains(&a.prefix)) {
        socket.delete_address(link.index, stray.prefix)?;
    }
    if !link.up {
        match socket.set_up(link.index) {
            Err(error) if error.errno == Errno::ADDRINUSE => {
                socket.delete_link_by_name(&device.name)?;
                return Err(rival(socket, device)?.unwrap_or(Error::PortInUse(device.port)));
            }
            other => other?,
        }
    }
    Ok(unhardened)
}

/// Removes what overlays left: tunnel devices but those named in `keep`, and the routes that carry our
/// protocol number. Routes by other devices stay if `keep_direct`. Returns a line for each kind removed.
pub fn remove(
    socket: &mut RouteSocket,
    keep: &BTreeSet<String>,
    keep_direct: bool,
) -> Result<Vec<String>> {
    let mut removed = Vec::new();
    let links = socket.links_of_kind("vxlan")?;
    let is_tunnel = |link: &&Link| link.name.starts_with(VXLAN_DEVICE_PREFIX);
    let tunnels: Vec<&Link> = links.iter().filter(is_tunnel).collect();
    let is_kept = |index| match tunnels.iter().find(|tunnel| Some(tunnel.index) == index) {
        Some(tunnel) => keep.contains(&tunnel.name),
        None => keep_direct,
    };
    let mut batch = RouteBatch::default();
    let mut routes = 0;
    for family in [Family::V4, Family::V6] {
        let filter = RouteFilter { family, link: None, protocol: Some(ROUTE_PROTOCOL) };
        for route in socket.routes(filter)? {
            if !is_kept(route.link) {
                batch.delete_route(&route);
                routes += 1;
            }
        }
    }
    socket.execute_batch(batch)?;
    if routes > 0 {
        removed.push(format!("{routes} routes of an overlay that is switched off"));
    }
    for tunnel in tunnels.iter().filter(|tunnel| !keep.contains(&tunnel.name)) {
        socket.delete_link_by_name(&tunnel.name)?;
        removed.push(format!("tunnel device {} of an overlay that is switched off", tunnel.name));
    }
    Ok(removed)
}

struct Links {
    tunnel: Option<IfIndex>,
    underlay: IfIndex,
}

impl Links {
    fn route(&self, destination: Prefix, peer: PeerRoute) -> Route {
        let (link, onlink) = match peer.through {
            Through::Tunnel => (self.tunnel, true),
            Through::Underlay => (Some(self.underlay), false),
            Through::Former(link) => (Some(link), true),
        };
        Route {
            gateway: Some(peer.gateway),
            link,
            onlink,
            protocol: ROUTE_PROTOCOL,
            ..Route::new(destination)
        }
    }
}
