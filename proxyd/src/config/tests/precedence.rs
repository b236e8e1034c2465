//! Flags against a file, a mode against another, and what the user is told about it.

use super::*;

/// No warning about the pod network, which is not what these tests are about.
const CIDR: &str = "clusterCIDR: 10.0.0.0/8\n";

fn with_cidr(fields: &str, arguments: &[&str]) -> Loaded {
    by_file(&format!("{CIDR}{fields}"), arguments).unwrap()
}

fn warnings_of_flags(arguments: &[&str]) -> Vec<String> {
    let mut all = vec!["--cluster-cidr=10.0.0.0/8"];
    all.extend(arguments);
    by_flags(&all).unwrap().warnings
}

#[test]
fn a_file_overrides_flags_and_says_which() {
    let loaded = with_cidr(
        "mode: iptables\n",
        &[
            "--proxy-mode=ipvs",
            "--masquerade-all",
            "--cluster-cidr=10.1.0.0/16",
            "--profiling=true",
        ],
    );
    assert_eq!(loaded.config, with_cidr("mode: iptables\n", &[]).config);
    let warning = "ignored because of --config: --masquerade-all, --proxy-mode, --profiling, \
        --cluster-cidr";
    assert_eq!(loaded.warnings, [warning]);
}

#[test]
fn even_a_flag_with_a_value_out_of_range_is_ignored_with_a_file() {
    assert!(by_file(CIDR, &["--oom-score-adj=9999"]).is_ok());
}

#[test]
fn some_flags_count_even_with_a_file() {
    let loaded = with_cidr(
        "hostnameOverride: file\nlogging: {format: text, verbosity: 1}\n",
        &[
            "--hostname-override=Flag",
            "-v=5",
            "--logging-format=json",
            "--kubeconfig=k",
            "--master=https://m",
            "--oneshot",
            "--init-only",
            "--external-ips=false",
        ],
    );
    let Loaded { config, warnings } = loaded;
    assert_eq!(warnings, [""; 0]);
    assert_eq!(config.hostname_override.as_deref(), Some("flag"));
    assert_eq!(config.log, Log { json: true, verbosity: 5 });
    assert_eq!(config.source, SourceConfig::Kubeconfig("k".into()));
    assert_eq!(config.client.master.as_deref(), Some("https://m"));
    assert!(config.oneshot && config.init_only && !config.external_ips);
}

#[test]
fn without_those_flags_the_file_counts() {
    let config =
        with_cidr("hostnameOverride: file\nlogging: {format: json, verbosity: 1}\n", &[]).config;
    assert_eq!(config.hostname_override.as_deref(), Some("file"));
    assert_eq!(config.log, Log { json: true, verbosity: 1 });
}

#[test]
fn the_kubeconfig_of_the_file_wins() {
    let loaded = with_cidr("clientConnection: {kubeconfig: f}\n", &["--kubeconfig=k"]);
    assert_eq!(loaded.config.source, SourceConfig::Kubeconfig("f".into()));
    assert_eq!(loaded.warnings, ["ignored because of --config: --kubeconfig"]);
}

#[test]
fn manifests_win_over_the_kubeconfig_of_the_file() {
    let loaded = with_cidr("clientConnection: {kubeconfig: f}\n", &["--manifests=d"]);
    assert_eq!(loaded.config.source, SourceConfig::Manifests("d".into()));
    let warning =
        "clientConnection.kubeconfig (f.yaml line 4) has no effect because of --manifests";
    assert_eq!(loaded.warnings, [warning]);
}

