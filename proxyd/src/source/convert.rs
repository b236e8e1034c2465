//! From API objects to the cluster's types: validated once, here.

use std::net::IpAddr;
use std::sync::Arc;

use netlink::{Family, Prefix};

use netpol::compile::Change as Judged;
use netpol::{PodName, PolicyName};

use super::{api, judged};
use crate::cluster::{
    Affinity, Change, Conditions, Endpoint, Hints, Names, Node, Protocol, Service, ServiceName,
    ServicePort, Slice, SliceName, SlicePort, TrafficPolicy,
};

/// Problems of one object that are told one by one; the rest is counted.
const TOLD: usize = 10;
/// The default of `timeoutSeconds`, and its largest value.
const AFFINITY_DEFAULT: u32 = 10_800;
const AFFINITY_MAX: i64 = 86_400;

/// Which object a document is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum ObjectName {
    Service(ServiceName),
    Slice(SliceName),
    Node(Arc<str>),
    ServiceCidr(Arc<str>),
    Pod(PodName),
    Namespace(Arc<str>),
    Policy(PolicyName),
    ClusterPolicy(Arc<str>),
}

impl ObjectName {
    /// The change that says that it is gone.
    pub(super) fn gone(&self) -> Change {
        match self {
            ObjectName::Service(name) => Change::Service(name.clone(), None),
            ObjectName::Slice(name) => Change::Slice(name.clone(), None),
            ObjectName::Node(name) => Change::Node(Arc::clone(name), None),
            ObjectName::ServiceCidr(_) => Change::ServiceCidrs(Vec::new()),
            ObjectName::Pod(name) => Change::Judged(Judged::Pod(name.clone(), None)),
            ObjectName::Namespace(name) => {
                Change::Judged(Judged::Namespace(Arc::clone(name), None))
            }
            ObjectName::Policy(name) => Change::Judged(Judged::Policy(name.clone(), None)),
            ObjectName::ClusterPolicy(name) => {
                Change::Judged(Judged::ClusterPolicy(Arc::clone(name), None))
            }
        }
    }
}

/// An object, as far as a proxy is concerned.
#[derive(Clone, Debug)]
pub(super) enum Object {
    Service(Service),
    Slice(Slice),
    Node(Node),
    ServiceCidr(Vec<Prefix>),
    /// Of the kinds that policies are about.
    Judged(Judged),
    /// It is well, and none of a proxy's business.
    Ignored,
}

/// A field, and what is wrong with it.
pub(super) type Fault = (String, String);

/// What a document says.
pub(super) struct Converted {
    /// As in `Service default/web`.
    pub(super) title: String,
    /// Its name and content; nothing if it is of a kind that does not matter, or is of no use at all.
    pub(super) object: Option<(ObjectName, Object)>,
    /// What had to be left out.
    pub(super) faults: Vec<Fault>,
}

/// Collects faults, and stops telling them one by one when there are many.
#[derive(Default)]
pub(super) struct Faults {
    told: Vec<Fault>,
    untold: usize,
}

impl Faults {
    fn add(&mut self, field: impl Into<String>, message: impl Into<String>) {
        if self.told.len() < TOLD {
            self.told.push((field.into(), message.into()));
        } else {
            self.untold += 1;
        }
    }

    pub(super) fn extend(&mut self, faults: Vec<Fault>) {
        for (field, message) in faults {
            self.add(field, message);
        }
    }

    fn into_list(mut self) -> Vec<Fault> {
        if self.untold > 0 {
            let message = format!("and {} more problems of this object", self.untold);
            self.told.push((String::new(), message));
        }
        self.told
    }

    /// Parses what is there; a fault if it cannot be.
    pub(super) fn parse<T>(
        &mut self,
        field: impl FnOnce() -> String,
        text: &str,
        what: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let value = parse(text);
        if value.is_none() {
            self.add(field(), format!("{text:?} is not {what}"));
        }
        value
    }

    pub(super) fn annotation<T>(
        &mut self,
        metadata: &api::Metadata,
        name: &str,
        what: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let text = metadata.annotation(name).filter(|text| !text.is_empty())?;
        self.parse(|| format!("metadata.annotations[{name}]"), text, what, parse)
    }

