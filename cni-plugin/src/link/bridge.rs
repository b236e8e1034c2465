//! The bridge: its existence, its addresses, and the container's port.

use netlink::{Bridge, Link, MacAddress, PortFlags, Prefix, RouteSocket, sysctl};

use crate::attachment::Owner;
use crate::config::Config;
use crate::error::{CniError, Result, code};

/// The bridge of the configuration, with these gateway addresses; made if it is not there.
pub(crate) fn ensure(
    socket: &mut RouteSocket,
    config: &Config,
    gateways: &[Prefix],
    mtu: u32,
) -> Result<Link> {
    let name = &config.bridge;
    let bridge = match socket.link_by_name(name)? {
        Some(link) => link,
        None => create(socket, config, gateways, mtu)?,
    };
    if bridge.kind.as_deref() != Some("bridge") {
        let kind = bridge.kind.as_deref().unwrap_or("physical device");
        return Err(CniError::new(
            code::CONFLICT,
            format!("bridge {name:?}: a device of this name is a {kind}, not a bridge"),
        ));
    }
    if !bridge.up {
        socket.set_up(bridge.index)?;
    }
    if bridge.mtu != mtu {
        socket.set_mtu(bridge.index, mtu)?;
    }
    if config.promiscuous && !bridge.promiscuous {
        socket.set_promiscuous(bridge.index, true)?;
    }
    if config.vlans.any() && !bridge.vlan_filtering {
        socket.enable_vlan_filtering(bridge.index).map_err(no_vlan_filtering)?;
    }
    ensure_gateways(socket, config, &bridge, gateways)?;
    Ok(bridge)
}

fn create(
    socket: &mut RouteSocket,
    config: &Config,
    gateways: &[Prefix],
    mtu: u32,
) -> Result<Link> {
    let name = &config.bridge;
    // Pods remember their gateway's MAC address; derived from its address it survives the bridge.
    let mac = gateways.first().map(|g| MacAddress::for_address([0x0a, 0x58], g.address()));
    let bridge = Bridge { name, mac, mtu, vlan_filtering: config.vlans.any() };
    match socket.create_bridge(&bridge) {
        // Another ADD was faster.
        Err(error) if error.already_exists() => {}
        Err(error) if config.vlans.any() => return Err(no_vlan_filtering(error)),
        other => other?,
    }
    sysctl::ensure_if_present(&format!("net/ipv6/conf/{name}/accept_ra"), "0")?;
    super::skip_duplicate_detection(config, name)?;
    socket.link_by_name(name)?.ok_or_else(|| {
        CniError::new(code::IO, format!("bridge {name:?} vanished as soon as it was made"))
    })
}

fn no_vlan_filtering(error: netlink::Error) -> CniError {
    if error.unsupported() {
        CniError::new(
            code::UNSUPPORTED_BY_KERNEL,
            "vlan: this kernel's bridges cannot separate VLANs (CONFIG_BRIDGE_VLAN_FILTERING)",
        )
    } else {
        error.into()
    }
}

/// Gives the bridge the gateway addresses. An address that contradicts them is an error, or goes with
/// `forceAddress`: another IPv4 address, or an IPv6 address whose subnet overlaps.
fn ensure_gateways(
    socket: &mut RouteSocket,
    config: &Config,
    bridge: &Link,
    gateways: &[Prefix],
) -> Result<()> {
    if gateways.is_empty() {
        return Ok(());
    }
    let present = socket.addresses(Some(bridge.index))?;
    let others = present.iter().map(|a| a.prefix).filter(|a| !gateways.contains(a));
    for other in others {
        let contradicts = |gateway: &&Prefix| {
            gateway.family() == other.family()
                && (other.address().is_ipv4() || gateway.network().overlaps(other.network()))
        };
        let Some(gateway) = gateways.iter().find(contradicts) else { continue };
        if !config.force_address {
            return Err(CniError::new(
                code::CONFLICT,
                format!("bridge {:?} has address {other}, but {gateway} is wanted", config.bridge),
            )
            .details("\"forceAddress\": true replaces it"));
        }
        socket.delete_address(bridge.index, other)?;
    }
    let uses_ipv6 = gateways.iter().any(|gateway| gateway.address().is_ipv6());
    if let (true, Some(mac)) = (uses_ipv6, bridge.mac)
        && !present.iter().any(|a| a.prefix == mac.link_local())
    {
        super::ensure_link_local(socket, config, bridge.index, mac)?;
    }
    for gateway in gateways {
        if present.iter().any(|a| a.prefix == *gateway) {
            continue;
        }
        match socket.add_address(bridge.index, *gateway, config.detect_duplicates) {
            Err(error) if error.already_exists() => {} // another ADD was faster
            other => other?,
        }
    }
    Ok(())
}

/// The port's settings: hairpin, isolation, VLANs.
pub(crate) fn configure_port(
    socket: &mut RouteSocket,
    config: &Config,
    owner: &Owner,
) -> Result<()> {
    let flags = PortFlags {
        hairpin: config.hairpin.then_some(true),
        isolated: config.port_isolation.then_some(true),
    };
    if flags == PortFlags::default() && !config.vlans.any() {
        return Ok(());
    }
    let name = owner.host_link();
    let port = socket
        .link_by_name(&name)?
        .ok_or_else(|| CniError::new(code::IO, format!("bridge port {name:?} vanished")))?;
    if flags != PortFlags::default() {
        socket.set_bridge_port(port.index, flags)?;
    }
    if config.vlans.any() {
        config.vlans.apply(socket, port.index).map_err(|error| error.during("vlan"))?;
    }
    Ok(())
}

/// Whether bridge and port are as the configuration says.
pub(crate) fn check(
    socket: &mut RouteSocket,
    config: &Config,
    port: &Link,
    gateways: &[Prefix],
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
    for gateway in gateways {
        if !present.iter().any(|a| a.prefix == *gateway) {
            return failed(format!("bridge {name:?} lacks the gateway address {gateway}"));
        }
    }
    if config.vlans.any() {
        config.vlans.check(socket, port.index)?;
    }
    Ok(())
}
