//! Nodes as the overlay takes them.

use std::cmp::Reverse;

use super::{Network, Nodes, underlay_addresses};
use crate::cluster::Node;

/// The nodes that have pod subnets, those first that win a subnet which two claim: ready before others, then
/// the older, then by name. With a sentence for each node that cannot be among them.
pub(super) fn peers(nodes: &Nodes, network: &Network) -> (Vec<overlay::Node>, Vec<String>) {
    let mut known: Vec<(&std::sync::Arc<str>, &Node)> =
        nodes.iter().filter(|(_, node)| !node.pod_cidrs.is_empty()).collect();
    known.sort_by_key(|(name, node)| {
        (node.not_ready, Reverse(node.created.is_some()), node.created.clone(), *name)
    });
    let mut problems = Vec::new();
    let mut peers = Vec::with_capacity(known.len());
    for (name, node) in known {
        let mut addresses = underlay_addresses(node);
        match addresses.next() {
            Some(address) => peers.push(overlay::Node {
                name: name.to_string(),
                address,
                addresses: addresses.collect(),
                pod_cidrs: node.pod_cidrs.clone(),
                vtep_mac: node.vtep_mac.filter(|_| network.backend == super::Backend::Vxlan),
            }),
            None => problems.push(format!("node {name:?} is left out: it has no address")),
        }
    }
    (peers, problems)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_without_pods_are_no_peers() {
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
        let (peers, problems) = peers(&nodes, &Network::default());
        let found: Vec<_> = peers.iter().map(|p| (p.name.as_str(), p.address)).collect();
        assert_eq!(found, [("a", address), ("b", annotated)]);
        assert_eq!(peers[1].addresses, [address]);
        assert!(problems.len() == 1 && problems[0].contains("no-address"), "{problems:?}");
    }

    #[test]
    fn ready_and_older_nodes_come_first() {
        let node = |created: Option<&str>, not_ready| Node {
            addresses: vec!["192.168.0.1".parse().unwrap()],
            pod_cidrs: vec!["10.244.1.0/24".parse().unwrap()],
            created: created.map(Into::into),
            not_ready,
            ..Node::default()
        };
        let nodes = Nodes::from([
            ("a-new".into(), node(Some("2026-02-01T00:00:00Z"), false)),
            ("b-dead".into(), node(Some("2020-01-01T00:00:00Z"), true)),
            ("c-old".into(), node(Some("2026-01-01T00:00:00Z"), false)),
            ("d-unknown".into(), node(None, false)),
        ]);
        let (peers, _) = peers(&nodes, &Network::default());
        let order: Vec<_> = peers.iter().map(|peer| peer.name.as_str()).collect();
        assert_eq!(order, ["c-old", "a-new", "d-unknown", "b-dead"]);
    }
}
