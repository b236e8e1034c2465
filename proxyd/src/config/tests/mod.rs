//! The whole way: flags and a file's text to a [`Config`]. Here what is accepted.

mod configz;
mod precedence;
mod refusals;

use super::*;
use clap::Parser;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    flags: Flags,
}

fn flags(arguments: &[&str]) -> Flags {
    Line::try_parse_from(std::iter::once(&"proxyd").chain(arguments)).unwrap().flags
}

/// Settings from flags alone.
fn by_flags(arguments: &[&str]) -> Result<Loaded, String> {
    load_with(&flags(arguments), None).map_err(|error| error.to_string())
}

const HEAD: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";

/// Settings from a file of which `fields` follow the two lines of the head, and from flags.
fn by_file(fields: &str, arguments: &[&str]) -> Result<Loaded, String> {
    let text = format!("{HEAD}{fields}");
    load_with(&flags(arguments), Some((Path::new("f.yaml"), &text)))
        .map_err(|error| error.to_string())
}

fn config(fields: &str) -> Config {
    by_file(fields, &[]).unwrap().config
}

/// What kubeadm 1.37 writes, with a pod network.
const KUBEADM: &str = r#"
bindAddress: 0.0.0.0
bindAddressHardFail: false
clientConnection:
  acceptContentTypes: ""
  burst: 0
  contentType: ""
  kubeconfig: /var/lib/kube-proxy/kubeconfig.conf
  qps: 0
clusterCIDR: 10.244.0.0/16,fd00:10:244::/56
configSyncPeriod: 0s
conntrack:
  maxPerCore: null
  min: null
  tcpBeLiberal: false
  tcpCloseWaitTimeout: null
  tcpEstablishedTimeout: null
  udpStreamTimeout: 0s
  udpTimeout: 0s
detectLocal:
  bridgeInterface: ""
  interfaceNamePrefix: ""
detectLocalMode: ""
enableProfiling: false
featureGates: {}
healthzBindAddress: ""
hostnameOverride: ""
iptables:
  localhostNodePorts: null
  masqueradeAll: false
  masqueradeBit: null
  minSyncPeriod: 0s
  snatNodeInternalIP: null
  syncPeriod: 0s
ipvs:
  excludeCIDRs: null
  minSyncPeriod: 0s
  scheduler: ""
  strictARP: false
  syncPeriod: 0s
  tcpFinTimeout: 0s
  tcpTimeout: 0s
  udpTimeout: 0s
logging:
  flushFrequency: 0
  options:
    json:
      infoBufferSize: "0"
    text:
      infoBufferSize: "0"
  verbosity: 0
metricsBindAddress: ""
mode: ""
nftables:
  masqueradeAll: false
  masqueradeBit: null
  minSyncPeriod: 0s
  syncPeriod: 0s
nodePortAddresses: null
oomScoreAdj: null
portRange: ""
showHiddenMetricsForVersion: ""
winkernel:
  enableDSR: false
  forwardHealthCheckVip: false
  networkName: ""
  rootHnsEndpointName: ""
  sourceVip: ""
"#;

#[test]
fn without_any_setting_the_defaults_are_kube_proxys() {
    let Loaded { config, warnings } = by_flags(&[]).unwrap();
    let expected = Config {
        mode: Mode::Nftables,
        hostname_override: None,
        node_ip: Vec::new(),
        healthz_bind: Some("0.0.0.0:10256".parse().unwrap()),
        metrics_bind: Some("127.0.0.1:10249".parse().unwrap()),
        bind_address_hard_fail: false,
        profiling: false,
        masquerade_bit: 14,
        masquerade_all: false,
        sync_period: Duration::from_secs(30),
        min_sync_period: None,
        iptables_localhost_nodeports: true,
        cluster_cidrs: Vec::new(),
        local_detection: LocalDetection::None,
        nodeport_addresses: NodePortAddresses::default(),
        external_ips: true,
        ipvs: Ipvs::default(),
        conntrack: Conntrack {
            max_per_core: 32768,
            min: 131072,
            tcp_established: Some(Duration::from_secs(86400)),
            tcp_close_wait: Some(Duration::from_secs(3600)),
            tcp_be_liberal: false,
            udp_timeout: None,
            udp_stream_timeout: None,
        },
        oom_score_adj: Some(-999),
        config_sync_period: Duration::from_secs(900),
        feature_gates: BTreeMap::new(),
        log: Log { json: false, verbosity: 0 },
        source: SourceConfig::InCluster,
        client: Client {
            master: None,
            accept_content_types: String::new(),
            content_type: "application/vnd.kubernetes.protobuf".to_owned(),
            qps: 5.0,
            burst: 10,
        },
        network_config: None,
        proc_sys: None,
        oneshot: false,
        init_only: false,
    };
    assert_eq!(config, expected);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("--cluster-cidr"), "{warnings:?}");
}

