//! What the user asked for, from flags or a file alike, before it is validated.

use std::time::Duration;

use super::error::Given;

/// Settings as given; an absent one is `None`.
///
/// `healthz_bind` and `metrics_bind` may be the empty text, which turns the server off.
#[derive(Clone, Debug, Default)]
pub(super) struct Settings {
    pub(super) mode: Option<Given<String>>,
    pub(super) iptables: ModeSettings,
    pub(super) ipvs_mode: ModeSettings,
    pub(super) nftables: ModeSettings,
    pub(super) localhost_nodeports: Option<Given<bool>>,

    pub(super) hostname_override: Option<Given<String>>,
    pub(super) bind_address: Option<Given<String>>,
    pub(super) healthz_bind: Option<Given<String>>,
    pub(super) healthz_port: Option<Given<i64>>,
    pub(super) metrics_bind: Option<Given<String>>,
    pub(super) metrics_port: Option<Given<i64>>,
    pub(super) bind_address_hard_fail: Option<Given<bool>>,
    pub(super) profiling: Option<Given<bool>>,

    pub(super) detect_local_mode: Option<Given<String>>,
    pub(super) bridge_interface: Option<Given<String>>,
    pub(super) interface_name_prefix: Option<Given<String>>,
    pub(super) cluster_cidr: Option<Given<Vec<String>>>,
    pub(super) nodeport_addresses: Option<Given<Vec<String>>>,

    pub(super) ipvs: IpvsSettings,
    pub(super) conntrack: ConntrackSettings,
    pub(super) oom_score_adj: Option<Given<i64>>,
    pub(super) config_sync_period: Option<Given<Duration>>,
    pub(super) feature_gates: Vec<Given<(String, bool)>>,

    pub(super) client: ClientSettings,
    pub(super) log: LogSettings,
}

/// What kube-proxy's API repeats for each mode.
#[derive(Clone, Debug, Default)]
pub(super) struct ModeSettings {
    pub(super) masquerade_bit: Option<Given<i64>>,
    pub(super) masquerade_all: Option<Given<bool>>,
    pub(super) sync_period: Option<Given<Duration>>,
    pub(super) min_sync_period: Option<Given<Duration>>,
}

/// Settings of ipvs mode alone.
#[derive(Clone, Debug, Default)]
pub(super) struct IpvsSettings {
    pub(super) scheduler: Option<Given<String>>,
    pub(super) exclude_cidrs: Option<Given<Vec<String>>>,
    pub(super) strict_arp: Option<Given<bool>>,
    pub(super) tcp_timeout: Option<Given<Duration>>,
    pub(super) tcp_fin_timeout: Option<Given<Duration>>,
    pub(super) udp_timeout: Option<Given<Duration>>,
}

/// Limits and timeouts of connection tracking.
#[derive(Clone, Debug, Default)]
pub(super) struct ConntrackSettings {
    pub(super) max_per_core: Option<Given<i64>>,
    pub(super) min: Option<Given<i64>>,
    pub(super) tcp_established: Option<Given<Duration>>,
    pub(super) tcp_close_wait: Option<Given<Duration>>,
    pub(super) tcp_be_liberal: Option<Given<bool>>,
    pub(super) udp_timeout: Option<Given<Duration>>,
    pub(super) udp_stream_timeout: Option<Given<Duration>>,
}

/// How to reach the API server.
#[derive(Clone, Debug, Default)]
pub(super) struct ClientSettings {
    pub(super) kubeconfig: Option<Given<String>>,
    pub(super) accept_content_types: Option<Given<String>>,
    pub(super) content_type: Option<Given<String>>,
    pub(super) qps: Option<Given<f32>>,
    pub(super) burst: Option<Given<i64>>,
}

/// How to log.
#[derive(Clone, Debug, Default)]
pub(super) struct LogSettings {
    pub(super) format: Option<Given<String>>,
    pub(super) verbosity: Option<Given<i64>>,
}

/// Whether a switch that is off by default is on.
pub(super) fn is_true(given: Option<&Given<bool>>) -> bool {
    given.is_some_and(|given| given.value)
}
