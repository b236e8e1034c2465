//! The names of our tables, sets and chains, as an operator sees them.

use std::fmt;

use netlink::Family;
use netlink::nftables::{DataType, Set, Table, TableFamily};

/// The table of a family.
pub(in crate::dataplane) fn table(family: Family) -> Table<'static> {
    let family = match family {
        Family::V4 => TableFamily::Ip,
        Family::V6 => TableFamily::Ip6,
    };
    Table { family, name: "viaduct" }
}

/// Where a frontend's key begins: with an address, or (node ports) with the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Keys {
    Ip,
    NodePort,
}

/// Which of a frontend's two lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum List {
    /// The only one, or the Cluster policy's.
    Primary,
    /// The Local policy's, beside the Cluster policy's.
    Local,
}

/// A set or map of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum SetId {
    /// Maps of list elements: frontend and slot to endpoint.
    Endpoints(Keys, List),
    /// The same with session affinity: to the number of an endpoint.
    EndpointIds(Keys, List),
    /// Number to endpoint.
    Backends,
    /// Client and service to number, made by the packet path.
    Affinity,
    Hairpin,
    SourceAllowed,
    SourceRestricted,
    PodCidrs,
    NodePortAddresses,
    /// Number to chain.
    Targets,
    /// Where a frontend leads: a number of `targets`, …
    Services(Keys),
    /// … with the Local policy: traffic of pods and of the node,
    ShortCircuits(Keys),
    /// … and all other traffic.
    LocalServices(Keys),
    NoEndpoints(Keys),
    ClusterIps,
    ServiceCidrs,
}

/// Elements that the packet path may hold at once.
const AFFINITY_SIZE: u32 = 65_536;

impl SetId {
    /// All sets, in the order in which elements are added: nothing leads to what is not there yet.
    pub(super) const ALL: [SetId; 26] = {
        use Keys::{Ip, NodePort};
        use List::{Local, Primary};
        [
            SetId::Endpoints(Ip, Primary),
            SetId::Endpoints(Ip, Local),
            SetId::Endpoints(NodePort, Primary),
            SetId::Endpoints(NodePort, Local),
            SetId::EndpointIds(Ip, Primary),
            SetId::EndpointIds(Ip, Local),
            SetId::EndpointIds(NodePort, Primary),
            SetId::EndpointIds(NodePort, Local),
            SetId::Backends,
            SetId::Affinity,
            SetId::Hairpin,
            SetId::SourceAllowed,
            SetId::SourceRestricted,
            SetId::PodCidrs,
            SetId::NodePortAddresses,
            SetId::Targets,
            SetId::Services(Ip),
            SetId::Services(NodePort),
            SetId::ShortCircuits(Ip),
            SetId::ShortCircuits(NodePort),
            SetId::LocalServices(Ip),
            SetId::LocalServices(NodePort),
            SetId::NoEndpoints(Ip),
            SetId::NoEndpoints(NodePort),
            SetId::ClusterIps,
            SetId::ServiceCidrs,
        ]
    };

