//! DEL: everything of one attachment goes, whatever is left of it. What is not there is no failure.

use std::net::IpAddr;
use std::thread;

use attachment::{Owner, Records, is_link_name, netfilter};
use netlink::{Namespace, RouteSocket};

use crate::addresses::AddressSource;
use crate::config::Ipam;
use crate::daemon::PodReport;
use crate::environment::Environment;
use crate::error::{CniError, Failures, Result};
use crate::hostport;
use crate::result::AddResult;
use crate::teardown::Teardown;

pub(super) fn del(environment: &Environment, config: &Teardown) -> Result<()> {
    let Some(network) = config.network.as_deref() else {
        eprintln!("viaduct: DEL of a network without a valid name: nothing can exist for it");
        return Ok(());
    };
    let owner = super::owner(network, environment);
    let source = AddressSource::for_teardown(network, config, environment);
    remove_kernel_state(&owner)?;
    if !matches!(config.ipam, Ipam::None) {
        delete_inside(environment, &addresses_of(&source, config, environment)?)?;
    }
    // The lease goes last, and only when all else is gone: until then the address is in use.
    source.del()?;
    if let Some(daemon) = &config.daemon {
        daemon.del(&PodReport {
            environment,
            network,
            host_link: &owner.host_link(),
            ips: Vec::new(),
        });
    }
    Ok(())
}

/// Removes the record, the links and the netfilter elements of an attachment. The kernel takes 15 to 20 ms
/// for links and for elements, mostly waiting, so both go at once.
pub(super) fn remove_kernel_state(owner: &Owner) -> Result<()> {
    let mut failures = Failures::default();
    // First, so that no comparison repairs what goes.
    failures.note(Records::of_current_namespace().and_then(|records| records.remove(owner)));
    thread::scope(|scope| {
        let tag = owner.tag();
        let elements = scope.spawn(move || netfilter::remove(|other| other == tag));
        failures.note(delete_links(owner));
        let removed = elements.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        if let Some(removed) = failures.note(removed) {
            failures.note(hostport::forget_udp_flows(&removed.udp_ports));
        }
    });
    failures.into_result()
}

fn delete_links(owner: &Owner) -> netlink::Result<()> {
    let mut socket = RouteSocket::open()?;
    socket.delete_link_by_name(&owner.host_link())?;
    socket.delete_link_by_name(&owner.shaping_link())?;
    Ok(())
}

/// The addresses that are known to be the attachment's: from its leases and from its result.
fn addresses_of(
    source: &AddressSource<'_>,
    config: &Teardown,
    environment: &Environment,
) -> Result<Vec<IpAddr>> {
    let mut addresses = source.held()?;
    let previous = config.prev_result.as_ref();
    let previous = previous.and_then(|value| AddResult::parse(value, "prevResult").ok());
    if let Some(result) = previous
        && let Some((position, _)) = result.container_interface(&environment.ifname)
    {
        addresses.extend(result.ips_of(position).map(|ip| ip.address.address()));
    }
    Ok(addresses)
}

/// Deletes the container's interface if it is still there and has one of the attachment's addresses. Another
/// plugin may have made it before this one was configured in its place.
///
/// The namespace may be another attachment's by now: it is shared, or its path was given to a new container.
/// So an interface without such an address stays, and one whose other end is a link of ours stays too: those
/// of this attachment are gone already.
fn delete_inside(environment: &Environment, addresses: &[IpAddr]) -> Result<()> {
    let Some(path) = environment.netns.as_ref().filter(|_| !addresses.is_empty()) else {
        return Ok(());
    };
    // A path without a namespace behind it is left over from one.
    let Ok(container) = Namespace::open(path) else { return Ok(()) };
    if container.is_same(&Namespace::current()?)? {
        return Ok(());
    }
    let mut inside = container.run(RouteSocket::open)??;
    let link = inside.link_by_name(&environment.ifname)?;
    let Some(link) = link.filter(|link| link.kind.as_deref() == Some("veth")) else {
        return Ok(());
    };
    let present = inside.addresses(Some(link.index))?;
    if !present.iter().any(|address| addresses.contains(&address.prefix.address())) {
        return Ok(());
    }
    let peer = match link.peer {
        Some(index) => RouteSocket::open()?.link_by_index(index)?,
        None => None,
    };
    if peer.is_none_or(|peer| !is_link_name(&peer.name)) {
        inside.delete_link(link.index).map_err(CniError::from)?;
    }
    Ok(())
}
