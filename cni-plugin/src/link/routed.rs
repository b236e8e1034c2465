//! The routed link: every pod's veth has the gateway's address, and the node a route to every pod.

use std::net::IpAddr;

use netlink::{Link, Prefix, RouteFilter, RouteSocket};

use crate::error::{CniError, Result, code};

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
