//! Chains that are there whatever Services there are, and how the kernel's own chains lead to ours.

use netlink::{Family, Prefix};

use super::names::{
    ELSEWHERE, FORWARD, INPUT, MASQUERADE, NEW, POSTROUTING, REJECT, SERVICES, Table, comment,
};
use crate::dataplane::{Node, NodePorts, PodTraffic};

/// Roots of the search trees.
pub(super) const ADDRESSES: &str = "VIADUCT-ADDRESSES";
pub(super) const NODEPORTS: &str = "VIADUCT-NODEPORTS";
pub(super) const HAIRPIN: &str = "VIADUCT-HAIRPIN";
pub(super) const NO_ENDPOINTS: &str = "VIADUCT-NO-ENDPOINTS";
pub(super) const NO_NODEPORTS: &str = "VIADUCT-NO-NODEPORTS";
pub(super) const CLUSTER_IPS: &str = "VIADUCT-CLUSTER-IPS";
pub(super) const RANGES: &str = "VIADUCT-RANGES";

/// A rule of one of the kernel's own chains (or a stranger's) that leads to one of ours.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Jump {
    pub(super) table: Table,
    /// The chain, and the rule.
    pub(super) chain: String,
    pub(super) rule: String,
}

/// The rules that lead to our chains.
pub(super) fn jumps(restricted: bool) -> Vec<Jump> {
    let new = "-m conntrack --ctstate NEW ";
    let mut jumps = Vec::new();
    let mut add = |table, chain: &str, condition: &str, why, to| {
        let rule = format!("{condition}{} -j {to}", comment(why));
        jumps.push(Jump { table, chain: chain.to_owned(), rule });
    };
    if restricted {
        for chain in ["PREROUTING", "OUTPUT"] {
            add(Table::Mangle, chain, new, "viaduct: who may use a load balancer", RANGES);
        }
    }
    for chain in ["PREROUTING", "OUTPUT"] {
        add(Table::Nat, chain, "", "viaduct: Services", SERVICES);
    }
    add(Table::Nat, "POSTROUTING", "", "viaduct: who is seen as the node", POSTROUTING);
    add(Table::Filter, "INPUT", "", "viaduct: Services without endpoints", INPUT);
    add(Table::Filter, "FORWARD", "", "viaduct: Services", FORWARD);
    add(Table::Filter, "OUTPUT", new, "viaduct: Services without endpoints", NEW);
    jumps
}

/// A network as a condition; everything is none.
pub(super) fn from_to(side: &str, prefix: Prefix) -> String {
    match prefix.length() {
        0 => String::new(),
        length => format!("{side} {}/{length} ", prefix.first()),
    }
}

/// Sets the bit that asks for masquerade.
pub(super) fn set_mark(node: &Node) -> String {
    let bit = node.settings.masquerade_mark;
    format!("-j MARK --set-xmark {bit:#x}/{bit:#x}")
}

/// Packets to an address on which node ports answer: any of these conditions.
fn to_nodeport_address(family: Family, node: &Node) -> Vec<String> {
    let own = "-m addrtype --dst-type LOCAL ";
    let listed = node.nodeport_addresses.iter().filter(|prefix| prefix.family() == family);
    let listed = listed.map(|prefix| from_to("-d", *prefix));
    match (node.settings.nodeports, family) {
        (NodePorts::Everywhere, Family::V4) => vec![format!("! -d 127.0.0.0/8 {own}")],
        (NodePorts::Everywhere, Family::V6) => vec![format!("! -d ::1/128 {own}")],
        (NodePorts::Listed, _) => listed.collect(),
        (NodePorts::InNetworks, _) => listed.map(|to| to + own).collect(),
    }
}

