//! The chapter about policies: a pod is shut, a friend let in, and thrown out in the middle of a word.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use testnet::manifest::{NodeObject, documents};
use testnet::{Host, Network, Node, Pod, Proxyd, eventually};

const PORT: u16 = 8080;
const SOON: Duration = Duration::from_secs(5);

fn pod_object(
    name: &str,
    node: &Node,
    labels: &serde_json::Value,
    pod: Option<&Pod<'_>>,
) -> String {
    let ips: Vec<_> = pod.into_iter().flat_map(Pod::ips).map(|ip| json!({"ip": ip})).collect();
    let object = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": labels},
        "spec": {"nodeName": node.name()},
        "status": {"phase": "Running", "podIPs": ips},
    });
    documents(&[&object])
}

/// The daemon with the node agent runs on one node, whose plugin asks it.
pub(crate) fn chapter(node: &Node) -> Result<()> {
    let settings = node.agent_settings("backend: host-gw\n");
    let proxyd = Proxyd::start(node, &["--network-config", &settings]);
    proxyd.write("nodes", &documents(&[&NodeObject::of(node)]));
    proxyd.write(
        "policy",
        &documents(&[&json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": "vault", "namespace": "default"},
            "spec": {
                "podSelector": {"matchLabels": {"app": "vault"}},
                "ingress": [{"from": [{"podSelector": {"matchLabels": {"trusted": "yes"}}}]}],
            },
        })]),
    );
    let list = eventually("the plugin's configuration", SOON, || {
        let text = std::fs::read(node.folder().join("net.d/10-viaduct.conflist")).ok()?;
        serde_json::from_slice::<serde_json::Value>(&text).ok()
    });
    let network = Network::of_conflist(&list, node);
    let attach = |name: &str, labels: serde_json::Value| {
        proxyd.write(name, &pod_object(name, node, &labels, None));
        let pod = node.pod(&network, name);
        proxyd.write(name, &pod_object(name, node, &labels, Some(&pod)));
        pod
    };
    let vault = attach("vault", json!({"app": "vault"}));
    let friend = attach("friend", json!({"trusted": "yes"}));
    let stranger = attach("stranger", json!({}));
    let _server = vault.serve_tcp(PORT);
    let to = (vault.v4(), PORT);
    let mut live = eventually("the friend is let in", SOON, || friend.connect(to).ok());
    live.ask("before").context("the friend's connection")?;
    ensure!(!stranger.can_reach(to), "the stranger was let in");
    println!(
        "   isolation        policy vault: friend (trusted=yes) reaches {}:{PORT}, stranger does not",
        to.0
    );
    ensure!(node.can_reach(to), "the node does not reach its own pod");
    println!("   the node         reaches its own pod, as probes must");
    proxyd.write("friend", &pod_object("friend", node, &json!({}), Some(&friend)));
    eventually("the connection is cut", SOON, || live.ask("after").is_err());
    println!(
        "   revocation       friend loses its label: its live connection is cut at the next packet"
    );
    Ok(())
}
