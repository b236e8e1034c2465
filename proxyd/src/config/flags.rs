//! The command line of `proxyd run`, `check` and `render`: kube-proxy's flags by their names, and
//! a few of our own.
//!
//! Values that clap cannot judge alone stay texts here; [`super::load`] judges them, so that a
//! flag and the same field of a file are refused in the same words.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::duration;

/// Flags, as given. With `--config` most are ignored, with a warning; their help says nothing of
/// it, since it is the rule.
#[derive(Args, Clone, Debug, Default)]
#[command(args_override_self = true)]
pub struct Flags {
    /// KubeProxyConfiguration file; nearly all other flags are then ignored
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Write the effective configuration to this file and exit
    #[arg(long, value_name = "FILE")]
    pub write_config_to: Option<PathBuf>,
    /// Remove everything from the kernel and exit, as `proxyd cleanup` does
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", value_parser = boolean)]
    pub cleanup: Option<bool>,
    /// Do only the set-up that needs full privileges, then exit
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", value_parser = boolean)]
    pub init_only: Option<bool>,
    /// Sync once and exit
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", value_parser = boolean)]
    pub oneshot: Option<bool>,

    /// Read objects from the files in this folder instead of an API server
    #[arg(long, value_name = "DIR")]
    pub manifests: Option<PathBuf>,
    /// How to reach the API server; without it, as a pod does
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<String>,
    /// The API server's address, instead of that in the kubeconfig
    #[arg(long, value_name = "URL")]
    pub master: Option<String>,
    /// Content type of requests to the API server
    #[arg(long, value_name = "TYPE")]
    pub kube_api_content_type: Option<String>,
    /// Burst of requests to the API server [default: 10]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub kube_api_burst: Option<i64>,
    /// Requests to the API server per second [default: 5]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub kube_api_qps: Option<f32>,
    /// How often everything is read again from the API server [default: 15m]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    pub config_sync_period: Option<Duration>,
    /// NAME=true|false,...
    #[arg(long, value_name = "GATES", value_delimiter = ',', value_parser = feature_gate)]
    pub feature_gates: Option<Vec<(String, bool)>>,

    /// This node's name [default: the host name]
    #[arg(long, value_name = "NAME")]
    pub hostname_override: Option<String>,
    /// This node's primary address, instead of that in its Node object; nothing is bound to it
    #[arg(long, value_name = "IP")]
    pub bind_address: Option<String>,
    /// Where /healthz and /livez are served; empty: nowhere [default: 0.0.0.0:10256]
    #[arg(long, value_name = "IP[:PORT]")]
    pub healthz_bind_address: Option<String>,
    /// Where /metrics, /proxyMode and /configz are served; empty: nowhere
    /// [default: 127.0.0.1:10249]
    #[arg(long, value_name = "IP[:PORT]")]
    pub metrics_bind_address: Option<String>,
    /// Exit if a port cannot be bound
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", value_parser = boolean)]
    pub bind_address_hard_fail: Option<bool>,
    /// Serve profiles at /debug/pprof
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", value_parser = boolean)]
    pub profiling: Option<bool>,
    /// Accepted; there are no hidden metrics
    #[arg(long, value_name = "VERSION", hide = true)]
    pub show_hidden_metrics_for_version: Option<String>,

    /// nftables, iptables or ipvs [default: nftables]
    #[arg(long, value_name = "MODE")]
    pub proxy_mode: Option<String>,
    /// Bit of the packet mark that asks for masquerading, in iptables and ipvs mode [default: 14]
    #[arg(long, value_name = "BIT", allow_negative_numbers = true)]
    pub iptables_masquerade_bit: Option<i64>,
    /// Masquerade all traffic to cluster IPs
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", value_parser = boolean)]
    pub masquerade_all: Option<bool>,
    /// Whether node ports answer on 127.0.0.1 in iptables mode [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", value_parser = boolean)]
    pub iptables_localhost_nodeports: Option<bool>,
    /// How often rules are compared and cleaned, in nftables and iptables mode [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    pub iptables_sync_period: Option<Duration>,
    /// Least time between two syncs, in nftables and iptables mode
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    pub iptables_min_sync_period: Option<Duration>,
    /// How often rules are compared and cleaned, in ipvs mode [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    pub ipvs_sync_period: Option<Duration>,
    /// Least time between two syncs, in ipvs mode
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    pub ipvs_min_sync_period: Option<Duration>,
    /// Scheduler of IPVS virtual servers [default: rr]
    #[arg(long, value_name = "NAME")]
    pub ipvs_scheduler: Option<String>,
    /// IPVS virtual servers in these ranges are never removed
    #[arg(long, value_name = "CIDRS", value_delimiter = ',')]
    pub ipvs_exclude_cidrs: Option<Vec<String>>,
    /// Set arp_ignore to 1 and arp_announce to 2 in ipvs mode
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", value_parser = boolean)]
    pub ipvs_strict_arp: Option<bool>,
    /// IPVS timeout of idle TCP connections; 0 leaves it alone
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    pub ipvs_tcp_timeout: Option<Duration>,
    /// IPVS timeout of TCP connections after a FIN; 0 leaves it alone
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    pub ipvs_tcpfin_timeout: Option<Duration>,
    /// IPVS timeout of UDP; 0 leaves it alone
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    pub ipvs_udp_timeout: Option<Duration>,

