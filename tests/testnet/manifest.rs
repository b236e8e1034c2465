//! Objects of the Kubernetes API as manifests: what a test says of them, and nothing that it does not.

use std::fmt::{self, Display, Formatter};
use std::net::IpAddr;

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::lan::Family;
use crate::node::{Node, Pod};

/// Several objects as the documents of one file.
pub fn documents(objects: &[&dyn Display]) -> String {
    objects.iter().map(|object| format!("---\n{object}\n")).collect()
}

fn show(object: &Value, f: &mut Formatter<'_>) -> fmt::Result {
    // JSON is YAML.
    let text = serde_json::to_string_pretty(object).map_err(|_| fmt::Error)?;
    f.write_str(&text)
}

fn value(value: impl Serialize) -> Value {
    serde_json::to_value(value).expect("a value")
}

/// A Service of namespace `default` in the making.
#[derive(Clone, Debug)]
pub struct Service(Value);

impl Service {
    /// A Service of type ClusterIP without addresses and ports.
    pub fn new(name: &str) -> Service {
        Service(json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"type": "ClusterIP", "ports": []},
        }))
    }

    /// With these cluster IPs.
    pub fn cluster_ips(self, ips: &[IpAddr]) -> Service {
        let families = ips.iter().map(|ip| if ip.is_ipv4() { "IPv4" } else { "IPv6" });
        let families: Vec<&str> = families.collect();
        let policy = if ips.len() > 1 { "RequireDualStack" } else { "SingleStack" };
        self.spec("clusterIP", ips.first())
            .spec("clusterIPs", ips)
            .spec("ipFamilies", families)
            .spec("ipFamilyPolicy", policy)
    }

    /// One more port; `protocol` as the API spells it.
    pub fn port(mut self, name: &str, protocol: &str, port: u32) -> Service {
        let ports = self.0["spec"]["ports"].as_array_mut().expect("a list");
        ports.push(json!({"name": name, "protocol": protocol, "port": port}));
        self
    }

    /// The node port of the port that was added last; makes the type NodePort if it was ClusterIP.
    pub fn node_port(mut self, node_port: u16) -> Service {
        let ports = self.0["spec"]["ports"].as_array_mut().expect("a list");
        ports.last_mut().expect("a port")["nodePort"] = node_port.into();
        if self.0["spec"]["type"] == "ClusterIP" {
            self.0["spec"]["type"] = "NodePort".into();
        }
        self
    }

    /// Type LoadBalancer with these addresses in its status.
    pub fn load_balancer(self, ips: &[IpAddr]) -> Service {
        let ingress: Vec<Value> = ips.iter().map(|ip| json!({"ip": ip})).collect();
        self.ingress(ingress.into())
    }

    /// Type LoadBalancer with this `status.loadBalancer.ingress`.
    pub fn ingress(mut self, ingress: Value) -> Service {
        self.0["status"] = json!({"loadBalancer": {"ingress": ingress}});
        self.spec("type", "LoadBalancer")
    }

    /// Session affinity by client address, for so many seconds.
    pub fn affinity(self, seconds: u32) -> Service {
        self.spec("sessionAffinity", "ClientIP")
            .spec("sessionAffinityConfig", json!({"clientIP": {"timeoutSeconds": seconds}}))
    }

    /// Any field of the spec.
    pub fn spec(mut self, field: &str, content: impl Serialize) -> Service {
        self.0["spec"][field] = value(content);
        self
    }

    /// A label.
    pub fn label(mut self, key: &str, content: &str) -> Service {
        self.0["metadata"]["labels"][key] = content.into();
        self
    }
}

impl Display for Service {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        show(&self.0, f)
    }
}

/// An endpoint, with the addresses of both families: each goes into the slices of its family.
#[derive(Clone, Debug)]
pub struct Endpoint {
    addresses: Vec<IpAddr>,
    fields: Map<String, Value>,
}

impl Endpoint {
    /// A ready endpoint at these addresses, on no node.
    pub fn at(addresses: &[IpAddr]) -> Endpoint {
        let endpoint = Endpoint { addresses: addresses.to_vec(), fields: Map::new() };
        endpoint.conditions(json!({"ready": true, "serving": true, "terminating": false}))
    }

