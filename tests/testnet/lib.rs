//! A cluster of network namespaces: nodes on a shared LAN, pods made by the real plugin, real packets.
//!
//! A test reads as its scenario:
//!
//! ```no_run
//! use testnet::{Host, Lan, Network};
//!
//! let lan = Lan::new();
//! let node = lan.node("n1");
//! let network = Network::bridge("net").subnet("10.244.1.0/24").masquerade(&[]);
//! let (a, b) = (node.pod(&network, "a"), node.pod(&network, "b"));
//! let _server = b.serve_tcp(8080);
//! assert_eq!(a.tcp((b.v4(), 8080)).unwrap().peer, a.v4());
//! ```
//!
//! - [`Namespace`]: a thread in a network namespace of its own; it runs closures and starts programs
//! - [`Lan`], [`Node`], [`Pod`]: the cluster; [`Host`] is what all three can do
//! - [`Network`], [`Cni`]: configurations, and one invocation of the plugin
//! - [`Proxyd`], [`manifest`]: the daemon on a folder of objects, and the objects
//! - [`traffic`]: servers, probes, long-lived connections, throughput
//! - [`eventually`], [`skip`], [`require_root`]: bounded waits, and tests that cannot run here
//!
//! Nothing has a name outside the process, so everything is gone when the process is, however it ends;
//! [`Namespace::pin`] gives a namespace a name for the demonstration and for container runtimes. To be
//! an independent judge, the harness uses none of the product's crates: it sets up and looks with `ip`,
//! `nft` and the like.

#![forbid(unsafe_code)]

mod cni;
mod forged;
mod host;
mod lan;
pub mod manifest;
mod namespace;
mod network;
mod node;
mod ping;
pub mod programs;
mod proxyd;
mod server;
pub mod traffic;
mod wait;

pub use cni::{Cni, CniOutput};
pub use forged::Eavesdropper;
pub use host::Host;
pub use lan::{Family, Lan, OUTSIDE_V4, OUTSIDE_V6};
pub use namespace::{Namespace, unpin_all};
pub use network::{Network, NodeRecord};
pub use node::{Node, Pod};
pub use proxyd::{Manifests, Proxyd, Response, http_get, proxy_mode};
pub use wait::{Look, eventually, require_root, skip};