    pub(super) fn name(self) -> &'static str {
        use Keys::{Ip, NodePort};
        use List::{Local, Primary};
        match self {
            SetId::Endpoints(Ip, Primary) => "endpoints",
            SetId::Endpoints(Ip, Local) => "local-endpoints",
            SetId::Endpoints(NodePort, Primary) => "nodeport-endpoints",
            SetId::Endpoints(NodePort, Local) => "nodeport-local-endpoints",
            SetId::EndpointIds(Ip, Primary) => "endpoint-ids",
            SetId::EndpointIds(Ip, Local) => "local-endpoint-ids",
            SetId::EndpointIds(NodePort, Primary) => "nodeport-endpoint-ids",
            SetId::EndpointIds(NodePort, Local) => "nodeport-local-endpoint-ids",
            SetId::Backends => "backends",
            SetId::Affinity => "affinity",
            SetId::Hairpin => "hairpin",
            SetId::SourceAllowed => "source-allowed",
            SetId::SourceRestricted => "source-restricted",
            SetId::PodCidrs => "pod-cidrs",
            SetId::NodePortAddresses => "nodeport-addresses",
            SetId::Targets => "targets",
            SetId::Services(Ip) => "services",
            SetId::Services(NodePort) => "nodeports",
            SetId::ShortCircuits(Ip) => "short-circuits",
            SetId::ShortCircuits(NodePort) => "nodeport-short-circuits",
            SetId::LocalServices(Ip) => "local-services",
            SetId::LocalServices(NodePort) => "nodeport-local-services",
            SetId::NoEndpoints(Ip) => "no-endpoints",
            SetId::NoEndpoints(NodePort) => "no-endpoint-nodeports",
            SetId::ClusterIps => "cluster-ips",
            SetId::ServiceCidrs => "service-cidrs",
        }
    }

    /// Whether several frontends can need the same element.
    pub(super) fn is_shared(self) -> bool {
        matches!(self, SetId::Backends | SetId::Hairpin | SetId::ClusterIps)
    }

    /// Whether elements do nothing until another one leads to them.
    pub(super) fn is_inert(self) -> bool {
        matches!(self, SetId::Endpoints(..) | SetId::EndpointIds(..) | SetId::Backends)
    }

    /// The set as the kernel knows it.
    pub(super) fn spec(self, family: Family) -> Set<'static> {
        use DataType::{ClassId, InetProto, InetService, Ipv4Addr, Ipv6Addr, Mark};
        const FRONTEND: [&[DataType]; 2] =
            [&[Ipv4Addr, InetProto, InetService], &[Ipv6Addr, InetProto, InetService]];
        const SLOT: [&[DataType]; 2] =
            [&[Ipv4Addr, InetProto, InetService, Mark], &[Ipv6Addr, InetProto, InetService, Mark]];
        const BACKEND: [&[DataType]; 2] = [&[Ipv4Addr, InetService], &[Ipv6Addr, InetService]];
        const CLIENT: [&[DataType]; 2] = [&[Ipv4Addr, ClassId], &[Ipv6Addr, ClassId]];
        const PAIR: [&[DataType]; 2] = [&[Ipv4Addr, Ipv4Addr], &[Ipv6Addr, Ipv6Addr]];
        const SINGLE: [&[DataType]; 2] = [&[Ipv4Addr], &[Ipv6Addr]];
        const SOURCE: [&[DataType]; 2] = [
            &[Ipv4Addr, InetProto, InetService, Ipv4Addr],
            &[Ipv6Addr, InetProto, InetService, Ipv6Addr],
        ];
        const PORT: &[DataType] = &[InetProto, InetService];
        const PORT_SLOT: &[DataType] = &[InetProto, InetService, Mark];
        let of = match family {
            Family::V4 => 0,
            Family::V6 => 1,
        };
        let frontend = |keys| if keys == Keys::Ip { FRONTEND[of] } else { PORT };
        let slot = |keys| if keys == Keys::Ip { SLOT[of] } else { PORT_SLOT };
        let name = self.name();
        match self {
            SetId::Endpoints(keys, _) => Set::new(name, slot(keys)).map(BACKEND[of]),
            SetId::EndpointIds(keys, _) => Set::new(name, slot(keys)).map(&[ClassId]),
            SetId::Backends => Set::new(name, &[ClassId]).map(BACKEND[of]),
            SetId::Affinity => Set::new(name, CLIENT[of]).map(&[ClassId]).dynamic(AFFINITY_SIZE),
            SetId::Hairpin => Set::new(name, PAIR[of]),
            SetId::SourceAllowed => Set::new(name, SOURCE[of]).ranges(),
            SetId::SourceRestricted => Set::new(name, FRONTEND[of]),
            SetId::PodCidrs | SetId::NodePortAddresses | SetId::ServiceCidrs => {
                Set::new(name, SINGLE[of]).ranges()
            }
            SetId::Targets => Set::new(name, &[ClassId]).verdict_map(),
            SetId::Services(keys) => Set::new(name, frontend(keys)).map(&[ClassId]).counted(),
            SetId::NoEndpoints(keys) => Set::new(name, frontend(keys)).verdict_map().counted(),
            SetId::ShortCircuits(keys) | SetId::LocalServices(keys) => {
                Set::new(name, frontend(keys)).verdict_map()
            }
            SetId::ClusterIps => Set::new(name, SINGLE[of]),
        }
    }
}

