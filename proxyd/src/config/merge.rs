//! Flags as [`Settings`], and how flags and a file come together.
//!
//! As for kube-proxy: with `--config` the file alone counts, except for the host name, where the
//! flag wins, the logging flags, and the flags that have no field in a file.

use super::error::{Given, Setting};
use super::flags::Flags;
use super::settings::{
    ClientSettings, ConntrackSettings, IpvsSettings, LogSettings, ModeSettings, Settings,
};

/// Merges; `file` is what the file of `--config` says. Warns of flags that do not count.
pub(super) fn merge(flags: &Flags, file: Option<Settings>, warnings: &mut Vec<String>) -> Settings {
    let mut taken = Taken::default();
    let given = settings_of(flags, &mut taken);
    warn_of_useless_flags(flags, warnings);
    let Some(file) = file else { return given };

    let mut ignored = taken.0;
    if given.client.kubeconfig.is_some() && file.client.kubeconfig.is_some() {
        ignored.push("--kubeconfig");
    }
    if !ignored.is_empty() {
        warnings.push(format!("ignored because of --config: {}", ignored.join(", ")));
    }
    Settings {
        hostname_override: given.hostname_override.or(file.hostname_override),
        client: ClientSettings {
            kubeconfig: file.client.kubeconfig.or(given.client.kubeconfig),
            ..file.client
        },
        log: LogSettings {
            format: given.log.format.or(file.log.format),
            verbosity: given.log.verbosity.or(file.log.verbosity),
        },
        ..file
    }
}

fn warn_of_useless_flags(flags: &Flags, warnings: &mut Vec<String>) {
    let useless = [
        (flags.healthz_port.is_some(), "--healthz-port is deprecated: use --healthz-bind-address"),
        (flags.metrics_port.is_some(), "--metrics-port is deprecated: use --metrics-bind-address"),
        (
            flags.proxy_port_range.is_some(),
            "--proxy-port-range has no effect: it is unused since the userspace mode went",
        ),
        (
            flags.show_hidden_metrics_for_version.is_some(),
            "--show-hidden-metrics-for-version has no effect: there are no hidden metrics",
        ),
        (flags.vmodule.is_some(), "--vmodule has no effect: verbosity is the same for all modules"),
    ];
    let given = useless.iter().filter(|(given, _)| *given);
    warnings.extend(given.map(|(_, warning)| (*warning).to_owned()));
}