#[test]
fn what_kubeadm_writes_works_unchanged() {
    let Loaded { config, warnings } = by_file(KUBEADM, &[]).unwrap();
    let cidrs = ["10.244.0.0/16", "fd00:10:244::/56"].map(|cidr| cidr.parse().unwrap());
    let expected = Config {
        cluster_cidrs: cidrs.to_vec(),
        local_detection: LocalDetection::ClusterCidr(cidrs.to_vec()),
        source: SourceConfig::Kubeconfig("/var/lib/kube-proxy/kubeconfig.conf".into()),
        ..by_flags(&[]).unwrap().config
    };
    assert_eq!(config, expected);
    assert_eq!(warnings, [""; 0]);
}

#[test]
fn every_field_is_read() {
    let config = config(
        "mode: ipvs\nhostnameOverride: ' Node-1 '\nbindAddress: fd00::1\n\
         healthzBindAddress: 10.0.0.1\nmetricsBindAddress: '[::]:99'\nbindAddressHardFail: true\n\
         enableProfiling: true\nnodePortAddresses: [primary]\noomScoreAdj: -5\n\
         configSyncPeriod: 1m\nfeatureGates: {A: true}\n\
         clientConnection: {kubeconfig: k, acceptContentTypes: a, contentType: c, qps: 7.5, burst: 8}\n\
         logging: {format: json, verbosity: 3}\ndetectLocalMode: NodeCIDR\n\
         iptables: {masqueradeBit: 3, masqueradeAll: true, localhostNodePorts: false}\n\
         ipvs: {syncPeriod: 9s, minSyncPeriod: 2s, scheduler: mh, excludeCIDRs: [10.0.0.0/8],\n\
         \x20 strictARP: true, tcpTimeout: 1s, tcpFinTimeout: 2s, udpTimeout: 3s}\n\
         conntrack: {maxPerCore: 0, min: 1, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 4s,\n\
         \x20 tcpBeLiberal: true, udpTimeout: 5s, udpStreamTimeout: 6s}\n",
    );
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    let expected = Config {
        mode: Mode::Ipvs,
        hostname_override: Some("node-1".to_owned()),
        node_ip: vec!["fd00::1".parse().unwrap()],
        healthz_bind: Some("10.0.0.1:10256".parse().unwrap()),
        metrics_bind: Some("[::]:99".parse().unwrap()),
        bind_address_hard_fail: true,
        profiling: true,
        masquerade_bit: 3,
        masquerade_all: true,
        sync_period: Duration::from_secs(9),
        min_sync_period: seconds(2),
        iptables_localhost_nodeports: false,
        cluster_cidrs: Vec::new(),
        local_detection: LocalDetection::NodeCidr,
        nodeport_addresses: NodePortAddresses::parse(&["primary".to_owned()]).unwrap(),
        external_ips: true,
        ipvs: Ipvs {
            scheduler: IpvsScheduler::MaglevHashing,
            exclude_cidrs: vec!["10.0.0.0/8".parse().unwrap()],
            strict_arp: true,
            tcp_timeout: seconds(1),
            tcp_fin_timeout: seconds(2),
            udp_timeout: seconds(3),
        },
        conntrack: Conntrack {
            max_per_core: 0,
            min: 1,
            tcp_established: None,
            tcp_close_wait: seconds(4),
            tcp_be_liberal: true,
            udp_timeout: seconds(5),
            udp_stream_timeout: seconds(6),
        },
        oom_score_adj: Some(-5),
        config_sync_period: Duration::from_secs(60),
        feature_gates: [("A".to_owned(), true)].into(),
        log: Log { json: true, verbosity: 3 },
        source: SourceConfig::Kubeconfig("k".into()),
        client: Client {
            master: None,
            accept_content_types: "a".to_owned(),
            content_type: "c".to_owned(),
            qps: 7.5,
            burst: 8,
        },
        network_config: None,
        proc_sys: None,
        oneshot: false,
        init_only: false,
    };
    assert_eq!(config, expected);
}