    fn port(&mut self, field: impl FnOnce() -> String, number: i64) -> Option<u16> {
        let port = u16::try_from(number).ok().filter(|port| *port != 0);
        if port.is_none() {
            self.add(field(), format!("{number} is not a port (1 to 65535)"));
        }
        port
    }

    fn ips(&mut self, field: &str, texts: &[String]) -> Vec<IpAddr> {
        let parse = |(at, text): (usize, &String)| {
            self.parse(|| format!("{field}[{at}]"), text, "an IP address", |t| t.parse().ok())
        };
        texts.iter().enumerate().filter_map(parse).collect()
    }

    fn prefixes(&mut self, field: &str, texts: &[String]) -> Vec<Prefix> {
        let parse = |(at, text): (usize, &String)| {
            let network = |t: &str| t.trim().parse().ok().map(Prefix::network);
            self.parse(|| format!("{field}[{at}]"), text, "a CIDR", network)
        };
        texts.iter().enumerate().filter_map(parse).collect()
    }

    fn policy(&mut self, field: &str, text: Option<&String>) -> TrafficPolicy {
        match text.map(String::as_str) {
            None | Some("" | "Cluster") => TrafficPolicy::Cluster,
            Some("Local") => TrafficPolicy::Local,
            Some(other) => {
                self.add(field, format!("{other:?} is neither Cluster nor Local"));
                TrafficPolicy::Cluster
            }
        }
    }
}

/// Converts a document. `Err` is a fault of the document as a whole.
pub(super) fn convert(document: &api::Document, names: &mut Names) -> Result<Converted, Fault> {
    let kind = document.kind.as_deref().unwrap_or_default();
    if kind.is_empty() {
        return Err(("kind".into(), "is missing".into()));
    }
    let expected = match kind {
        "Service" | "Node" => "v1",
        "EndpointSlice" => "discovery.k8s.io/v1",
        "ServiceCIDR" => "networking.k8s.io/v1",
        _ => match judged::KINDS.into_iter().find(|(known, _)| *known == kind) {
            Some((_, version)) => version,
            None => return Err(("kind".into(), format!("{kind:?} is not known here"))),
        },
    };
    let version = document.api_version.as_deref().unwrap_or_default();
    if version != expected {
        let message = format!("{version:?} is not the version of {kind}: {expected}");
        return Err(("apiVersion".into(), message));
    }
    let none = api::Metadata::default();
    let metadata = document.metadata.as_ref().unwrap_or(&none);
    let name = metadata.name.as_deref().unwrap_or_default();
    if name.is_empty() {
        return Err(("metadata.name".into(), format!("is missing in a {kind}")));
    }
    let namespace = match metadata.namespace.as_deref() {
        None | Some("") => "default",
        Some(namespace) => namespace,
    };
    let name: Arc<str> = name.into();
    let mut faults = Faults::default();
    let (title, object) = match kind {
        "Service" => {
            let key = ServiceName { namespace: names.intern(namespace), name };
            let service = service(document, metadata, names, &mut faults);
            let object = service.map_or(Object::Ignored, Object::Service);
            (format!("Service {key}"), Some((ObjectName::Service(key), object)))
        }
        "EndpointSlice" => {
            let key = SliceName { namespace: names.intern(namespace), name };
            let title = format!("EndpointSlice {}/{}", key.namespace, key.name);
            let object = slice(document, metadata, &key, names, &mut faults);
            (title, object.map(|object| (ObjectName::Slice(key), object)))
        }
        "Node" => {
            let object = Object::Node(node(document, metadata, names, &mut faults));
            (format!("Node {name}"), Some((ObjectName::Node(names.intern(&name)), object)))
        }
        "ServiceCIDR" => {
            let cidrs = document.spec.as_ref().and_then(|spec| spec.cidrs.as_deref());
            let cidrs = faults.prefixes("spec.cidrs", cidrs.unwrap_or_default());
            (
                format!("ServiceCIDR {name}"),
                Some((ObjectName::ServiceCidr(name), Object::ServiceCidr(cidrs))),
            )
        }
        _ => judged::convert(kind, document, namespace, name, names, &mut faults),
    };
    Ok(Converted { title, object, faults: faults.into_list() })
}

