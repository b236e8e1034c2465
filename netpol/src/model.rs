//! What policies say, after the API's defaults.

use std::fmt;
use std::sync::Arc;

use crate::cidr::Cidr;
use crate::labels::Selector;

/// Protocols that have ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

    /// By its name in API objects; TCP if there is none.
    pub fn from_api(name: Option<&str>) -> Option<Protocol> {
        match name {
            None | Some("" | "TCP") => Some(Protocol::Tcp),
            Some("UDP") => Some(Protocol::Udp),
            Some("SCTP") => Some(Protocol::Sctp),
            Some(_) => None,
        }
    }

    /// Its number in IP headers.
    pub fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
            Protocol::Sctp => "SCTP",
        })
    }
}

/// A namespaced name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyName {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Which way, as seen from the pod that a policy selects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// Connections to the pod.
    Ingress,
    /// Connections from the pod.
    Egress,
}

impl Direction {
    /// Both.
    pub const ALL: [Direction; 2] = [Direction::Ingress, Direction::Egress];
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Direction::Ingress { "ingress" } else { "egress" })
    }
}

/// A NetworkPolicy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// The pods of its namespace that it is about.
    pub subject: Selector,
    /// What may come in; `None`: this policy does not isolate in this direction.
    pub ingress: Option<Vec<Rule>>,
    /// What may go out.
    pub egress: Option<Vec<Rule>>,
    /// Whether denied connections are only counted and logged.
    pub audit: bool,
}

impl Policy {
    /// The rules of a direction; `None` if it does not isolate in it.
    pub fn rules(&self, direction: Direction) -> Option<&[Rule]> {
        match direction {
            Direction::Ingress => self.ingress.as_deref(),
            Direction::Egress => self.egress.as_deref(),
        }
    }
}

/// Allows connections with one of these peers at one of these ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// `None`: any peer, also beyond the cluster.
    pub peers: Option<Vec<Peer>>,
    /// `None`: any port of any protocol.
    pub ports: Option<Vec<Port>>,
}

/// The other end.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Peer {
    /// Pods of the policy's own namespace.
    Pods(Selector),
    /// Pods of selected namespaces.
    PodsOf {
        /// Which namespaces.
        namespaces: Selector,
        /// Which of their pods.
        pods: Selector,
    },
    /// Addresses.
    Block {
        /// In this network.
        cidr: Cidr,
        /// But not in these.
        except: Vec<Cidr>,
    },
}

/// Ports of a protocol.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Port {
    /// The protocol.
    pub protocol: Protocol,
    /// Which ports of it.
    pub numbers: Numbers,
}

/// Port numbers.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Numbers {
    /// From the first to the last; all is 0 to 65535.
    Range(u16, u16),
    /// Whatever the destination pod calls so.
    Named(Arc<str>),
}

/// A ClusterNetworkPolicy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterPolicy {
    /// Before or after NetworkPolicies.
    pub tier: Tier,
    /// 0 to 1000, lower first.
    pub priority: u16,
    /// The namespaces of the pods that it is about.
    pub namespaces: Selector,
    /// Which of their pods.
    pub pods: Selector,
    /// Rules for what comes in: the first that matches counts.
    pub ingress: Vec<ClusterRule>,
    /// Rules for what goes out.
    pub egress: Vec<ClusterRule>,
}

impl ClusterPolicy {
    /// The rules of a direction.
    pub fn rules(&self, direction: Direction) -> &[ClusterRule] {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }
}

/// When a ClusterNetworkPolicy is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// Before NetworkPolicies.
    Admin,
    /// After them, for pods that none isolates.
    Baseline,
}

/// What a rule of a ClusterNetworkPolicy does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// The connection is allowed, in this direction.
    Accept,
    /// It is not.
    Deny,
    /// The rest of the tier is not asked.
    Pass,
}

/// A rule of a ClusterNetworkPolicy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterRule {
    /// Its name, if it has one.
    pub name: Arc<str>,
    /// What it does.
    pub action: Action,
    /// With whom.
    pub peers: Vec<ClusterPeer>,
    /// `None`: any port of any protocol.
    pub ports: Option<Vec<Port>>,
}

/// The other end, for a ClusterNetworkPolicy.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ClusterPeer {
    /// Pods of selected namespaces.
    PodsOf {
        /// Which namespaces.
        namespaces: Selector,
        /// Which of their pods.
        pods: Selector,
    },
    /// Addresses.
    Networks(Vec<Cidr>),
    /// Addresses of nodes.
    Nodes(Selector),
    /// Something of a newer API: it can only deny.
    Unknown,
}
