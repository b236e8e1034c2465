//! Links, addresses, routes, neighbours, queueing disciplines.

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use netlink::*;

use super::{another, in_namespace, ip, mac, prefix, shows, tool};

/// A bridge and its number.
fn bridge(socket: &mut RouteSocket, name: &str) -> IfIndex {
    socket.create_bridge(&Bridge { name, mac: None, mtu: 1500, vlan_filtering: false }).unwrap();
    socket.link_by_name(name).unwrap().unwrap().index
}

#[test]
fn a_veth_pair_goes_straight_into_another_namespace() {
    in_namespace(|| {
        let (pod, _hold) = another();
        let mut socket = RouteSocket::open().unwrap();
        let master = bridge(&mut socket, "br0");
        let veth = Veth {
            name: "host0",
            mac: mac("0a:56:00:00:00:01"),
            mtu: 1450,
            master: Some(master),
            peer: VethPeer { name: "eth0", mac: mac("0a:58:00:00:00:02"), namespace: pod.as_fd() },
        };
        socket.create_veth(&veth).unwrap();
        shows(
            "ip -d link show host0",
            &["mtu 1450", "master br0", "0a:56:00:00:00:01", "UP", "veth"],
        );
        pod.run(|| shows("ip -d link show eth0", &["mtu 1450", "0a:58:00:00:00:02", "state DOWN"]))
            .unwrap();
        let error = socket.create_veth(&veth).unwrap_err();
        assert!(error.already_exists() && error.to_string().contains("host0"), "{error}");

        let host = socket.link_by_name("host0").unwrap().unwrap();
        assert_eq!(
            (host.kind.as_deref(), host.master, host.mtu),
            (Some("veth"), Some(master), 1450)
        );
        let port = PortFlags { hairpin: Some(true), isolated: Some(true) };
        socket.set_bridge_port(host.index, port).unwrap();
        shows("bridge -d link show dev host0", &["hairpin on", "isolated on"]);
        let port = socket.bridge_ports(master).unwrap().remove(0).port.unwrap();
        assert!(port.hairpin && port.isolated);

        // The peer comes up, and the link is settled as soon as one asks.
        let mut inside = pod.run(RouteSocket::open).unwrap().unwrap();
        let eth0 = inside.link_by_name("eth0").unwrap().unwrap();
        assert_eq!(eth0.peer, Some(host.index));
        inside.set_up(eth0.index).unwrap();
        let settled = (0..400).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(5));
            let link = socket.link_by_index(host.index).unwrap().unwrap();
            link.state == OperState::Up && link.port.unwrap().forwarding
        });
        assert!(settled, "the port does not forward");
        assert!(socket.delete_link_by_name("host0").unwrap());
        assert!(!socket.delete_link_by_name("host0").unwrap());
        assert_eq!(inside.link_by_name("eth0").unwrap(), None, "the peer went along");
    });
}

#[test]
fn link_settings_are_what_the_tools_show() {
    in_namespace(|| {
        let mut socket = RouteSocket::open().unwrap();
        let index = bridge(&mut socket, "br0");
        socket.set_mtu(index, 1400).unwrap();
        socket.set_mac(index, mac("0a:58:0a:f4:01:01")).unwrap();
        socket.set_promiscuous(index, true).unwrap();
        shows("ip -d link show br0", &["mtu 1400", "0a:58:0a:f4:01:01", "PROMISC", "UP"]);
        assert!(socket.link_by_index(index).unwrap().unwrap().promiscuous);
        socket.create_ifb("ifb0", 1500).unwrap();
        shows("ip -d link show ifb0", &["ifb", "UP"]);
        assert_eq!(socket.links().unwrap().len(), 3, "lo, br0, ifb0");
        socket.delete_link(index).unwrap();
        assert_eq!(socket.link_by_index(index).unwrap(), None);
        assert_eq!(socket.link_by_name("never").unwrap(), None);
        assert_eq!(socket.link_by_name("longer-than-any-name").unwrap(), None);
        assert!(!socket.delete_link_by_name("longer-than-any-name").unwrap());
        assert!(socket.set_up(IfIndex(9999)).unwrap_err().not_found());
    });
}

