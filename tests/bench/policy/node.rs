//! A node, its daemon, and the objects that it reads.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use testnet::manifest::{NodeObject, documents};
use testnet::{Host, Lan, Manifests, Network, Node, Pod, Proxyd};

use super::objects::lines;

/// Longer than anything may take.
const LIMIT: Duration = Duration::from_secs(120);

pub(super) struct World {
    pub(super) lan: Lan,
    pub(super) node: Node,
}

impl World {
    pub(super) fn new() -> World {
        let lan = Lan::new();
        let node = lan.node("node");
        let world = World { lan, node };
        world.write("node", &documents(&[&NodeObject::of(&world.node)]));
        world
    }

    pub(super) fn write(&self, name: &str, text: &str) {
        Manifests::of(&self.node).write(name, text);
    }

    pub(super) fn put(&self, name: &str, object: Value) {
        self.write(name, &lines([object]));
    }

    pub(super) fn remove(&self, name: &str) {
        Manifests::of(&self.node).remove(name);
    }

    /// The daemon, once policies are in place.
    pub(super) fn daemon(&self) -> Result<Proxyd<'_>> {
        self.daemon_with("")
    }

    /// The same with more lines in `network.yaml`.
    pub(super) fn daemon_with(&self, settings: &str) -> Result<Proxyd<'_>> {
        let settings = format!("backend: none\nmode: routed\n{settings}");
        let settings = self.node.agent_settings(&settings);
        let daemon = Proxyd::spawn(&self.node, &["--network-config", &settings]);
        let started = Instant::now();
        while !self.is_ready(&daemon) {
            ensure!(started.elapsed() < LIMIT, "the daemon is not ready: {}", daemon.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(daemon)
    }

    fn is_ready(&self, daemon: &Proxyd<'_>) -> bool {
        daemon.http_get(10256, "/readyz").is_some_and(|answer| answer.status == 200)
    }

    /// What the daemon tells the plugin.
    pub(super) fn network(&self) -> Result<Network> {
        let path = self.node.folder().join("net.d/10-viaduct.conflist");
        let list: Value = serde_json::from_slice(&std::fs::read(path)?)?;
        Ok(Network::of_conflist(&list, &self.node))
    }

    /// Attaches a pod of namespace `default`. As a runtime does, it tries again where the daemon is busy: with
    /// 100,000 peers a change takes seconds.
    pub(super) fn pod(&self, name: &str) -> Result<Pod<'_>> {
        let mut last = String::new();
        for _ in 0..10 {
            match self.node.try_pod(&self.network()?, name) {
                Ok(pod) => return Ok(pod),
                Err(output) => last = output.stdout,
            }
        }
        anyhow::bail!("ADD of {name}: {last}")
    }

    /// Elements of all sets and maps of the policies.
    pub(super) fn elements(&self) -> usize {
        // A node without policies has no table.
        let list = ["list", "table", "inet", "viaduct-policy"];
        let text = self.node.namespace().try_command("nft", &list).unwrap_or_default();
        let inside = text.split("elements = {").skip(1).filter_map(|rest| rest.split('}').next());
        inside.map(|elements| elements.split(',').count()).sum()
    }
}

/// The IPv4 address of a pod.
pub(super) fn v4(pod: &Pod<'_>) -> Result<std::net::Ipv4Addr> {
    match pod.v4() {
        std::net::IpAddr::V4(ip) => Some(ip),
        std::net::IpAddr::V6(_) => None,
    }
    .context("an IPv4 address")
}
