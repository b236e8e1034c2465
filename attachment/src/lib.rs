//! The node's side of pod attachments: what exists on the node for each pod, and its repair.
//!
//! The plugin adds one attachment at a time. The daemon, GC and an ADD that finds damage compare the
//! whole node. Both use the same steps:
//!
//! - [`owner`]: names of links and elements, derived from network, container and interface
//! - [`record`]: what an attachment needs, one file for each, written when ADD has succeeded
//! - [`plan()`]: the desired [`State`] of links, addresses, routes and sysctls, from records (pure)
//! - [`observe`]: the same from the kernel
//! - [`diff()`]: the [`Change`]s between the two (pure), each applied by itself
//! - [`iptables`]: its programs, for firewalls that only they can read
//! - [`netfilter`]: masquerade, host ports and the MAC check, one transaction
//! - [`Converger`]: all of it, for the whole node

#![forbid(unsafe_code)]

pub mod advertisements;
mod change;
mod converge;
mod diff;
mod error;
mod firewall;
pub mod gateways;
mod host_port;
pub mod iptables;
pub mod limits;
pub mod netfilter;
pub mod observe;
pub mod owner;
mod plan;
pub mod record;
mod state;
pub mod sysctls;

pub use change::{Change, refuse_other_kinds};
pub use converge::{Converger, Repair, Report, admit, converge};
pub use diff::diff;
pub use error::{Error, Result};
pub use host_port::{HostPort, Protocol};
pub use owner::{Attachment, Owner, is_link_name, link_prefix, tag_prefix};
pub use plan::plan;
pub use record::{Forwarding, LinkRecord, Record, Records};
pub use state::{BridgeState, EndState, RouteKind, State};

/// Protocol number of the addresses and routes that we own (`ip route show proto 86`).
pub const PROTOCOL: u8 = 86;
