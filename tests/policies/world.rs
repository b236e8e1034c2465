//! [`World`]: two nodes with their daemons, and pods that the daemons know.

use std::time::Duration;

use serde_json::{Value, json};
use testnet::manifest::{NodeObject, documents};
use testnet::{Lan, Manifests, Network, Node, Pod, Proxyd, eventually};

/// How long a change may take until packets show it.
pub(crate) const SOON: Duration = Duration::from_secs(5);

pub(crate) struct World {
    pub(crate) lan: Lan,
    pub(crate) n1: Node,
    pub(crate) n2: Node,
}

impl World {
    /// Two nodes that know each other.
    pub(crate) fn new() -> World {
        let lan = Lan::new();
        let [n1, n2] = lan.nodes(["n1", "n2"]);
        let world = World { lan, n1, n2 };
        world.write("nodes", &documents(&[&NodeObject::of(&world.n1), &NodeObject::of(&world.n2)]));
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

    /// The daemons, with these lines in `network.yaml`.
    pub(crate) fn daemons(&self, settings: &str) -> [Proxyd<'_>; 2] {
        [&self.n1, &self.n2].map(|node| {
            let folder = node.folder().display().to_string();
            std::fs::create_dir_all(format!("{folder}/net.d")).unwrap();
            let file = format!("{folder}/network.yaml");
            let text =
                format!("confDir: {folder}/net.d\ndaemonSocket: {folder}/cni.sock\n{settings}");
            std::fs::write(&file, text).unwrap();
            Proxyd::start(node, &["--network-config", &file])
        })
    }

    /// A pod of a node, attached by the plugin, which waits for the daemon.
    pub(crate) fn pod<'a>(&'a self, node: &'a Node, name: &str) -> Pod<'a> {
        node.pod(&self.network(node), name)
    }

    pub(crate) fn network(&self, node: &Node) -> Network {
        let path = node.folder().join("net.d/10-viaduct.conflist");
        let list: Value = eventually("the plugin's configuration", SOON, || {
            serde_json::from_slice(&std::fs::read(&path).ok()?).ok()
        });
        Network::of_conflist(&list, node)
    }

    /// Tells the daemons of a pod: its node, labels, and its addresses once it has some.
    pub(crate) fn tell(&self, name: &str, node: &Node, labels: &Value, pod: Option<&Pod<'_>>) {
        let ips: Vec<Value> =
            pod.map(Pod::ips).unwrap_or_default().iter().map(|ip| json!({"ip": ip})).collect();
        let object = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "default", "labels": labels},
            "spec": {"nodeName": node.name(), "containers": [{"name": "c", "ports": [
                {"name": "web", "containerPort": 8080},
            ]}]},
            "status": {"phase": "Running", "podIPs": ips},
        });
        self.write(&format!("pod-{name}"), &documents(&[&object]));
    }
}
