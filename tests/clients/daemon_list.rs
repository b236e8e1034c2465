//! The network configuration list exactly as the daemon writes it, given to old and new clients.

use std::time::Duration;

use testnet::manifest::{NodeObject, documents};
use testnet::{Host, Lan, Manifests, Node, Proxyd, eventually, skip};

use super::cnitool::cnitool;
use super::{image, last_json, missing, node, shell};

/// How long the daemon may take until it serves pods.
const READY_WITHIN: Duration = Duration::from_secs(20);

/// Starts the daemon and waits until its list is written and it serves pods.
fn start_daemon(node: &Node) -> Proxyd<'_> {
    Manifests::of(node).write("nodes", &documents(&[&NodeObject::of(node)]));
    let daemon = Proxyd::spawn(node, &["--network-config", &node.agent_settings("")]);
    eventually("the daemon serves pods", READY_WITHIN, || {
        let answer = daemon.http_get(10256, "/readyz");
        answer.filter(|answer| answer.status == 200).map(drop)
    });
    daemon
}

/// The leases that the list's default folder holds on the node.
fn leases(node: &Node) -> Vec<String> {
    let folder = node.folder().join("cni/networks/viaduct");
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.parse::<std::net::IpAddr>().is_ok()).collect()
}

fn verbs_through_the_list(age: &str, verbs: &[&str]) {
    let cnitool = match cnitool(age) {
        Ok(cnitool) => cnitool,
        Err(reason) => return skip(&reason),
    };
    let lan = Lan::new();
    let node = node(&lan);
    let _daemon = start_daemon(&node);
    let container = node.container("a");
    for verb in verbs {
        let script = format!(
            "CNI_PATH=/opt/cni/bin NETCONFPATH=/etc/cni/net.d {} {verb} viaduct {}",
            cnitool.display(),
            container.path().display()
        );
        let output = shell(&node, &script).unwrap_or_else(|error| panic!("{age} {verb}: {error}"));
        match *verb {
            "add" => {
                let address = last_json(&output)["ips"][0]["address"].as_str().unwrap().to_owned();
                let address = address.split('/').next().unwrap().parse().unwrap();
                node.ping(address).unwrap();
                assert!(!leases(&node).is_empty());
            }
            "del" | "gc" => assert_eq!(leases(&node), Vec::<String>::new(), "{age} {verb}"),
            _ => {}
        }
    }
}

#[test]
fn oldest_libcni_uses_the_list() {
    verbs_through_the_list("oldest", &["add", "check", "del", "del"]);
}

#[test]
fn newest_libcni_uses_the_list() {
    verbs_through_the_list("newest", &["status", "add", "check", "del", "del", "add", "gc"]);
}

#[test]
fn containerd_uses_the_list() {
    if let Some(reason) = missing(&["containerd", "ctr", "runc", "busybox", "unshare"]) {
        return skip(&reason);
    }
    let lan = Lan::new();
    let node = node(&lan);
    let _daemon = start_daemon(&node);
    let archive = image::write(&node.folder().join("images")).unwrap();
    let script = image::with_containerd(&format!(
        "ctr images import {archive} >/dev/null
ctr run --rm --cni --snapshotter native {image} listed sh -c 'ip -4 addr show eth0; ping -c 1 -W 2 {gateway}'",
        archive = archive.display(),
        image = image::NAME,
        gateway = node.pod_cidr().replace("0/24", "1"),
    ));
    let output = shell(&node, &script).unwrap_or_else(|error| panic!("{error}"));
    assert!(output.contains("1 packets received"), "{output}");
    assert_eq!(leases(&node), Vec::<String>::new());
}
