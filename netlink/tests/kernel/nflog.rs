//! Logged packets, made by rules that `nft` has written.

use std::net::UdpSocket;

use netlink::nflog::NflogListener;

use super::{in_namespace, tool};

#[test]
fn packets_that_a_rule_logs_are_heard() {
    in_namespace(|| {
        tool("ip link set lo up");
        tool("nft add table inet t");
        tool("nft add chain inet t out { type filter hook output priority 0; }");
        tool("nft add rule inet t out udp dport 9 log prefix why group 86");
        let mut listener = NflogListener::open(86, 128).unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        socket.send_to(b"hello", "127.0.0.1:9").unwrap();
        let mut heard = Vec::new();
        while heard.is_empty() {
            listener.wait(|logged| heard.push(logged)).unwrap();
        }
        assert_eq!(heard[0].prefix, "why");
        let ends = heard[0].ends.unwrap();
        assert_eq!((ends.protocol, ends.ports), (17, Some((port, 9))));
        assert_eq!(ends.destination, std::net::IpAddr::from([127, 0, 0, 1]));
        // A group has one listener.
        let error = NflogListener::open(86, 128).err().unwrap();
        assert_eq!(error.errno, netlink::Errno::PERM, "{error}");
    });
}