    /// What is a local pod's traffic: ClusterCIDR, NodeCIDR, BridgeInterface or
    /// InterfaceNamePrefix [default: ClusterCIDR]
    #[arg(long, value_name = "MODE")]
    pub detect_local_mode: Option<String>,
    /// The bridge that local pods are on, for BridgeInterface
    #[arg(long, value_name = "NAME")]
    pub pod_bridge_interface: Option<String>,
    /// How names of local pods' interfaces begin, for InterfaceNamePrefix
    #[arg(long, value_name = "PREFIX")]
    pub pod_interface_name_prefix: Option<String>,
    /// Address ranges of pods, at most one per family
    #[arg(long, value_name = "CIDRS", value_delimiter = ',')]
    pub cluster_cidr: Option<Vec<String>>,
    /// Node addresses with node ports: CIDRs, primary, localhost or all
    /// [default: primary; in iptables and ipvs mode all]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub nodeport_addresses: Option<Vec<String>>,
    /// Whether spec.externalIPs of Services is honoured [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", value_parser = boolean)]
    pub external_ips: Option<bool>,
    /// Remove what kube-proxy left, once our rules are in place; so it is without this flag too
    #[arg(long)]
    pub takeover: bool,

    /// oom_score_adj of this process [default: -999]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub oom_score_adj: Option<i64>,
    /// Connections tracked per core; 0 leaves the limit alone [default: 32768]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub conntrack_max_per_core: Option<i64>,
    /// Connections tracked at least [default: 131072]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub conntrack_min: Option<i64>,
    /// Timeout of idle TCP connections; 0 leaves it alone [default: 24h]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    pub conntrack_tcp_timeout_established: Option<Duration>,
    /// Timeout of TCP connections in CLOSE_WAIT; 0 leaves it alone [default: 1h]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    pub conntrack_tcp_timeout_close_wait: Option<Duration>,
    /// Do not call TCP segments outside the window invalid
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", value_parser = boolean)]
    pub conntrack_tcp_be_liberal: Option<bool>,
    /// Timeout of unanswered UDP; 0 leaves it alone
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    pub conntrack_udp_timeout: Option<Duration>,
    /// Timeout of answered UDP; 0 leaves it alone
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    pub conntrack_udp_timeout_stream: Option<Duration>,

    /// Deprecated: use --healthz-bind-address
    #[arg(long, value_name = "PORT", allow_negative_numbers = true, hide = true)]
    pub healthz_port: Option<i64>,
    /// Deprecated: use --metrics-bind-address
    #[arg(long, value_name = "PORT", allow_negative_numbers = true, hide = true)]
    pub metrics_port: Option<i64>,
    /// Accepted; unused since the userspace mode went
    #[arg(long, value_name = "RANGE", hide = true)]
    pub proxy_port_range: Option<String>,

    /// Keep the pod network of this node too: routes to the other nodes' pods, the plugin's configuration
    #[arg(long, value_name = "FILE")]
    pub network_config: Option<PathBuf>,
    /// Where /proc/sys can be written, as in a container that has the host's at another place
    #[arg(long, value_name = "DIR")]
    pub proc_sys: Option<PathBuf>,

    /// How much is logged, from 0
    #[arg(short = 'v', long = "v", value_name = "N", allow_negative_numbers = true)]
    pub verbosity: Option<i64>,
    /// text or json [default: text]
    #[arg(long, value_name = "FORMAT")]
    pub logging_format: Option<String>,
    /// Accepted; verbosity is the same for all modules
    #[arg(long, value_name = "PATTERN=N,...", hide = true)]
    pub vmodule: Option<String>,
    /// Accepted; nothing is buffered
    #[arg(long, value_name = "DURATION", value_parser = duration::parse, hide = true)]
    pub log_flush_frequency: Option<Duration>,
}

/// The spellings of Go's `strconv.ParseBool`.
fn boolean(text: &str) -> Result<bool, &'static str> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err("must be true or false"),
    }
}

