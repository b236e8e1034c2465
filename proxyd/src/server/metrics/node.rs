//! Repairs of the node's own state, and problems of the pod network.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::Metrics;

/// What the node agent counts.
#[derive(Default)]
pub(super) struct NodeSeries {
    repairs: Family<[(&'static str, &'static str); 1], Counter>,
    unenforced: Gauge,
    problems: Family<[(&'static str, &'static str); 1], Gauge>,
}

impl NodeSeries {
    pub(super) fn register(registry: &mut Registry) -> NodeSeries {
        let all = NodeSeries::default();
        let viaduct = registry.sub_registry_with_prefix("viaduct");
        viaduct.register(
            "node_repairs",
            "Objects of the pod network on this node that another process damaged and that were repaired",
            all.repairs.clone(),
        );
        viaduct.register(
            "network_problems",
            "Parts of the pod network that are left out or cannot be repaired, listed in /status",
            all.problems.clone(),
        );
        viaduct.register(
            "unenforced_policies",
            "Policies that exist while the settings keep this daemon from enforcing them",
            all.unenforced.clone(),
        );
        all
    }
}

impl Metrics {
    /// An object of this kind was repaired: `viaduct_node_repairs_total`.
    pub fn node_repaired(&self, object: &'static str) {
        self.shared.node.repairs.get_or_create(&[("object", object)]).inc();
    }

    /// The number of policies that nothing enforces: `viaduct_unenforced_policies`.
    pub fn unenforced_policies(&self, count: usize) {
        self.shared.node.unenforced.set(count as i64);
    }

    /// The number of problems that a part of the pod network has: `viaduct_network_problems`.
    pub fn network_problems(&self, part: &'static str, count: usize) {
        self.shared.node.problems.get_or_create(&[("part", part)]).set(count as i64);
    }
}
