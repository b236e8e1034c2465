//! Real clients drive the plugin: containerd, podman, and libcni's own cnitool.
//!
//! Each runs inside a node's network namespace and in a mount namespace of its own, with its folders
//! below the node's: nothing of the machine's own runtimes is touched.

#![allow(clippy::unwrap_used, reason = "a failed expectation is how a test fails")]

mod cnitool;
mod daemon_list;
mod image;
mod runtimes;

use std::fs;

use serde_json::{Value, json};
use testnet::{Host, Lan, Node, programs};

/// Name of the network of every conflist here.
const NETWORK: &str = "viaduct-test";

/// A node whose folder holds what /etc/cni/net.d, /opt/cni/bin and /var/lib/cni are to its clients.
fn node(lan: &Lan) -> Node {
    let node = lan.node("n1");
    for folder in ["net.d", "cni", "images"] {
        fs::create_dir_all(node.folder().join(folder)).unwrap();
    }
    node
}

/// Writes the conflist, in the newest version that the client knows.
fn write_conflist(node: &Node, version: &str) {
    let conflist = json!({
        "cniVersion": version,
        "name": NETWORK,
        "plugins": [{
            "type": "viaduct",
            "bridge": "viaduct0",
            "isGateway": true, "isDefaultGateway": true, "hairpinMode": true,
            "ipMasq": true, "ipMasqExclude": ["10.244.0.0/16"],
            "ipam": {"type": "host-local", "dataDir": node.data_dir(),
                "ranges": [[{"subnet": node.pod_cidr()}], [{"subnet": node.pod_cidr_v6()}]]},
            "capabilities": {"portMappings": true, "bandwidth": true, "ips": true, "mac": true, "ipRanges": true},
        }],
    });
    fs::write(node.folder().join("net.d/10-viaduct.conflist"), conflist.to_string()).unwrap();
}

/// Runs a shell script in the node, in a mount namespace where the CNI folders are the node's.
fn shell(node: &Node, script: &str) -> Result<String, String> {
    let folder = node.folder().display().to_string();
    let prelude = format!(
        "mkdir -p /etc/cni /var/lib/cni /opt
mount -t tmpfs tmpfs /etc/cni; mkdir /etc/cni/net.d; mount --bind {folder}/net.d /etc/cni/net.d
mount -t tmpfs tmpfs /opt; mkdir -p /opt/cni/bin; mount --bind {bin} /opt/cni/bin
mount --bind {folder}/cni /var/lib/cni
D={folder}
",
        bin = programs::built().display(),
    );
    node.namespace().try_command("unshare", &["-m", "sh", "-euc", &(prelude + script)])
}

/// The first program that is not installed, as a reason to skip.
fn missing(needed: &[&str]) -> Option<String> {
    let absent = needed.iter().find(|name| programs::installed(name).is_none())?;
    Some(format!("{absent} is not installed"))
}

/// What a client left on the node: leases, links, netfilter elements.
fn leftovers(node: &Node) -> Vec<String> {
    let mut left = node.leases(NETWORK);
    left.extend(node.namespace().links().into_iter().filter(|link| link.starts_with("vd")));
    let rules = node.namespace().ruleset();
    left.extend(rules.lines().filter(|l| l.contains(&format!("{NETWORK}/"))).map(str::to_owned));
    left
}

/// The last line of a text that is a JSON object.
fn last_json(text: &str) -> Value {
    let start = text.find('{').expect("a JSON object");
    serde_json::from_str(&text[start..]).expect("JSON")
}
