//! Nodes as the overlay takes them.

use super::{Network, Nodes, underlay_addresses};

/// All nodes that can be reached: they have an address and pods. This node is among them.
pub(super) fn peers(nodes: &Nodes, network: &Network) -> Vec<overlay::Node> {
    let own_families = |node: &crate::cluster::Node| {
        let mut addresses = underlay_addresses(node);
        let address = addresses.next()?;
        Some((address, addresses.collect::<Vec<_>>()))
    };
    let known = nodes.iter().filter(|(_, node)| !node.pod_cidrs.is_empty());
    known
        .filter_map(|(name, node)| {
            let (address, addresses) = own_families(node)?;
            Some(overlay::Node {
                name: name.to_string(),
                address,
                addresses,
                pod_cidrs: node.pod_cidrs.clone(),
                vtep_mac: node.vtep_mac.filter(|_| network.backend == super::Backend::Vxlan),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Node;

    #[test]
    fn nodes_without_address_or_pods_are_left_out() {
        let pods = vec!["10.244.1.0/24".parse().unwrap()];
        let address = "192.168.0.1".parse().unwrap();
        let annotated = "172.16.0.1".parse().unwrap();
        let node = Node { addresses: vec![address], pod_cidrs: pods.clone(), ..Node::default() };
        let nodes = Nodes::from([
            ("a".into(), node.clone()),
            ("b".into(), Node { overlay_address: Some(annotated), ..node }),
            ("no-pods".into(), Node { addresses: vec![address], ..Node::default() }),
            ("no-address".into(), Node { pod_cidrs: pods, ..Node::default() }),
        ]);
        let peers = peers(&nodes, &Network::default());
        let told: Vec<_> = peers.iter().map(|p| (p.name.as_str(), p.address)).collect();
        assert_eq!(told, [("a", address), ("b", annotated)]);
        assert_eq!(peers[1].addresses, [address]);
    }
}
