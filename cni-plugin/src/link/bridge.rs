//! The bridge: its existence, its addresses, and the container's port.

use attachment::{LinkRecord, Record, Records, State};
use netlink::{Link, RouteSocket};

use crate::config::Config;
use crate::error::{CniError, Result, code};

/// The bridge of the configuration, if it is there and a bridge.
pub(crate) fn find(socket: &mut RouteSocket, config: &Config) -> Result<Option<Link>> {
    let link = socket.link_by_name(&config.bridge)?;
    if let Some(link) = &link {
        attachment::refuse_other_kinds(link)?;
    }
    Ok(link)
}

/// The MTU that a bridge leaves to a new port: the kernel drops what is larger than another port's without a
/// word to the sender. `None` if it has no port.
pub(crate) fn mtu_of_ports(socket: &mut RouteSocket, bridge: &Link) -> Result<Option<u32>> {
    Ok(socket.bridge_ports(bridge.index)?.iter().map(|port| port.mtu).min())
}

/// Brings the bridge to what an attachment needs. Returns it, and whether it had to be created.
pub(crate) fn ensure(
    socket: &mut RouteSocket,
    found: Option<Link>,
    record: &Record,
    desired: &State,
    records: &Records,
) -> Result<(Link, bool)> {
    let observed = attachment::observe::observe_bridge(socket, found.as_ref(), desired)?;
    let mut changed = false;
    if let Some(bridge) = &found {
        let contradicting = attachment::gateways::contradicting_addresses(
            socket, record, bridge, &observed, records,
        )?;
        for address in contradicting {
            socket.delete_address(bridge.index, address)?;
        }
    }
    let changes = attachment::diff(desired, &observed);
    for change in changes.iter().filter(|change| !change.needs_netfilter()) {
        super::apply(change, socket)?;
        changed = true;
    }
    let is_new = found.is_none();
    let bridge = match found {
        Some(bridge) if !changed => bridge,
        _ => socket.link_by_name(&record.device())?.ok_or_else(|| {
            let message = format!("bridge {:?} vanished as soon as it was made", record.device());
            CniError::new(code::IO, message)
        })?,
    };
    Ok((bridge, is_new))
}

/// Whether bridge and port are as the configuration says.
pub(crate) fn check(
    socket: &mut RouteSocket,
    config: &Config,
    port: &Link,
    record: &Record,
) -> Result<()> {
    let failed = |message: String| Err(CniError::new(code::CHECK_FAILED, message));
    let name = &config.bridge;
    let Some(bridge) = socket.link_by_name(name)? else {
        return failed(format!("bridge {name:?} is missing"));
    };
    if !bridge.up {
        return failed(format!("bridge {name:?} is down"));
    }
    if config.promiscuous && !bridge.promiscuous {
        return failed(format!("bridge {name:?} is not promiscuous"));
    }
    if port.master != Some(bridge.index) {
        return failed(format!("link {:?} is no port of bridge {name:?}", port.name));
    }
    let settings = port.port.unwrap_or_default();
    if config.hairpin && !settings.hairpin {
        return failed(format!("bridge port {:?} lacks hairpin mode", port.name));
    }
    if config.port_isolation && !settings.isolated {
        return failed(format!("bridge port {:?} is not isolated", port.name));
    }
    let present = socket.addresses(Some(bridge.index))?;
    for gateway in &record.gateways {
        if !present.iter().any(|a| a.prefix == *gateway) {
            return failed(format!("bridge {name:?} lacks the gateway address {gateway}"));
        }
    }
    if config.vlans.any() {
        config.vlans.check(socket, port.index)?;
    }
    Ok(())
}

/// The bridge's part of a record.
pub(crate) fn link_record(config: &Config, found: Option<&Link>) -> LinkRecord {
    LinkRecord::Bridge {
        bridge: config.bridge.clone(),
        bridge_mac: found.and_then(|bridge| bridge.mac),
        hairpin: config.hairpin,
        isolated: config.port_isolation,
        promiscuous: config.promiscuous,
        vlans: config.vlans.planned(),
        force_address: config.force_address,
    }
}
