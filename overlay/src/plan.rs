//! [`plan()`]: from the node list to what the kernel should hold. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use netlink::{Family, IfIndex, Prefix};

use crate::Result;
use crate::config::{Backend, Config, Node, Underlay, Vxlan, own_node, vxlan_device_name};
use crate::state::{Device, PeerRoute, State, Through};

/// What the kernel should hold, and what of the node list could not be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What the kernel should hold.
    pub desired: State,
    /// The underlay device.
    pub underlay: IfIndex,
    /// What was left out and why, one sentence each. One bad node never stops the others.
    pub problems: Vec<String>,
}

/// Plans this node's overlay.
pub fn plan(config: &Config, nodes: &[Node], underlay: &Underlay) -> Result<Plan> {
    let own = own_node(config, nodes)?;
    let mut planner = Planner {
        own,
        underlay,
        desired: State::default(),
        owners: own.pod_cidrs.iter().map(|cidr| (cidr.network(), own.name.as_str())).collect(),
        problems: Vec::new(),
    };
    if let Backend::Vxlan(vxlan) = &config.backend {
        planner.desired.device = Some(tunnel(own, vxlan, underlay));
    }
    for node in nodes.iter().filter(|node| node.name != own.name) {
        for cidr in &node.pod_cidrs {
            planner.peer(node, cidr.network(), &config.backend);
        }
    }
    Ok(Plan { desired: planner.desired, underlay: underlay.link, problems: planner.problems })
}

fn tunnel(own: &Node, vxlan: &Vxlan, underlay: &Underlay) -> Device {
    Device {
        name: vxlan_device_name(vxlan.vni),
        vni: vxlan.vni,
        port: vxlan.port,
        lower: underlay.link,
        local: own.address,
        mac: own.vtep_mac(),
        mtu: underlay.mtu.saturating_sub(Vxlan::overhead(Family::of(own.address))),
        addresses: own.pod_cidrs.iter().map(|cidr| Prefix::host(cidr.first())).collect(),
        up: true,
        tx_checksum_offload: vxlan.tx_checksum_offload,
    }
}

struct Planner<'a> {
    own: &'a Node,
    underlay: &'a Underlay,
    desired: State,
    /// Whose pod subnet each prefix is.
    owners: BTreeMap<Prefix, &'a str>,
    problems: Vec<String>,
}

impl<'a> Planner<'a> {
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

    /// Whose pod subnet shares an address with this one. The known ones are apart from each other, so
    /// only the one before can hold it, and only the one after can be inside.
    fn overlapping(&self, cidr: Prefix) -> Option<&'a str> {
        let before = self.owners.range(..=cidr).next_back();
        let after = self.owners.range(cidr..).next();
        let near = before.into_iter().chain(after);
        near.filter(|(prefix, _)| prefix.overlaps(cidr)).map(|(_, owner)| *owner).next()
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
        let route = PeerRoute { gateway, through: Through::Underlay };
        self.desired.routes.insert(cidr, route);
        Ok(())
    }

    fn tunnelled(&mut self, node: &Node, cidr: Prefix) -> std::result::Result<(), String> {
        if Family::of(node.address) != Family::of(self.own.address) {
            return Err(format!(
                "its address {} is not of the family of this node's, {}",
                node.address, self.own.address
            ));
        }
        let mac = node.vtep_mac();
        if let Some(other) = self.desired.forwarding.get(&mac).filter(|a| **a != node.address) {
            return Err(format!("its VTEP address {mac} is that of the node at {other} too"));
        }
        if mac == self.own.vtep_mac() {
            return Err(format!("its VTEP address {mac} is this node's own"));
        }
        let gateway = cidr.first();
        self.desired.neighbours.insert(gateway, mac);
        self.desired.forwarding.insert(mac, node.address);
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
    fn a_node_list_without_this_node_is_refused() {
        let error = plan(&config(Backend::HostGw), &[node(2)], &underlay()).unwrap_err();
        assert!(error.to_string().contains("\"n1\""), "{error}");
    }
}