#[test]
fn every_flag_sets_what_its_field_sets() {
    let by_flags = by_flags(&[
        "--proxy-mode=ipvs",
        "--hostname-override= Node-1 ",
        "--bind-address=fd00::1",
        "--healthz-bind-address=10.0.0.1",
        "--metrics-bind-address=[::]:99",
        "--bind-address-hard-fail",
        "--profiling",
        "--nodeport-addresses=primary",
        "--oom-score-adj=-5",
        "--config-sync-period=1m",
        "--feature-gates=A=true",
        "--kubeconfig=k",
        "--kube-api-content-type=c",
        "--kube-api-qps=7.5",
        "--kube-api-burst=8",
        "--logging-format=json",
        "-v3",
        "--detect-local-mode=NodeCIDR",
        "--iptables-masquerade-bit=3",
        "--masquerade-all",
        "--iptables-localhost-nodeports=false",
        "--ipvs-sync-period=9s",
        "--ipvs-min-sync-period=2s",
        "--ipvs-scheduler=mh",
        "--ipvs-exclude-cidrs=10.0.0.0/8",
        "--ipvs-strict-arp",
        "--ipvs-tcp-timeout=1s",
        "--ipvs-tcpfin-timeout=2s",
        "--ipvs-udp-timeout=3s",
        "--conntrack-max-per-core=0",
        "--conntrack-min=1",
        "--conntrack-tcp-timeout-established=0s",
        "--conntrack-tcp-timeout-close-wait=4s",
        "--conntrack-tcp-be-liberal",
        "--conntrack-udp-timeout=5s",
        "--conntrack-udp-timeout-stream=6s",
    ]);
    let by_file = config(
        "mode: ipvs\nhostnameOverride: node-1\nbindAddress: fd00::1\n\
         healthzBindAddress: 10.0.0.1\nmetricsBindAddress: '[::]:99'\nbindAddressHardFail: true\n\
         enableProfiling: true\nnodePortAddresses: [primary]\noomScoreAdj: -5\n\
         configSyncPeriod: 1m\nfeatureGates: {A: true}\n\
         clientConnection: {kubeconfig: k, contentType: c, qps: 7.5, burst: 8}\n\
         logging: {format: json, verbosity: 3}\ndetectLocalMode: NodeCIDR\n\
         iptables: {masqueradeBit: 3, masqueradeAll: true, localhostNodePorts: false}\n\
         ipvs: {syncPeriod: 9s, minSyncPeriod: 2s, scheduler: mh, excludeCIDRs: [10.0.0.0/8],\n\
         \x20 strictARP: true, tcpTimeout: 1s, tcpFinTimeout: 2s, udpTimeout: 3s}\n\
         conntrack: {maxPerCore: 0, min: 1, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 4s,\n\
         \x20 tcpBeLiberal: true, udpTimeout: 5s, udpStreamTimeout: 6s}\n",
    );
    assert_eq!(by_flags.unwrap().config, by_file);
}

#[test]
fn the_file_is_read_from_disk_and_its_absence_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    let argument = format!("--config={}", path.display());
    let error = load(&flags(&[&argument])).unwrap_err().to_string();
    assert!(error.starts_with(&format!("--config {}: ", path.display())), "{error}");

    let text = r#"{"apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration", "mode": "iptables"}"#;
    std::fs::write(&path, text).unwrap();
    assert_eq!(load(&flags(&[&argument])).unwrap().config.mode, Mode::Iptables);
}

#[test]
fn explicit_zeros_of_conntrack_leave_things_alone_and_null_is_the_default() {
    let conntrack = config("conntrack: {tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: null}");
    assert_eq!(conntrack.conntrack.tcp_established, None);
    assert_eq!(conntrack.conntrack.tcp_close_wait, Some(Duration::from_secs(3600)));
}

#[test]
fn local_traffic_is_detected_as_asked() {
    let detection = |fields: &str| {
        let Loaded { config, warnings } = by_file(fields, &[]).unwrap();
        (config.local_detection, warnings.join("\n"))
    };
    let quiet = |detection| (detection, String::new());
    let fields = "detectLocalMode: BridgeInterface\ndetectLocal: {bridgeInterface: cni0}";
    assert_eq!(detection(fields), quiet(LocalDetection::BridgeInterface("cni0".to_owned())));
    let fields = "detectLocalMode: InterfaceNamePrefix\ndetectLocal: {interfaceNamePrefix: veth}";
    assert_eq!(detection(fields), quiet(LocalDetection::InterfaceNamePrefix("veth".to_owned())));
    assert_eq!(detection("detectLocalMode: NodeCIDR"), quiet(LocalDetection::NodeCidr));
    let cidr = "10.0.0.0/8".parse().unwrap();
    assert_eq!(
        detection("detectLocalMode: ClusterCIDR\nclusterCIDR: 10.0.0.0/8"),
        quiet(LocalDetection::ClusterCidr(vec![cidr]))
    );

    for (mode, missing) in [
        ("ClusterCIDR", "clusterCIDR"),
        ("BridgeInterface", "detectLocal.bridgeInterface"),
        ("InterfaceNamePrefix", "detectLocal.interfaceNamePrefix"),
    ] {
        let (detection, warnings) = detection(&format!("detectLocalMode: {mode}"));
        assert_eq!(detection, LocalDetection::None);
        assert!(warnings.starts_with(missing) && !warnings.contains('\n'), "{warnings}");
    }
}

#[test]
fn an_unspecified_bind_address_is_no_node_address_but_moves_the_defaults() {
    let Loaded { config, .. } = by_flags(&["--bind-address=::"]).unwrap();
    assert_eq!(config.node_ip, [] as [IpAddr; 0]);
    assert_eq!(config.healthz_bind, Some("[::]:10256".parse().unwrap()));
    assert_eq!(config.metrics_bind, Some("[::1]:10249".parse().unwrap()));
}

#[test]
fn an_empty_flag_turns_a_server_off_and_an_empty_field_is_the_default() {
    let config = by_flags(&["--healthz-bind-address=", "--metrics-bind-address="]).unwrap().config;
    assert_eq!((config.healthz_bind, config.metrics_bind), (None, None));
    let config = self::config("healthzBindAddress: ''\nmetricsBindAddress: ''");
    assert!(config.healthz_bind.is_some() && config.metrics_bind.is_some());
}
