//! The dummy device that makes Service addresses the node's own: packets to them reach IPVS that way.
//!
//! It stays down, as kube-proxy's does: an address counts as local all the same, and nothing is ever sent by it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use netlink::{Error, IfIndex, Prefix, Result, RouteSocket};

/// Its name, which is kube-proxy's: either can take over from the other.
pub(super) const NAME: &str = "kube-ipvs0";

/// The device.
pub(super) struct Device {
    socket: RouteSocket,
    index: Option<IfIndex>,
}

impl Device {
    pub(super) fn open() -> Result<Device> {
        Ok(Device { socket: RouteSocket::open()?, index: None })
    }

    /// Reads the addresses of the device, and those that the node has besides; makes the device if there is
    /// none.
    pub(super) fn addresses(&mut self) -> Result<(BTreeSet<IpAddr>, BTreeSet<IpAddr>)> {
        if self.socket.link_by_name(NAME)?.is_none() {
            self.socket.create_dummy(NAME).map_err(missing_dummy)?;
        }
        self.read()
    }

    /// The same, without making anything: a device that is not there has no addresses.
    pub(super) fn read(&mut self) -> Result<(BTreeSet<IpAddr>, BTreeSet<IpAddr>)> {
        self.index = self.socket.link_by_name(NAME)?.map(|link| link.index);
        let mut by_owner: BTreeMap<bool, BTreeSet<IpAddr>> = BTreeMap::new();
        for address in self.socket.addresses(None)? {
            let ours = Some(address.link) == self.index;
            let ip = address.prefix.address();
            // They come with every link that is up, those of pods too.
            if !is_link_local(ip) {
                by_owner.entry(ours).or_default().insert(ip);
            }
        }
        let mut of = |ours| by_owner.remove(&ours).unwrap_or_default();
        Ok((of(true), of(false)))
    }

    /// Adds addresses; those that are there stay.
    pub(super) fn bind(&mut self, addresses: &[IpAddr]) -> Result<()> {
        let Some(index) = self.index else { return Ok(()) };
        for ip in addresses {
            match self.socket.add_address(index, Prefix::host(*ip), false) {
                Err(error) if error.already_exists() => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// Takes addresses away.
    pub(super) fn unbind(&mut self, addresses: &[IpAddr]) -> Result<()> {
        let Some(index) = self.index else { return Ok(()) };
        for ip in addresses {
            self.socket.delete_address(index, Prefix::host(*ip))?;
        }
        Ok(())
    }
}

/// Names the module in the answer of a kernel that does not know this kind of devices.
pub fn missing_dummy(error: Error) -> Error {
    if !error.unsupported() {
        return error;
    }
    let detail = Some("the kernel has no such devices; they are in module dummy".to_owned());
    super::or_another_mode(Error { detail, ..error })
}

fn is_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

/// Those of the node's addresses on which a node port can answer at all: not loopback, which the relay serves, and
/// not link-local ones, which mean nothing without an interface.
pub(super) fn can_serve(ip: &IpAddr) -> bool {
    !ip.is_loopback() && !is_link_local(*ip)
}
