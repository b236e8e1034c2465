//! Settings: flags and KubeProxyConfiguration files, merged and validated once.
//!
//! The way of a setting: [`Flags`] (clap) and the file (`file`) both become `Settings`, in which
//! every value remembers the flag or field it was given by; `merge` lets one win; `validate` makes
//! a [`Config`] of it, whose types cannot be wrong. A refusal names the setting as the user wrote
//! it. Nothing is logged here, since logging is itself configured: warnings are handed back.

mod address;
mod configz;
mod conntrack;
mod duration;
mod error;
mod file;
mod flags;
mod ipvs;
mod local;
mod merge;
mod mode;
mod node_ports;
mod settings;
#[cfg(test)]
mod tests;
mod validate;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use netlink::Prefix;

pub use self::conntrack::Conntrack;
pub use self::error::{Error, Setting};
pub use self::flags::Flags;
pub use self::ipvs::{Ipvs, IpvsScheduler};
pub use self::local::LocalDetection;
pub use self::mode::Mode;
pub use self::node_ports::{NodePortAddresses, NodePortScope};

/// The settings of the daemon, validated. The defaults are kube-proxy's except for the mode.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Which part of the kernel forwards Services.
    pub mode: Mode,
    /// This node's name in lower case, if it is not the host name.
    pub hostname_override: Option<String>,
    /// This node's address, if it is not that of the Node object: at most one.
    pub node_ip: Vec<IpAddr>,
    /// Where `/healthz` and `/livez` are served; `None` is nowhere.
    pub healthz_bind: Option<SocketAddr>,
    /// Where `/metrics`, `/proxyMode` and `/configz` are served; `None` is nowhere.
    pub metrics_bind: Option<SocketAddr>,
    /// Whether a port that cannot be bound ends the daemon.
    pub bind_address_hard_fail: bool,
    /// Whether profiles are served beside the metrics.
    pub profiling: bool,
    /// The bit of the packet mark that asks for masquerading, 0 to 31.
    pub masquerade_bit: u8,
    /// Whether all traffic to cluster IPs is masqueraded.
    pub masquerade_all: bool,
    /// How often rules are compared and cleaned; also the time until a failed sync is tried again.
    pub sync_period: Duration,
    /// Least time between two syncs, if the user asked for one.
    pub min_sync_period: Option<Duration>,
    /// Whether node ports answer on 127.0.0.1; iptables mode alone.
    pub iptables_localhost_nodeports: bool,
    /// Addresses of all pods of the cluster, if they are known: at most one network per family.
    pub cluster_cidrs: Vec<Prefix>,
    /// How traffic of local pods is told from other traffic.
    pub local_detection: LocalDetection,
    /// On which of the node's addresses node ports answer.
    pub nodeport_addresses: NodePortAddresses,
    /// Whether `spec.externalIPs` of Services is honoured.
    pub external_ips: bool,
    /// Settings of ipvs mode.
    pub ipvs: Ipvs,
    /// Limits and timeouts of connection tracking.
    pub conntrack: Conntrack,
    /// `oom_score_adj` of this process, -1000 to 1000; `None` leaves it alone.
    pub oom_score_adj: Option<i32>,
    /// How often everything is read again from the API server.
    pub config_sync_period: Duration,
    /// Feature gates as given; none has an effect.
    pub feature_gates: BTreeMap<String, bool>,
    /// How to log.
    pub log: Log,
    /// Where objects come from.
    pub source: SourceConfig,
    /// How to talk to the API server.
    pub client: Client,
    /// `network.yaml`, where the daemon keeps the pod network too.
    pub network_config: Option<PathBuf>,
    /// Where `/proc/sys` can be written, if not there.
    pub proc_sys: Option<PathBuf>,
    /// Whether to sync once and exit.
    pub oneshot: bool,
    /// Whether to do only the set-up that needs full privileges, then exit.
    pub init_only: bool,
}

/// Where Services and the other objects come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceConfig {
    /// The files of a folder.
    Manifests(PathBuf),
    /// An API server, reached by this kubeconfig file.
    Kubeconfig(PathBuf),
    /// The API server of the cluster in which this process is a pod.
    InCluster,
}

/// How to talk to the API server.
#[derive(Clone, Debug, PartialEq)]
pub struct Client {
    /// The server's URL, in place of that in the kubeconfig.
    pub master: Option<String>,
    /// The `Accept` header; empty leaves the choice to the client.
    pub accept_content_types: String,
    /// Content type of requests.
    pub content_type: String,
    /// Requests per second; negative is without limit.
    pub qps: f32,
    /// Requests at once above `qps`.
    pub burst: u32,
}

/// How to log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// JSON lines in place of text.
    pub json: bool,
    /// klog's level: 0 says least.
    pub verbosity: u8,
}

/// A [`Config`], and what the user should be told about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// The settings.
    pub config: Config,
    /// Settings that are deprecated, ignored or without effect, one sentence each.
    pub warnings: Vec<String>,
}

/// Reads the file of `--config`, if there is one, and validates all settings.
pub fn load(flags: &Flags) -> Result<Loaded, Error> {
    let Some(file) = &flags.config else { return load_with(flags, None) };
    let text = std::fs::read_to_string(file)
        .map_err(|source| Error::Read { file: file.clone(), source })?;
    load_with(flags, Some((file, &text)))
}

fn load_with(flags: &Flags, file: Option<(&Path, &str)>) -> Result<Loaded, Error> {
    let mut warnings = Vec::new();
    let file = file.map(|(path, text)| file::parse(path, text, &mut warnings)).transpose()?;
    let settings = merge::merge(flags, file, &mut warnings);
    let config = validate::validate(flags, &settings, &mut warnings)?;
    Ok(Loaded { config, warnings })
}