fn feature_gate(text: &str) -> Result<(String, bool), &'static str> {
    let (name, value) = text.split_once('=').ok_or("must be NAME=true or NAME=false")?;
    if name.trim().is_empty() {
        return Err("must be NAME=true or NAME=false");
    }
    Ok((name.trim().to_owned(), boolean(value.trim())?))
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    /// The parent's words.
    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        flags: Flags,
    }

    fn parse(arguments: &[&str]) -> Result<Flags, String> {
        Line::try_parse_from(std::iter::once(&"proxyd").chain(arguments))
            .map(|line| line.flags)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_definition_is_sound() {
        Line::command().debug_assert();
        let about = Line::command().get_about().map(ToString::to_string);
        assert_eq!(about.as_deref(), Some("The parent's words"));
    }

    #[test]
    fn every_flag_of_kube_proxy_is_known() {
        let command = Line::command();
        let known: Vec<_> = command.get_arguments().filter_map(|a| a.get_long()).collect();
        let list = "config write-config-to cleanup init-only feature-gates kubeconfig master \
            kube-api-content-type kube-api-burst kube-api-qps hostname-override bind-address \
            healthz-bind-address metrics-bind-address bind-address-hard-fail profiling \
            show-hidden-metrics-for-version proxy-mode iptables-masquerade-bit masquerade-all \
            iptables-localhost-nodeports iptables-sync-period iptables-min-sync-period \
            ipvs-sync-period ipvs-min-sync-period ipvs-scheduler ipvs-exclude-cidrs \
            ipvs-strict-arp ipvs-tcp-timeout ipvs-tcpfin-timeout ipvs-udp-timeout \
            detect-local-mode pod-bridge-interface pod-interface-name-prefix cluster-cidr \
            nodeport-addresses oom-score-adj conntrack-max-per-core conntrack-min \
            conntrack-tcp-timeout-established conntrack-tcp-timeout-close-wait \
            conntrack-tcp-be-liberal conntrack-udp-timeout conntrack-udp-timeout-stream \
            config-sync-period healthz-port metrics-port proxy-port-range v logging-format \
            vmodule log-flush-frequency manifests oneshot external-ips";
        for name in list.split_whitespace() {
            assert!(known.contains(&name), "--{name} is missing");
        }
    }

    #[test]
    fn booleans_are_written_as_for_pflag() {
        assert_eq!(parse(&["--masquerade-all"]).unwrap().masquerade_all, Some(true));
        assert_eq!(parse(&["--masquerade-all=false"]).unwrap().masquerade_all, Some(false));
        assert_eq!(parse(&["--masquerade-all=T"]).unwrap().masquerade_all, Some(true));
        assert_eq!(parse(&[]).unwrap().masquerade_all, None);
        let error = parse(&["--masquerade-all=maybe"]).unwrap_err();
        assert!(error.contains("--masquerade-all"), "{error}");
    }

    #[test]
    fn lists_are_comma_separated_and_repeatable() {
        let flags =
            parse(&["--nodeport-addresses=primary,10.0.0.0/8", "--nodeport-addresses", "all"])
                .unwrap();
        assert_eq!(flags.nodeport_addresses.unwrap(), ["primary", "10.0.0.0/8", "all"]);
        let gates = parse(&["--feature-gates=A=true,B=false"]).unwrap().feature_gates.unwrap();
        assert_eq!(gates, [("A".to_owned(), true), ("B".to_owned(), false)]);
        assert!(parse(&["--feature-gates=A"]).unwrap_err().contains("--feature-gates"));
    }

    #[test]
    fn the_last_of_a_repeated_flag_counts() {
        let flags = parse(&["--proxy-mode=ipvs", "--proxy-mode=nftables", "--v=1", "--v=2"]);
        let flags = flags.unwrap();
        assert_eq!(flags.proxy_mode.as_deref(), Some("nftables"));
        assert_eq!(flags.verbosity, Some(2));
    }

    #[test]
    fn verbosity_has_all_its_spellings() {
        for arguments in [&["-v=4"][..], &["-v", "4"], &["-v4"], &["--v=4"], &["--v", "4"]] {
            assert_eq!(parse(arguments).unwrap().verbosity, Some(4), "{arguments:?}");
        }
    }

    #[test]
    fn numbers_may_be_negative_and_durations_are_gos() {
        assert_eq!(parse(&["--oom-score-adj", "-998"]).unwrap().oom_score_adj, Some(-998));
        let flags = parse(&["--iptables-sync-period=1m30s"]).unwrap();
        assert_eq!(flags.iptables_sync_period, Some(Duration::from_secs(90)));
        let error = parse(&["--ipvs-udp-timeout=5"]).unwrap_err();
        assert!(error.contains("--ipvs-udp-timeout") && error.contains("unit"), "{error}");
    }
}
