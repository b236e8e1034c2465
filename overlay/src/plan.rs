//! [`plan()`]: from the node list to what the kernel should hold. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use netlink::{Family, IfIndex, MacAddress, Prefix};

use crate::Result;
use crate::config::{
    Backend, Config, Node, Underlay, Vxlan, device_family, own_node, underlay_family, vtep_mac,
    vxlan_device_name,
};
use crate::state::{Device, PeerRoute, State, Through};

/// What the kernel should hold, and what of the node list could not be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What the kernel should hold.
    pub desired: State,
    /// The underlay device.
    pub underlay: IfIndex,
    /// Other nodes that have a route.
    pub routed: usize,
    /// What was left out and why, one sentence each. One bad node never stops the others.
    pub problems: Vec<String>,
}

/// The smallest MTU with which a device takes an IPv6 address (RFC 8200).
const IPV6_MTU_MIN: u32 = 1280;

/// Plans this node's overlay. Of two nodes with one pod subnet, the one that comes first in the list gets it.
pub fn plan(config: &Config, nodes: &[Node], underlay: &Underlay) -> Result<Plan> {
    let own = own_node(config, nodes)?;
    let family =
        device_family(config, own, underlay).unwrap_or_else(|| underlay_family(own, nodes));
    let own_vtep = own.vtep(family).unwrap_or((own.address, vtep_mac(own.address)));
    let mut planner = Planner {
        own,
        own_vtep,
        underlay,
        family,
        desired: State::default(),
        owners: own.pod_cidrs.iter().map(|cidr| (cidr.network(), own.name.as_str())).collect(),
        problems: Vec::new(),
        without_ipv6: false,
    };
    if let Backend::Vxlan(vxlan) = &config.backend {
        planner.tunnel(vxlan);
    }
    for node in nodes.iter().filter(|node| node.name != own.name) {
        for cidr in &node.pod_cidrs {
            planner.peer(node, cidr.network(), &config.backend);
        }
    }
    let mut routed: Vec<&str> = planner.owners.values().copied().collect();
    routed.sort_unstable();
    routed.dedup();
    Ok(Plan {
        desired: planner.desired,
        underlay: underlay.link,
        routed: routed.iter().filter(|name| **name != own.name).count(),
        problems: planner.problems,
    })
}

struct Planner<'a> {
    own: &'a Node,
    /// This node's address in the underlay, and the Ethernet address of its tunnel end.
    own_vtep: (IpAddr, MacAddress),
    underlay: &'a Underlay,
    /// The family of the underlay of tunnels.
    family: Family,
    desired: State,
    /// The node that owns each pod subnet.
    owners: BTreeMap<Prefix, &'a str>,
    problems: Vec<String>,
    /// Whether the tunnel's MTU is too small for IPv6.
    without_ipv6: bool,
}

impl<'a> Planner<'a> {
    fn tunnel(&mut self, vxlan: &Vxlan) {
        let (local, mac) = self.own_vtep;
        let overhead = Vxlan::overhead(self.family);
        let mtu = self.underlay.mtu.saturating_sub(overhead);
        self.without_ipv6 = mtu < IPV6_MTU_MIN;
        let usable = |cidr: &&Prefix| !self.without_ipv6 || cidr.family() == Family::V4;
        let own = self.own.pod_cidrs.iter();
        let addresses = own.clone().filter(usable).map(|cidr| Prefix::host(cidr.first())).collect();
        if own.clone().any(|cidr| !usable(&cidr)) {
            let Underlay { name, mtu: uplink, .. } = self.underlay;
            self.problems.push(format!(
                "IPv6 pod subnets are not routed: {name} has an MTU of {uplink} bytes, less {overhead} for the tunnel leaves {mtu}, and IPv6 needs {IPV6_MTU_MIN}"
            ));
        }
        self.desired.device = Some(Device {
            name: vxlan_device_name(vxlan.vni),
            vni: vxlan.vni,
            port: vxlan.port,
            lower: self.underlay.link,
            local,
            mac,
            mtu,
            addresses,
            up: true,
            tx_checksum_offload: vxlan.tx_checksum_offload,
        });
    }

    fn peer(&mut self, node: &'a Node, cidr: Prefix, backend: &Backend) {
        if let Some(owner) = self.overlapping(cidr) {
            let problem = format!("pod subnet {cidr} overlaps one of node {owner:?}");
            return self.problem(node, problem);
        }
        let added = match backend {
            Backend::HostGw => self.direct(node, cidr),
            Backend::Vxlan(vxlan) => {
                if vxlan.direct_routing && self.direct_gateway(node, cidr.family()).is_some() {
                    self.direct(node, cidr)
                } else if self.without_ipv6 && cidr.family() == Family::V6 {
                    return;
                } else {
                    self.tunnelled(node, cidr)
                }
            }
        };
        match added {
            Ok(()) => drop(self.owners.insert(cidr, &node.name)),
            Err(problem) => self.problem(node, problem),
        }
    }

