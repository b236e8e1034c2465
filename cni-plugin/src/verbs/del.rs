//! DEL: everything of one attachment goes, whatever is left of it. What is not there is no failure.

use std::thread;

use netlink::{Namespace, RouteSocket};

use super::{Request, chained};
use crate::addresses::AddressSource;
use crate::attachment::Owner;
use crate::daemon::PodReport;
use crate::error::{CniError, Failures, Result};
use crate::{hostport, netfilter};

pub(super) fn del(request: &Request) -> Result<()> {
    let owner = request.owner();
    let foreign = match &request.config.prev_result {
        Some(previous) => chained::is_foreign(request, previous),
        None => false,
    };
    remove_kernel_state(&owner)?;
    if !foreign {
        delete_inside(request)?;
    }
    // The lease goes last, and only when all else is gone: until then the address is in use.
    AddressSource::new(&request.config, &request.environment).del()?;
    if let Some(daemon) = &request.config.daemon {
        daemon.del(&PodReport {
            environment: &request.environment,
            network: &owner.network,
            host_link: &owner.host_link(),
            ips: Vec::new(),
        });
    }
    Ok(())
}

/// Removes links and netfilter elements of an attachment. The kernel takes 15 to 20 ms for either,
/// mostly waiting, so both go at once.
pub(super) fn remove_kernel_state(owner: &Owner) -> Result<()> {
    let mut failures = Failures::default();
    thread::scope(|scope| {
        let tag = owner.tag();
        let elements = scope.spawn(move || netfilter::remove(|other| other == tag));
        failures.note(delete_links(owner));
        let removed = elements.join().unwrap_or_else(|_| {
            Err(CniError::new(crate::error::code::IO, "removing netfilter elements was cut short"))
        });
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

/// Deletes the container's interface if it is still there: another plugin may have made it, before
/// this one was configured in its place.
fn delete_inside(request: &Request) -> Result<()> {
    let Some(path) = &request.environment.netns else { return Ok(()) };
    // A path without a namespace behind it is what is left of one.
    let Ok(container) = Namespace::open(path) else { return Ok(()) };
    if container.is_same(&Namespace::current()?)? {
        return Ok(());
    }
    let mut inside = container.run(RouteSocket::open)??;
    let link = inside.link_by_name(&request.environment.ifname)?;
    if let Some(link) = link.filter(|link| link.kind.as_deref() == Some("veth")) {
        inside.delete_link(link.index)?;
    }
    Ok(())
}
