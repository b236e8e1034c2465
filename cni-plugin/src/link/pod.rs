//! The container's end of the link: settings, addresses, routes.

use std::thread::sleep;
use std::time::Duration;

use netlink::{Family, IfIndex, MacAddress, Prefix, Route, RouteSocket, Scope, sysctl};

use crate::config::{Config, Mode};
use crate::error::{CniError, Result, code};
use crate::ipam;
use crate::result::{AddResult, Ip};

/// How long `enabledad` may take: the kernel needs one to two seconds.
const DETECTION_ATTEMPTS: u32 = 500;
const DETECTION_PAUSE: Duration = Duration::from_millis(10);

/// Brings the interface up with its addresses and routes. Runs in the container's namespace, with a
/// socket that was opened there.
pub(crate) fn configure(
    inside: &mut RouteSocket,
    config: &Config,
    ifname: &str,
    result: &AddResult,
) -> Result<()> {
    let link = find(inside, ifname)?;
    if config.container_interface_disabled {
        return Ok(());
    }
    if result.ips.is_empty() {
        return Ok(inside.set_up(link)?);
    }
    apply_sysctls(config, ifname, result)?;
    for ip in &result.ips {
        let address = address_inside(config, ip);
        inside.add_address(link, address, config.detect_duplicates)?;
    }
    inside.set_up(link)?;
    if config.detect_duplicates {
        wait_for_detection(inside, link)?;
    }
    for route in routes(config, result, link)? {
        inside.append_route(&route)?;
    }
    Ok(())
}

fn find(inside: &mut RouteSocket, ifname: &str) -> Result<IfIndex> {
    let missing =
        || CniError::new(code::IO, format!("interface {ifname:?} vanished from the container"));
    Ok(inside.link_by_name(ifname)?.ok_or_else(missing)?.index)
}

/// In routed mode the pod is alone on its link.
pub(crate) fn address_inside(config: &Config, ip: &Ip) -> Prefix {
    match config.mode {
        Mode::Bridge => ip.address,
        Mode::Routed => Prefix::host(ip.address.address()),
    }
}

/// Whether (IPv4, IPv6) neighbours may remember another MAC address for an address of the pod: if a
/// MAC address was chosen, now or before; and IPv6 beside IPv4, whose address the MAC follows from. An
/// announcement is flooded to every pod of the node, and each looks at it: there is none without need.
fn needs_announcement(config: &Config, result: &AddResult) -> (bool, bool) {
    if config.mode == Mode::Routed {
        return (false, false); // nobody else is on the link
    }
    let (v4, v6) = (result.has_family(Family::V4), result.has_family(Family::V6));
    (v4 && result.stale_neighbours, v6 && (result.stale_neighbours || v4))
}

/// Announces the pod's addresses to its neighbours, if they may remember another owner. Only once the
/// bridge forwards: what is said before is lost.
pub(crate) fn announce(
    inside: &mut RouteSocket,
    config: &Config,
    ifname: &str,
    mac: MacAddress,
    result: &AddResult,
) -> Result<()> {
    if needs_announcement(config, result) == (false, false) {
        return Ok(());
    }
    // The kernel announces whenever the MAC address is set, be it to what it is.
    let link = find(inside, ifname)?;
    Ok(inside.set_mac(link, mac)?)
}

/// What IPAM gives is what the interface has. IPv6 is on, and usable at once, if there is an address
/// of it, and off if there is none: a link-local address would be reachable by every neighbour, known
/// to no policy, and its coming up is flooded to every pod of the node. Routers that announce
/// themselves on the link (perhaps a neighbour's forgery) are not believed either way.
fn apply_sysctls(config: &Config, ifname: &str, result: &AddResult) -> Result<()> {
    let (announce_v4, announce_v6) = needs_announcement(config, result);
    if announce_v4 {
        harden(&format!("net/ipv4/conf/{ifname}/arp_notify"), "1")?;
    }
    let setting = |name: &str| format!("net/ipv6/conf/{ifname}/{name}");
    if !result.has_family(Family::V6) {
        return harden(&setting("disable_ipv6"), "1");
    }
    match sysctl::ensure(&setting("disable_ipv6"), "0") {
        Err(error) if error.not_found() => {
            return Err(CniError::new(
                code::UNSUPPORTED_BY_KERNEL,
                "the pod has an IPv6 address, but this kernel has IPv6 switched off",
            ));
        }
        other => other.map(drop)?,
    }
    if let Err(error) = sysctl::ensure_if_present("net/ipv6/conf/lo/disable_ipv6", "0") {
        // The loopback device is the runtime's own; the pod's interface works without.
        eprintln!("viaduct: {error}");
    }
    harden(&setting("accept_ra"), "0")?;
    if !config.detect_duplicates {
        harden(&setting("accept_dad"), "0")?;
    }
    if announce_v6 {
        harden(&setting("ndisc_notify"), "1")?;
    }
    harden(&setting("keep_addr_on_down"), "1")
}