#[test]
fn vxlan_devices_of_both_families() {
    in_namespace(|| {
        let mut socket = RouteSocket::open().unwrap();
        let lower = bridge(&mut socket, "br0");
        for (name, vni, local) in [("vx4", 4, "10.0.0.1"), ("vx6", 6, "fd00::1")] {
            socket.add_address(lower, Prefix::host(ip(local)), false).unwrap();
            let vxlan = Vxlan {
                name,
                vni,
                port: 8472,
                lower,
                local: ip(local),
                mac: mac("0e:56:0a:00:00:01"),
                mtu: 1400,
            };
            socket.create_vxlan(&vxlan).unwrap();
            let id = format!("vxlan id {vni}");
            let local_text = format!("local {local}");
            shows(
                &format!("ip -d link show {name}"),
                &[&id, &local_text, "dstport 8472", "nolearning", "dev br0"],
            );
            let state = socket.link_by_name(name).unwrap().unwrap().vxlan.unwrap();
            let expected = VxlanState {
                vni,
                port: 8472,
                lower: Some(lower),
                local: Some(ip(local)),
                learning: false,
            };
            assert_eq!(state, expected);
            assert!(ethtool::tx_checksum_offload(name).unwrap());
            ethtool::set_tx_checksum_offload(name, false).unwrap();
            assert!(!ethtool::tx_checksum_offload(name).unwrap());
        }
        let wrong = Vxlan {
            name: "vx7",
            vni: 0x0100_0000,
            port: 1,
            lower,
            local: ip("10.0.0.1"),
            mac: mac("0e:56:0a:00:00:02"),
            mtu: 1400,
        };
        let error = socket.create_vxlan(&wrong).unwrap_err();
        assert!(error.to_string().contains("vx7"), "{error}");
        assert!(error.detail.is_some(), "the kernel's own words are kept: {error}");
    });
}

#[test]
fn addresses_with_and_without_duplicate_detection() {
    in_namespace(|| {
        let mut socket = RouteSocket::open().unwrap();
        let index = bridge(&mut socket, "br0");
        for text in ["10.1.2.3/24", "fd00::3/64"] {
            socket.add_address(index, prefix(text), false).unwrap();
            assert!(socket.add_address(index, prefix(text), false).unwrap_err().already_exists());
        }
        socket.add_address(index, prefix("fd00::4/64"), true).unwrap();
        shows(
            "ip addr show br0",
            &["inet 10.1.2.3/24 brd 10.1.2.255", "fd00::3/64 scope global nodad"],
        );
        let all = socket.addresses(Some(index)).unwrap();
        let of = |text: &str| *all.iter().find(|a| a.prefix == prefix(text)).unwrap();
        assert!(!of("fd00::3/64").tentative && of("fd00::4/64").tentative);
        assert!(of("10.1.2.3/24").global);
        assert!(socket.delete_address(index, prefix("10.1.2.3/24")).unwrap());
        assert!(!socket.delete_address(index, prefix("10.1.2.3/24")).unwrap());
        assert!(socket.addresses(Some(IfIndex(9999))).unwrap().is_empty());
    });
}

#[test]
fn routes_are_set_listed_looked_up_and_deleted() {
    in_namespace(|| {
        let mut socket = RouteSocket::open().unwrap();
        let link = bridge(&mut socket, "br0");
        assert_eq!(socket.route_to(ip("192.0.2.1")).unwrap(), None);
        socket.add_address(link, prefix("10.0.0.1/24"), false).unwrap();
        let plain = Route { gateway: Some(ip("10.0.0.2")), ..Route::new(prefix("10.9.0.0/16")) };
        socket.append_route(&plain).unwrap();
        let rich = Route {
            destination: prefix("10.8.0.0/16"),
            link: Some(link),
            source: Some(ip("10.0.0.1")),
            priority: Some(77),
            mtu: Some(1400),
            advmss: Some(1360),
            protocol: 86,
            ..plain
        };
        socket.replace_route(&rich).unwrap();
        shows(
            "ip route show 10.8.0.0/16",
            &["via 10.0.0.2", "proto 86", "src 10.0.0.1", "metric 77", "mtu 1400", "advmss 1360"],
        );
        let moved = Route { gateway: Some(ip("10.0.0.3")), ..rich };
        socket.replace_route(&moved).unwrap();
        assert_eq!(tool("ip route show 10.8.0.0/16").lines().count(), 1);
        let listed =
            socket.routes(RouteFilter { family: Family::V4, link: Some(link), protocol: Some(86) });
        assert_eq!(listed.unwrap(), [Route { scope: Some(Scope::UNIVERSE), ..moved }]);
        assert_eq!(socket.route_to(ip("10.8.1.1")).unwrap().unwrap().gateway, Some(ip("10.0.0.3")));
        let onlink = Route {
            gateway: Some(ip("10.77.0.0")),
            link: Some(link),
            onlink: true,
            ..Route::new(prefix("10.77.0.0/24"))
        };
        socket.replace_route(&onlink).unwrap();
        shows("ip route show 10.77.0.0/24", &["onlink"]);
        let table = Route { table: 1234, ..onlink };
        socket.append_route(&table).unwrap();
        shows("ip route show table 1234", &["10.77.0.0/24"]);
        assert!(socket.delete_route(&onlink).unwrap());
        assert!(!socket.delete_route(&onlink).unwrap());
        let unreachable = Route { gateway: Some(ip("172.16.0.1")), ..plain };
        let error = socket.append_route(&unreachable).unwrap_err();
        assert!(error.to_string().contains("10.9.0.0/16 via 172.16.0.1"), "{error}");
    });
}