    fn problem(&mut self, node: &Node, problem: String) {
        self.problems.push(format!("node {:?} is left out: {problem}", node.name));
    }

    /// The owner of a pod subnet that shares an address with this one. The known ones are apart from each
    /// other, so only the one before can hold it, and only the one after can be inside.
    fn overlapping(&self, cidr: Prefix) -> Option<&'a str> {
        let before = self.owners.range(..=cidr).next_back();
        let after = self.owners.range(cidr..).next();
        let near = before.into_iter().chain(after);
        near.filter(|(prefix, _)| prefix.overlaps(cidr)).map(|(_, owner)| *owner).next()
    }

    /// Whether an address is one of this node's own.
    fn is_own(&self, address: IpAddr) -> bool {
        let own = &self.own;
        own.address == address
            || own.addresses.contains(&address)
            || self.underlay.subnets.iter().any(|subnet| subnet.address() == address)
    }

    /// The peer's address of a family, if this node's underlay reaches it without a router.
    fn direct_gateway(&self, node: &Node, family: Family) -> Option<IpAddr> {
        node.address_of(family).filter(|address| self.underlay.is_on_link(*address))
    }

    fn direct(&mut self, node: &Node, cidr: Prefix) -> std::result::Result<(), String> {
        let family = cidr.family();
        let gateway = self.direct_gateway(node, family).ok_or_else(|| {
            match node.address_of(family) {
                Some(address) => format!(
                    "its address {address} is on no subnet of {}: host-gw needs a shared subnet, VXLAN does not",
                    self.underlay.name
                ),
                None => format!("it has no {family} address for its pod subnet {cidr}"),
            }
        })?;
        if self.is_own(gateway) {
            return Err(format!("its address {gateway} is this node's own"));
        }
        let route = PeerRoute { gateway, through: Through::Underlay };
        self.desired.routes.insert(cidr, route);
        Ok(())
    }

    fn tunnelled(&mut self, node: &Node, cidr: Prefix) -> std::result::Result<(), String> {
        let (address, mac) = node.vtep(self.family).ok_or_else(|| {
            let (family, own) = (self.family, self.own_vtep.0);
            format!("it has no {family} address, which this node's underlay address {own} needs")
        })?;
        if self.is_own(address) {
            return Err(format!("its address {address} is this node's own"));
        }
        if let Some(other) = self.desired.forwarding.get(&mac).filter(|a| **a != address) {
            return Err(format!("its VTEP address {mac} is that of the node at {other} too"));
        }
        if mac == self.own_vtep.1 {
            return Err(format!("its VTEP address {mac} is this node's own"));
        }
        let gateway = cidr.first();
        self.desired.neighbours.insert(gateway, mac);
        self.desired.forwarding.insert(mac, address);
        self.desired.routes.insert(cidr, PeerRoute { gateway, through: Through::Tunnel });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: u8) -> Node {
        Node {
            name: format!("n{number}"),
            address: format!("192.168.0.{number}").parse().unwrap(),
            addresses: vec![format!("fd00:192::{number}").parse().unwrap()],
            pod_cidrs: vec![
                format!("10.244.{number}.0/24").parse().unwrap(),
                format!("fd00:{number}::/64").parse().unwrap(),
            ],
            vtep_mac: None,
        }
    }

    fn underlay() -> Underlay {
        Underlay {
            link: IfIndex(2),
            name: "eth0".into(),
            mtu: 1500,
            subnets: vec!["192.168.0.1/24".parse().unwrap(), "fd00:192::1/64".parse().unwrap()],
        }
    }

    fn config(backend: Backend) -> Config {
        Config { backend, node_name: "n1".into(), device: None }
    }

    fn vxlan(direct_routing: bool) -> Backend {
        Backend::Vxlan(Vxlan { vni: 1, port: 8472, direct_routing, tx_checksum_offload: None })
    }

    #[test]
    fn a_vxlan_peer_is_a_neighbour_a_forwarding_entry_and_a_route_per_family() {
        let nodes = [node(1), node(2), node(3)];
        let plan = plan(&config(vxlan(false)), &nodes, &underlay()).unwrap();
        assert_eq!(plan.problems, Vec::<String>::new());
        assert_eq!(plan.desired.neighbours.len(), 4);
        assert_eq!(plan.desired.forwarding.len(), 2);
        assert_eq!(plan.desired.routes.len(), 4);
        let device = plan.desired.device.unwrap();
        assert_eq!(device.mtu, 1450);
        assert_eq!(device.mac, vtep("192.168.0.1"));
        let route = plan.desired.routes[&"10.244.2.0/24".parse().unwrap()];
        assert_eq!(route.gateway.to_string(), "10.244.2.0");
        assert_eq!(plan.desired.neighbours[&route.gateway], vtep("192.168.0.2"));
    }

    fn vtep(address: &str) -> netlink::MacAddress {
        crate::vtep_mac(address.parse().unwrap())
    }

    #[test]
    fn an_ipv6_underlay_costs_twenty_bytes_more() {
        let mut nodes = [node(1), node(2)];
        for node in &mut nodes {
            node.address = node.addresses[0];
        }
        let plan = plan(&config(vxlan(false)), &nodes, &underlay()).unwrap();
        assert_eq!(plan.desired.device.unwrap().mtu, 1430);
    }

    #[test]
    fn host_gw_leaves_out_a_node_behind_a_router_and_keeps_the_others() {
        let mut nodes = [node(1), node(2), node(3)];
        nodes[2].address = "192.168.9.3".parse().unwrap();
        let plan = plan(&config(Backend::HostGw), &nodes, &underlay()).unwrap();
        assert!(plan.desired.device.is_none());
        assert_eq!(plan.desired.routes.len(), 3, "n2 in both families, n3 in IPv6");
        assert_eq!(plan.problems.len(), 1);
        assert!(plan.problems[0].contains("\"n3\"") && plan.problems[0].contains("192.168.9.3"));
    }

    #[test]
    fn direct_routing_uses_the_tunnel_only_behind_a_router() {
        let mut nodes = [node(1), node(2), node(3)];
        nodes[2].address = "192.168.9.3".parse().unwrap();
        nodes[2].addresses.clear();
        let plan = plan(&config(vxlan(true)), &nodes, &underlay()).unwrap();
        let through = |cidr: &str| plan.desired.routes[&cidr.parse().unwrap()].through;
        assert_eq!(through("10.244.2.0/24"), Through::Underlay);
        assert_eq!(through("10.244.3.0/24"), Through::Tunnel);
        assert_eq!(plan.desired.forwarding.len(), 1);
    }

    #[test]
    fn a_pod_subnet_belongs_to_the_first_who_has_it() {
        for stolen in ["10.244.2.0/24", "10.244.2.128/25", "10.244.0.0/16", "10.244.1.0/24"] {
            let mut nodes = [node(1), node(2), node(3)];
            nodes[2].pod_cidrs = vec![stolen.parse().unwrap()];
            let plan = plan(&config(vxlan(false)), &nodes, &underlay()).unwrap();
            assert_eq!(plan.problems.len(), 1, "{stolen}");
            assert_eq!(plan.desired.routes.len(), 2, "{stolen}");
        }
    }

    #[test]
    fn the_order_of_addresses_does_not_matter() {
        let mut nodes = [node(1), node(2), node(3)];
        nodes[1].addresses = vec![nodes[1].address];
        nodes[1].address = "fd00:192::2".parse().unwrap();
        let plan = plan(&config(vxlan(false)), &nodes, &underlay()).unwrap();
        assert_eq!(plan.problems, Vec::<String>::new());
        let peer: IpAddr = "192.168.0.2".parse().unwrap();
        assert_eq!(plan.desired.forwarding[&vtep("192.168.0.2")], peer);
    }

    #[test]
    fn a_node_with_this_nodes_address_is_left_out() {
        for backend in [vxlan(false), vxlan(true), Backend::HostGw] {
            let mut nodes = [node(1), node(2)];
            (nodes[1].address, nodes[1].addresses) = (nodes[0].address, nodes[0].addresses.clone());
            let plan = plan(&config(backend), &nodes, &underlay()).unwrap();
            assert!(plan.desired.routes.is_empty());
            assert!(plan.problems[0].contains("this node's own"), "{:?}", plan.problems);
        }
    }

    #[test]
    fn a_small_mtu_leaves_ipv6_out_and_says_so_once() {
        let small = Underlay { mtu: 1300, ..underlay() };
        let plan = plan(&config(vxlan(false)), &[node(1), node(2), node(3)], &small).unwrap();
        assert_eq!((plan.problems.len(), plan.desired.routes.len()), (1, 2));
        for words in ["eth0", "1300", "50", "1280"] {
            assert!(plan.problems[0].contains(words), "{:?}", plan.problems);
        }
        assert_eq!(plan.desired.device.unwrap().addresses.len(), 1);
    }

    #[test]
    fn a_node_list_without_this_node_is_refused() {
        let error = plan(&config(Backend::HostGw), &[node(2)], &underlay()).unwrap_err();
        assert!(error.to_string().contains("\"n1\""), "{error}");
    }
}
