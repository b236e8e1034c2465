//! The pod network between nodes: VXLAN tunnels or plain routes through the nodes (host-gw).
//!
//! The shape is the project's: [`plan()`] is a pure function of the node list and of what this node's
//! underlay is; [`State::observe`] reads the kernel; [`diff()`] compares; [`Changes::apply`] makes it so.
//! [`Overlay`] holds what was committed, so that one changed peer costs one peer's messages.
//!
//! ```no_run
//! use netlink::RouteSocket;
//! use overlay::{Backend, Config, Overlay, Underlay, plan};
//!
//! # let nodes: Vec<overlay::Node> = Vec::new();
//! let config = Config { backend: Backend::HostGw, node_name: "n1".into(), device: None };
//! let mut socket = RouteSocket::open()?;
//! let underlay = Underlay::observe(&mut socket, &config, &nodes)?;
//! let plan = plan(&config, &nodes, &underlay)?;
//! Overlay::default().converge(&mut socket, &plan)?;
//! # Ok::<(), overlay::Error>(())
//! ```

#![forbid(unsafe_code)]

mod apply;
mod config;
mod diff;
mod plan;
mod state;

pub use apply::{Converged, Overlay, remove};
pub use config::{Backend, Config, Node, Underlay, Vxlan, vtep_mac, vxlan_device_name};
pub use diff::{Changes, diff};
pub use plan::{Plan, plan};
pub use state::{Device, PeerRoute, State, Through};

/// `rtm_protocol` of the routes that are ours; `ip route show proto 86` lists them.
pub const ROUTE_PROTOCOL: u8 = 86;

/// Why the overlay cannot be what it should be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused an operation.
    #[error(transparent)]
    Kernel(#[from] netlink::Error),
    /// This node is not in the node list.
    #[error(
        "node {0:?} is not in the list of nodes: overlay.nodeName must be the name of one of overlay.nodes"
    )]
    UnknownNode(String),
    /// The device that `overlay.device` names does not exist.
    #[error("overlay.device {0:?} does not exist on this node")]
    NoDevice(String),
    /// No device has the node's address, and there is no route towards it.
    #[error("no device of this node has the address {0} that overlay.nodes gives for it")]
    NoUnderlay(std::net::IpAddr),
    /// Another VXLAN device has our network identifier or our port.
    #[error(
        "device {name:?} (VNI {vni}, port {port}) is in the way of the tunnel: remove it, or set another vni and port"
    )]
    Rival {
        /// The device.
        name: String,
        /// Its VXLAN network identifier.
        vni: u32,
        /// Its UDP port.
        port: u16,
    },
    /// A process of this node has our port.
    #[error("UDP port {0} of the tunnel is in use on this node: end its user, or set another port")]
    PortInUse(u16),
    /// Another device has the name of our tunnel device.
    #[error("device {name:?} is a {kind}, not a VXLAN device: remove or rename it")]
    NotVxlan {
        /// The device.
        name: String,
        /// What it is.
        kind: String,
    },
}

/// The result of an overlay operation.
pub type Result<T> = std::result::Result<T, Error>;
