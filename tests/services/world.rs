//! [`World`]: two nodes, the daemon on the first, and the objects that most scenarios begin with.

use std::net::IpAddr;
use std::ops::Deref;

use testnet::manifest::{Endpoint, EndpointSlice, NodeObject, Service, documents};
use testnet::traffic::Server;
use testnet::{Family, Host, Lan, Manifests, Network, Node, Pod, Proxyd};

/// The port that every service of [`service`] has, for TCP and for UDP.
pub(crate) const PORT: u16 = 80;
/// The port that backends serve.
pub(crate) const TARGET: u16 = 8080;

pub(crate) struct World {
    pub(crate) lan: Lan,
    pub(crate) n1: Node,
    pub(crate) n2: Node,
}

/// A pod that serves TCP and UDP.
pub(crate) struct Backend<'a> {
    pod: Pod<'a>,
    _servers: [Server; 2],
}

impl<'a> Deref for Backend<'a> {
    type Target = Pod<'a>;
    fn deref(&self) -> &Pod<'a> {
        &self.pod
    }
}

impl World {
    /// Two nodes that reach each other's pods, with nothing on them, and their objects on both.
    pub(crate) fn new() -> World {
        let lan = Lan::new();
        let [n1, n2] = lan.nodes(["n1", "n2"]);
        for node in [&n1, &n2] {
            // Rejections are rare in life, and rationed; here they are many.
            node.namespace().set_sysctl("net/ipv4/icmp_ratelimit", "0");
            node.namespace().set_sysctl("net/ipv6/icmp/ratelimit", "0");
            let both = documents(&[&NodeObject::of(&n1), &NodeObject::of(&n2)]);
            Manifests::of(node).write("nodes", &both);
        }
        World { lan, n1, n2 }
    }

    /// The daemon on the first node.
    #[track_caller]
    pub(crate) fn start(&self, arguments: &[&str]) -> Proxyd<'_> {
        Proxyd::start(&self.n1, arguments)
    }

    #[track_caller]
    pub(crate) fn pod<'a>(&'a self, node: &'a Node, name: &str) -> Pod<'a> {
        let network = Network::bridge("net")
            .subnet(&node.pod_cidr())
            .subnet(&node.pod_cidr_v6())
            .masquerade(&["10.244.0.0/16", "fd00:10::/32"])
            .host_gw(node, &[self.n1.record(), self.n2.record()]);
        node.pod(&network, name)
    }

    #[track_caller]
    pub(crate) fn backend<'a>(&'a self, node: &'a Node, name: &str) -> Backend<'a> {
        let pod = self.pod(node, name);
        let _servers = [pod.serve_tcp(TARGET), pod.serve_udp(TARGET)];
        Backend { pod, _servers }
    }

    /// The outside world sends what is for this address to the first node.
    pub(crate) fn route(&self, to: IpAddr) {
        let length = if to.is_ipv4() { 32 } else { 128 };
        let via = if to.is_ipv4() { self.n1.v4() } else { self.n1.v6() };
        self.lan.namespace().ip(&format!("route add {to}/{length} via {via}"));
    }

    pub(crate) fn route_all(&self, to: &[IpAddr]) {
        for to in to {
            self.route(*to);
        }
    }
}

/// The address of a family.
pub(crate) trait Addressed {
    fn v4_address(&self) -> IpAddr;
    fn v6_address(&self) -> IpAddr;
    fn ip(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.v4_address(),
            Family::V6 => self.v6_address(),
        }
    }
}

impl Addressed for Node {
    fn v4_address(&self) -> IpAddr {
        self.v4()
    }
    fn v6_address(&self) -> IpAddr {
        self.v6()
    }
}

impl Addressed for Pod<'_> {
    fn v4_address(&self) -> IpAddr {
        self.v4()
    }
    fn v6_address(&self) -> IpAddr {
        self.v6()
    }
}

/// The outside world's address on the nodes' network: what they see of it.
pub(crate) fn neighbour(family: Family) -> IpAddr {
    address(family, "192.168.0.254", "fd00:192:168::254")
}

/// The gateway of the first node's pods.
pub(crate) fn gateway(family: Family) -> IpAddr {
    address(family, "10.244.1.1", "fd00:10:1::1")
}

pub(crate) fn address(family: Family, v4: &str, v6: &str) -> IpAddr {
    let text = match family {
        Family::V4 => v4,
        Family::V6 => v6,
    };
    text.parse().expect("an address")
}

/// A cluster IP by number.
pub(crate) fn vip(family: Family, number: u8) -> IpAddr {
    address(family, &format!("10.96.0.{number}"), &format!("fd00:96::{number}"))
}

/// A load balancer's or external address by number.
pub(crate) fn external(family: Family, number: u8) -> IpAddr {
    address(family, &format!("203.0.113.{number}"), &format!("2001:db8:113::{number}"))
}

pub(crate) fn both(of: fn(Family, u8) -> IpAddr, number: u8) -> [IpAddr; 2] {
    [of(Family::V4, number), of(Family::V6, number)]
}

/// A service of both families with cluster IPs number `number`, TCP and UDP on [`PORT`].
pub(crate) fn service(name: &str, number: u8) -> Service {
    let service = Service::new(name).cluster_ips(&both(vip, number));
    service.port("tcp", "TCP", PORT.into()).port("udp", "UDP", PORT.into())
}

/// The same on a node port, TCP and UDP.
pub(crate) fn node_port_service(name: &str, number: u8, node_port: u16) -> Service {
    let service = Service::new(name).cluster_ips(&both(vip, number));
    let service = service.port("tcp", "TCP", PORT.into()).node_port(node_port);
    service.port("udp", "UDP", PORT.into()).node_port(node_port)
}

/// Slices of both families for a [`service`], with backends as endpoints.
pub(crate) fn slices(name: &str, endpoints: &[Endpoint]) -> String {
    let slice = |family| {
        EndpointSlice::new(name, family, endpoints).port("tcp", "TCP", TARGET.into()).port(
            "udp",
            "UDP",
            TARGET.into(),
        )
    };
    documents(&[&slice(Family::V4), &slice(Family::V6)])
}

/// A service and its slices in one text.
pub(crate) fn with_slices(service: &Service, name: &str, endpoints: &[Endpoint]) -> String {
    documents(&[service]) + &slices(name, endpoints)
}
