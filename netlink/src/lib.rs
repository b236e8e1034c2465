//! The only crate that touches the kernel.
//!
//! Everything is blocking and typed; all wire formats and all unsafe code of Viaduct are here.
//!
//! - [`RouteSocket`]: links, addresses, routes, neighbours, queueing disciplines
//! - [`nftables`]: tables, chains, rules, maps and their elements, in one transaction
//! - [`nflog`]: packets that rules log
//! - [`conntrack`]: flows that must end because what they were translated by has changed
//! - [`ipset`]: sets that iptables rules look up
//! - [`ipvs`]: virtual servers and their destinations
//! - [`Namespace`]: enter a network namespace and come back
//! - [`sysctl`], [`ethtool`], [`multicast`], [`xtables`]: what has no netlink interface
//! - [`Prefix`], [`MacAddress`], [`Protocol`]: what packets carry, parsed once
//!
//! A socket belongs to the network namespace in which it was opened, for all its life:
//!
//! ```no_run
//! use netlink::{Namespace, RouteSocket};
//!
//! let pod = Namespace::open("/run/netns/pod")?;
//! let mut inside = pod.run(RouteSocket::open)??;
//! let mut here = RouteSocket::open()?;
//! println!("{:?} and {:?}", inside.link_by_name("eth0")?, here.link_by_name("eth0")?);
//! # Ok::<(), netlink::Error>(())
//! ```

pub mod conntrack;
mod error;
pub mod ethtool;
mod generic;
pub mod ipset;
pub mod ipvs;
mod mac;
mod memory;
mod message;
pub mod multicast;
mod namespace;
pub mod nflog;
pub mod nftables;
mod peer;
mod prefix;
mod protocol;
mod route;
mod socket;
pub mod sysctl;
pub mod xtables;

pub use error::{Error, Result};
pub use mac::{MacAddress, MacAddressError, fnv1a};
pub use memory::{give_back_free_memory, keep_large_blocks_apart};
pub use namespace::{Namespace, NamespaceGuard};
pub use peer::peer_uid;
pub use prefix::{Family, Prefix, PrefixError, from_number, to_number};
pub use protocol::Protocol;
pub use route::{
    Address, AddressOptions, Bridge, BridgePort, IfIndex, Link, Neighbour, OperState, PortFlags,
    Qdisc, Route, RouteBatch, RouteFilter, RouteMonitor, RouteSocket, Scope, TokenBucket, Veth,
    VethPeer, Vxlan, VxlanState,
};
pub use rustix::io::Errno;
