//! API objects as text.

use std::net::IpAddr;

use serde_json::{Map, Value, json};
use testnet::Node;

/// A Service in the making.
#[derive(Clone)]
pub(crate) struct Service {
    name: String,
    spec: Map<String, Value>,
    ports: Vec<Value>,
    ingress: Vec<Value>,
    labels: Map<String, Value>,
}

fn object(value: Value) -> Map<String, Value> {
    let Value::Object(map) = value else { unreachable!("an object") };
    map
}

/// A Service with this ClusterIP; TCP and UDP ports are added.
pub(crate) fn service(name: &str, cluster_ip: IpAddr) -> Service {
    Service {
        name: name.to_owned(),
        spec: object(json!({"clusterIP": cluster_ip, "clusterIPs": [cluster_ip]})),
        ports: Vec::new(),
        ingress: Vec::new(),
        labels: Map::new(),
    }
}

impl Service {
    /// The port for TCP and UDP, named `tcp` and `udp`.
    pub(crate) fn port(self, port: u16) -> Service {
        self.one_port("tcp", "TCP", port, 0).one_port("udp", "UDP", port, 0)
    }

    /// The same with a node port.
    pub(crate) fn node_port(self, port: u16, node_port: u16) -> Service {
        let service = self.set("type", json!("NodePort"));
        service.one_port("tcp", "TCP", port, node_port).one_port("udp", "UDP", port, node_port)
    }

    pub(crate) fn one_port(mut self, name: &str, protocol: &str, port: u16, node: u16) -> Service {
        self.ports
            .push(json!({"name": name, "protocol": protocol, "port": port, "nodePort": node}));
        self
    }

    pub(crate) fn set(mut self, key: &str, value: Value) -> Service {
        self.spec.insert(key.to_owned(), value);
        self
    }

    pub(crate) fn label(mut self, key: &str, value: &str) -> Service {
        self.labels.insert(key.to_owned(), value.into());
        self
    }

    pub(crate) fn load_balancer(mut self, ingress: Value) -> Service {
        self.ingress.push(ingress);
        self.set("type", json!("LoadBalancer"))
    }

    pub(crate) fn affinity(self, seconds: u32) -> Service {
        self.set("sessionAffinity", json!("ClientIP"))
            .set("sessionAffinityConfig", json!({"clientIP": {"timeoutSeconds": seconds}}))
    }

    /// The document.
    pub(crate) fn text(&self) -> String {
        let mut spec = self.spec.clone();
        spec.insert("ports".into(), self.ports.clone().into());
        let document = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": self.name, "namespace": "default", "labels": self.labels},
            "spec": spec, "status": {"loadBalancer": {"ingress": self.ingress}},
        });
        format!("{document}\n---\n")
    }
}

/// An EndpointSlice in the making.
#[derive(Clone)]
pub(crate) struct Slice {
    name: String,
    service: String,
    ports: Vec<Value>,
    endpoints: Vec<Value>,
    labels: Map<String, Value>,
}

/// A slice of a Service, whose endpoints listen on this port for `tcp` and `udp`.
pub(crate) fn slice(service: &str, port: u16) -> Slice {
    Slice {
        name: format!("{service}-1"),
        service: service.to_owned(),
        ports: vec![
            json!({"name": "tcp", "protocol": "TCP", "port": port}),
            json!({"name": "udp", "protocol": "UDP", "port": port}),
        ],
        endpoints: Vec::new(),
        labels: Map::new(),
    }
}

impl Slice {
    pub(crate) fn named(mut self, name: &str) -> Slice {
        self.name = name.to_owned();
        self
    }

    pub(crate) fn label(mut self, key: &str, value: &str) -> Slice {
        self.labels.insert(key.to_owned(), value.into());
        self
    }

    /// An endpoint that is ready.
    pub(crate) fn ready(self, ip: IpAddr, node: &str) -> Slice {
        self.endpoint(ip, node, json!({"conditions": {"ready": true}}))
    }

    /// An endpoint with further fields.
    pub(crate) fn endpoint(mut self, ip: IpAddr, node: &str, more: Value) -> Slice {
        let mut endpoint = object(json!({"addresses": [ip], "nodeName": node}));
        endpoint.extend(object(more));
        self.endpoints.push(endpoint.into());
        self
    }

    /// The document.
    pub(crate) fn text(&self) -> String {
        let v6 = self.endpoints.iter().any(|e| e["addresses"].to_string().contains("::"));
        let mut labels = self.labels.clone();
        labels.insert("kubernetes.io/service-name".into(), self.service.clone().into());
        let document = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": self.name, "namespace": "default", "labels": labels},
            "addressType": if v6 { "IPv6" } else { "IPv4" },
            "ports": self.ports, "endpoints": self.endpoints,
        });
        format!("{document}\n---\n")
    }
}

/// The Node objects of these nodes; the first is in zone a, the second in zone b.
pub(crate) fn node_objects(nodes: &[Node]) -> String {
    let zones = ["a", "b"];
    let object = |(node, zone): (&Node, &str)| {
        let document = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": node.name(), "labels": {"topology.kubernetes.io/zone": zone}},
            "spec": {"podCIDRs": [node.pod_cidr(), node.pod_cidr_v6()]},
            "status": {"addresses": [
                {"type": "Hostname", "address": node.name()},
                {"type": "InternalIP", "address": node.v4()},
                {"type": "InternalIP", "address": node.v6()},
            ]},
        });
        format!("{document}\n---\n")
    };
    nodes.iter().zip(zones).map(object).collect()
}
