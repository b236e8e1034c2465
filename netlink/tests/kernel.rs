//! Every operation against a fresh network namespace, judged by `ip`, `bridge`, `tc`, `nft`, `conntrack`.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a failed expectation is how a test fails")]

use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};

use netlink::nftables::{
    Chain, DataType, Element, Expression, Hook, Key, NftSocket, RuleTag, Set, SetData, Table,
    TableFamily, Transaction, Verdict,
};
use netlink::*;

/// Runs a test in a new namespace that ends with it.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let thread =
        std::thread::Builder::new().name(std::thread::current().name().unwrap_or("test").into());
    let result = thread
        .spawn(|| {
            Namespace::unshare().unwrap_or_else(|error| panic!("{error}: the tests need root"));
            test();
        })
        .unwrap()
        .join();
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

/// A second namespace: a thread that holds it, and a handle.
fn another() -> (Namespace, mpsc::Sender<()>) {
    let (handle, received) = mpsc::channel();
    let (hold, released) = mpsc::channel::<()>();
    std::thread::spawn(move || {
        Namespace::unshare().unwrap();
        handle.send(Namespace::current().unwrap()).unwrap();
        let _ = released.recv();
    });
    (received.recv().unwrap(), hold)
}

/// Runs a tool in the calling thread's namespace.
#[track_caller]
fn tool(command: &str) -> String {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[track_caller]
fn shows(command: &str, words: &[&str]) {
    let output = tool(command);
    for word in words {
        assert!(output.contains(word), "{word:?} is not in the output of {command}: {output}");
    }
}

fn mac(text: &str) -> MacAddress {
    text.parse().unwrap()
}

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

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
        let mut listed = socket.neighbours(link, Family::V4).unwrap();
        listed.sort();
        assert_eq!(listed, (0..1000).map(entry).collect::<Vec<_>>());
        assert_eq!(socket.forwarding_database(link).unwrap().len(), 1000);

        let mut batch = RouteBatch::default();
        batch.delete_neighbour(&entry(0));
        batch.delete_neighbour(&entry(4444)); // not there
        batch.delete_forwarding(&entry(1));
        let error = socket.execute_batch(batch).unwrap_err();
        assert!(error.not_found(), "{error}");
        assert_eq!(socket.neighbours(link, Family::V4).unwrap().len(), 999);
        assert_eq!(socket.forwarding_database(link).unwrap().len(), 999);
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

#[test]
fn a_guard_comes_back_also_from_a_panic() {
    in_namespace(|| {
        let home = Namespace::current().unwrap();
        let (other, _hold) = another();
        assert!(!home.is_same(&other).unwrap());
        other.run(|| assert!(Namespace::current().unwrap().is_same(&other).unwrap())).unwrap();
        assert!(Namespace::current().unwrap().is_same(&home).unwrap());
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            other.run(|| panic!("on purpose")).unwrap();
        }));
        assert!(panicked.is_err());
        assert!(Namespace::current().unwrap().is_same(&home).unwrap());
        assert_eq!(Namespace::open("/etc/hostname").unwrap_err().errno, Errno::INVAL);
        assert!(Namespace::open("/run/netns/never-was").unwrap_err().not_found());
    });
}

#[test]
fn sysctls_are_the_namespaces_own() {
    in_namespace(|| {
        assert_eq!(sysctl::read("net/ipv4/ip_forward").unwrap(), "0");
        assert!(sysctl::ensure("net/ipv4/ip_forward", "1").unwrap());
        assert!(!sysctl::ensure("net/ipv4/ip_forward", "1").unwrap());
        shows("cat /proc/sys/net/ipv4/ip_forward", &["1"]);
        assert!(!sysctl::ensure_if_present("net/ipv9/no_such", "1").unwrap());
        let error = sysctl::ensure("net/ipv4/ip_forward", "many").unwrap_err();
        assert!(error.to_string().contains("/proc/sys/net/ipv4/ip_forward"), "{error}");
    });
}

const TABLE: Table<'static> = Table { family: TableFamily::Inet, name: "test" };
const FRONTEND: &[DataType] = &[DataType::Ipv4Addr, DataType::InetProto, DataType::InetService];
const BACKEND: &[DataType] = &[DataType::Ipv4Addr, DataType::InetService];

fn frontend(n: u32) -> Element {
    let key = Key::new().ip(IpAddr::from((0x0a60_0000 + n).to_be_bytes())).protocol(6).port(80);
    let value = Key::new().ip(IpAddr::from((0x0af4_0000 + n).to_be_bytes())).port(8080);
    Element::new(key).value(value)
}

fn base(transaction: &mut Transaction) {
    transaction.add_table(TABLE);
    let map = Set {
        name: "backends",
        key: FRONTEND,
        data: Some(SetData::Value(BACKEND)),
        interval: false,
    };
    transaction.add_set(TABLE, &map);
    let pair: &[DataType] = &[DataType::Ipv4Addr, DataType::Ipv4Addr];
    transaction.add_set(TABLE, &Set { name: "exclude", key: pair, data: None, interval: true });
    transaction.add_set(TABLE, &Set { name: "services", data: Some(SetData::Verdict), ..map });
    let hook = Hook { kind: "filter", number: Hook::FORWARD, priority: 0 };
    transaction.add_chain(TABLE, &Chain { name: "forward", hook: Some(hook) });
    transaction.add_chain(TABLE, &Chain { name: "pick", hook: None });
    transaction.add_rule(TABLE, "forward", "first", &[Expression::Counter]);
    transaction.add_rule(TABLE, "forward", "second", &[Expression::Verdict(Verdict::Accept)]);
}

