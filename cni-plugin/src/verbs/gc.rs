//! GC: whatever belongs to this network but to none of the valid attachments goes, and what the valid ones
//! need is repaired.
//!
//! Without a list nothing is known to be stale, and nothing goes. An empty list means everything.

use std::collections::BTreeSet;

use attachment::{Owner, Records, is_link_name, link_prefix, tag_prefix};
use netlink::RouteSocket;

use crate::addresses::AddressSource;
use crate::environment::Environment;
use crate::error::{Failures, Result};
use crate::hostport;
use crate::ipam::Attachment;
use crate::teardown::{self, Teardown};

pub(super) fn gc(environment: &Environment, config: &Teardown) -> Result<()> {
    let Some(valid) = teardown::valid_attachments(&config.input)? else { return Ok(()) };
    let Some(network) = config.network.as_deref() else {
        eprintln!("viaduct: GC of a network without a valid name: nothing can exist for it");
        return Ok(());
    };
    let owners: Vec<Owner> = valid.iter().map(|attachment| owner(network, attachment)).collect();
    let source = AddressSource::for_teardown(network, config, environment);

    let mut failures = Failures::default();
    // Records first, so that no comparison repairs what goes.
    failures.note(remove_records(network, &owners));
    failures.note(delete_links(network, &owners));
    failures.note(remove_elements(network, &owners));
    for attachment in failures.note(source.stale(&valid)).unwrap_or_default() {
        eprintln!("viaduct: GC of network {network:?}: {attachment} is not valid");
    }
    // Leases go last: one that outlives its link is found again, a link without a lease is not safe.
    if failures.is_empty() {
        failures.note(source.gc(&valid));
    }
    if config.daemon.is_none()
        && let Some(report) = failures.note(attachment::converge())
    {
        super::network::print_report(&report);
    }
    failures.into_result()
}

fn owner(network: &str, attachment: &Attachment) -> Owner {
    Owner { network: network.to_owned(), attachment: attachment.clone() }
}

fn remove_records(network: &str, owners: &[Owner]) -> Result<()> {
    let records = Records::of_current_namespace()?;
    let (all, _) = records.list()?;
    let mut failures = Failures::default();
    for record in all.iter().filter(|record| record.owner.network == network) {
        if !owners.contains(&record.owner) {
            failures.note(records.remove(&record.owner));
        }
    }
    failures.into_result()
}

fn delete_links(network: &str, owners: &[Owner]) -> Result<()> {
    let valid: BTreeSet<String> =
        owners.iter().flat_map(|owner| [owner.host_link(), owner.shaping_link()]).collect();
    let prefix = link_prefix(network);
    let mut socket = RouteSocket::open()?;
    let mut failures = Failures::default();
    for link in socket.links()? {
        if is_link_name(&link.name) && link.name.starts_with(&prefix) && !valid.contains(&link.name)
        {
            failures.note(socket.delete_link_by_name(&link.name));
        }
    }
    failures.into_result()
}

fn remove_elements(network: &str, owners: &[Owner]) -> Result<()> {
    let valid: BTreeSet<String> = owners.iter().map(Owner::tag).collect();
    let prefix = tag_prefix(network);
    let removed =
        attachment::netfilter::remove(|tag| tag.starts_with(&prefix) && !valid.contains(tag))?;
    Ok(hostport::forget_udp_flows(&removed.udp_ports)?)
}
