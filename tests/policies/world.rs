//! [`World`]: two nodes with their daemons, and pods that the daemons know.

use std::time::Duration;

use serde_json::{Value, json};
use testnet::manifest::{NodeObject, documents};
use testnet::{Lan, Manifests, Network, Node, Pod, Proxyd, eventually};

/// How long a change may take until packets show it.
pub(crate) const SOON: Duration = Duration::from_secs(5);
/// The port that pods serve, and call `web`.
pub(crate) const WEB: u16 = 8080;

pub(crate) struct World {
    pub(crate) lan: Lan,
    pub(crate) n1: Node,
    pub(crate) n2: Node,
}

impl World {
    /// Two nodes that know each other, and namespace `default`.
    pub(crate) fn new() -> World {
        let lan = Lan::new();
        let [n1, n2] = lan.nodes(["n1", "n2"]);
        let world = World { lan, n1, n2 };
        world.write("nodes", &documents(&[&NodeObject::of(&world.n1), &NodeObject::of(&world.n2)]));
        world.namespace("default", &json!({}));
        world
    }

    /// Writes objects for both daemons.
    pub(crate) fn write(&self, name: &str, text: &str) {
        for node in [&self.n1, &self.n2] {
            Manifests::of(node).write(name, text);
        }
    }

    /// Removes objects of both.
    pub(crate) fn remove(&self, name: &str) {
        for node in [&self.n1, &self.n2] {
            Manifests::of(node).remove(name);
        }
    }

    pub(crate) fn namespace(&self, name: &str, labels: &Value) {
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
        self.write(&format!("namespace-{name}"), &documents(&[&object]));
    }

    /// A NetworkPolicy of namespace `default`.
    pub(crate) fn policy(&self, name: &str, spec: &Value) {
        self.policy_with(name, spec, &json!({}));
    }

    pub(crate) fn policy_with(&self, name: &str, spec: &Value, annotations: &Value) {
        let object = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": name, "namespace": "default", "annotations": annotations},
            "spec": spec,
        });
        self.write(&format!("policy-{name}"), &documents(&[&object]));
    }

    /// The daemon of each node, with these lines in `network.yaml`.
    pub(crate) fn daemons(&self, settings: &str) -> [Proxyd<'_>; 2] {
        [&self.n1, &self.n2]
            .map(|node| Proxyd::start(node, &["--network-config", &node.agent_settings(settings)]))
    }

    /// A pod that its daemons know by name, and by address from the plugin.
    pub(crate) fn pod<'a>(&'a self, node: &'a Node, name: &str, labels: &Value) -> Pod<'a> {
        self.tell(name, node, labels, None);
        let pod = self.attach(node, name);
        self.tell(name, node, labels, Some(&pod));
        pod
    }

    /// Attaches a pod; the plugin waits for the daemon.
    pub(crate) fn attach<'a>(&'a self, node: &'a Node, name: &str) -> Pod<'a> {
        node.pod(&self.network(node), name)
    }

    pub(crate) fn network(&self, node: &Node) -> Network {
        let path = node.folder().join("net.d/10-viaduct.conflist");
        let list: Value = eventually("the plugin's configuration", SOON, || {
            serde_json::from_slice(&std::fs::read(&path).ok()?).ok()
        });
        Network::of_conflist(&list, node)
    }

    /// Tells both daemons of a pod: its node, labels, and its addresses once it has some.
    pub(crate) fn tell(&self, name: &str, node: &Node, labels: &Value, pod: Option<&Pod<'_>>) {
        let ips: Vec<Value> =
            pod.map(Pod::ips).unwrap_or_default().iter().map(|ip| json!({"ip": ip})).collect();
        let object = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "default", "labels": labels},
            "spec": {"nodeName": node.name(), "containers": [{"name": "c", "ports": [
                {"name": "web", "containerPort": WEB},
            ]}]},
            "status": {"phase": "Running", "podIPs": ips},
        });
        self.write(&format!("pod-{name}"), &documents(&[&object]));
    }
}
