//! Addresses of a bridge that contradict a network's gateways: which go, which stay, which are refused.

use netlink::{Link, MacAddress, Prefix, RouteSocket};

use crate::state::AddressOwner;
use crate::{Error, LinkRecord, Record, Records, Result, State};

/// The addresses of a bridge that go before the gateways of an attachment are added.
///
/// A gateway of ours that no live attachment uses goes, because the network's subnet has changed. One that
/// older attachments of the same network use stays beside the new one. Any other address that contradicts
/// the gateways is an error, or goes with `forceAddress`.
pub fn contradicting_addresses(
    socket: &mut RouteSocket,
    record: &Record,
    bridge: &Link,
    observed: &State,
    records: &Records,
) -> Result<Vec<Prefix>> {
    let LinkRecord::Bridge { force_address, .. } = &record.link else { return Ok(Vec::new()) };
    let mut usage: Option<Usage> = None;
    let mut gone = Vec::new();
    for ((_, present), owner) in &observed.addresses {
        if record.gateways.contains(present) || present.address().is_loopback() {
            continue;
        }
        let contradicted = record.gateways.iter().find(|gateway| contradicts(**gateway, *present));
        let is_ours = *owner == AddressOwner::Viaduct || is_derived(bridge.mac, *present);
        if contradicted.is_none() && !is_ours {
            continue;
        }
        let usage = match &usage {
            Some(usage) => usage,
            None => usage.insert(Usage::read(socket, record, bridge, records)?),
        };
        match (usage.of(*present), is_ours) {
            (Some(network), true) if network == record.owner.network => continue,
            (None, true) if usage.has_unrecorded_ports => continue,
            (None, true) => gone.push(*present),
            (Some(_), true) if contradicted.is_none() => continue,
            _ if *force_address => gone.push(*present),
            _ => {
                let wanted = *contradicted.unwrap_or(present);
                let (bridge, present) = (bridge.name.clone(), *present);
                return Err(Error::GatewayConflict { bridge, present, wanted });
            }
        }
    }
    Ok(gone)
}

/// Whether a bridge cannot have both: two IPv4 addresses, or IPv6 addresses whose subnets overlap.
fn contradicts(gateway: Prefix, present: Prefix) -> bool {
    gateway.family() == present.family()
        && (present.address().is_ipv4() || gateway.network().overlaps(present.network()))
}

/// Whether the bridge's MAC address follows from this address: we made the bridge with it as gateway. Kernels
/// before 5.18 and earlier versions of ours do not mark addresses.
fn is_derived(mac: Option<MacAddress>, address: Prefix) -> bool {
    mac.is_some() && mac == crate::plan::bridge_mac(&[address])
}

/// Which attachments use the addresses of a bridge.
struct Usage {
    gateways: Vec<(String, Prefix)>,
    /// Whether the bridge has ports of ours without a record. An earlier version attached them.
    has_unrecorded_ports: bool,
}

impl Usage {
    fn read(
        socket: &mut RouteSocket,
        record: &Record,
        bridge: &Link,
        records: &Records,
    ) -> Result<Usage> {
        let links = socket.links()?;
        let names = crate::observe::LinkNames::of(&links);
        let (mut all, _) = records.list()?;
        all.retain(|other| other.owner != record.owner && names.has_link_of(other));
        let on_bridge = all.iter().filter(|other| other.device() == bridge.name);
        let gateways = on_bridge.flat_map(|other| {
            other.gateways.iter().map(|gateway| (other.owner.network.clone(), *gateway))
        });
        let is_recorded =
            |link: &Link| all.iter().any(|other| other.owner.host_link() == link.name);
        let is_port =
            |link: &&Link| link.master == Some(bridge.index) && crate::is_link_name(&link.name);
        Ok(Usage {
            gateways: gateways.collect(),
            has_unrecorded_ports: links.iter().filter(is_port).any(|link| !is_recorded(link)),
        })
    }

    /// A network whose attachments use an address.
    fn of(&self, address: Prefix) -> Option<&str> {
        let user = self.gateways.iter().find(|(_, gateway)| *gateway == address);
        user.map(|(network, _)| network.as_str())
    }
}
