//! What Services do, row by row of docs/services.md, with real packets.
//!
//! Each scenario is manifests, and what then becomes of packets; each is run for both families.

#![allow(clippy::unwrap_used, reason = "a failed expectation is how a test fails")]

mod affinity;
mod cluster_ip;
mod conntrack;
mod daemon;
mod external;
mod faults;
mod manifests;
mod selection;

use std::io::ErrorKind;
use std::net::IpAddr;
use std::time::Duration;

use testnet::traffic::Server;
use testnet::{Family, Host, IN_FORCE, Lan, Network, Node, Pod, eventually};

use manifests::node_objects;

const BOTH: [Family; 2] = [Family::V4, Family::V6];

/// Two nodes with routes to each other's pods; the outside world sends Service addresses to n1.
struct World {
    lan: Lan,
    nodes: [Node; 2],
}

impl World {
    fn new() -> World {
        let lan = Lan::new();
        let nodes = lan.nodes(["n1", "n2"]);
        for (family, vips) in [("", "10.96.0.0/12"), ("-6", "fd00:96::/32")] {
            let via = if family.is_empty() { nodes[0].v4() } else { nodes[0].v6() };
            lan.namespace().ip(&format!("{family} route add {vips} via {via}"));
        }
        lan.namespace().ip(&format!("route add 203.0.113.0/24 via {}", nodes[0].v4()));
        lan.namespace().ip(&format!("-6 route add 2001:db8:113::/48 via {}", nodes[0].v6()));
        World { lan, nodes }
    }

    /// A new pod on the first (0) or second (1) node.
    fn pod(&self, node: usize, name: &str) -> Pod<'_> {
        let records: Vec<_> = self.nodes.iter().map(Node::record).collect();
        let node = &self.nodes[node];
        let network = Network::bridge("net")
            .subnet(&node.pod_cidr())
            .subnet(&node.pod_cidr_v6())
            .masquerade(&["10.244.0.0/16", "fd00:10::/32"])
            .host_gw(node, &records);
        node.pod(&network, name)
    }

    fn node(&self) -> &Node {
        &self.nodes[0]
    }

    /// The manifests of the nodes.
    fn objects(&self) -> String {
        node_objects(&self.nodes)
    }
}

fn address(host: &Pod<'_>, family: Family) -> IpAddr {
    match family {
        Family::V4 => host.v4(),
        Family::V6 => host.v6(),
    }
}

fn node_address(node: &Node, family: Family) -> IpAddr {
    match family {
        Family::V4 => node.v4(),
        Family::V6 => node.v6(),
    }
}

/// An address for a Service: `range` 96 is a ClusterIP, 113 comes from outside.
fn vip(family: Family, range: u8, number: u8) -> IpAddr {
    let text = match (family, range) {
        (Family::V4, 96) => format!("10.96.0.{number}"),
        (Family::V4, _) => format!("203.0.113.{number}"),
        (Family::V6, 96) => format!("fd00:96::{number:x}"),
        (Family::V6, _) => format!("2001:db8:113::{number:x}"),
    };
    text.parse().unwrap()
}

/// TCP and UDP servers on a port of a pod.
fn serve(pod: &Pod<'_>, port: u16) -> (Server, Server) {
    (pod.serve_tcp(port), pod.serve_udp(port))
}

/// How many of so many connections went to each of these servers.
fn spread(from: &impl Host, to: (IpAddr, u16), connections: usize, servers: &[&str]) -> Vec<usize> {
    let mut counts = vec![0; servers.len()];
    for _ in 0..connections {
        let server = from.tcp(to).unwrap().server;
        let at = servers.iter().position(|name| *name == server);
        counts[at.unwrap_or_else(|| panic!("{server} is none of {servers:?}"))] += 1;
    }
    counts
}

/// TCP and UDP are refused, not dropped. (Who sends from the node itself is told so by `EPERM`. The
/// kernel sends one host only so many ICMP errors a second, so one may be missing.)
#[track_caller]
fn assert_refused(from: &impl Host, to: (IpAddr, u16)) {
    assert_eq!(from.tcp(to).unwrap_err().kind(), ErrorKind::ConnectionRefused, "TCP to {to:?}");
    eventually(&format!("UDP to {to:?} is refused"), 2 * IN_FORCE, || {
        match from.udp_within(to, Duration::from_secs(1)) {
            Ok(answer) => panic!("UDP to {to:?} was answered: {answer:?}"),
            Err(error) => match error.kind() {
                ErrorKind::ConnectionRefused | ErrorKind::PermissionDenied => Ok(()),
                other => Err(other),
            },
        }
    });
}

/// TCP is dropped, not refused.
#[track_caller]
fn assert_dropped(from: &impl Host, to: (IpAddr, u16)) {
    let short = Duration::from_millis(600);
    let error = from.tcp_within(to, short).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "TCP to {to:?}");
}
