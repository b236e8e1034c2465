//! [`Lan`]: the network that nodes share, and the outside world beyond it.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::host::Host;
use crate::namespace::Namespace;
use crate::node::Node;

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// An address of the outside world (documentation networks): who serves there is no node and no pod.
pub const OUTSIDE_V4: &str = "198.51.100.1";
/// The same in IPv6.
pub const OUTSIDE_V6: &str = "2001:db8:0:100::1";

/// A switch with nodes attached, and a router to the outside world, which knows the nodes but no pods.
pub struct Lan {
    namespace: Namespace,
    mtu: u32,
    prefix: String,
    next: AtomicU8,
}

impl Default for Lan {
    fn default() -> Lan {
        Lan::new()
    }
}

impl Lan {
    /// A LAN with the usual MTU.
    pub fn new() -> Lan {
        Lan::with_mtu(1500)
    }

    /// A LAN whose nodes have this MTU in bytes.
    pub fn with_mtu(mtu: u32) -> Lan {
        Lan::make(mtu, String::new())
    }

    /// A LAN whose nodes and pods can be entered with `ip netns exec PREFIX…`.
    pub fn pinned(prefix: &str) -> Lan {
        Lan::make(1500, prefix.to_owned())
    }

    fn make(mtu: u32, prefix: String) -> Lan {
        let namespace = Namespace::new("outside");
        if !prefix.is_empty() {
            namespace.pin(&format!("{prefix}outside"));
        }
        namespace.ip(&format!("link add lan0 mtu {mtu} type bridge"));
        namespace.set_sysctl("net/ipv6/conf/lan0/accept_dad", "0");
        namespace.ip("link set lan0 up");
        namespace.ip("addr add 192.168.0.254/24 dev lan0");
        namespace.ip("addr add fd00:192:168::254/64 dev lan0 nodad");
        namespace.ip(&format!("addr add {OUTSIDE_V4}/32 dev lo"));
        // Even here an address is tentative, for an instant, unless told otherwise.
        namespace.ip(&format!("addr add {OUTSIDE_V6}/128 dev lo nodad"));
        namespace.await_address("fd00:192:168::254");
        namespace.await_address(OUTSIDE_V6);
        Lan { namespace, mtu, prefix, next: AtomicU8::new(1) }
    }

    /// A new node: `192.168.0.N` and `fd00:192:168::N`, N counting from 1, with a default route.
    pub fn node(&self, name: &str) -> Node {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let namespace = Namespace::new(name);
        if !self.prefix.is_empty() {
            namespace.pin(&format!("{}{name}", self.prefix));
        }
        // A new namespace takes after the machine, which may forward; a fresh node does not.
        namespace.set_sysctl("net/ipv4/ip_forward", "0");
        let peer = format!("node{number}");
        let node_path = namespace.path().display().to_string();
        let mtu = self.mtu;
        self.namespace.ip(&format!(
            "link add {peer} mtu {mtu} master lan0 up type veth peer name eth0 mtu {mtu} netns {node_path}"
        ));
        let node = Node::new(namespace, number, self.prefix.clone());
        node.namespace().ip(&format!("addr add {}/24 dev eth0", node.v4()));
        node.namespace().ip(&format!("addr add {}/64 dev eth0 nodad", node.v6()));
        // Real nodes have been up for long; their link-local address is not tentative.
        node.namespace().set_sysctl("net/ipv6/conf/eth0/accept_dad", "0");
        node.namespace().ip("link set eth0 up");
        node.namespace().await_address(&node.v6().to_string());
        node.namespace().ip("route add default via 192.168.0.254");
        node.namespace().ip("route add default via fd00:192:168::254");
        node
    }

    /// Nodes with these names.
    pub fn nodes<const N: usize>(&self, names: [&str; N]) -> [Node; N] {
        names.map(|name| self.node(name))
    }

    /// The outside world's address.
    pub fn outside(&self, family: Family) -> IpAddr {
        let text = match family {
            Family::V4 => OUTSIDE_V4,
            Family::V6 => OUTSIDE_V6,
        };
        text.parse().expect("an address")
    }
}

impl Host for Lan {
    fn namespace(&self) -> &Namespace {
        &self.namespace
    }
}
