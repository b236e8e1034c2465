//! Virtual servers: what a frontend needs, and the changes from what the kernel has. No I/O.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use netlink::Family;
use netlink::ipvs::{Change, Destination, DestinationState, Persistence, Service, ServiceKey};

use super::items::{Item, SetId, frontend_item, hairpin_item, source_item};
use crate::cluster::Protocol;
use crate::service::{Address, Backend, Frontend, FrontendKey, Masquerade, Resolution};

/// A virtual server as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Server {
    /// Session affinity in seconds.
    pub(super) affinity: Option<u32>,
    /// Where connections go.
    pub(super) destinations: Vec<SocketAddr>,
}

/// What a frontend needs at one address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// None where nobody may be connected to.
    pub(super) server: Option<Server>,
    /// Elements of the sets.
    pub(super) items: Vec<Item>,
}

/// Where a frontend is served: at its own address, or at each of the node's.
pub(super) fn places(key: &FrontendKey, node_addresses: &[IpAddr]) -> Vec<ServiceKey> {
    let protocol = key.protocol.number();
    let place = |address| ServiceKey { protocol, address, port: key.port };
    match key.address {
        Address::Ip(ip) => vec![place(ip)],
        Address::Node(family) => {
            let of_family = |ip: &&IpAddr| Family::of(**ip) == family;
            node_addresses.iter().filter(of_family).map(|ip| place(*ip)).collect()
        }
    }
}

/// What a frontend needs at this address.
pub(super) fn plan(key: &ServiceKey, frontend: &Frontend) -> Plan {
    let lists = &frontend.lists;
    let mut items = Vec::new();
    let mut mark = |set| items.push(frontend_item(set, key));
    let chosen: &[Backend] = match frontend.resolution {
        Resolution::Cluster(masquerade) => {
            if masquerade == Masquerade::Always {
                mark(SetId::Masquerade);
            }
            &lists.cluster
        }
        Resolution::Local => &lists.local,
        // A virtual server has one list for all clients, so the Local policy's counts for pods too. If that is
        // empty, those who may use the other one are told by the filter.
        Resolution::ByOrigin if lists.local.is_empty() => {
            mark(SetId::InsideOnly);
            &lists.cluster
        }
        Resolution::ByOrigin => &lists.local,
        Resolution::Reject => {
            mark(SetId::Rejected);
            &[]
        }
        Resolution::Drop => {
            mark(SetId::Dropped);
            &[]
        }
    };
    if frontend.cluster_ip {
        mark(SetId::ClusterIps);
    }
    if let Some(ranges) = &frontend.source_ranges {
        mark(SetId::SourceRestricted);
        items.extend(ranges.iter().map(|range| source_item(key, *range)));
    }
    if chosen.is_empty() {
        return Plan { server: None, items };
    }
    items.push(frontend_item(SetId::Frontends, key));
    items.extend(lists.hairpin.iter().map(|ip| hairpin_item(*ip)));
    let affinity = lists.affinity.map(|affinity| affinity.0);
    let destinations = chosen.iter().map(|backend| (*backend).into()).collect();
    Plan { server: Some(Server { affinity, destinations }), items }
}

/// A virtual server as the kernel has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    /// Its scheduler.
    pub(super) scheduler: String,
    /// Session affinity in seconds.
    pub(super) affinity: Option<u32>,
    /// Its destinations with their weights; what has none is drained.
    pub(super) destinations: BTreeMap<SocketAddr, u32>,
}

impl Known {
    /// Whether a destination waits for its last connection to end.
    pub(super) fn is_draining(&self) -> bool {
        self.destinations.values().any(|weight| *weight == 0)
    }
}

fn service(key: &ServiceKey, scheduler: &str, affinity: Option<u32>) -> Service {
    let prefix_length = key.family().bits();
    let persistence = affinity.map(|timeout| Persistence { timeout, prefix_length });
    Service { key: *key, scheduler: scheduler.to_owned(), persistence }
}

/// The changes that make a virtual server what it should be; `known` becomes what the kernel then has. A
/// destination that is not wanted any more gets no new connections, and goes when its last one has ended
/// ([`drain`]); those of UDP go at once.
pub(super) fn differ(
    key: &ServiceKey,
    known: &mut Option<Known>,
    wanted: Option<&Server>,
    scheduler: &str,
    out: &mut Vec<Change>,
) {
    let before = out.len();
    let affinity = wanted.and_then(|server| server.affinity);
    let state = match (wanted, known.as_mut()) {
        (None, None) => return,
        (Some(_), None) => {
            out.push(Change::NewService(service(key, scheduler, affinity)));
            known.insert(Known { scheduler: scheduler.into(), affinity, ..Known::default() })
        }
        (Some(_), Some(state)) => {
            if (state.affinity, state.scheduler.as_str()) != (affinity, scheduler) {
                out.push(Change::SetService(service(key, scheduler, affinity)));
                (state.affinity, state.scheduler) = (affinity, scheduler.into());
            }
            state
        }
        (None, Some(state)) => state,
    };
    let udp = key.protocol == Protocol::Udp.number();
    let destinations = wanted.map_or(&[][..], |server| &server.destinations);
    for address in destinations {
        match state.destinations.insert(*address, 1) {
            None => out.push(Change::NewDestination(*key, Destination::new(*address))),
            Some(1) => {}
            Some(_) => out.push(Change::SetDestination(*key, Destination::new(*address))),
        }
    }
    state.destinations.retain(|address, weight| {
        if destinations.binary_search(address).is_ok() {
            return true;
        }
        if udp {
            out.push(Change::DeleteDestination(*key, *address));
            return false;
        }
        if *weight > 0 {
            let destination = Destination { weight: 0, ..Destination::new(*address) };
            out.push(Change::SetDestination(*key, destination));
            *weight = 0;
        }
        true
    });
    if wanted.is_none() && state.destinations.is_empty() {
        // Its destinations go with it.
        out.truncate(before);
        out.push(Change::DeleteService(*key));
        *known = None;
    }
}

/// Removes the destinations that were drained of their last connection, and with the last of them a virtual
/// server that is not wanted any more. Such a server is not kept by connections that are closing.
pub(super) fn drain(
    key: &ServiceKey,
    known: &mut Option<Known>,
    wanted: Option<&Server>,
    told: &[DestinationState],
    out: &mut Vec<Change>,
) {
    let Some(state) = known.as_mut() else { return };
    let before = out.len();
    state.destinations.retain(|address, weight| {
        let busy = told.iter().any(|told| {
            // Nobody comes back to a server that is gone.
            let closing = if wanted.is_some() { told.inactive } else { 0 };
            told.destination.address == *address && told.active + closing > 0
        });
        if *weight > 0 || busy {
            return true;
        }
        out.push(Change::DeleteDestination(*key, *address));
        false
    });
    if wanted.is_none() && state.destinations.is_empty() {
        out.truncate(before);
        out.push(Change::DeleteService(*key));
        *known = None;
    }
}

#[cfg(test)]
#[path = "servers_tests.rs"]
pub(super) mod tests;