/// A Service that a proxy has to do with: it has a ClusterIP, and belongs to no other proxy.
fn service(
    document: &api::Document,
    metadata: &api::Metadata,
    names: &mut Names,
    faults: &mut Faults,
) -> Option<Service> {
    let none = api::Spec::default();
    let spec = document.spec.as_ref().unwrap_or(&none);
    let cluster_ip = spec.cluster_ip_upper.as_deref().or(spec.cluster_ip.as_deref());
    let headless = |ip: &str| ip == "None";
    if metadata.label("service.kubernetes.io/service-proxy-name").is_some()
        || cluster_ip.is_some_and(headless)
        || spec.r#type.as_deref() == Some("ExternalName")
    {
        return None;
    }
    let cluster_ips = match (&spec.cluster_ips, cluster_ip) {
        (Some(ips), _) if ips.iter().any(|ip| headless(ip)) => return None,
        (Some(ips), _) if !ips.is_empty() => faults.ips("spec.clusterIPs", ips),
        (_, Some(ip)) if !ip.is_empty() => {
            let field = || "spec.clusterIP".to_owned();
            faults.parse(field, ip, "an IP address", |t| t.parse().ok()).into_iter().collect()
        }
        _ => return None,
    };
    let load_balancer = document.status.as_ref().and_then(|s| s.load_balancer.as_ref());
    let ingress = load_balancer.and_then(|l| l.ingress.as_deref()).unwrap_or_default();
    let captured = ingress.iter().enumerate().filter_map(|(at, ingress)| {
        let ip = ingress.ip.as_deref().filter(|ip| !ip.is_empty())?;
        if ingress.ip_mode.as_deref() == Some("Proxy") {
            return None; // packets really go to the load balancer
        }
        let field = || format!("status.loadBalancer.ingress[{at}].ip");
        faults.parse(field, ip, "an IP address", |t| t.parse().ok())
    });
    let load_balancer_ips: Vec<IpAddr> = captured.collect();
    let external_ips =
        faults.ips("spec.externalIPs", spec.external_ips.as_deref().unwrap_or_default());
    let kind = spec.r#type.as_deref().unwrap_or("ClusterIP");
    let reachable = matches!(kind, "NodePort" | "LoadBalancer") || !external_ips.is_empty();
    let external_policy =
        faults.policy("spec.externalTrafficPolicy", spec.external_traffic_policy.as_ref());
    let external_policy = if reachable { external_policy } else { TrafficPolicy::Cluster };
    let health_check = spec
        .health_check_node_port
        .filter(|port| *port != 0)
        .filter(|_| kind == "LoadBalancer" && external_policy == TrafficPolicy::Local);
    Some(Service {
        cluster_ips,
        external_ips,
        load_balancer_ips,
        source_ranges: faults.prefixes(
            "spec.loadBalancerSourceRanges",
            spec.load_balancer_source_ranges.as_deref().unwrap_or_default(),
        ),
        ports: service_ports(spec.ports.as_deref().unwrap_or_default(), names, faults),
        internal_policy: faults
            .policy("spec.internalTrafficPolicy", spec.internal_traffic_policy.as_ref()),
        external_policy,
        affinity: affinity(spec, faults),
        health_check_node_port: health_check
            .and_then(|port| faults.port(|| "spec.healthCheckNodePort".to_owned(), port)),
    })
}

fn affinity(spec: &api::Spec, faults: &mut Faults) -> Option<Affinity> {
    match spec.session_affinity.as_deref() {
        None | Some("" | "None") => return None,
        Some("ClientIP") => {}
        Some(other) => {
            faults.add("spec.sessionAffinity", format!("{other:?} is neither None nor ClientIP"));
            return None;
        }
    }
    let config = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref());
    match config.and_then(|client_ip| client_ip.timeout_seconds) {
        None => Some(Affinity(AFFINITY_DEFAULT)),
        Some(seconds @ 1..=AFFINITY_MAX) => Some(Affinity(seconds as u32)),
        Some(seconds) => {
            let message =
                format!("{seconds} is not 1 to {AFFINITY_MAX}; {AFFINITY_DEFAULT} is used");
            faults.add("spec.sessionAffinityConfig.clientIP.timeoutSeconds", message);
            Some(Affinity(AFFINITY_DEFAULT))
        }
    }
}

