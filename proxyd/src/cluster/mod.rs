//! The node's view of the cluster: our own compact types, and what became dirty.
//!
//! Sources convert API objects at the edge ([`crate::source`]); nothing behind them ever sees one.

mod endpoint;
mod node;
mod service;
mod state;

pub use endpoint::{Conditions, Endpoint, Hints, Slice, SliceName, SlicePort};
pub use node::Node;
pub use service::{
    Affinity, Protocol, Service, ServiceName, ServicePort, ServicePortName, TrafficPolicy,
};
pub use state::{Change, Cluster, Dirty};

use std::collections::HashSet;
use std::sync::Arc;

use netpol::{ContainerPort, Labels};

/// Keeps one copy of each name: of nodes, namespaces, zones, ports.
#[derive(Debug, Default)]
pub struct Names {
    names: HashSet<Arc<str>>,
    labels: HashSet<Labels>,
    ports: HashSet<Arc<[ContainerPort]>>,
}

impl Names {
    /// The one copy of this name.
    pub fn intern(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.names.get(name) {
            return Arc::clone(known);
        }
        let new: Arc<str> = name.into();
        self.names.insert(Arc::clone(&new));
        new
    }

    /// The one copy of these labels: pods of one template share theirs.
    pub fn intern_labels(&mut self, labels: Labels) -> Labels {
        if let Some(known) = self.labels.get(&labels) {
            return known.clone();
        }
        self.labels.insert(labels.clone());
        labels
    }

    /// The one copy of these ports.
    pub fn intern_ports(&mut self, ports: Vec<ContainerPort>) -> Arc<[ContainerPort]> {
        if let Some(known) = self.ports.get(&*ports) {
            return Arc::clone(known);
        }
        let new: Arc<[ContainerPort]> = ports.into();
        self.ports.insert(Arc::clone(&new));
        new
    }

    /// Forgets names that nobody uses any more.
    pub fn shrink(&mut self) {
        self.labels.retain(|labels| !labels.is_only_copy());
        self.ports.retain(|ports| Arc::strong_count(ports) > 1);
        self.names.retain(|name| Arc::strong_count(name) > 1);
    }
}
