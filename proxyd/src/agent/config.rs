//! `network.yaml`: the pod network of the cluster.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use netlink::Prefix;
use serde::Deserialize;

/// How nodes reach each other's pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backend {
    /// Through a tunnel.
    #[default]
    Vxlan,
    /// By routes through the nodes, which must share a subnet.
    HostGw,
    /// Somebody else's business.
    None,
}

/// How a pod is attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// To a bridge of the node.
    #[default]
    Bridge,
    /// By a routed link of its own.
    Routed,
}

impl Mode {
    pub(super) fn name(self) -> &'static str {
        match self {
            Mode::Bridge => "bridge",
            Mode::Routed => "routed",
        }
    }
}

/// What ADD does if this daemon does not answer in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnDaemonTimeout {
    /// It fails; the runtime tries again.
    #[default]
    Deny,
    /// It goes on: the pod starts, perhaps before policies hold for it.
    Allow,
}

impl OnDaemonTimeout {
    pub(super) fn name(self) -> &'static str {
        match self {
            OnDaemonTimeout::Deny => "deny",
            OnDaemonTimeout::Allow => "allow",
        }
    }
}

/// The settings, with their defaults.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Network {
    /// Whether Services are this daemon's business too, and not another proxy's.
    pub services: bool,
    /// Whether NetworkPolicies are enforced.
    pub policies: bool,
    /// Whether pods may send from their own addresses only.
    pub source_address_check: bool,
    /// Whether an address of this node's pods is denied everything while no pod is known to have it.
    pub deny_unknown_pods: bool,
    /// How nodes reach each other's pods.
    pub backend: Backend,
    /// How pods are attached.
    pub mode: Mode,
    /// VXLAN network identifier.
    pub vni: u32,
    /// UDP port of the tunnel.
    pub port: u16,
    /// Whether nodes on the same subnet are reached without the tunnel.
    pub direct_routing: bool,
    /// Transmit checksum offload of the tunnel; absent leaves the kernel's choice.
    pub tx_checksum_offload: Option<bool>,
    /// The underlay device; absent is the one with the node's address.
    pub device: Option<String>,
    /// Bytes; 0 is the underlay's, less what the tunnel takes.
    pub mtu: u32,
    /// Whether pods reach beyond the cluster through the node's address.
    pub masquerade: bool,
    /// Where pods keep their own address, besides the cluster's pods.
    #[serde(rename = "nonMasqueradeCIDRs")]
    pub non_masquerade_cidrs: Vec<Prefix>,
    /// The bridge of the bridge mode.
    pub bridge: String,
    /// Where the runtime looks for configurations.
    pub conf_dir: PathBuf,
    /// The configuration's file; runtimes take the first by name.
    pub conf_name: String,
    /// Where the plugin finds the daemon.
    pub daemon_socket: PathBuf,
    /// What ADD does if the daemon does not answer in time.
    pub on_daemon_timeout: OnDaemonTimeout,
}

impl Default for Network {
    fn default() -> Network {
        Network {
            services: true,
            policies: true,
            source_address_check: true,
            deny_unknown_pods: true,
            backend: Backend::default(),
            mode: Mode::default(),
            vni: 1,
            port: 8472,
            direct_routing: false,
            tx_checksum_offload: None,
            device: None,
            mtu: 0,
            masquerade: true,
            non_masquerade_cidrs: Vec::new(),
            bridge: "viaduct0".to_owned(),
            conf_dir: "/etc/cni/net.d".into(),
            conf_name: "10-viaduct.conflist".to_owned(),
            daemon_socket: "/run/viaduct/cni.sock".into(),
            on_daemon_timeout: OnDaemonTimeout::default(),
        }
    }
}

impl Network {
    /// Reads a file.
    pub fn read(file: &Path) -> Result<Network> {
        let failed = || format!("--network-config {}", file.display());
        let text = std::fs::read_to_string(file).with_context(failed)?;
        Network::parse(&text).with_context(failed)
    }

    fn parse(text: &str) -> Result<Network> {
        // An empty file is all defaults.
        let network: Option<Network> = serde_saphyr::from_str(text)?;
        let network = network.unwrap_or_default();
        ensure!((1..1 << 24).contains(&network.vni), "vni: {} is not 1 to 16777215", network.vni);
        ensure!(network.port != 0, "port: 0 is no port");
        ensure!(
            network.mtu == 0 || (1280..=65_535).contains(&network.mtu),
            "mtu: {} is not 0, or 1280 to 65535",
            network.mtu
        );
        let name = &network.conf_name;
        ensure!(
            !name.contains('/') && name.ends_with(".conflist"),
            "confName: {name:?} is no name of a .conflist file"
        );
        Ok(network)
    }

    /// The overlay that the daemon keeps, if it keeps one.
    pub fn overlay(&self) -> Option<overlay::Backend> {
        match self.backend {
            Backend::None => None,
            Backend::HostGw => Some(overlay::Backend::HostGw),
            Backend::Vxlan => Some(overlay::Backend::Vxlan(overlay::Vxlan {
                vni: self.vni,
                port: self.port,
                direct_routing: self.direct_routing,
                tx_checksum_offload: self.tx_checksum_offload,
            })),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_has_its_default() {
        for empty in ["", "# nothing\n", "{}"] {
            assert_eq!(Network::parse(empty).unwrap(), Network::default(), "{empty:?}");
        }
        let network = Network::parse("backend: host-gw\nmode: routed\nmtu: 1400\n").unwrap();
        assert_eq!((network.backend, network.mode), (Backend::HostGw, Mode::Routed));
        assert_eq!((network.mtu, network.vni), (1400, 1));
    }

    #[test]
    fn errors_name_the_setting() {
        for (text, names) in [
            ("vni: 0", "vni"),
            ("vni: 16777216", "vni"),
            ("port: 0", "port"),
            ("mtu: 100", "mtu"),
            ("confName: ../x.conflist", "confName"),
            ("confName: x.conf", "confName"),
            ("backend: gre", "gre"),
            ("vin: 3", "vin"),
            ("sourceAddressCheck: maybe", "sourceAddressCheck"),
            ("denyUnknownPods: 1", "denyUnknownPods"),
            ("onDaemonTimeout: wait", "onDaemonTimeout"),
            ("nonMasqueradeCIDRs: [10.0.0.0]", "10.0.0.0"),
        ] {
            let error = format!("{:#}", Network::parse(text).unwrap_err());
            assert!(error.contains(names), "{text}: {error}");
        }
    }
}
