//! Lists of routes and links while other processes change them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use netlink::*;

use super::{in_namespace, ip, mac, prefix};

/// The protocol number of the routes that are listed.
const OWN: u8 = 86;

fn bridge(socket: &mut RouteSocket) {
    let bridge = Bridge { name: "br0", mac: None, mtu: 1500, vlan_filtering: false };
    socket.create_bridge(&bridge).unwrap();
}

fn route(family: Family, n: u32, link: IfIndex, protocol: u8) -> Route {
    let destination = match family {
        Family::V4 => format!("10.{}.{}.0/24", n / 250, n % 250),
        Family::V6 => format!("fd00:{n:x}::/64"),
    };
    Route { link: Some(link), protocol, ..Route::new(prefix(&destination)) }
}

#[test]
fn a_route_list_is_whole_while_others_change() {
    const STABLE: u32 = 1000;
    for family in [Family::V4, Family::V6] {
        in_namespace(move || {
            let home = Namespace::current().unwrap();
            let mut socket = RouteSocket::open().unwrap();
            bridge(&mut socket);
            let link = socket.link_by_name("br0").unwrap().unwrap().index;
            let mut batch = RouteBatch::default();
            for n in 0..STABLE {
                batch.replace_route(&route(family, n * 2, link, OWN));
            }
            socket.execute_batch(batch).unwrap();
            let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
            let (stopped, done) = (Arc::clone(&stop), Arc::clone(&rounds));
            let churn = std::thread::spawn(move || {
                let _guard = home.enter().unwrap();
                let mut socket = RouteSocket::open().unwrap();
                while !stopped.load(Ordering::Relaxed) && done.load(Ordering::Relaxed) < 20_000 {
                    for n in (1..100).map(|n| n * 2 + 1) {
                        socket.replace_route(&route(family, n, link, 99)).unwrap();
                    }
                    for n in (1..100).map(|n| n * 2 + 1) {
                        socket.delete_route(&route(family, n, link, 99)).unwrap();
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                    // A list takes some milliseconds: some are disturbed, some are not.
                    std::thread::sleep(std::time::Duration::from_millis(10));
                }
            });
            let mut dumps = 0;
            while (rounds.load(Ordering::Relaxed) < 100 || dumps < 100) && dumps < 5_000 {
                let filter = RouteFilter { family, link: None, protocol: Some(OWN) };
                let found = socket.routes(filter).unwrap();
                let mut numbers: Vec<Prefix> = found.iter().map(|r| r.destination).collect();
                numbers.dedup();
                assert_eq!((numbers.len(), found.len()), (STABLE as usize, STABLE as usize));
                dumps += 1;
            }
            stop.store(true, Ordering::Relaxed);
            churn.join().unwrap();
            assert!(rounds.load(Ordering::Relaxed) >= 20, "nothing changed meanwhile");
        });
    }
}

#[test]
fn links_are_listed_by_their_kind() {
    in_namespace(|| {
        let mut socket = RouteSocket::open().unwrap();
        assert_eq!(socket.links_of_kind("vxlan").unwrap(), []);
        bridge(&mut socket);
        let lower = socket.link_by_name("br0").unwrap().unwrap().index;
        let local = ip("10.0.0.1");
        let (vni, port, mac) = (4, 8472, mac("0e:56:0a:00:00:01"));
        let vxlan = Vxlan { name: "vx4", vni, port, lower, local, mac, mtu: 1400 };
        socket.create_vxlan(&vxlan).unwrap();
        let found = socket.links_of_kind("vxlan").unwrap();
        let names: Vec<&str> = found.iter().map(|link| link.name.as_str()).collect();
        assert_eq!(names, ["vx4"]);
        assert_eq!(socket.links_of_kind("no-such-kind").unwrap(), []);
    });
}
