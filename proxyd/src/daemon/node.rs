//! What follows from the node: its name, its settings, and the parts of the tables that do not come
//! from Services.

use std::net::IpAddr;
use std::sync::Arc;

use netlink::{Errno, Family, Prefix, sysctl};

use crate::cluster::{self, Cluster};
use crate::config::{Config, LocalDetection, Mode, NodePortScope, SourceConfig};
use crate::dataplane::{FAMILIES, Node, NodePorts, PodTraffic, Settings};
use crate::service::Rules;
use crate::service::endpoints::Place;

/// This node's name: as configured, else the host's, in lower case.
pub fn name(config: &Config) -> Arc<str> {
    match &config.hostname_override {
        Some(name) => name.as_str().into(),
        None => {
            let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
            host.trim().to_lowercase().into()
        }
    }
}

/// What plans of Services depend on.
pub fn rules(config: &Config, cluster: &Cluster) -> Rules {
    let node = cluster.this_node();
    Rules {
        place: Place {
            node: Arc::clone(cluster.node_name()),
            zone: node.and_then(|node| node.zone.clone()),
        },
        external_ips: config.external_ips,
        node_addresses: node.map(|node| node.addresses.clone()).unwrap_or_default(),
    }
}

/// What the tables of both families hold besides Services.
pub fn tables(config: &Config, cluster: &Cluster, be_liberal: bool) -> [Node; 2] {
    FAMILIES.map(|family| {
        let this = cluster.this_node();
        let (pod_traffic, pod_cidrs) = pod_traffic(config, this, family);
        let (nodeports, nodeport_addresses) = nodeports(config, this, family);
        Node {
            settings: Settings {
                masquerade_mark: 1 << config.masquerade_bit,
                masquerade_all: config.masquerade_all,
                pod_traffic,
                nodeports,
                drop_invalid: !be_liberal,
            },
            pod_cidrs,
            nodeport_addresses,
            service_cidrs: cluster.service_cidrs().to_vec(),
            health_check_ports: Vec::new(),
        }
    })
}

fn pod_traffic(
    config: &Config,
    node: Option<&cluster::Node>,
    family: Family,
) -> (PodTraffic, Vec<Prefix>) {
    let by_source = |cidrs: &[Prefix]| {
        let own: Vec<Prefix> = cidrs.iter().copied().filter(|c| c.family() == family).collect();
        let kind = if own.is_empty() { PodTraffic::Unknown } else { PodTraffic::Source };
        (kind, own)
    };
    match &config.local_detection {
        LocalDetection::ClusterCidr(cidrs) => by_source(cidrs),
        LocalDetection::NodeCidr => by_source(node.map_or(&[], |node| &node.pod_cidrs)),
        LocalDetection::BridgeInterface(name) => (PodTraffic::Interface(name.clone()), Vec::new()),
        LocalDetection::InterfaceNamePrefix(prefix) => {
            (PodTraffic::InterfacePrefix(prefix.clone()), Vec::new())
        }
        LocalDetection::None => (PodTraffic::Unknown, Vec::new()),
    }
}

/// The node's own address of a family, if it is known.
fn primary(config: &Config, node: Option<&cluster::Node>, family: Family) -> Option<IpAddr> {
    let of_family = |ips: &[IpAddr]| ips.iter().copied().find(|ip| Family::of(*ip) == family);
    of_family(&config.node_ip).or_else(|| of_family(&node?.addresses))
}

fn nodeports(
    config: &Config,
    node: Option<&cluster::Node>,
    family: Family,
) -> (NodePorts, Vec<Prefix>) {
    let (wants_primary, cidrs) = match config.nodeport_addresses.scope(family, config.mode) {
        NodePortScope::All => return (NodePorts::Everywhere, Vec::new()),
        NodePortScope::Listed { primary, cidrs } => (primary, cidrs),
    };
    let own = primary(config, node, family);
    if wants_primary && own.is_none() && cidrs.is_empty() && node.is_none() {
        // Nobody told us the node's addresses, as on a machine without a Node object.
        return (NodePorts::Everywhere, Vec::new());
    }
    // Loopback is served by the relay alone.
    let mut listed: Vec<Prefix> = cidrs.iter().copied().filter(|c| !is_loopback(*c)).collect();
    let kind = if listed.is_empty() { NodePorts::Listed } else { NodePorts::InNetworks };
    listed.extend(own.filter(|_| wants_primary).map(Prefix::host));
    (kind, listed)
}