/// How a connection gets its endpoint: one chain for all frontends that do it alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Pick {
    pub(super) keys: Keys,
    pub(super) list: List,
    pub(super) masquerade: bool,
    /// Session affinity: its timeout in seconds.
    pub(super) sticky: Option<u32>,
    /// Endpoints to choose from.
    pub(super) count: u32,
}

/// A chain that elements lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Target {
    Pick(Pick),
    /// The Local policy, for traffic from outside.
    External(Keys),
    Reject,
    /// No endpoint on this node.
    Drop,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = |keys| if keys == Keys::NodePort { "nodeport-" } else { "" };
        match self {
            // `reject` alone is a word of nft.
            Target::Reject => f.write_str("reject-chain"),
            Target::Drop => f.write_str("drop-no-local-endpoint"),
            Target::External(keys) => write!(f, "{}external-local", prefix(*keys)),
            Target::Pick(pick) => {
                f.write_str(prefix(pick.keys))?;
                f.write_str(if pick.sticky.is_some() { "sticky-" } else { "pick-" })?;
                f.write_str(if pick.list == List::Local { "local-" } else { "" })?;
                f.write_str(if pick.masquerade { "masq-" } else { "" })?;
                write!(f, "{}", pick.count)?;
                match pick.sticky {
                    Some(seconds) => write!(f, "-{seconds}s"),
                    None => Ok(()),
                }
            }
        }
    }
}

impl Target {
    /// The chain of this name, if it is one of ours.
    pub(super) fn parse(name: &str) -> Option<Target> {
        let fixed = [
            Target::Reject,
            Target::Drop,
            Target::External(Keys::Ip),
            Target::External(Keys::NodePort),
        ];
        if let Some(target) = fixed.into_iter().find(|target| target.to_string() == name) {
            return Some(target);
        }
        let (keys, rest) = match name.strip_prefix("nodeport-") {
            Some(rest) => (Keys::NodePort, rest),
            None => (Keys::Ip, name),
        };
        let (is_sticky, rest) = match rest.strip_prefix("sticky-") {
            Some(rest) => (true, rest),
            None => (false, rest.strip_prefix("pick-")?),
        };
        let (list, rest) = match rest.strip_prefix("local-") {
            Some(rest) => (List::Local, rest),
            None => (List::Primary, rest),
        };
        let (masquerade, rest) = match rest.strip_prefix("masq-") {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        let (count, sticky) = match (is_sticky, rest.split_once('-')) {
            (true, Some((count, timeout))) => {
                (count, Some(timeout.strip_suffix('s')?.parse().ok()?))
            }
            (false, None) => (rest, None),
            _ => return None,
        };
        let pick = Pick { keys, list, masquerade, sticky, count: count.parse().ok()? };
        Some(Target::Pick(pick)).filter(|target| target.to_string() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_names_are_recognised() {
        for keys in [Keys::Ip, Keys::NodePort] {
            for list in [List::Primary, List::Local] {
                for masquerade in [false, true] {
                    for sticky in [None, Some(10_800)] {
                        let pick = Pick { keys, list, masquerade, sticky, count: 17 };
                        let target = Target::Pick(pick);
                        assert_eq!(Target::parse(&target.to_string()), Some(target));
                    }
                }
            }
        }
        for name in ["pick-", "pick-03", "sticky-3", "pick-3-5s", "services", "nodeport-pick-x"] {
            assert_eq!(Target::parse(name), None, "{name}");
        }
    }
}
