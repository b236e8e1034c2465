//! The effective configuration in kube-proxy's terms, for `/configz` and `--write-config-to`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use netlink::Prefix;
use serde_json::{Map, Value, json};

use super::duration;
use super::mode::{MASQUERADE_BIT, SYNC_PERIOD};
use super::{Config, LocalDetection, Mode, SourceConfig};

impl Config {
    /// What `/configz` shows: the effective KubeProxyConfiguration, under the name of its group.
    pub fn to_kube_proxy_json(&self) -> Value {
        json!({ "kubeproxy.config.k8s.io": self.kube_proxy_configuration() })
    }

    /// The text for `--write-config-to`: JSON, which is YAML too, and which `--config` reads.
    ///
    /// What has no field there is missing: manifests, oneshot, external IPs and the API server's
    /// address. A server that is turned off has an empty address, which in a file means the
    /// default: kube-proxy's format cannot say more.
    pub fn to_kube_proxy_file(&self) -> String {
        format!("{:#}\n", self.kube_proxy_configuration())
    }

    fn kube_proxy_configuration(&self) -> Value {
        let mut root = self.top_level();
        let sections = [
            ("clientConnection", self.client_connection()),
            ("logging", self.logging()),
            ("iptables", self.iptables_section()),
            ("nftables", self.nftables_section()),
            ("ipvs", self.ipvs_section()),
            ("detectLocal", self.detect_local()),
            ("conntrack", self.conntrack_section()),
        ];
        root.extend(sections.map(|(name, section)| (name.to_owned(), section)));
        Value::Object(root)
    }

    fn top_level(&self) -> Map<String, Value> {
        let address = |address: Option<SocketAddr>| {
            address.map(|address| address.to_string()).unwrap_or_default()
        };
        let detect_local_mode = match &self.local_detection {
            LocalDetection::ClusterCidr(_) | LocalDetection::None => "ClusterCIDR",
            LocalDetection::NodeCidr => "NodeCIDR",
            LocalDetection::BridgeInterface(_) => "BridgeInterface",
            LocalDetection::InterfaceNamePrefix(_) => "InterfaceNamePrefix",
        };
        let unspecified = IpAddr::from(Ipv4Addr::UNSPECIFIED);
        let bind_address = self.node_ip.first().unwrap_or(&unspecified);
        let fields = [
            ("apiVersion", json!(super::file::API_VERSION)),
            ("kind", json!(super::file::KIND)),
            ("mode", json!(self.mode.to_string())),
            ("hostnameOverride", json!(self.hostname_override.as_deref().unwrap_or_default())),
            ("bindAddress", json!(bind_address)),
            ("healthzBindAddress", json!(address(self.healthz_bind))),
            ("metricsBindAddress", json!(address(self.metrics_bind))),
            ("bindAddressHardFail", json!(self.bind_address_hard_fail)),
            ("enableProfiling", json!(self.profiling)),
            ("detectLocalMode", json!(detect_local_mode)),
            ("clusterCIDR", json!(texts(&self.cluster_cidrs).join(","))),
            ("nodePortAddresses", json!(self.nodeport_addresses.items())),
            ("oomScoreAdj", json!(self.oom_score_adj)),
            ("configSyncPeriod", period(self.config_sync_period)),
            ("featureGates", json!(self.feature_gates)),
        ];
        fields.map(|(name, value)| (name.to_owned(), value)).into_iter().collect()
    }

    fn client_connection(&self) -> Value {
        let kubeconfig = match &self.source {
            SourceConfig::Kubeconfig(file) => file.to_string_lossy(),
            SourceConfig::Manifests(_) | SourceConfig::InCluster => "".into(),
        };
        json!({
            "kubeconfig": kubeconfig,
            "acceptContentTypes": self.client.accept_content_types,
            "contentType": self.client.content_type,
            "qps": self.client.qps,
            "burst": self.client.burst,
        })
    }

    fn logging(&self) -> Value {
        json!({
            "format": if self.log.json { "json" } else { "text" },
            "verbosity": self.log.verbosity,
        })
    }

    /// Of `iptables` and `nftables`, the section that is not used shows the defaults. Ipvs mode
    /// takes its mark and `masqueradeAll` from `iptables`, as the file does.
    fn iptables_section(&self) -> Value {
        let mut section =
            self.mode_section(self.mode == Mode::Iptables, self.mode != Mode::Nftables);
        section.insert("localhostNodePorts".to_owned(), json!(self.iptables_localhost_nodeports));
        Value::Object(section)
    }

    fn nftables_section(&self) -> Value {
        let used = self.mode == Mode::Nftables;
        Value::Object(self.mode_section(used, used))
    }

    fn mode_section(&self, periods: bool, masquerade: bool) -> Map<String, Value> {
        let mut section = self.periods(periods);
        let bit = if masquerade { self.masquerade_bit } else { MASQUERADE_BIT };
        section.insert("masqueradeBit".to_owned(), json!(bit));
        section.insert("masqueradeAll".to_owned(), json!(masquerade && self.masquerade_all));
        section
    }

    fn periods(&self, used: bool) -> Map<String, Value> {
        let (sync, min) = match used {
            true => (self.sync_period, self.min_sync_period),
            false => (SYNC_PERIOD, None),
        };
        let mut section = Map::new();
        section.insert("syncPeriod".to_owned(), period(sync));
        section.insert("minSyncPeriod".to_owned(), timeout(min));
        section
    }

    fn ipvs_section(&self) -> Value {
        let ipvs = &self.ipvs;
        let mut section = self.periods(self.mode == Mode::Ipvs);
        let fields = [
            ("scheduler", json!(ipvs.scheduler.name())),
            ("excludeCIDRs", json!(texts(&ipvs.exclude_cidrs))),
            ("strictARP", json!(ipvs.strict_arp)),
            ("tcpTimeout", timeout(ipvs.tcp_timeout)),
            ("tcpFinTimeout", timeout(ipvs.tcp_fin_timeout)),
            ("udpTimeout", timeout(ipvs.udp_timeout)),
        ];
        section.extend(fields.map(|(name, value)| (name.to_owned(), value)));
        Value::Object(section)
    }

    fn detect_local(&self) -> Value {
        let (bridge, prefix) = match &self.local_detection {
            LocalDetection::BridgeInterface(name) => (name.as_str(), ""),
            LocalDetection::InterfaceNamePrefix(prefix) => ("", prefix.as_str()),
            _ => ("", ""),
        };
        json!({ "bridgeInterface": bridge, "interfaceNamePrefix": prefix })
    }

    fn conntrack_section(&self) -> Value {
        let conntrack = &self.conntrack;
        json!({
            "maxPerCore": conntrack.max_per_core,
            "min": conntrack.min,
            "tcpEstablishedTimeout": timeout(conntrack.tcp_established),
            "tcpCloseWaitTimeout": timeout(conntrack.tcp_close_wait),
            "tcpBeLiberal": conntrack.tcp_be_liberal,
            "udpTimeout": timeout(conntrack.udp_timeout),
            "udpStreamTimeout": timeout(conntrack.udp_stream_timeout),
        })
    }
}

fn texts(prefixes: &[Prefix]) -> Vec<String> {
    prefixes.iter().map(ToString::to_string).collect()
}

fn period(value: Duration) -> Value {
    duration::format(value).into()
}

/// `0s` where nothing is set, which reads back as nothing.
fn timeout(value: Option<Duration>) -> Value {
    period(value.unwrap_or_default())
}
