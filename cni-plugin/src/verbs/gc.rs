//! GC: whatever belongs to this network but to none of the valid attachments goes.
//!
//! Without a list nothing is known to be stale, and nothing goes; an empty list means everything.

use std::collections::BTreeSet;

use netlink::RouteSocket;

use super::Request;
use crate::addresses::AddressSource;
use crate::attachment::{Owner, link_prefix, tag_prefix};
use crate::error::{Failures, Result};
use crate::ipam::Attachment;
use crate::{hostport, netfilter};

pub(super) fn gc(request: &Request) -> Result<()> {
    let config = &request.config;
    let Some(valid) = &config.valid_attachments else { return Ok(()) };
    let owners: Vec<Owner> = valid.iter().map(|a| owner(&config.name, a)).collect();
    let source = AddressSource::new(config, &request.environment);

    let mut failures = Failures::default();
    failures.note(delete_links(&config.name, &owners));
    failures.note(remove_elements(&config.name, &owners));
    for attachment in failures.note(source.stale(valid)).unwrap_or_default() {
        eprintln!("viaduct: GC of network {:?}: {attachment} is not valid", config.name);
    }
    // Leases go last: one that outlives its link is found again, a link without a lease is not safe.
    if failures.is_empty() {
        failures.note(source.gc(valid));
    }
    failures.into_result()
}

fn owner(network: &str, attachment: &Attachment) -> Owner {
    Owner { network: network.to_owned(), attachment: attachment.clone() }
}

fn delete_links(network: &str, owners: &[Owner]) -> Result<()> {
    let valid: BTreeSet<String> =
        owners.iter().flat_map(|owner| [owner.host_link(), owner.shaping_link()]).collect();
    let prefix = link_prefix(network);
    let mut socket = RouteSocket::open()?;
    let mut failures = Failures::default();
    for link in socket.links()? {
        if link.name.len() == 15 && link.name.starts_with(&prefix) && !valid.contains(&link.name) {
            failures.note(socket.delete_link_by_name(&link.name));
        }
    }
    failures.into_result()
}

fn remove_elements(network: &str, owners: &[Owner]) -> Result<()> {
    let valid: BTreeSet<String> = owners.iter().map(Owner::tag).collect();
    let prefix = tag_prefix(network);
    let removed = netfilter::remove(|tag| tag.starts_with(&prefix) && !valid.contains(tag))?;
    Ok(hostport::forget_udp_flows(&removed.udp_ports)?)
}
