//! UDP flows whose server is none any more: a sender that never pauses would keep it for ever.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use netlink::conntrack::Conntrack;
use netlink::{Errno, Family, Result, RouteSocket};

use crate::cluster::{Cluster, Protocol, ServicePortName};
use crate::service::endpoints::backends;
use crate::service::{Address, Backend, FrontendKey, Table};

/// Deletes the flows of a family that were sent to a frontend and are answered by somebody who does not
/// serve it (any more). `gone` are frontends that were there until just now; `on_node` tells whether
/// node ports answer on an address. Returns how many were deleted.
pub fn reconcile(
    conntrack: &mut Conntrack,
    family: Family,
    table: &Table,
    cluster: &Cluster,
    gone: &HashSet<FrontendKey>,
    on_node: impl Fn(IpAddr) -> bool,
) -> Result<u64> {
    let flows = match conntrack.udp_flows(family) {
        // It changes all the time under load; what is missed now is seen next time.
        Err(error) if error.errno == Errno::INTR => return Ok(0),
        other => other?,
    };
    let mut serving: HashMap<ServicePortName, BTreeSet<Backend>> = HashMap::new();
    let mut deleted = 0;
    for translated in flows {
        let flow = &translated.flow;
        let key =
            |address| FrontendKey { address, protocol: Protocol::Udp, port: flow.destination_port };
        let by_ip = key(Address::Ip(flow.destination));
        let by_node = key(Address::Node(family));
        let owner = |key: &FrontendKey| table.frontend(key).map(|f| &f.lists.owner);
        let (owner, was) = match owner(&by_ip) {
            Some(owner) => (Some(owner), false),
            None if gone.contains(&by_ip) => (None, true),
            None if on_node(flow.destination) => (owner(&by_node), gone.contains(&by_node)),
            None => (None, false),
        };
        let server = Backend { ip: translated.server, port: translated.server_port };
        let right = match owner {
            Some(owner) => serving
                .entry(owner.clone())
                .or_insert_with(|| {
                    backends(cluster.slices(&owner.service), owner, family)
                        .filter(|(_, endpoint)| endpoint.conditions.serving)
                        .map(|(backend, _)| backend)
                        .collect()
                })
                .contains(&server),
            None => !was,
        };
        if !right && conntrack.delete_udp_flow(flow)? {
            deleted += 1;
        }
    }
    Ok(deleted)
}

/// The addresses of this machine.
pub fn own_addresses() -> Result<HashSet<IpAddr>> {
    let addresses = RouteSocket::open()?.addresses(None)?;
    Ok(addresses.iter().map(|address| address.prefix.address()).collect())
}