#[test]
fn thousands_of_entries_go_in_one_batch_and_an_error_does_not_stop_the_rest() {
    in_namespace(|| {
        let mut socket = RouteSocket::open().unwrap();
        let lower = bridge(&mut socket, "br0");
        socket.add_address(lower, prefix("10.0.0.1/24"), false).unwrap();
        let vxlan = Vxlan {
            name: "vx",
            vni: 1,
            port: 8472,
            lower,
            local: ip("10.0.0.1"),
            mac: mac("0e:56:0a:00:00:01"),
            mtu: 1400,
        };
        socket.create_vxlan(&vxlan).unwrap();
        let link = socket.link_by_name("vx").unwrap().unwrap().index;
        socket.set_up(link).unwrap();
        let entry = |n: u32| Neighbour {
            link,
            address: IpAddr::from((0x0a01_0000 + n).to_be_bytes()),
            mac: MacAddress([0x0e, 0x56, 0, 0, (n >> 8) as u8, n as u8]),
        };
        let mut batch = RouteBatch::default();
        for n in 0..1000 {
            batch.replace_neighbour(&entry(n));
            batch.replace_forwarding(&entry(n));
            let gateway = Some(entry(n).address);
            let destination = Prefix::host(entry(n + 5000).address);
            batch.replace_route(&Route {
                gateway,
                link: Some(link),
                onlink: true,
                ..Route::new(destination)
            });
        }
        socket.execute_batch(batch).unwrap();
        assert_eq!(tool("ip neigh show dev vx nud permanent").lines().count(), 1000);
        assert_eq!(tool("bridge fdb show dev vx").lines().count(), 1000);
        assert_eq!(tool("ip route show dev vx").lines().count(), 1000);
        let listed = socket.neighbours(link, Family::V4).unwrap();
        assert_eq!(listed, (0..1000).map(entry).collect::<Vec<_>>());
        assert_eq!(socket.forwarding_database(link).unwrap().len(), 1000);

        // More errors than answers fit the socket, in several pieces: the first one is told, and
        // everything else was done.
        let mut batch = RouteBatch::default();
        batch.delete_neighbour(&entry(0));
        for n in 2000..5000 {
            batch.delete_neighbour(&entry(n)); // not there
        }
        batch.delete_forwarding(&entry(1));
        let error = socket.execute_batch(batch).unwrap_err();
        assert!(error.not_found(), "{error}");
        assert_eq!(socket.neighbours(link, Family::V4).unwrap().len(), 999);
        assert_eq!(socket.forwarding_database(link).unwrap().len(), 999);
    });
}