/// The given flags that `--config` overrides.
#[derive(Default)]
struct Taken(Vec<&'static str>);

impl Taken {
    fn take<T: Clone>(&mut self, name: &'static str, value: &Option<T>) -> Option<Given<T>> {
        let given = keep(name, value);
        if given.is_some() {
            self.0.push(name);
        }
        given
    }

    fn list(
        &mut self,
        name: &'static str,
        value: &Option<Vec<String>>,
    ) -> Option<Given<Vec<String>>> {
        let mut given = self.take(name, value)?;
        given.value.retain(|item| !item.is_empty());
        (!given.value.is_empty()).then_some(given)
    }
}

/// A flag that counts even with `--config`.
fn keep<T: Clone>(name: &'static str, value: &Option<T>) -> Option<Given<T>> {
    value.clone().map(|value| Given { value, setting: Setting::Flag(name) })
}

/// A text flag for which empty means absent.
fn filled(given: Option<Given<String>>) -> Option<Given<String>> {
    given.filter(|given| !given.value.is_empty())
}

fn settings_of(flags: &Flags, taken: &mut Taken) -> Settings {
    let modes = mode_settings(flags, taken);
    let [nftables, iptables, ipvs_mode] = modes;
    Settings {
        mode: filled(taken.take("--proxy-mode", &flags.proxy_mode)),
        iptables,
        ipvs_mode,
        nftables,
        localhost_nodeports: taken
            .take("--iptables-localhost-nodeports", &flags.iptables_localhost_nodeports),
        hostname_override: filled(keep("--hostname-override", &flags.hostname_override)),
        bind_address: filled(taken.take("--bind-address", &flags.bind_address)),
        // Empty stays: it turns the server off.
        healthz_bind: taken.take("--healthz-bind-address", &flags.healthz_bind_address),
        healthz_port: taken.take("--healthz-port", &flags.healthz_port),
        metrics_bind: taken.take("--metrics-bind-address", &flags.metrics_bind_address),
        metrics_port: taken.take("--metrics-port", &flags.metrics_port),
        bind_address_hard_fail: taken
            .take("--bind-address-hard-fail", &flags.bind_address_hard_fail),
        profiling: taken.take("--profiling", &flags.profiling),
        detect_local_mode: filled(taken.take("--detect-local-mode", &flags.detect_local_mode)),
        bridge_interface: filled(taken.take("--pod-bridge-interface", &flags.pod_bridge_interface)),
        interface_name_prefix: filled(
            taken.take("--pod-interface-name-prefix", &flags.pod_interface_name_prefix),
        ),
        cluster_cidr: taken.list("--cluster-cidr", &flags.cluster_cidr),
        nodeport_addresses: taken.list("--nodeport-addresses", &flags.nodeport_addresses),
        ipvs: ipvs(flags, taken),
        conntrack: conntrack(flags, taken),
        oom_score_adj: taken.take("--oom-score-adj", &flags.oom_score_adj),
        config_sync_period: taken.take("--config-sync-period", &flags.config_sync_period),
        feature_gates: taken
            .take("--feature-gates", &flags.feature_gates)
            .map(|given| {
                let Given { value, setting } = given;
                value.into_iter().map(|value| Given { value, setting: setting.clone() }).collect()
            })
            .unwrap_or_default(),
        client: ClientSettings {
            kubeconfig: filled(keep("--kubeconfig", &flags.kubeconfig)),
            accept_content_types: None,
            content_type: filled(
                taken.take("--kube-api-content-type", &flags.kube_api_content_type),
            ),
            qps: taken.take("--kube-api-qps", &flags.kube_api_qps),
            burst: taken.take("--kube-api-burst", &flags.kube_api_burst),
        },
        log: LogSettings {
            format: filled(keep("--logging-format", &flags.logging_format)),
            verbosity: keep("--v", &flags.verbosity),
        },
    }
}

/// For nftables, iptables and ipvs mode.
///
/// The flags named after iptables are those of every mode but ipvs, as in kube-proxy, except for
/// the mark's bit, which has no flag in nftables mode.
fn mode_settings(flags: &Flags, taken: &mut Taken) -> [ModeSettings; 3] {
    let masquerade_bit = taken.take("--iptables-masquerade-bit", &flags.iptables_masquerade_bit);
    let masquerade_all = taken.take("--masquerade-all", &flags.masquerade_all);
    let nftables = ModeSettings {
        masquerade_bit: None,
        masquerade_all: masquerade_all.clone(),
        sync_period: taken.take("--iptables-sync-period", &flags.iptables_sync_period),
        min_sync_period: taken.take("--iptables-min-sync-period", &flags.iptables_min_sync_period),
    };
    let iptables = ModeSettings { masquerade_bit: masquerade_bit.clone(), ..nftables.clone() };
    let ipvs = ModeSettings {
        masquerade_bit,
        masquerade_all,
        sync_period: taken.take("--ipvs-sync-period", &flags.ipvs_sync_period),
        min_sync_period: taken.take("--ipvs-min-sync-period", &flags.ipvs_min_sync_period),
    };
    [nftables, iptables, ipvs]
}

fn ipvs(flags: &Flags, taken: &mut Taken) -> IpvsSettings {
    IpvsSettings {
        scheduler: filled(taken.take("--ipvs-scheduler", &flags.ipvs_scheduler)),
        exclude_cidrs: taken.list("--ipvs-exclude-cidrs", &flags.ipvs_exclude_cidrs),
        strict_arp: taken.take("--ipvs-strict-arp", &flags.ipvs_strict_arp),
        tcp_timeout: taken.take("--ipvs-tcp-timeout", &flags.ipvs_tcp_timeout),
        tcp_fin_timeout: taken.take("--ipvs-tcpfin-timeout", &flags.ipvs_tcpfin_timeout),
        udp_timeout: taken.take("--ipvs-udp-timeout", &flags.ipvs_udp_timeout),
    }
}

fn conntrack(flags: &Flags, taken: &mut Taken) -> ConntrackSettings {
    ConntrackSettings {
        max_per_core: taken.take("--conntrack-max-per-core", &flags.conntrack_max_per_core),
        min: taken.take("--conntrack-min", &flags.conntrack_min),
        tcp_established: taken
            .take("--conntrack-tcp-timeout-established", &flags.conntrack_tcp_timeout_established),
        tcp_close_wait: taken
            .take("--conntrack-tcp-timeout-close-wait", &flags.conntrack_tcp_timeout_close_wait),
        tcp_be_liberal: taken.take("--conntrack-tcp-be-liberal", &flags.conntrack_tcp_be_liberal),
        udp_timeout: taken.take("--conntrack-udp-timeout", &flags.conntrack_udp_timeout),
        udp_stream_timeout: taken
            .take("--conntrack-udp-timeout-stream", &flags.conntrack_udp_timeout_stream),
    }
}