#[test]
fn each_mode_has_its_section() {
    let fields = "iptables: {masqueradeBit: 1, masqueradeAll: true, syncPeriod: 11s, minSyncPeriod: 1s}\n\
        nftables: {masqueradeBit: 2, syncPeriod: 12s, minSyncPeriod: 2s}\n\
        ipvs: {syncPeriod: 13s, minSyncPeriod: 3s}\n";
    for (mode, bit, all, period, min) in [
        ("", 2, false, 12, 2),
        ("mode: nftables\n", 2, false, 12, 2),
        ("mode: iptables\n", 1, true, 11, 1),
        ("mode: ipvs\n", 1, true, 13, 3),
    ] {
        let config = with_cidr(&format!("{fields}{mode}"), &[]).config;
        assert_eq!((config.masquerade_bit, config.masquerade_all), (bit, all), "{mode}");
        assert_eq!(config.sync_period, Duration::from_secs(period), "{mode}");
        assert_eq!(config.min_sync_period, Some(Duration::from_secs(min)), "{mode}");
    }
}

#[test]
fn flags_named_after_iptables_are_those_of_nftables_mode() {
    let arguments =
        ["--iptables-sync-period=9s", "--iptables-min-sync-period=0s", "--masquerade-all"];
    let config = by_flags(&arguments).unwrap().config;
    assert_eq!(config.mode, Mode::Nftables);
    assert_eq!(config.sync_period, Duration::from_secs(9));
    assert_eq!(config.min_sync_period, None);
    assert!(config.masquerade_all);
    assert_eq!(warnings_of_flags(&arguments), [""; 0]);
}

#[test]
fn settings_of_another_mode_are_warned_of() {
    assert_eq!(
        warnings_of_flags(&["--iptables-masquerade-bit=3", "--ipvs-sync-period=9s"]),
        [
            "--iptables-masquerade-bit has no effect in nftables mode",
            "--ipvs-sync-period has no effect in nftables mode",
        ]
    );
    assert_eq!(
        warnings_of_flags(&["--proxy-mode=ipvs", "--iptables-sync-period=9s"]),
        ["--iptables-sync-period has no effect in ipvs mode"]
    );
    let fields = "iptables: {masqueradeAll: true, syncPeriod: 30s, masqueradeBit: 14}\n";
    assert_eq!(
        with_cidr(fields, &[]).warnings,
        ["iptables.masqueradeAll (f.yaml line 4) has no effect in nftables mode"]
    );
}

#[test]
fn what_is_deprecated_or_without_effect_is_warned_of() {
    for (argument, start) in [
        ("--healthz-port=1", "--healthz-port is deprecated"),
        ("--metrics-port=1", "--metrics-port is deprecated"),
        ("--proxy-port-range=1-2", "--proxy-port-range has no effect"),
        ("--show-hidden-metrics-for-version=1.1", "--show-hidden-metrics-for-version has no"),
        ("--vmodule=a=1", "--vmodule has no effect"),
        ("--feature-gates=A=true", "--feature-gates A=true has no effect"),
    ] {
        let warnings = warnings_of_flags(&[argument]);
        assert!(warnings.len() == 1 && warnings[0].starts_with(start), "{warnings:?}");
    }
    for (field, name) in [
        ("portRange: 1-2", "portRange"),
        ("showHiddenMetricsForVersion: '1.1'", "showHiddenMetricsForVersion"),
        ("featureGates: {A: false}", "featureGates.A"),
        ("logging: {vmodule: [{filePattern: a, verbosity: 1}]}", "logging.vmodule"),
        ("iptables: {snatNodeInternalIP: true}", "iptables.snatNodeInternalIP"),
    ] {
        let warnings = with_cidr(field, &[]).warnings;
        let start = format!("{name} (f.yaml line 4) has no effect");
        assert!(warnings.len() == 1 && warnings[0].starts_with(&start), "{warnings:?}");
    }
}

#[test]
fn empty_flags_are_as_good_as_none() {
    let arguments = [
        "--proxy-mode=",
        "--hostname-override=",
        "--bind-address=",
        "--cluster-cidr=",
        "--nodeport-addresses=",
        "--kubeconfig=",
        "--master=",
        "--detect-local-mode=",
        "--ipvs-scheduler=",
        "--ipvs-exclude-cidrs=",
        "--logging-format=",
    ];
    assert_eq!(by_flags(&arguments), by_flags(&[]));
}