/// The rules of all constant chains.
pub(super) fn chains(family: Family, node: &Node) -> Vec<(Table, &'static str, Vec<String>)> {
    let new = "-m conntrack --ctstate NEW ";
    let settings = &node.settings;
    let bit = settings.masquerade_mark;
    let to_node = to_nodeport_address(family, node);

    let mut services = vec![format!("-j {ADDRESSES}")];
    services.extend(to_node.iter().map(|to| format!("{to}-j {NODEPORTS}")));
    // Both are for connections that were translated; whoever is marked was.
    let postrouting = vec![
        format!("-m mark --mark {bit:#x}/{bit:#x} -g {MASQUERADE}"),
        format!("-m conntrack --ctstate DNAT -j {HAIRPIN}"),
    ];
    let masquerade = vec![
        format!("-j MARK --set-xmark {bit:#x}/0x0"),
        "-j MASQUERADE --random-fully".to_owned(),
    ];

    let ports = node.health_check_ports.iter();
    let mut input: Vec<String> = ports
        .map(|port| {
            let why = comment("viaduct: health check node port");
            format!("-p tcp -m tcp --dport {port} {why} -j ACCEPT")
        })
        .collect();
    input.extend(to_node.iter().map(|to| format!("{to}{new}-j {NO_NODEPORTS}")));
    input.push(format!("{new}-j {NO_ENDPOINTS}"));

    let mut forward = vec!["-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT".to_owned()];
    if settings.drop_invalid {
        let why = comment("viaduct: out of every connection");
        forward.push(format!("-p tcp -m conntrack --ctstate INVALID {why} -j DROP"));
    }
    forward.push(format!("-m mark --mark {bit:#x}/{bit:#x} -j ACCEPT"));
    forward.push(format!("{new}-j {NEW}"));

    let mut fresh = vec![
        "-m conntrack --ctstate DNAT -j RETURN".to_owned(),
        format!("-j {NO_ENDPOINTS}"),
        format!("-j {CLUSTER_IPS}"),
    ];
    let ranges = node.service_cidrs.iter().filter(|prefix| prefix.family() == family);
    fresh.extend(ranges.map(|range| {
        format!("{}{} -j DROP", from_to("-d", *range), comment("viaduct: to no Service"))
    }));

    let unreachable = match family {
        Family::V4 => "icmp-port-unreachable",
        Family::V6 => "icmp6-port-unreachable",
    };
    let reject = vec![
        "-p tcp -j REJECT --reject-with tcp-reset".to_owned(),
        format!("-j REJECT --reject-with {unreachable}"),
    ];
    vec![
        (Table::Nat, SERVICES, services),
        (Table::Nat, ELSEWHERE, elsewhere(family, node)),
        (Table::Nat, MASQUERADE, masquerade),
        (Table::Nat, POSTROUTING, postrouting),
        (Table::Filter, INPUT, input),
        (Table::Filter, FORWARD, forward),
        (Table::Filter, NEW, fresh),
        (Table::Filter, REJECT, reject),
    ]
}

/// Marks what comes to a ClusterIP from elsewhere than the cluster's pods.
fn elsewhere(family: Family, node: &Node) -> Vec<String> {
    let mark = set_mark(node);
    if node.settings.masquerade_all {
        return vec![mark];
    }
    match &node.settings.pod_traffic {
        PodTraffic::Source => {
            let pods =
                pod_cidrs(family, node).map(|pods| format!("{}-j RETURN", from_to("-s", pods)));
            pods.chain([mark]).collect()
        }
        // What the node itself sends comes in by no interface.
        PodTraffic::Interface(name) => vec![format!("! -i {name} {mark}")],
        PodTraffic::InterfacePrefix(prefix) => vec![format!("! -i {prefix}+ {mark}")],
        PodTraffic::Unknown => Vec::new(),
    }
}

fn pod_cidrs(family: Family, node: &Node) -> impl Iterator<Item = Prefix> {
    node.pod_cidrs.iter().copied().filter(move |prefix| prefix.family() == family)
}

/// Packets from the cluster's pods: any of these conditions.
pub(super) fn from_pods(family: Family, node: &Node) -> Vec<String> {
    match &node.settings.pod_traffic {
        PodTraffic::Source => pod_cidrs(family, node).map(|pods| from_to("-s", pods)).collect(),
        PodTraffic::Interface(name) => vec![format!("-i {name} ")],
        PodTraffic::InterfacePrefix(prefix) => vec![format!("-i {prefix}+ ")],
        PodTraffic::Unknown => Vec::new(),
    }
}
