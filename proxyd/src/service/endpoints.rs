//! Which endpoints a port of a Service may use.

use std::collections::BTreeMap;
use std::sync::Arc;

use netlink::Family;

use super::table::Backend;
use crate::cluster::{Endpoint, ServicePortName, Slice};

/// Where the daemon runs, as far as the choice of endpoints goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The node's name.
    pub node: Arc<str>,
    /// Its zone.
    pub zone: Option<Arc<str>>,
}

/// The endpoints of a port, as each policy has them; sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// For the Cluster policy: ready, filtered by topology hints; else all that serve while terminating.
    pub cluster: Vec<Backend>,
    /// For the Local policy: ready on this node; else those here that serve while terminating.
    pub local: Vec<Backend>,
    /// All of either list that are on this node.
    pub on_node: Vec<Backend>,
}

/// An endpoint once it is clear which of its duplicates counts.
struct Candidate<'a> {
    endpoint: &'a Endpoint,
    local: bool,
}

/// Chooses the endpoints of a port.
///
/// Of the same address in several slices the one that is not terminating counts; it is local if any is.
pub fn choose<'a>(
    slices: impl Iterator<Item = &'a Slice>,
    port: &ServicePortName,
    family: Family,
    place: &Place,
) -> Choice {
    let mut candidates: BTreeMap<Backend, Candidate<'_>> = BTreeMap::new();
    for (backend, endpoint) in backends(slices, port, family) {
        let local = endpoint.node.as_ref() == Some(&place.node);
        candidates
            .entry(backend)
            .and_modify(|known| {
                known.local |= local;
                if known.endpoint.conditions.terminating && !endpoint.conditions.terminating {
                    known.endpoint = endpoint;
                }
            })
            .or_insert(Candidate { endpoint, local });
    }
    let ready = || candidates.iter().filter(|(_, c)| c.endpoint.conditions.ready);
    let serving = || {
        candidates
            .iter()
            .filter(|(_, c)| c.endpoint.conditions.serving && c.endpoint.conditions.terminating)
    };
    let first = |backends: Vec<Backend>, fallback: &dyn Fn() -> Vec<Backend>| {
        if backends.is_empty() { fallback() } else { backends }
    };
    let topology = Topology::of(ready().map(|(_, c)| c.endpoint), place);
    let cluster = first(
        ready().filter(|(_, c)| topology.admits(c.endpoint, place)).map(|(b, _)| *b).collect(),
        &|| serving().map(|(b, _)| *b).collect(),
    );
    let local = first(ready().filter(|(_, c)| c.local).map(|(b, _)| *b).collect(), &|| {
        serving().filter(|(_, c)| c.local).map(|(b, _)| *b).collect()
    });
    let used = |backend: &Backend| {
        cluster.binary_search(backend).is_ok() || local.binary_search(backend).is_ok()
    };
    let on_node = candidates.iter().filter(|(b, c)| c.local && used(b)).map(|(b, _)| *b).collect();
    Choice { cluster, local, on_node }
}

/// Every endpoint of a port with its address, duplicates included.
pub fn backends<'a>(
    slices: impl Iterator<Item = &'a Slice>,
    port: &ServicePortName,
    family: Family,
) -> impl Iterator<Item = (Backend, &'a Endpoint)> {
    slices.filter(move |slice| slice.family == family).flat_map(move |slice| {
        let ports = slice
            .ports
            .iter()
            .filter(|p| p.name == port.port && p.protocol == port.protocol)
            .map(|p| p.port);
        ports.flat_map(|port| {
            slice.endpoints.iter().map(move |e| (Backend { ip: e.address, port }, e))
        })
    })
}

/// How hints narrow the choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Topology {
    SameNode,
    SameZone,
    Everywhere,
}

impl Topology {
    /// Hints count only if every ready endpoint has them and one is meant for this place.
    fn of<'a>(ready: impl Iterator<Item = &'a Endpoint> + Clone, place: &Place) -> Topology {
        let all = |has: fn(&Endpoint) -> bool| ready.clone().all(has);
        let any = |kind: Topology| ready.clone().any(|endpoint| kind.admits(endpoint, place));
        let nodes = |e: &Endpoint| e.hints.as_ref().is_some_and(|h| !h.nodes.is_empty());
        let zones = |e: &Endpoint| e.hints.as_ref().is_some_and(|h| !h.zones.is_empty());
        if all(nodes) && any(Topology::SameNode) {
            Topology::SameNode
        } else if all(zones) && any(Topology::SameZone) {
            Topology::SameZone
        } else {
            Topology::Everywhere
        }
    }

    fn admits(self, endpoint: &Endpoint, place: &Place) -> bool {
        let Some(hints) = &endpoint.hints else { return self == Topology::Everywhere };
        match self {
            Topology::SameNode => hints.nodes.contains(&place.node),
            Topology::SameZone => place.zone.as_ref().is_some_and(|z| hints.zones.contains(z)),
            Topology::Everywhere => true,
        }
    }
}