/// Sets a sysctl without which packets pass too. A read-only `/proc/sys` is a line on standard error.
fn harden(name: &str, value: &str) -> Result<()> {
    if let Some(error) = sysctl::harden(name, value)? {
        eprintln!("viaduct: {error}; the network works");
    }
    Ok(())
}

fn wait_for_detection(inside: &mut RouteSocket, link: IfIndex) -> Result<()> {
    for _ in 0..DETECTION_ATTEMPTS {
        let addresses = inside.addresses(Some(link))?;
        if let Some(duplicate) = addresses.iter().find(|a| a.duplicate) {
            return Err(CniError::new(
                code::CONFLICT,
                format!("address {} is in use by somebody else on the link", duplicate.prefix),
            ));
        }
        if !addresses.iter().any(|a| a.tentative) {
            return Ok(());
        }
        sleep(DETECTION_PAUSE);
    }
    Err(CniError::new(code::IO, "duplicate address detection does not end within five seconds"))
}

/// The routes of the result as the kernel takes them; in routed mode the gateways' own come first.
fn routes(config: &Config, result: &AddResult, link: IfIndex) -> Result<Vec<Route>> {
    let mut routes = Vec::new();
    if config.mode == Mode::Routed {
        for gateway in result.ips.iter().filter_map(|ip| ip.gateway) {
            let scope = gateway.is_ipv4().then_some(Scope::LINK);
            routes.push(Route { link: Some(link), scope, ..Route::new(Prefix::host(gateway)) });
        }
    }
    for route in &result.routes {
        routes.push(kernel_route(route, result, link)?);
    }
    Ok(routes)
}

/// A route without a gateway of its own takes that of the first address of its family.
fn kernel_route(route: &ipam::Route, result: &AddResult, link: IfIndex) -> Result<Route> {
    let family = route.dst.family();
    let implied = result.ips.iter().filter(|ip| ip.address.family() == family);
    let on_link = route.scope.is_some_and(|scope| scope == u32::from(Scope::LINK.0));
    let gateway = match route.gw {
        Some(gateway) => Some(gateway),
        None if on_link => None,
        None => implied.clone().find_map(|ip| ip.gateway),
    };
    let scope = route.scope.map(|scope| {
        u8::try_from(scope).map(Scope).map_err(|_| {
            CniError::config(format!("route {}: scope {scope} is larger than 255", route.dst))
        })
    });
    let plain = Route::new(route.dst.network());
    Ok(Route {
        gateway,
        link: Some(link),
        scope: scope.transpose()?,
        table: route.table.unwrap_or(plain.table),
        priority: route.priority,
        mtu: route.mtu,
        advmss: route.advmss,
        ..plain
    })
}

/// Whether the interface has the addresses and routes of the result. Runs like [`configure`].
pub(crate) fn check(
    inside: &mut RouteSocket,
    config: &Config,
    ifname: &str,
    mac: Option<MacAddress>,
    result: &AddResult,
) -> Result<()> {
    let failed = |message: String| Err(CniError::new(code::CHECK_FAILED, message));
    let Some(link) = inside.link_by_name(ifname)? else {
        return failed(format!("interface {ifname:?} is missing in the container"));
    };
    if link.kind.as_deref() != Some("veth") {
        return failed(format!("interface {ifname:?} in the container is no veth"));
    }
    if !link.up && !config.container_interface_disabled {
        return failed(format!("interface {ifname:?} in the container is down"));
    }
    if mac.is_some() && link.mac != mac {
        return failed(format!("interface {ifname:?} in the container has another MAC address"));
    }
    let present = inside.addresses(Some(link.index))?;
    for ip in &result.ips {
        let wanted = address_inside(config, ip);
        if !present.iter().any(|a| a.prefix == wanted) {
            return failed(format!("interface {ifname:?} in the container lacks address {wanted}"));
        }
    }
    for route in routes(config, result, link.index)? {
        let filter = netlink::RouteFilter {
            family: route.destination.family(),
            link: route.link,
            protocol: None,
        };
        let found = inside.routes(filter)?;
        let same = |r: &Route| {
            r.destination == route.destination
                && r.gateway == route.gateway
                && r.table == route.table
        };
        if !found.iter().any(same) {
            return failed(format!("the container lacks the route to {}", route.destination));
        }
    }
    Ok(())
}
