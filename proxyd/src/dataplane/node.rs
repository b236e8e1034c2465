//! What every way of programming Services depends on besides the Services: the node's settings.

use netlink::{Family, Prefix};

/// Both families, in the order in which everything is kept.
pub const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// Where a family is in what is kept for both.
pub fn index(family: Family) -> usize {
    match family {
        Family::V4 => 0,
        Family::V6 => 1,
    }
}

/// How traffic of the cluster's own pods is told from other traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodTraffic {
    /// By its source address: set `pod-cidrs`.
    Source,
    /// By the interface it comes in by.
    Interface(String),
    /// By the beginning of the interface's name.
    InterfacePrefix(String),
    /// It cannot be told: no short circuits, no masquerade of what comes from elsewhere.
    Unknown,
}

impl PodTraffic {
    /// Whether an interface tells.
    pub fn is_interface(&self) -> bool {
        matches!(self, PodTraffic::Interface(_) | PodTraffic::InterfacePrefix(_))
    }
}

/// On which addresses node ports answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodePorts {
    /// On every address of the node, but loopback.
    Everywhere,
    /// On those in the set `nodeport-addresses`.
    Listed,
    /// On the node's addresses that are in the networks of that set.
    InNetworks,
}

/// What the rules of a family depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The bit of the packet mark that asks for masquerade, between our chains only.
    pub masquerade_mark: u32,
    /// Whether every connection to a ClusterIP is masqueraded.
    pub masquerade_all: bool,
    /// How pods' traffic is told.
    pub pod_traffic: PodTraffic,
    /// Where node ports answer.
    pub nodeports: NodePorts,
    /// Whether TCP segments that conntrack cannot place are dropped where they would be forwarded: the
    /// receiver would answer an untranslated one with a reset.
    pub drop_invalid: bool,
}

/// What a family's table holds besides Services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// What the rules depend on.
    pub settings: Settings,
    /// Addresses of the cluster's pods.
    pub pod_cidrs: Vec<Prefix>,
    /// Addresses on which node ports answer.
    pub nodeport_addresses: Vec<Prefix>,
    /// Ranges that ClusterIPs come from.
    pub service_cidrs: Vec<Prefix>,
    /// Ports of health checks, sorted: iptables mode lets them in.
    pub health_check_ports: Vec<u16>,
}

/// What was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Elements added and deleted.
    pub elements: u64,
    /// Transactions.
    pub transactions: u64,
    /// Bytes sent to the kernel.
    pub bytes: u64,
    /// What else was not as it should have been, found by a full comparison.
    pub repairs: Vec<String>,
    /// Families of which nothing may have been written, and why; the others are in force.
    pub failed: Vec<(Family, netlink::Error)>,
    /// Why something that does nothing any more could not be removed: a full comparison tries it again.
    pub kept: Vec<(Family, netlink::Error)>,
}
