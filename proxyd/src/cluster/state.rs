//! [`Cluster`]: what is known, and which Services must be planned anew.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use netlink::Prefix;

use super::endpoint::{Slice, SliceName};
use super::node::Node;
use super::service::{Service, ServiceName};

/// An object that is there now, or (`None`) no more.
#[derive(Clone, Debug)]
pub enum Change {
    /// A Service.
    Service(ServiceName, Option<Service>),
    /// An EndpointSlice.
    Slice(SliceName, Option<Slice>),
    /// A Node.
    Node(Arc<str>, Option<Node>),
    /// The ranges that ClusterIPs come from, all of them.
    ServiceCidrs(Vec<Prefix>),
    /// Something that policies are about.
    Judged(netpol::compile::Change),
}

/// What changed since the last plan.
#[derive(Clone, Debug, Default)]
pub struct Dirty {
    /// Services to plan anew.
    pub services: BTreeSet<ServiceName>,
    /// Whether an endpoint went away, which must not wait.
    pub removal: bool,
    /// Whether what is known of this node changed.
    pub node: bool,
    /// Whether any node changed.
    pub nodes: bool,
    /// Whether the ranges of ClusterIPs changed.
    pub service_cidrs: bool,
    /// Changes of Services and of EndpointSlices.
    pub counts: (usize, usize),
    /// When the causes of the changes happened, in nanoseconds since 1970.
    pub triggered: Vec<i64>,
}

impl Dirty {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty() && !self.node && !self.nodes && !self.service_cidrs
    }
}

/// Everything that is known of the cluster.
#[derive(Debug)]
pub struct Cluster {
    node_name: Arc<str>,
    services: HashMap<ServiceName, Service>,
    /// The slices of each Service, ordered by name. Most have one: a tree would take ten times the room.
    slices: HashMap<ServiceName, Vec<(Arc<str>, Slice)>>,
    owners: HashMap<SliceName, ServiceName>,
    nodes: HashMap<Arc<str>, Node>,
    service_cidrs: Vec<Prefix>,
    dirty: Dirty,
}

impl Cluster {
    /// An empty cluster, seen from this node.
    pub fn new(node_name: Arc<str>) -> Cluster {
        Cluster {
            node_name,
            services: HashMap::new(),
            slices: HashMap::new(),
            owners: HashMap::new(),
            nodes: HashMap::new(),
            service_cidrs: Vec::new(),
            dirty: Dirty::default(),
        }
    }

    /// Takes a change in. What changes nothing makes nothing dirty.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Service(name, service) => self.apply_service(name, service),
            Change::Slice(name, slice) => self.apply_slice(name, slice),
            Change::Node(name, node) => self.apply_node(name, node),
            Change::ServiceCidrs(cidrs) => {
                self.dirty.service_cidrs |= self.service_cidrs != cidrs;
                self.service_cidrs = cidrs;
            }
            // Policies have a world of their own.
            Change::Judged(_) => {}
        }
    }

    fn apply_service(&mut self, name: ServiceName, service: Option<Service>) {
        if self.services.get(&name) == service.as_ref() {
            return;
        }
        self.dirty.counts.0 += 1;
        self.dirty.removal |= service.is_none();
        self.dirty.services.insert(name.clone());
        match service {
            Some(service) => {
                self.services.insert(name, service);
            }
            None => {
                self.services.remove(&name);
            }
        }
    }

    fn apply_slice(&mut self, name: SliceName, slice: Option<Slice>) {
        let before = self.owners.get(&name).and_then(|owner| {
            let slices = self.slices.get_mut(owner)?;
            let at = place(slices, &name.name).ok();
            let slice = at.map(|at| slices.remove(at).1);
            if slices.is_empty() {
                self.slices.remove(owner);
            }
            slice
        });
        self.owners.remove(&name);
        if before != slice {
            self.dirty.counts.1 += 1;
            self.dirty.removal |= loses_endpoint(before.as_ref(), slice.as_ref());
            if let Some(before) = before {
                self.dirty.services.insert(before.service);
            }
            if let Some(slice) = &slice {
                self.dirty.services.insert(slice.service.clone());
                self.dirty.triggered.extend(slice.triggered);
            }
        }
        if let Some(slice) = slice {
            self.owners.insert(name.clone(), slice.service.clone());
            let slices = self.slices.entry(slice.service.clone()).or_default();
            let at = place(slices, &name.name).unwrap_or_else(|at| at);
            slices.reserve_exact(1);
            slices.insert(at, (name.name, slice));
        }
    }

    fn apply_node(&mut self, name: Arc<str>, node: Option<Node>) {
        if self.nodes.get(&name) == node.as_ref() {
            return;
        }
        self.dirty.nodes = true;
        if name == self.node_name {
            self.dirty.node = true;
            let zone = |node: Option<&Node>| node.and_then(|node| node.zone.clone());
            if zone(self.nodes.get(&name)) != zone(node.as_ref()) {
                self.mark_all();
            }
        }
        match node {
            Some(node) => self.nodes.insert(name, node),
            None => self.nodes.remove(&name),
        };
    }

    /// Makes every Service dirty: something that concerns them all has changed.
    pub fn mark_all(&mut self) {
        self.dirty.services.extend(self.services.keys().cloned());
    }

    /// What changed since this was asked last.
    pub fn take_dirty(&mut self) -> Dirty {
        std::mem::take(&mut self.dirty)
    }

    /// What changed, without taking it.
    pub fn dirty(&self) -> &Dirty {
        &self.dirty
    }

    /// A Service.
    pub fn service(&self, name: &ServiceName) -> Option<&Service> {
        self.services.get(name)
    }

    /// All Services, in no order.
    pub fn services(&self) -> impl Iterator<Item = (&ServiceName, &Service)> {
        self.services.iter()
    }

    /// The slices of a Service, by name.
    pub fn slices(&self, service: &ServiceName) -> impl Iterator<Item = &Slice> + Clone {
        self.slices.get(service).into_iter().flatten().map(|(_, slice)| slice)
    }

    /// The node the daemon runs on, as the cluster knows it.
    pub fn this_node(&self) -> Option<&Node> {
        self.nodes.get(&self.node_name)
    }

    /// Its name.
    pub fn node_name(&self) -> &Arc<str> {
        &self.node_name
    }

    /// All nodes, in no order.
    pub fn nodes(&self) -> impl Iterator<Item = (&Arc<str>, &Node)> {
        self.nodes.iter()
    }

    /// A node.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.get(name)
    }

    /// The ranges that ClusterIPs come from; empty if they are not known.
    pub fn service_cidrs(&self) -> &[Prefix] {
        &self.service_cidrs
    }
}

/// Where a slice is among others, or belongs.
fn place(slices: &[(Arc<str>, Slice)], name: &Arc<str>) -> Result<usize, usize> {
    slices.binary_search_by(|(other, _)| other.cmp(name))
}

/// Whether an endpoint that could be used cannot be any more.
fn loses_endpoint(before: Option<&Slice>, after: Option<&Slice>) -> bool {
    let Some(before) = before else { return false };
    let usable = |slice: &Slice| -> BTreeSet<IpAddr> {
        slice.endpoints.iter().filter(|e| e.conditions.ready).map(|e| e.address).collect()
    };
    match after {
        Some(after) if after.ports == before.ports => !usable(before).is_subset(&usable(after)),
        _ => true,
    }
}
