//! [`Site`]: a node whose daemon is on a [`Fake`] API server.

use std::fmt::Display;

use serde_json::{Value, json};
use testnet::manifest::{Endpoint, NodeObject};
use testnet::{Family, Host, Lan, Network, Node, Pod, Proxyd, eventually};

use super::SOON;
use super::fake::{Fake, NODES, SERVICES, SLICES};
use super::prober::Prober;
use super::world::{Backend, PORT, await_ready, service, slice, vip};

pub(crate) struct Site {
    _lan: Lan,
    pub(crate) node: Node,
    pub(crate) fake: Fake,
}

/// An object as the API server has it, at a version.
pub(crate) fn at(version: u64, object: &impl Display) -> Value {
    let mut object: Value = serde_json::from_str(&object.to_string()).expect("an object");
    object["metadata"]["resourceVersion"] = json!(version.to_string());
    object["metadata"]["uid"] = json!(format!("uid-{}", object["metadata"]["name"]));
    object
}

/// A service by number, in IPv4 alone.
pub(crate) fn numbered(number: u8) -> Value {
    at(100, &service(&format!("s{number}"), number))
}

/// Its slice with these endpoints.
pub(crate) fn slice_of(number: u8, endpoints: &[Endpoint]) -> Value {
    at(100, &slice(&format!("s{number}"), Family::V4, endpoints))
}

impl Site {
    /// A node with a Node object, and nothing else in the lists.
    pub(crate) fn new() -> Site {
        let lan = Lan::new();
        let node = lan.node("n1");
        let fake = Fake::on(&node);
        fake.list(NODES, vec![at(100, &NodeObject::of(&node))]);
        Site { _lan: lan, node, fake }
    }

    pub(crate) fn pod(&self, name: &str) -> Pod<'_> {
        self.node.pod(&Network::bridge("net").subnet(&self.node.pod_cidr()), name)
    }

    #[track_caller]
    pub(crate) fn backend(&self, name: &str) -> Backend<'_> {
        Backend::of(self.pod(name))
    }

    /// These services, all served by the same pod.
    pub(crate) fn serve(&self, numbers: &[u8], by: &Pod<'_>) {
        self.fake.list(SERVICES, numbers.iter().map(|number| numbered(*number)).collect());
        let slices = numbers.iter().map(|number| slice_of(*number, &[Endpoint::of(by)]));
        self.fake.list(SLICES, slices.collect());
    }

    /// The daemon; it is not waited for.
    pub(crate) fn spawn(&self) -> Proxyd<'_> {
        let kubeconfig = self.fake.kubeconfig(&self.node, "").display().to_string();
        Proxyd::spawn(&self.node, &["--kubeconfig", &kubeconfig])
    }

    /// The daemon, ready, with all its watches.
    #[track_caller]
    pub(crate) fn start(&self) -> Proxyd<'_> {
        let daemon = self.spawn();
        await_ready(&daemon);
        for plural in [SERVICES, SLICES, NODES] {
            self.fake.await_watched(plural);
        }
        daemon
    }

    /// Probes of a service for as long as this goes on.
    pub(crate) fn probe(&self, from: &Pod<'_>, number: u8) -> Prober {
        Prober::start(from, (vip(Family::V4, number), PORT).into())
    }

    /// Waits until this pod serves.
    #[track_caller]
    pub(crate) fn await_served(&self, from: &impl Host, number: u8, by: &str) {
        let to = (vip(Family::V4, number), PORT);
        eventually(&format!("{by} serves s{number}"), SOON, || match from.tcp(to) {
            Ok(answer) if answer.server == by => Ok(()),
            Ok(answer) => Err(answer.server),
            Err(error) => Err(error.to_string()),
        });
    }

    /// Whether anything of a service is in the kernel.
    pub(crate) fn is_programmed(&self, number: u8) -> bool {
        let rules = self.node.namespace().command("nft", &["list", "table", "ip", "viaduct"]);
        // What comes after an address is no digit.
        let address = vip(Family::V4, number).to_string();
        rules.split(|c: char| c != '.' && !c.is_ascii_digit()).any(|word| word == address)
    }

    #[track_caller]
    pub(crate) fn await_gone(&self, number: u8) {
        eventually(&format!("s{number} is gone"), SOON, || !self.is_programmed(number));
    }
}
