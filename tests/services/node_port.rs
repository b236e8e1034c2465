//! Node ports: from where, on which addresses, and what the server sees.

use std::net::IpAddr;

use testnet::manifest::{Endpoint, documents};
use testnet::{Family, Host};

use super::world::{
    Addressed, World, address, gateway, node_port_service, slices, vip, with_slices,
};
use super::{FAMILIES, PROTOCOLS, assert_closed, assert_refused, only_in_mode, served};

const NODE_PORT: u16 = 30080;

#[test]
fn a_node_port_answers_from_everywhere_with_the_nodes_address_as_source() {
    let world = World::new();
    let near = world.backend(&world.n1, "near");
    let far = world.backend(&world.n2, "far");
    let client = world.pod(&world.n1, "client");
    let proxyd = world.start(&[]);
    for (pod, name) in [(&near, "near"), (&far, "far")] {
        let web = node_port_service("web", 10, NODE_PORT);
        proxyd.apply("web", &with_slices(&web, "web", &[Endpoint::of(pod)]));
        for family in FAMILIES {
            let to = (world.n1.ip(family), NODE_PORT);
            // The node's address on the link to the endpoint.
            let node = if name == "near" { gateway(family) } else { world.n1.ip(family) };
            for protocol in PROTOCOLS {
                let probe = |what: &str, answer: std::io::Result<testnet::traffic::Answer>| {
                    let answer =
                        answer.unwrap_or_else(|e| panic!("{protocol:?} {what} {name}: {e}"));
                    assert_eq!((&*answer.server, answer.peer), (name, node), "{protocol:?} {what}");
                };
                probe("outside", protocol.probe(&world.lan, to));
                probe("other node", protocol.probe(&world.n2, to));
                probe("node", protocol.probe(&world.n1, to));
                probe("pod", protocol.probe(&client, to));
            }
        }
    }
}

#[test]
fn node_ports_are_on_the_nodes_primary_addresses() {
    if only_in_mode(
        "nftables",
        "in other modes they are on all addresses unless some are asked for",
    ) {
        return;
    }
    let world = World::new();
    let a = world.backend(&world.n1, "a");
    let client = world.pod(&world.n1, "client");
    let (extra4, extra6) = ("192.168.0.101", "fd00:192:168::101");
    world.n1.namespace().ip(&format!("addr add {extra4}/24 dev eth0"));
    world.n1.namespace().ip(&format!("addr add {extra6}/64 dev eth0 nodad"));
    let proxyd = world.start(&[]);
    let web = node_port_service("web", 10, NODE_PORT);
    proxyd.apply("web", &with_slices(&web, "web", &[Endpoint::of(&a)]));
    for family in FAMILIES {
        let extra = address(family, extra4, extra6);
        assert_eq!(served(&world.lan, (world.n1.ip(family), NODE_PORT)).0, "a");
        assert_closed(&world.lan, (extra, NODE_PORT));
        assert_closed(&world.n1, (extra, NODE_PORT));
        assert_closed(&client, (gateway(family), NODE_PORT));
        let loopback = address(family, "127.0.0.1", "::1");
        assert_refused(&world.n1, (loopback, NODE_PORT));
        // The number of a node port is nothing special on other addresses.
        assert_refused(&client, (vip(family, 10), NODE_PORT));
    }
}

#[test]
fn node_ports_are_on_the_addresses_that_were_asked_for() {
    let (extra4, extra6) = ("192.168.0.101", "fd00:192:168::101");
    // Primary addresses, extra addresses: answered?
    for (list, [primary4, extra_4, primary6, extra_6]) in [
        ("all", [true; 4]),
        ("0.0.0.0/0,::/0", [true; 4]),
        ("192.168.0.101/32,fd00:192:168::101/128", [false, true, false, true]),
        ("192.168.0.0/24,fd00:192:168::/64", [true; 4]),
        // A family without an entry is open on all addresses.
        ("192.168.0.101/32", [false, true, true, true]),
        ("10.77.0.0/16,fd77::/64", [false; 4]),
        ("primary,192.168.0.101/32", [true, true, true, false]),
    ] {
        let world = World::new();
        let a = world.backend(&world.n1, "a");
        world.n1.namespace().ip(&format!("addr add {extra4}/24 dev eth0"));
        world.n1.namespace().ip(&format!("addr add {extra6}/64 dev eth0 nodad"));
        let proxyd = world.start(&["--nodeport-addresses", list]);
        let web = node_port_service("web", 10, NODE_PORT);
        proxyd.apply("web", &with_slices(&web, "web", &[Endpoint::of(&a)]));
        let extra = |family| address(family, extra4, extra6);
        for (to, open) in [
            (world.n1.v4(), primary4),
            (extra(Family::V4), extra_4),
            (world.n1.v6(), primary6),
            (extra(Family::V6), extra_6),
        ] {
            let answer = world.lan.tcp_within((to, NODE_PORT), super::SILENCE);
            assert_eq!(answer.is_ok(), open, "{list}: {to} {answer:?}");
        }
    }
}

