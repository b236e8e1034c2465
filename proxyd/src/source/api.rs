//! API objects, reduced to the fields that matter here. Everything else is passed over unread.
//!
//! One struct serves all kinds, so that a document is parsed once: their fields do not collide.

use std::collections::BTreeMap;

use netpol::api::{ApiPeer, ApiRule, LabelSelector};
use serde::Deserialize;

/// A document of any kind.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Document {
    /// `v1`, `discovery.k8s.io/v1`, …
    pub api_version: Option<String>,
    /// `Service`, …
    pub kind: Option<String>,
    /// Name, labels, annotations.
    pub metadata: Option<Metadata>,
    /// Of Services, Nodes, ServiceCIDRs.
    pub spec: Option<Spec>,
    /// Of Services, Nodes.
    pub status: Option<Status>,
    /// Of EndpointSlices.
    pub address_type: Option<String>,
    /// Of EndpointSlices.
    pub endpoints: Option<Vec<Endpoint>>,
    /// Of EndpointSlices.
    pub ports: Option<Vec<EndpointPort>>,
    /// Of Lists.
    pub items: Option<Vec<Document>>,
}

/// `metadata`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Metadata {
    /// Name.
    pub name: Option<String>,
    /// Namespace.
    pub namespace: Option<String>,
    /// Tells it from an earlier object of the same name.
    pub uid: Option<String>,
    /// Labels.
    pub labels: Option<BTreeMap<String, Option<String>>>,
    /// Annotations.
    pub annotations: Option<BTreeMap<String, Option<String>>>,
    /// The version of the object, for the API client.
    pub resource_version: Option<String>,
    /// When the object was created.
    pub creation_timestamp: Option<String>,
    /// Set once the object is being deleted.
    pub deletion_timestamp: Option<String>,
}

impl Metadata {
    /// A label's value.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.as_ref()?.get(key).map(|value| value.as_deref().unwrap_or_default())
    }

    /// An annotation's value.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(key)?.as_deref()
    }
}

/// `spec`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Spec {
    // Service
    pub(super) r#type: Option<String>,
    pub(super) cluster_ip: Option<String>,
    #[serde(rename = "clusterIP")]
    pub(super) cluster_ip_upper: Option<String>,
    #[serde(rename = "clusterIPs")]
    pub(super) cluster_ips: Option<Vec<String>>,
    #[serde(rename = "externalIPs")]
    pub(super) external_ips: Option<Vec<String>>,
    pub(super) load_balancer_source_ranges: Option<Vec<String>>,
    pub(super) ports: Option<Vec<ServicePort>>,
    pub(super) internal_traffic_policy: Option<String>,
    pub(super) external_traffic_policy: Option<String>,
    pub(super) session_affinity: Option<String>,
    pub(super) session_affinity_config: Option<AffinityConfig>,
    pub(super) health_check_node_port: Option<i64>,
    // Node
    #[serde(rename = "podCIDR")]
    pub(super) pod_cidr: Option<String>,
    #[serde(rename = "podCIDRs")]
    pub(super) pod_cidrs: Option<Vec<String>>,
    pub(super) taints: Option<Vec<Taint>>,
    // ServiceCIDR
    pub(super) cidrs: Option<Vec<String>>,
    // Pod
    pub(super) node_name: Option<String>,
    pub(super) host_network: Option<bool>,
    pub(super) containers: Option<Vec<Container>>,
    pub(super) init_containers: Option<Vec<Container>>,
    // NetworkPolicy, ClusterNetworkPolicy
    pub(super) pod_selector: Option<LabelSelector>,
    pub(super) policy_types: Option<Vec<String>>,
    pub(super) ingress: Option<Vec<ApiRule>>,
    pub(super) egress: Option<Vec<ApiRule>>,
    pub(super) tier: Option<String>,
    pub(super) priority: Option<i64>,
    pub(super) subject: Option<ApiPeer>,
}

/// `spec.containers[]` of a Pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Container {
    pub(super) ports: Option<Vec<NamedPort>>,
    pub(super) restart_policy: Option<String>,
}

/// `spec.containers[].ports[]` of a Pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NamedPort {
    pub(super) name: Option<String>,
    pub(super) protocol: Option<String>,
    pub(super) container_port: Option<i64>,
}

/// `spec.ports[]` of a Service.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServicePort {
    pub(super) name: Option<String>,
    pub(super) protocol: Option<String>,
    pub(super) port: Option<i64>,
    pub(super) node_port: Option<i64>,
}

/// `spec.sessionAffinityConfig`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct AffinityConfig {
    #[serde(rename = "clientIP")]
    pub(super) client_ip: Option<ClientIpConfig>,
}

/// `spec.sessionAffinityConfig.clientIP`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientIpConfig {
    pub(super) timeout_seconds: Option<i64>,
}

/// `spec.taints[]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Taint {
    pub(super) key: Option<String>,
}

/// `status`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    pub(super) load_balancer: Option<LoadBalancer>,
    pub(super) addresses: Option<Vec<NodeAddress>>,
    pub(super) conditions: Option<Vec<Condition>>,
    // Pod
    pub(super) phase: Option<String>,
    #[serde(rename = "podIP")]
    pub(super) pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pub(super) pod_ips: Option<Vec<PodIp>>,
}

/// `status.loadBalancer`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct LoadBalancer {
    pub(super) ingress: Option<Vec<Ingress>>,
}

/// `status.loadBalancer.ingress[]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Ingress {
    pub(super) ip: Option<String>,
    pub(super) ip_mode: Option<String>,
}

/// `status.addresses[]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct NodeAddress {
    pub(super) r#type: Option<String>,
    pub(super) address: Option<String>,
}

/// `status.podIPs[]` of a Pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct PodIp {
    pub(super) ip: Option<String>,
}

/// `status.conditions[]` of a Node.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Condition {
    pub(super) r#type: Option<String>,
    pub(super) status: Option<String>,
}

/// `endpoints[]` of an EndpointSlice.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Endpoint {
    pub(super) addresses: Option<Vec<String>>,
    pub(super) conditions: Option<Conditions>,
    pub(super) node_name: Option<String>,
    pub(super) hints: Option<Hints>,
}

/// `endpoints[].conditions`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Conditions {
    pub(super) ready: Option<bool>,
    pub(super) serving: Option<bool>,
    pub(super) terminating: Option<bool>,
}

/// `endpoints[].hints`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Hints {
    pub(super) for_zones: Option<Vec<Named>>,
    pub(super) for_nodes: Option<Vec<Named>>,
}

/// A reference by name.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Named {
    pub(super) name: Option<String>,
}

/// `ports[]` of an EndpointSlice.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct EndpointPort {
    pub(super) name: Option<String>,
    pub(super) protocol: Option<String>,
    pub(super) port: Option<i64>,
}
