//! CHECK: everything that ADD made is there and as it was.

use netlink::{MacAddress, RouteSocket};

use super::{Request, chained, network};
use crate::addresses::{self, AddressSource};
use crate::config::Mode;
use crate::error::{CniError, Result, code};
use crate::link::{bridge, pod, routed};
use crate::netfilter;
use crate::result::AddResult;

pub(super) fn check(request: &Request) -> Result<()> {
    let (config, owner) = (&request.config, request.owner());
    let previous = config
        .prev_result
        .as_ref()
        .ok_or_else(|| CniError::config("prevResult: CHECK needs the result of ADD"))?;
    if chained::is_foreign(request, previous) {
        return chained::check(request, previous);
    }
    let container = network::open_namespace(request)?;
    let mut result = AddResult::parse(previous, "prevResult")?;
    let ifname = &owner.attachment.ifname;
    let (position, interface) = result.container_interface(ifname).ok_or_else(|| {
        CniError::config(format!("prevResult: has no interface {ifname:?} in a container"))
    })?;
    let mac: Option<MacAddress> = interface.mac;
    result.ips = result.ips_of(position).cloned().collect();

    AddressSource::new(config, &request.environment).check()?;
    let mut socket = RouteSocket::open()?;
    let host = socket.link_by_name(&owner.host_link())?.ok_or_else(|| {
        let message = format!("the node's end of the link, {:?}, is missing", owner.host_link());
        CniError::new(code::CHECK_FAILED, message)
    })?;
    if !host.up {
        let message = format!("the node's end of the link, {:?}, is down", host.name);
        return Err(CniError::new(code::CHECK_FAILED, message));
    }
    let gateways = addresses::gateways(config, &result);
    match config.mode {
        Mode::Bridge => bridge::check(&mut socket, config, &host, &gateways)?,
        Mode::Routed => routed::check(&mut socket, &host, &gateways, &network::pod_ips(&result))?,
    }
    let mut inside = container.run(RouteSocket::open)??;
    pod::check(&mut inside, config, ifname, mac, &result)?;
    let device = match config.mode {
        Mode::Bridge => &config.bridge,
        Mode::Routed => &host.name,
    };
    let wanted = network::wanted_netfilter(request, &result, device, mac)?;
    netfilter::check(&wanted, &owner)?;
    config.bandwidth.check(&mut socket, &owner, host.index)?;
    network::check_overlay(request, &mut socket)
}
