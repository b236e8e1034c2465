//! The shape that kube-router gives policies: for every pod of the node two rules that jump to its chain, and
//! there one rule for every rule of a policy.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use anyhow::Result;
use testnet::Namespace;

use super::objects;

/// A router with a client and a server, and rules for so many pods before theirs.
pub(super) struct Node {
    pub(super) who: &'static str,
    pub(super) client: Namespace,
    pub(super) server: Namespace,
    pub(super) address: Ipv4Addr,
    _router: Namespace,
}

impl Node {
    pub(super) fn new(pods: usize) -> Result<Node> {
        let [client, router, server] = ["client", "router", "server"].map(Namespace::new);
        for (end, name, network) in
            [(&client, "client", "10.129.0"), (&server, "server", "10.129.1")]
        {
            let path = end.path().display().to_string();
            router.ip(&format!("link add {name} type veth peer name eth0 netns {path}"));
            router.ip(&format!("addr add {network}.1/24 dev {name}"));
            router.ip(&format!("link set {name} up"));
            end.ip(&format!("addr add {network}.2/24 dev eth0"));
            end.ip("link set eth0 up");
            end.ip(&format!("route add default via {network}.1"));
        }
        router.set_sysctl("net/ipv4/ip_forward", "1");
        let (from, to) = (Ipv4Addr::new(10, 129, 0, 2), Ipv4Addr::new(10, 129, 1, 2));
        let others = (0..pods).map(objects::address);
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), ruleset(others.chain([from, to])))?;
        router.command("nft", &["-f", &file.path().display().to_string()]);
        let who = if pods < 500 {
            "kube-router's shape, 110 pods"
        } else {
            "kube-router's shape, 500 pods"
        };
        Ok(Node { who, client, server, address: to, _router: router })
    }
}

fn ruleset(pods: impl Iterator<Item = Ipv4Addr>) -> String {
    let (mut chains, mut jumps) = (String::new(), String::new());
    for (number, pod) in pods.enumerate() {
        let _ = write!(
            chains,
            "chain pod-{number} {{
                ct state related,established accept
                ip saddr 10.0.0.0/8 ip daddr 10.0.0.0/8 tcp dport 8080 mark set mark or 0x10000
                ip saddr 10.0.0.0/8 ip daddr 10.0.0.0/8 udp dport 8080 mark set mark or 0x10000
                mark and 0x10000 == 0 reject
                mark set mark and 0xfffeffff
            }}\n"
        );
        let _ =
            write!(jumps, "ip daddr {pod} jump pod-{number}\nip saddr {pod} jump pod-{number}\n");
    }
    format!(
        "table ip shape {{\n{chains}\nchain forward {{ type filter hook forward priority 0;\n{jumps}}}\n}}\n"
    )
}
