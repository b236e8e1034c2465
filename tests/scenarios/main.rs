//! What the pod network does, scenario by scenario, with real packets.
//!
//! Every test makes its own nodes, so all run side by side.

#![allow(clippy::unwrap_used, reason = "a failed expectation is how a test fails")]

mod addresses;
mod bandwidth;
mod bridge;
mod chained;
mod crash;
mod daemon;
mod file_systems;
mod harness;
mod hostile_input;
mod hostport;
mod links;
mod masquerade;
mod node_state;
mod overlay;
mod overlay_faults;
mod verbs;

use serde_json::{Value, json};
use testnet::{Cni, CniOutput, Host, Network, Node};

/// Both ways in which pods are linked to their node.
const MODES: [&str; 2] = ["bridge", "routed"];

/// A network of a mode with the node's usual subnets of both families.
fn dual_stack(mode: &str, node: &Node) -> Network {
    Network::of_mode(mode, mode).subnet(&node.pod_cidr()).subnet(&node.pod_cidr_v6())
}

/// GC of a network with a list of valid attachments (container IDs on eth0), or without a list.
fn gc(node: &Node, network: &Network, valid: Option<&[&str]>) -> CniOutput {
    let mut config = network.to_json(node);
    if let Some(valid) = valid {
        let list: Vec<Value> =
            valid.iter().map(|id| json!({"containerID": id, "ifname": "eth0"})).collect();
        config["cni.dev/valid-attachments"] = list.into();
    }
    Cni::new("GC", &config).run(node.namespace())
}

/// GC of a configuration with valid container IDs on eth0.
fn gc_of(config: &Value, valid: &[&str]) -> Cni {
    let mut config = config.clone();
    let list: Vec<Value> =
        valid.iter().map(|id| json!({"containerID": id, "ifname": "eth0"})).collect();
    config["cni.dev/valid-attachments"] = list.into();
    Cni::new("GC", &config)
}

/// STATUS of a network.
fn status(node: &Node, network: &Network) -> CniOutput {
    Cni::new("STATUS", &network.to_json(node)).run(node.namespace())
}