#[test]
fn an_address_that_the_node_gets_later_has_node_ports_too() {
    let world = World::new();
    let a = world.backend(&world.n1, "a");
    let proxyd = world.start(&["--nodeport-addresses", "192.168.0.0/24,fd00:192:168::/64"]);
    let web = node_port_service("web", 10, NODE_PORT);
    proxyd.apply("web", &with_slices(&web, "web", &[Endpoint::of(&a)]));
    world.n1.namespace().ip("addr add 192.168.0.101/24 dev eth0");
    world.n1.namespace().ip("addr add fd00:192:168::101/64 dev eth0 nodad");
    for family in FAMILIES {
        let extra: IpAddr = address(family, "192.168.0.101", "fd00:192:168::101");
        super::soon("the new address has node ports", || {
            world.lan.tcp_within((extra, NODE_PORT), super::SILENCE)
        });
    }
}

#[test]
fn a_listed_loopback_has_node_ports_for_tcp() {
    let world = World::new();
    let (near, far) = (world.backend(&world.n1, "near"), world.backend(&world.n2, "far"));
    let client = world.pod(&world.n1, "client");
    let proxyd = world.start(&["--nodeport-addresses", "localhost,primary"]);
    for (pod, name) in [(&near, "near"), (&far, "far")] {
        let web = node_port_service("web", 10, NODE_PORT);
        proxyd.apply("web", &with_slices(&web, "web", &[Endpoint::of(pod)]));
        for family in FAMILIES {
            let loopback = address(family, "127.0.0.1", "::1");
            // The relay follows the tables.
            super::soon(&format!("{name} behind the loopback's port, {family:?}"), || {
                world.n1.tcp((loopback, NODE_PORT)).ok().filter(|answer| answer.server == name)
            });
            assert_eq!(served(&world.lan, (world.n1.ip(family), NODE_PORT)).0, name);
            assert_eq!(served(&client, (world.n1.ip(family), NODE_PORT)).0, name);
            // UDP is refused there.
            let udp = super::udp_failure(&world.n1, (loopback, NODE_PORT), super::SILENCE);
            assert_eq!(udp, Some(std::io::ErrorKind::ConnectionRefused), "{family:?}");
        }
        // Nobody forwards the loopback network.
        assert_eq!(world.n1.namespace().sysctl("net/ipv4/conf/eth0/route_localnet"), "0");
        assert_eq!(world.n1.namespace().sysctl("net/ipv4/conf/all/route_localnet"), "0");
    }
    proxyd.remove("web");
    proxyd.await_sync();
    for family in FAMILIES {
        let to = (address(family, "127.0.0.1", "::1"), NODE_PORT);
        super::soon("the loopback's port is closed", || world.n1.tcp(to).is_err());
    }
}

#[test]
fn a_node_port_that_changes_leaves_nothing_behind() {
    let world = World::new();
    let a = world.backend(&world.n1, "a");
    let proxyd = world.start(&[]);
    proxyd.write("slices", &slices("web", &[Endpoint::of(&a)]));
    for (port, before) in [(30081, None), (30082, Some(30081)), (30081, Some(30082))] {
        proxyd.apply("web", &documents(&[&node_port_service("web", 10, port)]));
        for family in FAMILIES {
            let to = world.n1.ip(family);
            assert_eq!(served(&world.lan, (to, port)).0, "a");
            if let Some(before) = before {
                assert_refused(&world.lan, (to, before));
            }
        }
    }
}
