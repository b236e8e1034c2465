//! The plan of one Service.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use netlink::{Family, Prefix};

use super::endpoints::{Place, choose};
use super::table::{Address, Frontend, FrontendKey, Lists, Masquerade, Resolution};
use crate::cluster::ServiceName;
use crate::cluster::{Service, ServicePort, ServicePortName, Slice, TrafficPolicy};

/// What every plan depends on besides its own objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Where the daemon runs.
    pub place: Place,
    /// Whether `spec.externalIPs` are honoured.
    pub external_ips: bool,
    /// The node's addresses: a load balancer that lets the node in lets its own address in too, since
    /// that is what the node's connections to it come from.
    pub node_addresses: Vec<IpAddr>,
}

/// What a health-check node port tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// The port.
    pub port: u16,
    /// Ready endpoints on this node, each address once.
    pub local_endpoints: usize,
}

/// The plan of a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServicePlan {
    /// Frontends of all ports, families and addresses, each once, sorted.
    pub frontends: Vec<(FrontendKey, Frontend)>,
    /// Health check, if the Service has one.
    pub health_check: Option<HealthCheck>,
}

/// Plans a Service.
pub fn plan<'a>(
    name: &ServiceName,
    service: &Service,
    slices: impl Iterator<Item = &'a Slice> + Clone,
    rules: &Rules,
) -> ServicePlan {
    let mut plan = ServicePlan {
        frontends: Vec::new(),
        health_check: service.health_check_node_port.map(|port| HealthCheck {
            port,
            local_endpoints: ready_here(slices.clone(), &rules.place),
        }),
    };
    for family in [Family::V4, Family::V6] {
        // A Service without a ClusterIP of a family does not exist in it.
        if !service.cluster_ips.iter().any(|ip| Family::of(*ip) == family) {
            continue;
        }
        for port in &service.ports {
            let owner = ServicePortName {
                service: name.clone(),
                port: Arc::clone(&port.name),
                protocol: port.protocol,
            };
            port_frontends(&mut plan, service, port, owner, slices.clone(), family, rules);
        }
    }
    // The same address twice, say as external IP and as load balancer: the first counts.
    plan.frontends.sort_by_key(|(key, _)| *key);
    plan.frontends.dedup_by_key(|(key, _)| *key);
    plan
}

fn port_frontends<'a>(
    plan: &mut ServicePlan,
    service: &Service,
    port: &ServicePort,
    owner: ServicePortName,
    slices: impl Iterator<Item = &'a Slice>,
    family: Family,
    rules: &Rules,
) {
    let choice = choose(slices, &owner, family, &rules.place);
    let mut hairpin: Vec<IpAddr> = choice.on_node.iter().map(|backend| backend.ip).collect();
    hairpin.dedup();
    let lists = Arc::new(Lists {
        owner,
        cluster: choice.cluster,
        local: choice.local,
        hairpin,
        affinity: service.affinity,
    });
    let mut add = |address, port_number, resolution, cluster_ip, source_ranges| {
        let key = FrontendKey { address, protocol: port.protocol, port: port_number };
        let lists = Arc::clone(&lists);
        plan.frontends.push((key, Frontend { resolution, cluster_ip, source_ranges, lists }));
    };
    let of_family = |ips: &[IpAddr]| -> Vec<IpAddr> {
        ips.iter().copied().filter(|ip| Family::of(*ip) == family).collect()
    };
    for ip in of_family(&service.cluster_ips) {
        add(Address::Ip(ip), port.port, internal(service, &lists), true, None);
    }
    let external = external(service, &lists);
    for ip in of_family(&service.load_balancer_ips) {
        let ranges = source_ranges(service, family, ip, &rules.node_addresses);
        add(Address::Ip(ip), port.port, external, false, ranges);
    }
    if rules.external_ips {
        for ip in of_family(&service.external_ips) {
            add(Address::Ip(ip), port.port, external, false, None);
        }
    }
    if let Some(node_port) = port.node_port {
        add(Address::Node(family), node_port, external, false, None);
    }
}

/// What becomes of connections to a ClusterIP.
fn internal(service: &Service, lists: &Lists) -> Resolution {
    match service.internal_policy {
        _ if lists.cluster.is_empty() => Resolution::Reject,
        TrafficPolicy::Cluster => Resolution::Cluster(Masquerade::OffCluster),
        TrafficPolicy::Local if lists.local.is_empty() => Resolution::Drop,
        TrafficPolicy::Local => Resolution::Local,
    }
}

/// What becomes of connections to node ports, external IPs and load balancers.
fn external(service: &Service, lists: &Lists) -> Resolution {
    match service.external_policy {
        _ if lists.cluster.is_empty() => Resolution::Reject,
        TrafficPolicy::Cluster => Resolution::Cluster(Masquerade::Always),
        TrafficPolicy::Local => Resolution::ByOrigin,
    }
}

/// The ranges of a family, none within another. Ranges of the other family alone restrict nothing.
fn source_ranges(
    service: &Service,
    family: Family,
    vip: IpAddr,
    node_addresses: &[IpAddr],
) -> Option<Arc<[Prefix]>> {
    let mut ranges: Vec<Prefix> =
        service.source_ranges.iter().copied().filter(|range| range.family() == family).collect();
    if ranges.is_empty() {
        return None;
    }
    if node_addresses.iter().any(|ip| ranges.iter().any(|range| range.contains(*ip))) {
        ranges.push(Prefix::host(vip));
    }
    ranges.sort_by_key(|range| (range.length(), *range));
    let mut outermost: Vec<Prefix> = Vec::new();
    for range in ranges {
        if !outermost.iter().any(|outer| outer.covers(range)) {
            outermost.push(range);
        }
    }
    outermost.sort();
    Some(outermost.into())
}

/// Ready endpoints on this node, each address once; terminating ones never count. A pod with addresses
/// of both families is one endpoint.
fn ready_here<'a>(slices: impl Iterator<Item = &'a Slice> + Clone, place: &Place) -> usize {
    let of_family = |family: Family| {
        let endpoints =
            slices.clone().filter(|slice| slice.family == family).flat_map(|s| &s.endpoints);
        let ready = endpoints.filter(|endpoint| {
            endpoint.conditions.ready
                && !endpoint.conditions.terminating
                && endpoint.node.as_ref() == Some(&place.node)
        });
        ready.map(|endpoint| endpoint.address).collect::<BTreeSet<_>>().len()
    };
    of_family(Family::V4).max(of_family(Family::V6))
}
