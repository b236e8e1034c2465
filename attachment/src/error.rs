//! [`Error`]: why the node's side of an attachment cannot be made.

use std::path::PathBuf;

use netlink::Prefix;

/// Why the node's side of an attachment cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused an operation.
    #[error(transparent)]
    Kernel(#[from] netlink::Error),
    /// Another attachment holds a host port.
    #[error("host port {port}/{protocol} is held by {holder}")]
    HostPortTaken {
        /// The port.
        port: u16,
        /// Its protocol, as in `tcp`.
        protocol: String,
        /// The holder, as `network/containerID/interface`.
        holder: String,
    },
    /// Other processes changed nftables during each attempt.
    #[error("nftables: other processes changed the ruleset during each of {0} attempts")]
    Contention(usize),
    /// The kernel has no nftables.
    #[error("{wanted} needs nftables, which this kernel lacks ({error})")]
    NoNetfilter {
        /// What the configuration asks for.
        wanted: &'static str,
        /// The kernel's answer.
        error: netlink::Error,
    },
    /// A device with the bridge's name is of another kind.
    #[error("bridge {name:?}: a device of this name is a {kind}, not a bridge")]
    NotABridge {
        /// The device's name.
        name: String,
        /// Its kind.
        kind: String,
    },
    /// The bridge has an address that contradicts the gateway's.
    #[error("bridge {bridge:?} has address {present}, but {wanted} is wanted")]
    GatewayConflict {
        /// The bridge's name.
        bridge: String,
        /// The address that it has.
        present: Prefix,
        /// The gateway address that the network needs.
        wanted: Prefix,
    },
    /// The kernel's bridges cannot separate VLANs.
    #[error("vlan: this kernel's bridges cannot separate VLANs (CONFIG_BRIDGE_VLAN_FILTERING)")]
    NoVlanFiltering,
    /// The kernel has IPv6 switched off.
    #[error("device {device:?} needs an IPv6 address, but this kernel has IPv6 switched off")]
    NoIpv6 {
        /// The device's name.
        device: String,
    },
    /// A record of an attachment cannot be read or written.
    #[error("{operation} {path}: {source}", path = path.display())]
    Record {
        /// What was tried.
        operation: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
}

/// The result of a step on the node's side.
pub type Result<T> = std::result::Result<T, Error>;