#[test]
fn what_a_transaction_makes_is_what_nft_lists_and_what_is_read_back() {
    in_namespace(|| {
        let mut socket = NftSocket::open().unwrap();
        assert!(socket.rules(TABLE).unwrap().unwrap_or_default().is_empty());
        assert_eq!(socket.elements(TABLE, "backends").unwrap(), None);
        let mut transaction = Transaction::default();
        base(&mut transaction);
        let owned = frontend(1).comment("net/a/eth0");
        transaction.add_elements(TABLE, "backends", true, [&owned, &frontend(2)]);
        let verdict = Element { data: None, ..frontend(3) }.verdict(Verdict::Goto("pick".into()));
        transaction.add_elements(TABLE, "services", true, [&verdict]);
        let range = Element::new(Key::new().ip(ip("10.244.1.0")).ip(ip("10.0.0.0")))
            .to(Key::new().ip(ip("10.244.1.255")).ip(ip("10.255.255.255")));
        transaction.add_elements(TABLE, "exclude", true, [&range]);
        socket.commit(transaction).unwrap();
        shows(
            "nft list ruleset",
            &[
                "10.96.0.1 . tcp . 80 comment \"net/a/eth0\" : 10.244.0.1 . 8080",
                "10.96.0.3 . tcp . 80 : goto pick",
                "10.244.1.0/24 . 10.0.0.0/8",
                "type filter hook forward priority filter; policy accept;",
                "accept comment \"second\"",
            ],
        );
        let tag = |comment: &str| RuleTag { chain: "forward".into(), comment: comment.into() };
        assert_eq!(socket.rules(TABLE).unwrap().unwrap(), [tag("first"), tag("second")]);
        assert_eq!(
            socket.elements(TABLE, "backends").unwrap().unwrap(),
            [owned.clone(), frontend(2)]
        );
        assert_eq!(socket.elements(TABLE, "exclude").unwrap().unwrap(), [range]);
        assert_eq!(socket.element(TABLE, "backends", &frontend(1)).unwrap(), Some(owned));
        assert_eq!(socket.element(TABLE, "backends", &frontend(9)).unwrap(), None);

        let mut transaction = Transaction::default();
        transaction.delete_elements(TABLE, "backends", [&frontend(1)]);
        transaction.flush_chain(TABLE, "forward");
        socket.commit(transaction).unwrap();
        assert_eq!(socket.elements(TABLE, "backends").unwrap().unwrap(), [frontend(2)]);
        assert_eq!(socket.rules(TABLE).unwrap().unwrap(), []);
        let mut transaction = Transaction::default();
        transaction.delete_table(TABLE);
        socket.commit(transaction).unwrap();
        assert_eq!(tool("nft list ruleset"), "");
        socket.commit(Transaction::default()).unwrap();
    });
}

#[test]
fn a_transaction_is_all_or_nothing_and_its_error_names_the_object() {
    in_namespace(|| {
        let mut socket = NftSocket::open().unwrap();
        let mut transaction = Transaction::default();
        base(&mut transaction);
        transaction.add_elements(TABLE, "backends", true, [&frontend(1)]);
        transaction.delete_elements(TABLE, "backends", [&frontend(7)]);
        let error = socket.commit(transaction).unwrap_err();
        assert!(error.to_string().contains("\"backends\"") && error.not_found(), "{error}");
        assert_eq!(tool("nft list ruleset"), "", "nothing was applied");

        let mut transaction = Transaction::default();
        base(&mut transaction);
        transaction.add_elements(TABLE, "backends", true, [&frontend(1)]);
        socket.commit(transaction).unwrap();
        let mut again = Transaction::default();
        again.add_elements(TABLE, "backends", true, [&frontend(1)]);
        assert!(socket.commit(again).unwrap_err().already_exists());
        let mut lenient = Transaction::default();
        lenient.add_elements(TABLE, "backends", false, [&frontend(1)]);
        socket.commit(lenient).unwrap();
    });
}

#[test]
fn a_transaction_for_a_generation_that_is_gone_is_refused() {
    in_namespace(|| {
        let mut socket = NftSocket::open().unwrap();
        let generation = socket.generation().unwrap();
        tool("nft add table inet foreign");
        let mut transaction = Transaction::new(Some(generation));
        base(&mut transaction);
        let error = socket.commit(transaction).unwrap_err();
        assert!(error.is_stale_generation(), "{error}");
        let current = socket.generation().unwrap();
        assert_ne!(generation, current);
        let mut transaction = Transaction::new(Some(current));
        base(&mut transaction);
        socket.commit(transaction).unwrap();
        shows("nft list tables", &["inet foreign", "inet test"]);
    });
}

#[test]
fn a_hundred_thousand_elements_are_one_transaction() {
    in_namespace(|| {
        let mut socket = NftSocket::open().unwrap();
        let elements: Vec<Element> = (0..100_000).map(frontend).collect();
        let mut transaction = Transaction::default();
        base(&mut transaction);
        transaction.add_elements(TABLE, "backends", true, &elements);
        assert!(transaction.bytes() > 4_000_000);
        let before = socket.generation().unwrap();
        socket.commit(transaction).unwrap();
        assert_eq!(socket.generation().unwrap().0, before.0 + 1, "one commit");
        assert_eq!(socket.elements(TABLE, "backends").unwrap().unwrap().len(), 100_000);
        let mut transaction = Transaction::default();
        transaction.delete_elements(TABLE, "backends", &elements[1..]);
        socket.commit(transaction).unwrap();
        assert_eq!(socket.elements(TABLE, "backends").unwrap().unwrap(), elements[..1]);
    });
}

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
