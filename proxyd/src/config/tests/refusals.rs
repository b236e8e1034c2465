//! What is refused, always by the name of the setting.

use super::*;

#[test]
fn an_unknown_field_is_named_with_its_path_and_line() {
    for (fields, name) in [
        ("mod: ipvs\n", "mod (f.yaml line 3)"),
        ("iptables:\n  masquerade: 1\n", "iptables.masquerade (f.yaml line 4)"),
        ("nftables: {bit: 1}\n", "nftables.bit (f.yaml line 3)"),
        ("ipvs:\n  masqueradeBit: 1\n", "ipvs.masqueradeBit (f.yaml line 4)"),
        ("detectLocal: {a: 1}\n", "detectLocal.a (f.yaml line 3)"),
        ("conntrack: {a: 1}\n", "conntrack.a (f.yaml line 3)"),
        ("clientConnection: {a: 1}\n", "clientConnection.a (f.yaml line 3)"),
        ("mode: ipvs\nlogging:\n  a: null\n", "logging.a (f.yaml line 5)"),
    ] {
        assert_eq!(by_file(fields, &[]), Err(format!("unknown field {name}")));
    }
}

#[test]
fn another_kind_or_version_is_refused() {
    let load = |text: &str| {
        let file = Some((Path::new("f.yaml"), text));
        load_with(&Flags::default(), file).unwrap_err().to_string()
    };
    let error = load("apiVersion: v1\nkind: ConfigMap\n");
    assert!(error.contains("f.yaml: apiVersion is \"v1\""), "{error}");
    let error = load("apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeletConfiguration\n");
    assert!(error.contains("f.yaml: kind is \"KubeletConfiguration\""), "{error}");
    assert!(load("mode: ipvs\n").contains("apiVersion is \"\""));
}

#[test]
fn a_bad_flag_is_named() {
    for (argument, reason) in [
        ("--proxy-mode=userspace", "nftables, iptables or ipvs"),
        ("--iptables-masquerade-bit=32", "from 0 to 31"),
        ("--iptables-masquerade-bit=-1", "from 0 to 31"),
        ("--iptables-sync-period=0s", "greater than 0"),
        ("--ipvs-sync-period=0s", "greater than 0"),
        ("--ipvs-min-sync-period=31s", "longer than the sync period"),
        ("--config-sync-period=0", "greater than 0"),
        ("--hostname-override= ", "blank"),
        ("--bind-address=node", "not an IP address"),
        ("--healthz-bind-address=node:1", "IP:PORT"),
        ("--metrics-bind-address=1.2.3.4:0", "1 to 65535"),
        ("--healthz-port=65536", "from 0 to 65535"),
        ("--metrics-port=-1", "from 0 to 65535"),
        ("--detect-local-mode=clusterCIDR", "must be ClusterCIDR"),
        ("--cluster-cidr=10.0.0.1/16", "the network is 10.0.0.0/16"),
        ("--cluster-cidr=10.0.0.0", "no prefix length"),
        ("--cluster-cidr=10.0.0.0/16,10.1.0.0/16", "more than one IPv4"),
        ("--cluster-cidr=fd00::/64,fd01::/64", "more than one IPv6"),
        ("--pod-bridge-interface=abcdefghijklmnop", "interface name"),
        ("--pod-interface-name-prefix=a/b", "interface name"),
        ("--nodeport-addresses=primary,10.0.0.1/8", "10.0.0.0/8"),
        ("--ipvs-scheduler=random", "must be one of rr"),
        ("--ipvs-exclude-cidrs=10.0.0.0/33", "bad prefix length"),
        ("--oom-score-adj=1001", "from -1000 to 1000"),
        ("--conntrack-max-per-core=-1", "from 0"),
        ("--conntrack-min=2147483648", "from 0"),
        ("--kube-api-burst=-1", "from 0"),
        ("--kube-api-qps=NaN", "number"),
        ("--v=256", "from 0 to 255"),
        ("--logging-format=xml", "text or json"),
    ] {
        let (name, _) = argument.split_once('=').unwrap();
        let error = by_flags(&[argument]).unwrap_err();
        assert!(error.starts_with(&format!("{name}: ")), "{argument}: {error}");
        assert!(error.contains(reason), "{argument}: {error}");
    }
}

#[test]
fn a_bad_field_is_named() {
    for (field, name) in [
        ("mode: kernelspace", "mode"),
        ("mode: 1", "mode"),
        ("iptables: {masqueradeBit: 32}", "iptables.masqueradeBit"),
        ("nftables: {masqueradeBit: '1'}", "nftables.masqueradeBit"),
        ("nftables: {masqueradeAll: 1}", "nftables.masqueradeAll"),
        ("nftables: {syncPeriod: 30}", "nftables.syncPeriod"),
        ("nftables: {syncPeriod: -30s}", "nftables.syncPeriod"),
        ("ipvs: {minSyncPeriod: 31s}", "ipvs.minSyncPeriod"),
        ("ipvs: {scheduler: x}", "ipvs.scheduler"),
        ("ipvs: {excludeCIDRs: [x]}", "ipvs.excludeCIDRs"),
        ("iptables: []", "iptables"),
        ("detectLocalMode: x", "detectLocalMode"),
        ("detectLocal: {bridgeInterface: 'a b'}", "detectLocal.bridgeInterface"),
        ("clusterCIDR: 10.0.0.0/16,10.1.0.0/16", "clusterCIDR"),
        ("clusterCIDR: '10.0.0.0/16,'", "clusterCIDR"),
        ("nodePortAddresses: x", "nodePortAddresses"),
        ("nodePortAddresses: [x]", "nodePortAddresses"),
        ("healthzBindAddress: x", "healthzBindAddress"),
        ("metricsBindAddress: 1.2.3.4:x", "metricsBindAddress"),
        ("bindAddress: 1.2.3.4:1", "bindAddress"),
        ("hostnameOverride: ' '", "hostnameOverride"),
        ("oomScoreAdj: -1001", "oomScoreAdj"),
        ("conntrack: {min: -1}", "conntrack.min"),
        ("conntrack: {udpTimeout: 1d}", "conntrack.udpTimeout"),
        ("configSyncPeriod: 5", "configSyncPeriod"),
        ("featureGates: {A: 'yes, please'}", "featureGates.A"),
        ("clientConnection: {burst: -1}", "clientConnection.burst"),
        ("logging: {format: x}", "logging.format"),
        ("logging: {verbosity: 256}", "logging.verbosity"),
    ] {
        let error = by_file(field, &[]).unwrap_err();
        assert!(error.starts_with(&format!("{name} (f.yaml line 3): ")), "{field}: {error}");
    }
}

#[test]
fn contradictions_name_both_settings() {
    let error = by_flags(&["--iptables-sync-period=1s", "--iptables-min-sync-period=2s"]);
    let error = error.unwrap_err();
    assert!(error.contains("--iptables-min-sync-period and --iptables-sync-period: "), "{error}");
    let error = by_file("nftables:\n  syncPeriod: 1s\n  minSyncPeriod: 2s\n", &[]).unwrap_err();
    let both = "nftables.minSyncPeriod (f.yaml line 5) and nftables.syncPeriod (f.yaml line 4): ";
    assert!(error.starts_with(both), "{error}");
    let error = by_flags(&["--manifests=d", "--kubeconfig=k"]).unwrap_err();
    assert!(error.starts_with("--manifests and --kubeconfig: "), "{error}");
    let error = by_flags(&["--manifests=d", "--master=u"]).unwrap_err();
    assert!(error.starts_with("--manifests and --master: "), "{error}");
}
