//! The plugin's configuration on this node.

use netlink::Prefix;
use serde_json::{Value, json};

use super::config::{Backend, Network};
use crate::cluster::Node;

/// The specification versions that the list offers. libcni before 1.2 reads `cniVersion` alone and
/// accepts results up to 1.0.0. Newer ones use the newest common version of `cniVersions`.
const LISTED_VERSIONS: [&str; 2] = ["1.0.0", "1.1.0"];

/// The text of the network configuration list. Pure: the same every time.
pub fn conflist(network: &Network, node_name: &str, own: &Node, clusters: &[Prefix]) -> String {
    let ranges: Vec<Value> =
        own.pod_cidrs.iter().map(|cidr| json!([{"subnet": cidr.to_string()}])).collect();
    let mut exclude: Vec<String> =
        clusters.iter().chain(&network.non_masquerade_cidrs).map(Prefix::to_string).collect();
    exclude.dedup();
    let overlay = match network.backend {
        Backend::Vxlan => json!({
            "type": "vxlan", "vni": network.vni, "port": network.port,
            "directRouting": network.direct_routing, "nodeName": node_name,
        }),
        Backend::HostGw => json!({"type": "host-gw", "nodeName": node_name}),
        Backend::None => json!({"type": "none"}),
    };
    let plugin = json!({
        "type": "viaduct",
        "mode": network.mode.name(),
        "bridge": network.bridge,
        "isGateway": true,
        "isDefaultGateway": true,
        "hairpinMode": true,
        "mtu": network.mtu,
        "ipMasq": network.masquerade,
        "ipMasqExclude": exclude,
        "ipam": {"type": "host-local", "ranges": ranges},
        "overlay": overlay,
        "daemonSocket": network.daemon_socket,
        "onDaemonTimeout": network.on_daemon_timeout.name(),
        "capabilities": {"portMappings": true, "bandwidth": true, "ips": true, "mac": true, "ipRanges": true},
    });
    let list = json!({
        "cniVersion": LISTED_VERSIONS[0], "cniVersions": LISTED_VERSIONS, "name": "viaduct", "plugins": [plugin],
    });
    format!("{list:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nodes_own_ranges_and_no_nodes_are_in_it() {
        let node = Node {
            pod_cidrs: vec!["10.244.1.0/24".parse().unwrap(), "fd00:10::/64".parse().unwrap()],
            ..Node::default()
        };
        let clusters = ["10.244.0.0/16".parse().unwrap()];
        let text = conflist(&Network::default(), "n1", &node, &clusters);
        let list: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (&list["cniVersion"], &list["cniVersions"][1]),
            (&json!("1.0.0"), &json!("1.1.0"))
        );
        let plugin = &list["plugins"][0];
        let ranges = json!([[{"subnet": "10.244.1.0/24"}], [{"subnet": "fd00:10::/64"}]]);
        assert_eq!(plugin["ipam"]["ranges"], ranges);
        assert_eq!(plugin["ipMasqExclude"], json!(["10.244.0.0/16"]));
        assert_eq!(plugin["overlay"]["vni"], 1);
        assert_eq!(plugin["onDaemonTimeout"], "deny");
        assert!(plugin["overlay"].get("nodes").is_none(), "the daemon keeps the overlay");
    }
}