    /// A pod, ready, on its node.
    pub fn of(pod: &Pod<'_>) -> Endpoint {
        Endpoint::at(&pod.ips()).field("nodeName", pod.node().name())
    }

    /// With these conditions and no others.
    pub fn conditions(self, conditions: Value) -> Endpoint {
        self.field("conditions", conditions)
    }

    /// Neither ready nor serving.
    pub fn not_ready(self) -> Endpoint {
        self.conditions(json!({"ready": false, "serving": false, "terminating": false}))
    }

    /// Terminating, and still serving.
    pub fn terminating(self) -> Endpoint {
        self.conditions(json!({"ready": false, "serving": true, "terminating": true}))
    }

    /// Any field.
    pub fn field(mut self, field: &str, content: impl Serialize) -> Endpoint {
        self.fields.insert(field.to_owned(), value(content));
        self
    }

    fn of_family(&self, family: Family) -> Option<Value> {
        let own = |ip: &&IpAddr| ip.is_ipv4() == (family == Family::V4);
        let address = self.addresses.iter().find(own)?;
        let mut fields = self.fields.clone();
        fields.insert("addresses".to_owned(), json!([address]));
        Some(Value::Object(fields))
    }
}

/// An EndpointSlice of namespace `default` in the making.
#[derive(Clone, Debug)]
pub struct EndpointSlice(Value);

impl EndpointSlice {
    /// The slice of a Service with the endpoints that have an address of this family.
    pub fn new(service: &str, family: Family, endpoints: &[Endpoint]) -> EndpointSlice {
        let (kind, suffix) = match family {
            Family::V4 => ("IPv4", "v4"),
            Family::V6 => ("IPv6", "v6"),
        };
        let endpoints = endpoints.iter().filter_map(|endpoint| endpoint.of_family(family));
        let endpoints: Vec<Value> = endpoints.collect();
        EndpointSlice(json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": format!("{service}-{suffix}"), "namespace": "default",
                "labels": {"kubernetes.io/service-name": service},
            },
            "addressType": kind, "ports": [], "endpoints": endpoints,
        }))
    }

    /// With another name, for a Service with several slices.
    pub fn named(mut self, name: &str) -> EndpointSlice {
        self.0["metadata"]["name"] = name.into();
        self
    }

    /// One more port.
    pub fn port(mut self, name: &str, protocol: &str, port: u32) -> EndpointSlice {
        let ports = self.0["ports"].as_array_mut().expect("a list");
        ports.push(json!({"name": name, "protocol": protocol, "port": port}));
        self
    }

    /// A label.
    pub fn label(mut self, key: &str, content: &str) -> EndpointSlice {
        self.0["metadata"]["labels"][key] = content.into();
        self
    }
}

impl Display for EndpointSlice {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        show(&self.0, f)
    }
}

/// A Node object in the making.
#[derive(Clone, Debug)]
pub struct NodeObject(Value);

impl NodeObject {
    /// A node of the LAN: both pod subnets, both addresses.
    pub fn of(node: &Node) -> NodeObject {
        NodeObject(json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": node.name(), "labels": {"kubernetes.io/hostname": node.name()}},
            "spec": {"podCIDR": node.pod_cidr(), "podCIDRs": [node.pod_cidr(), node.pod_cidr_v6()]},
            "status": {"addresses": [
                {"type": "InternalIP", "address": node.v4()},
                {"type": "InternalIP", "address": node.v6()},
                {"type": "Hostname", "address": node.name()},
            ]},
        }))
    }

    /// A label.
    pub fn label(mut self, key: &str, content: &str) -> NodeObject {
        self.0["metadata"]["labels"][key] = content.into();
        self
    }

    /// A taint.
    pub fn taint(mut self, key: &str, effect: &str) -> NodeObject {
        self.0["spec"]["taints"] = json!([{"key": key, "effect": effect}]);
        self
    }
}

impl Display for NodeObject {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        show(&self.0, f)
    }
}