fn service_ports(
    ports: &[api::ServicePort],
    names: &mut Names,
    faults: &mut Faults,
) -> Vec<ServicePort> {
    let mut known = std::collections::HashSet::new();
    let mut convert = |(at, port): (usize, &api::ServicePort)| {
        let field = |name: &str| format!("spec.ports[{at}].{name}");
        let protocol = protocol(port.protocol.as_deref(), || field("protocol"), faults)?;
        let number = match port.port {
            Some(number) => faults.port(|| field("port"), number)?,
            None => {
                faults.add(field("port"), "is missing");
                return None;
            }
        };
        let node_port = match port.node_port {
            None | Some(0) => None,
            Some(number) => faults.port(|| field("nodePort"), number),
        };
        let name = names.intern(port.name.as_deref().unwrap_or_default());
        if !known.insert((Arc::clone(&name), protocol)) {
            faults.add(field("name"), format!("{name:?} is there twice for {protocol}"));
            return None;
        }
        Some(ServicePort { name, protocol, port: number, node_port })
    };
    ports.iter().enumerate().filter_map(&mut convert).collect()
}

fn protocol(
    name: Option<&str>,
    field: impl FnOnce() -> String,
    faults: &mut Faults,
) -> Option<Protocol> {
    match name {
        None | Some("") => Some(Protocol::Tcp),
        Some(name) => faults.parse(field, name, "TCP, UDP or SCTP", Protocol::from_api),
    }
}

fn slice(
    document: &api::Document,
    metadata: &api::Metadata,
    key: &SliceName,
    names: &mut Names,
    faults: &mut Faults,
) -> Option<Object> {
    if metadata.label("service.kubernetes.io/headless").is_some() {
        return Some(Object::Ignored);
    }
    let service = metadata.label("kubernetes.io/service-name").unwrap_or_default();
    if service.is_empty() {
        let message = "is missing: the slice belongs to no Service";
        faults.add("metadata.labels[kubernetes.io/service-name]", message);
        return None;
    }
    let family = match document.address_type.as_deref() {
        Some("IPv4") => Family::V4,
        Some("IPv6") => Family::V6,
        Some("FQDN") => return Some(Object::Ignored),
        other => {
            let other = other.unwrap_or_default();
            faults.add("addressType", format!("{other:?} is not IPv4, IPv6 or FQDN"));
            return None;
        }
    };
    let ports = document.ports.as_deref().unwrap_or_default().iter().enumerate();
    let ports = ports.filter_map(|(at, port)| {
        let field = |name: &str| format!("ports[{at}].{name}");
        let protocol = protocol(port.protocol.as_deref(), || field("protocol"), faults)?;
        // Without a number it means all ports, which no proxy implements.
        let number = port.port.filter(|number| *number != 0)?;
        let number = faults.port(|| field("port"), number)?;
        let name = names.intern(port.name.as_deref().unwrap_or_default());
        Some(SlicePort { name, protocol, port: number })
    });
    let ports = ports.collect();
    let listed = document.endpoints.as_deref().unwrap_or_default();
    // They stay for long: without room to spare.
    let mut endpoints = Vec::with_capacity(listed.len());
    let converted = listed.iter().enumerate();
    endpoints.extend(converted.filter_map(|(at, one)| endpoint(one, at, family, names, faults)));
    let triggered = metadata
        .annotation("endpoints.kubernetes.io/last-change-trigger-time")
        .and_then(super::api_time::nanoseconds);
    Some(Object::Slice(Slice {
        service: ServiceName { namespace: Arc::clone(&key.namespace), name: names.intern(service) },
        family,
        ports,
        endpoints,
        triggered,
    }))
}

