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

/// Keeps one copy of each name: of nodes, namespaces, zones, ports.
#[derive(Debug, Default)]
pub struct Names(HashSet<Arc<str>>);

impl Names {
    /// The one copy of this name.
    pub fn intern(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.0.get(name) {
            return Arc::clone(known);
        }
        let new: Arc<str> = name.into();
        self.0.insert(Arc::clone(&new));
        new
    }

    /// Forgets names that nobody uses any more.
    pub fn shrink(&mut self) {
        self.0.retain(|name| Arc::strong_count(name) > 1);
    }
}