#[test]
fn a_forwarding_database_is_read_whole_while_it_changes() {
    in_namespace(|| {
        let home = Namespace::current().unwrap();
        let mut socket = RouteSocket::open().unwrap();
        let lower = bridge(&mut socket, "br0");
        socket.add_address(lower, prefix("10.0.0.1/24"), false).unwrap();
        let (local, mac) = (ip("10.0.0.1"), mac("0e:56:0a:00:00:01"));
        let vxlan = Vxlan { name: "vx", vni: 1, port: 8472, lower, local, mac, mtu: 1400 };
        socket.create_vxlan(&vxlan).unwrap();
        let link = socket.link_by_name("vx").unwrap().unwrap().index;
        let entry = move |n: u16| Neighbour {
            link,
            address: ip("10.1.0.1"),
            mac: MacAddress([0x0e, 0x56, 0, 0, (n >> 8) as u8, n as u8]),
        };
        let mut batch = RouteBatch::default();
        (0..2000).for_each(|n| batch.replace_forwarding(&entry(n)));
        socket.execute_batch(batch).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let churn = std::thread::spawn(move || {
            let _guard = home.enter().unwrap();
            let mut socket = RouteSocket::open().unwrap();
            for n in (3000..).take(20_000) {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let mut batch = RouteBatch::default();
                batch.replace_forwarding(&entry(n));
                batch.delete_forwarding(&entry(n));
                socket.execute_batch(batch).unwrap();
                std::thread::sleep(std::time::Duration::from_millis(3));
            }
        });
        for _ in 0..50 {
            let found = socket.forwarding_database(link).unwrap();
            let stable = found.iter().filter(|e| **e < entry(3000)).count();
            assert_eq!(stable, 2000);
        }
        stop.store(true, Ordering::Relaxed);
        churn.join().unwrap();
    });
}

#[test]
fn token_buckets_and_redirects() {
    in_namespace(|| {
        let mut socket = RouteSocket::open().unwrap();
        let link = bridge(&mut socket, "br0");
        let bucket = TokenBucket { rate: 1_000_000, burst: 100_000, limit: 125_000 };
        socket.set_token_bucket(link, &bucket).unwrap();
        shows("tc qdisc show dev br0", &["tbf", "rate 8Mbit", "burst 100000b", "lat 25ms"]);
        let found = socket.qdiscs(link).unwrap().remove(0);
        assert_eq!((found.kind.as_str(), found.token_bucket), ("tbf", Some(bucket)));
        let wide = TokenBucket { rate: 10_000_000_000, burst: 4_000_000, limit: 4_000_000_000 };
        socket.set_token_bucket(link, &wide).unwrap();
        shows("tc qdisc show dev br0", &["rate 80Gbit"]);
        assert_eq!(socket.qdiscs(link).unwrap()[0].token_bucket.unwrap().rate, wide.rate);
        socket.create_ifb("ifb0", 1500).unwrap();
        let to = socket.link_by_name("ifb0").unwrap().unwrap().index;
        socket.redirect_ingress(link, to).unwrap();
        shows(
            "tc filter show dev br0 parent ffff:",
            &["u32", "mirred (Egress Redirect to device ifb0)"],
        );
        assert!(
            socket.delete_ingress_qdisc(link).unwrap() && socket.delete_root_qdisc(link).unwrap()
        );
        assert!(!socket.delete_ingress_qdisc(link).unwrap());
        assert!(!socket.delete_root_qdisc(link).unwrap());
    });
}

#[test]
fn a_dump_survives_changes_by_others() {
    in_namespace(|| {
        let home = Namespace::current().unwrap();
        let mut socket = RouteSocket::open().unwrap();
        let stable = bridge(&mut socket, "stable");
        for n in 0..300u32 {
            let address = IpAddr::from((0x0a05_0000 + n).to_be_bytes());
            socket.add_address(stable, Prefix::host(address), false).unwrap();
        }
        let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, done) = (Arc::clone(&stop), Arc::clone(&rounds));
        let churn = std::thread::spawn(move || {
            let _guard = home.enter().unwrap();
            let mut socket = RouteSocket::open().unwrap();
            while !stopped.load(Ordering::Relaxed) && done.load(Ordering::Relaxed) < 20_000 {
                let index = bridge(&mut socket, "flicker");
                socket.add_address(index, prefix("10.6.0.1/32"), false).unwrap();
                socket.delete_link(index).unwrap();
                done.fetch_add(1, Ordering::Relaxed);
            }
        });
        let mut dumps = 0;
        while (rounds.load(Ordering::Relaxed) < 20 || dumps < 100) && dumps < 100_000 {
            let mut found = socket.addresses(Some(stable)).unwrap();
            found.retain(|a| a.prefix.family() == Family::V4);
            assert_eq!(found.len(), 300);
            assert!(socket.links().unwrap().iter().any(|link| link.index == stable));
            dumps += 1;
        }
        stop.store(true, Ordering::Relaxed);
        churn.join().unwrap();
        assert!(rounds.load(Ordering::Relaxed) >= 20, "nobody changed anything meanwhile");
    });
}