fn endpoint(
    endpoint: &api::Endpoint,
    at: usize,
    family: Family,
    names: &mut Names,
    faults: &mut Faults,
) -> Option<Endpoint> {
    let field = || format!("endpoints[{at}].addresses[0]");
    // The others are the same endpoint's; only the first counts.
    let Some(text) = endpoint.addresses.iter().flatten().next() else {
        faults.add(field(), "is missing");
        return None;
    };
    let address: IpAddr = faults.parse(field, text, "an IP address", |t| t.parse().ok())?;
    if Family::of(address) != family {
        faults.add(field(), format!("{address} is not an {family} address"));
        return None;
    }
    let none = api::Conditions::default();
    let conditions = endpoint.conditions.as_ref().unwrap_or(&none);
    let hints = endpoint.hints.as_ref().map(|hints| {
        let mut list = |named: &Option<Vec<api::Named>>| -> Vec<Arc<str>> {
            let names_of = named.iter().flatten().filter_map(|n| n.name.as_deref());
            names_of.map(|name| names.intern(name)).collect()
        };
        Hints { zones: list(&hints.for_zones), nodes: list(&hints.for_nodes) }
    });
    Some(Endpoint {
        address,
        conditions: Conditions {
            ready: conditions.ready.unwrap_or(true),
            serving: conditions.serving.unwrap_or(true),
            terminating: conditions.terminating.unwrap_or(false),
        },
        node: endpoint.node_name.as_deref().filter(|n| !n.is_empty()).map(|n| names.intern(n)),
        hints: hints.filter(|h| !h.zones.is_empty() || !h.nodes.is_empty()).map(Box::new),
    })
}

fn node(
    document: &api::Document,
    metadata: &api::Metadata,
    names: &mut Names,
    faults: &mut Faults,
) -> Node {
    let none = api::Spec::default();
    let spec = document.spec.as_ref().unwrap_or(&none);
    let addresses = document.status.as_ref().and_then(|status| status.addresses.as_deref());
    let mut parsed = [Vec::new(), Vec::new()];
    for (at, entry) in addresses.unwrap_or_default().iter().enumerate() {
        let list = match entry.r#type.as_deref() {
            Some("InternalIP") => &mut parsed[0],
            Some("ExternalIP") => &mut parsed[1],
            _ => continue, // names
        };
        let field = || format!("status.addresses[{at}].address");
        let text = entry.address.as_deref().unwrap_or_default();
        list.extend(faults.parse(field, text, "an IP address", |t| t.parse::<IpAddr>().ok()));
    }
    let pod_cidrs = match (&spec.pod_cidrs, &spec.pod_cidr) {
        (Some(cidrs), _) => faults.prefixes("spec.podCIDRs", cidrs),
        (None, Some(cidr)) => faults.prefixes("spec.podCIDR", std::slice::from_ref(cidr)),
        (None, None) => Vec::new(),
    };
    let overlay_address =
        faults.annotation(metadata, "viaduct.io/address", "an IP address", |t| t.parse().ok());
    let vtep_mac =
        faults.annotation(metadata, "viaduct.io/vtep-mac", "a MAC address", |t| t.parse().ok());
    let taint = |taint: &api::Taint| taint.key.as_deref() == Some("ToBeDeletedByClusterAutoscaler");
    let conditions = document.status.as_ref().and_then(|status| status.conditions.as_deref());
    let condition = |kind: &str| -> Option<&str> {
        let mut conditions = conditions.unwrap_or_default().iter();
        conditions.find(|condition| condition.r#type.as_deref() == Some(kind))?.status.as_deref()
    };
    let network_unavailable = match condition("NetworkUnavailable") {
        Some("True") => Some(true),
        Some("False") => Some(false),
        _ => None,
    };
    Node {
        addresses: parsed.concat(),
        pod_cidrs,
        zone: metadata
            .label("topology.kubernetes.io/zone")
            .filter(|zone| !zone.is_empty())
            .map(|zone| names.intern(zone)),
        overlay_address,
        vtep_mac,
        network_unavailable,
        not_ready: condition("Ready").is_some_and(|status| status != "True"),
        created: metadata.creation_timestamp.as_deref().map(|time| names.intern(time)),
        labels: judged::labels(metadata, names),
        going_away: metadata.deletion_timestamp.is_some()
            || spec.taints.iter().flatten().any(taint),
    }
}
