//! CHECK: everything that ADD made is there and as it was.

use netlink::{MacAddress, RouteSocket};

use super::{Request, chained, network};
use crate::addresses::{self, AddressSource};
use crate::config::Mode;
use crate::error::{CniError, Result, code};
use crate::link::{bridge, pod, routed};
use crate::result::AddResult;

pub(super) fn check(request: &Request) -> Result<()> {
    let (config, owner) = (&request.config, request.owner());
    let previous = config
        .prev_result
        .as_ref()
        .ok_or_else(|| CniError::config("prevResult: CHECK needs the result of ADD"))?;
    let container = network::open_namespace(request)?;
    let mut result = AddResult::parse(previous, "prevResult")?;
    let ifname = &owner.attachment.ifname;
    let (position, interface) = result.container_interface(ifname).ok_or_else(|| {
        CniError::config(format!("prevResult: has no interface {ifname:?} in a container"))
    })?;
    network::require_same_namespace(&container, interface)?;
    if config.is_chained() && !result.has_interface(&owner.host_link()) {
        return chained::check(request, previous);
    }
    if !result.has_interface(&owner.host_link()) {
        return Err(CniError::config(format!(
            "prevResult: is not the result of {} in network {:?}: it lacks interface {:?}",
            owner.attachment,
            owner.network,
            owner.host_link()
        )));
    }
    let mac: Option<MacAddress> = interface.mac;
    result.ips = result.ips_of(position).cloned().collect();
    network::restore_subnets(config, &owner, &mut result);

    let source = AddressSource::new(config, &request.environment);
    source.check()?;
    network::require_held(&source, &result)?;
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
    let record = network::record(request, &result, host.mtu, gateways, mac)?;
    match config.mode {
        Mode::Bridge => bridge::check(&mut socket, config, &host, &record)?,
        Mode::Routed => routed::check(&mut socket, &host, &record.gateways, &record.ips())?,
    }
    network::check_forwarding(&record)?;
    let mut inside = container.run(RouteSocket::open)??;
    pod::check(&mut inside, config, ifname, mac, &result)?;
    network::check_netfilter(&record)?;
    config.bandwidth.check(&mut socket, &owner, host.index)?;
    network::check_overlay(request, &mut socket)
}
