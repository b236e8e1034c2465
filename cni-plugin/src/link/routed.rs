//! The routed link: every pod's veth has the gateway's address, and the node a route to every pod.

use std::net::IpAddr;

use netlink::{Link, Prefix, Route, RouteFilter, RouteSocket, Scope};

use crate::config::Config;
use crate::error::{CniError, Result, code};

/// Gives the node's end the gateway addresses and routes the pod's addresses to it.
pub(crate) fn configure(
    socket: &mut RouteSocket,
    config: &Config,
    host: &Link,
    gateways: &[Prefix],
    pod: &[IpAddr],
) -> Result<()> {
    let uses_ipv6 = gateways.iter().any(|gateway| gateway.address().is_ipv6());
    if let (true, Some(mac)) = (uses_ipv6, host.mac) {
        super::ensure_link_local(socket, config, host.index, mac)?;
    }
    for gateway in gateways {
        let alone = Prefix::host(gateway.address());
        socket.add_address(host.index, alone, config.detect_duplicates)?;
    }
    for address in pod {
        socket.replace_route(&route(host, *address))?;
    }
    Ok(())
}

fn route(host: &Link, pod: IpAddr) -> Route {
    let scope = pod.is_ipv4().then_some(Scope::LINK);
    Route { link: Some(host.index), scope, ..Route::new(Prefix::host(pod)) }
}

/// Whether the node still routes the pod's addresses to its link.
pub(crate) fn check(
    socket: &mut RouteSocket,
    host: &Link,
    gateways: &[Prefix],
    pod: &[IpAddr],
) -> Result<()> {
    let failed = |message: String| Err(CniError::new(code::CHECK_FAILED, message));
    let present = socket.addresses(Some(host.index))?;
    for gateway in gateways {
        if !present.iter().any(|a| a.prefix.address() == gateway.address()) {
            let address = gateway.address();
            return failed(format!("link {:?} lacks the gateway address {address}", host.name));
        }
    }
    for address in pod {
        let wanted = Prefix::host(*address);
        let filter =
            RouteFilter { family: wanted.family(), link: Some(host.index), protocol: None };
        if !socket.routes(filter)?.iter().any(|route| route.destination == wanted) {
            return failed(format!("the node has no route to {address} by link {:?}", host.name));
        }
    }
    Ok(())
}
