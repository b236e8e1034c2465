//! UDP flows.

use std::net::UdpSocket;
use std::process::Command;

use netlink::*;

use super::{in_namespace, ip, tool};

#[test]
fn udp_flows_are_found_by_port_and_forgotten() {
    in_namespace(|| {
        tool("ip link set lo up");
        // Conntrack watches once somebody asks for it.
        let rule = "nft add table inet watch; add chain inet watch out { type filter hook output priority 0; }; add rule inet watch out ct state new counter";
        let status = Command::new("nft").arg(rule.trim_start_matches("nft ")).status().unwrap();
        assert!(status.success());
        for (family, loopback) in [(Family::V4, "127.0.0.1"), (Family::V6, "::1")] {
            let target = UdpSocket::bind((loopback, 0)).unwrap();
            let other = UdpSocket::bind((loopback, 0)).unwrap();
            let sender = UdpSocket::bind((loopback, 0)).unwrap();
            for socket in [&target, &other] {
                sender.send_to(b"x", socket.local_addr().unwrap()).unwrap();
            }
            let mut conntrack = conntrack::Conntrack::open().unwrap();
            let port = target.local_addr().unwrap().port();
            let flows = conntrack.udp_flows_to_port(family, port).unwrap();
            let expected = conntrack::UdpFlow {
                source: ip(loopback),
                source_port: sender.local_addr().unwrap().port(),
                destination: ip(loopback),
                destination_port: port,
            };
            assert_eq!(flows, [expected]);
            assert!(conntrack.delete_udp_flow(&flows[0]).unwrap());
            assert!(!conntrack.delete_udp_flow(&flows[0]).unwrap());
            let listed = tool(&format!(
                "conntrack -L -f {} -p udp",
                if family == Family::V4 { "ipv4" } else { "ipv6" }
            ));
            assert!(!listed.contains(&format!("dport={port} ")), "{listed}");
            assert!(
                listed.contains(&format!("dport={} ", other.local_addr().unwrap().port())),
                "{listed}"
            );
        }
    });
}

#[test]
fn marks_are_cleared_where_they_are_meant() {
    in_namespace(|| {
        tool("ip link set lo up");
        let rule = "add table inet watch; add chain inet watch out { type filter hook output priority 0; }; add rule inet watch out ct mark set 0x12340007";
        assert!(Command::new("nft").arg(rule).status().unwrap().success());
        for (family, loopback) in [(Family::V4, "127.0.0.1"), (Family::V6, "::1")] {
            let target = UdpSocket::bind((loopback, 0)).unwrap();
            let sender = UdpSocket::bind((loopback, 0)).unwrap();
            sender.send_to(b"x", target.local_addr().unwrap()).unwrap();
            let mut conntrack = conntrack::Conntrack::open().unwrap();
            assert_eq!(conntrack.clear_marks(family, 0xffff_0000).unwrap(), 1, "{family}");
            assert_eq!(conntrack.clear_marks(family, 0xffff_0000).unwrap(), 0, "{family}: again");
            let name = if family == Family::V4 { "ipv4" } else { "ipv6" };
            let listed = Command::new("conntrack").args(["-L", "-f", name]).output().unwrap();
            let listed = String::from_utf8(listed.stdout).unwrap();
            assert!(listed.contains("mark=7 "), "{family}: {listed}");
        }
    });
}
