//! [`Network`]: configurations of the plugin.

use serde_json::{Map, Value, json};

use crate::node::Node;

/// A node as an overlay's node list has it.
#[derive(Clone, Debug)]
pub struct NodeRecord(pub Value);

/// A network configuration in the making.
#[derive(Clone, Debug)]
pub struct Network {
    values: Map<String, Value>,
    ranges: Vec<Value>,
    runtime: Map<String, Value>,
}

impl Network {
    fn new(name: &str, mode: &str) -> Network {
        let values = json!({
            "cniVersion": "1.1.0", "type": "viaduct", "name": name, "mode": mode,
            "isGateway": true, "isDefaultGateway": true,
        });
        let Value::Object(values) = values else { unreachable!("an object") };
        Network { values, ranges: Vec::new(), runtime: Map::new() }
    }

    /// What a configuration list says of its only plugin; reservations are in the node's own folder.
    ///
    /// # Panics
    ///
    /// If it is no list of one plugin.
    pub fn of_conflist(list: &Value, node: &Node) -> Network {
        let plugins = list["plugins"].as_array().filter(|plugins| plugins.len() == 1);
        let plugin = plugins.and_then(|plugins| plugins[0].as_object());
        let mut values = plugin.unwrap_or_else(|| panic!("{list} is no list of one")).clone();
        for key in ["name", "cniVersion"] {
            values.insert(key.to_owned(), list[key].clone());
        }
        values["ipam"]["dataDir"] = json!(node.data_dir());
        Network { values, ranges: Vec::new(), runtime: Map::new() }
    }

    /// A bridge with gateway and default route by another project's plugin, of a version that the
    /// plugins in Debian know.
    pub fn reference_bridge(name: &str) -> Network {
        let own = Network::new(name, "").without("mode");
        own.set("type", "bridge").set("bridge", "cni0").cni_version("1.0.0")
    }

    /// A bridge with gateway and default route.
    pub fn bridge(name: &str) -> Network {
        Network::new(name, "bridge").set("hairpinMode", true)
    }

    /// Point-to-point links.
    pub fn routed(name: &str) -> Network {
        Network::new(name, "routed")
    }

    /// In the mode with this name.
    pub fn of_mode(mode: &str, name: &str) -> Network {
        if mode == "routed" { Network::routed(name) } else { Network::bridge(name) }
    }

    /// In this version of the specification instead of 1.1.0.
    pub fn cni_version(self, version: &str) -> Network {
        self.set("cniVersion", version)
    }

    /// One more subnet of which every pod gets an address.
    pub fn subnet(self, cidr: &str) -> Network {
        self.range(json!({ "subnet": cidr }))
    }

    /// One more range of which every pod gets an address.
    pub fn range(mut self, range: Value) -> Network {
        self.ranges.push(json!([range]));
        self
    }

    /// Pods reach beyond the cluster by the node's address, but not where `exclude` is.
    pub fn masquerade(self, exclude: &[&str]) -> Network {
        self.set("ipMasq", true).set("ipMasqExclude", exclude)
    }

    /// A VXLAN overlay kept by the plugin.
    pub fn vxlan(self, node: &Node, nodes: &[NodeRecord]) -> Network {
        self.overlay(node, "vxlan", nodes, json!({}))
    }

    /// Routes through the nodes, kept by the plugin.
    pub fn host_gw(self, node: &Node, nodes: &[NodeRecord]) -> Network {
        self.overlay(node, "host-gw", nodes, json!({}))
    }

    /// An overlay with further settings.
    pub fn overlay(self, node: &Node, kind: &str, nodes: &[NodeRecord], more: Value) -> Network {
        let nodes: Vec<&Value> = nodes.iter().map(|node| &node.0).collect();
        let mut overlay = json!({"type": kind, "nodeName": node.name(), "nodes": nodes});
        if let (Some(overlay), Some(more)) = (overlay.as_object_mut(), more.as_object()) {
            overlay.extend(more.clone());
        }
        self.set("overlay", overlay)
    }

    /// Any key of the configuration.
    pub fn set(mut self, key: &str, value: impl serde::Serialize) -> Network {
        let value = serde_json::to_value(value).expect("a value");
        self.values.insert(key.to_owned(), value);
        self
    }

    /// A key of the configuration less.
    pub fn without(mut self, key: &str) -> Network {
        self.values.remove(key);
        self
    }

    /// A host port (`runtimeConfig.portMappings`).
    pub fn host_port(self, host: u16, container: u16, protocol: &str) -> Network {
        self.port_mapping(
            json!({"hostPort": host, "containerPort": container, "protocol": protocol}),
        )
    }

    /// An entry of `runtimeConfig.portMappings`.
    pub fn port_mapping(mut self, mapping: Value) -> Network {
        let list = self.runtime.entry("portMappings").or_insert_with(|| json!([]));
        list.as_array_mut().expect("a list").push(mapping);
        self
    }

    /// A capability argument.
    pub fn runtime(mut self, key: &str, value: Value) -> Network {
        self.runtime.insert(key.to_owned(), value);
        self
    }

    /// The configuration for a node, whose own folder holds the reservations.
    pub fn to_json(&self, node: &Node) -> Value {
        let mut values = self.values.clone();
        if !self.ranges.is_empty() && !values.contains_key("ipam") {
            let ipam =
                json!({"type": "host-local", "dataDir": node.data_dir(), "ranges": self.ranges});
            values.insert("ipam".to_owned(), ipam);
        }
        if !self.runtime.is_empty() {
            values.insert("runtimeConfig".to_owned(), Value::Object(self.runtime.clone()));
        }
        Value::Object(values)
    }
}
