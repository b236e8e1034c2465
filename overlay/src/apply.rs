//! Making it so: [`Changes::apply`], and [`Overlay`], which remembers what was committed.

use netlink::{
    IfIndex, Link, Neighbour, Prefix, Route, RouteBatch, RouteSocket, Vxlan, ethtool, sysctl,
};

use crate::diff::{Changes, DeviceChange, diff};
use crate::plan::Plan;
use crate::state::{Device, PeerRoute, State, Through};
use crate::{Error, ROUTE_PROTOCOL, Result};

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
    pub fn converge(&mut self, socket: &mut RouteSocket, plan: &Plan) -> Result<Changes> {
        let current = match self.committed.take() {
            Some(committed) => committed,
            None => State::observe(socket, plan)?,
        };
        let changes = diff(&current, &plan.desired);
        changes.apply(socket, plan)?;
        self.committed = Some(plan.desired.clone());
        Ok(changes)
    }

    /// Makes the next [`Overlay::converge`] read the kernel: somebody else may have changed it.
    pub fn forget(&mut self) {
        self.committed = None;
    }
}

impl Changes {
    /// Sends the changes. Everything is idempotent: after a failure, observe and compare again.
    pub fn apply(&self, socket: &mut RouteSocket, plan: &Plan) -> Result<()> {
        self.apply_device(socket)?;
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
        Ok(())
    }

    fn apply_device(&self, socket: &mut RouteSocket) -> Result<()> {
        match &self.device {
            DeviceChange::Keep => Ok(()),
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

fn create(socket: &mut RouteSocket, device: &Device) -> Result<()> {
    let created = socket.create_vxlan(&Vxlan {
        name: &device.name,
        vni: device.vni,
        port: device.port,
        lower: device.lower,
        local: device.local,
        mac: device.mac,
        mtu: device.mtu,
    });
    match created {
        // Somebody else was faster, with the same plan: what follows is idempotent.
        Err(error) if error.already_exists() => {}
        other => other?,
    }
    adjust(socket, device)
}

/// Brings an existing device to its settings. Its address comes before its state, so that no packet
/// leaves with another source.
fn adjust(socket: &mut RouteSocket, device: &Device) -> Result<()> {
    let link = tunnel_link(socket, &device.name)?;
    if link.vxlan.is_none() {
        let kind = link.kind.unwrap_or_else(|| "physical device".into());
        return Err(Error::NotVxlan { name: link.name, kind });
    }
    sysctl::ensure_if_present(&format!("net/ipv6/conf/{}/accept_ra", device.name), "0")?;
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
        socket.set_up(link.index)?;
    }
    Ok(())
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