/// In which families node ports answer on loopback addresses: by a relay in every mode, since the packets of
/// iptables mode's own way (`route_localnet`) could come from outside too (CVE-2020-8558).
pub fn localhost_nodeports(config: &Config) -> [bool; 2] {
    let addresses = &config.nodeport_addresses;
    let explicit = FAMILIES.map(|family| addresses.localhost(family));
    let by_default = config.mode == Mode::Iptables
        && config.iptables_localhost_nodeports
        && match addresses.scope(Family::V4, config.mode) {
            NodePortScope::All => true,
            NodePortScope::Listed { cidrs, .. } => {
                cidrs.iter().any(|cidr| cidr.contains(std::net::Ipv4Addr::LOCALHOST.into()))
            }
        };
    [explicit[0] || by_default, explicit[1]]
}

fn is_loopback(prefix: Prefix) -> bool {
    prefix.first().is_loopback() && prefix.last().is_loopback()
}

/// Whether conntrack lets segments out of their window pass anyway.
pub fn be_liberal() -> bool {
    sysctl::read("net/netfilter/nf_conntrack_tcp_be_liberal").is_ok_and(|value| value != "0")
}

/// The largest `nf_conntrack_max` that is set unasked.
const CONNTRACK_CEILING: u32 = 1 << 20;

/// Sets the node's settings that forwarding needs, and says what it changed. What may not be set here
/// is somebody else's, and told.
pub fn prepare(config: &Config) {
    ensure("net/ipv4/ip_forward", "1");
    enable_ipv6_forwarding();
    // Packets between two pods of one bridge are translated back only if they pass the IP layer's hooks.
    for name in ["net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables"] {
        if needs_bridge_hooks(config) {
            ensure(name, "1");
        } else if sysctl::read(name).is_ok_and(|value| value == "0") {
            tracing::warn!(
                "{name} is 0: a pod does not reach a Service by way of a pod on the same bridge; set it to 1 if pods are attached to bridges"
            );
        }
    }
    let conntrack = &config.conntrack;
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32);
    if conntrack.max_per_core > 0 {
        let wanted = conntrack.max_per_core.saturating_mul(cores).min(CONNTRACK_CEILING);
        at_least("net/netfilter/nf_conntrack_max", wanted.max(conntrack.min));
    }
    if conntrack.tcp_be_liberal {
        ensure("net/netfilter/nf_conntrack_tcp_be_liberal", "1");
    }
    for (setting, timeout) in [
        ("nf_conntrack_tcp_timeout_established", conntrack.tcp_established),
        ("nf_conntrack_tcp_timeout_close_wait", conntrack.tcp_close_wait),
        ("nf_conntrack_udp_timeout", conntrack.udp_timeout),
        ("nf_conntrack_udp_timeout_stream", conntrack.udp_stream_timeout),
    ] {
        if let Some(timeout) = timeout {
            let seconds = timeout.as_secs().max(1);
            ensure(&format!("net/netfilter/{setting}"), &seconds.to_string());
        }
    }
    if let Some(adjust) = config.oom_score_adj
        && let Err(error) = std::fs::write("/proc/self/oom_score_adj", adjust.to_string())
    {
        tracing::debug!("oom_score_adj {adjust}: {error}");
    }
}

fn enable_ipv6_forwarding() {
    let set = netlink::RouteSocket::open()
        .and_then(|mut socket| attachment::advertisements::enable_ipv6_forwarding(&mut socket));
    match set {
        Ok(names) => names.iter().for_each(|name| tracing::info!("set {name}")),
        Err(error) => tracing::warn!("{error}: switch IPv6 forwarding on yourself"),
    }
}

/// Whether this daemon enforces policies, so that packets between two pods of one bridge must pass its rules.
pub fn needs_bridge_hooks(config: &Config) -> bool {
    config.network_config.is_some() || matches!(config.source, SourceConfig::Manifests(_))
}

/// The sysctls of the whole node without which pods are cut off. Those that the kernel lacks are left out.
pub fn needed_sysctls(bridge_hooks: bool) -> Vec<(&'static str, &'static str)> {
    const FORWARDING: [&str; 2] = ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"];
    const BRIDGES: [&str; 2] =
        ["net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables"];
    let names = FORWARDING.into_iter().chain(BRIDGES.into_iter().filter(|_| bridge_hooks));
    names.filter(|name| sysctl::read(name).is_ok()).map(|name| (name, "1")).collect()
}

fn ensure(name: &str, value: &str) {
    match sysctl::ensure(name, value) {
        Ok(true) => tracing::info!("set {name} to {value}"),
        Ok(false) => {}
        Err(error) if error.errno == Errno::NOENT => tracing::debug!("{error}"),
        Err(error) => tracing::warn!("{error}: set {name} to {value} yourself"),
    }
}

fn at_least(name: &str, wanted: u32) {
    let now = sysctl::read(name).ok().and_then(|value| value.parse::<u32>().ok());
    if now.is_some_and(|now| now < wanted) {
        ensure(name, &wanted.to_string());
    }
}
