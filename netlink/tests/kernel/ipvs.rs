//! Virtual servers, as `ipvsadm` shows them. Where the kernel has no IPVS, `scripts/test ipvs` runs these under
//! User Mode Linux.

use std::net::{SocketAddr, TcpListener, TcpStream};

use netlink::Errno;
use netlink::ipvs::*;

use super::{in_namespace, ip, tool};

/// A connection, or a printed reason why there is none.
fn open() -> Option<Ipvs> {
    // IPVS asks the routing table what kind of address a destination has, and there is none before.
    tool("ip link set lo up");
    match Ipvs::open() {
        Ok(ipvs) => Some(ipvs),
        Err(error) => {
            // This is what a user is told, too.
            assert_eq!(error.errno, Errno::OPNOTSUPP, "{error}");
            assert!(error.to_string().contains("module ip_vs"), "{error}");
            eprintln!("SKIPPED: {error}; scripts/test ipvs has a kernel that does");
            None
        }
    }
}

fn key(protocol: u8, address: &str, port: u16) -> ServiceKey {
    ServiceKey { protocol, address: ip(address), port }
}

fn server(key: ServiceKey, scheduler: &str, timeout: Option<u32>) -> Service {
    let prefix_length = key.family().bits();
    let persistence = timeout.map(|timeout| Persistence { timeout, prefix_length });
    Service { key, scheduler: scheduler.to_owned(), persistence }
}

fn pod(address: &str) -> Destination {
    Destination::new(address.parse().unwrap())
}

#[test]
fn ipvs_servers_are_made_changed_listed_and_removed() {
    in_namespace(|| {
        let Some(mut ipvs) = open() else { return };
        let (web, dns, six) =
            (key(6, "10.96.0.1", 443), key(17, "10.96.0.10", 53), key(6, "fd00::1", 80));
        let first = [
            Change::NewService(server(web, "rr", None)),
            Change::NewService(server(dns, "wlc", Some(10_800))),
            Change::NewService(server(six, "mh", Some(300))),
            Change::NewDestination(web, pod("10.244.1.2:6443")),
            Change::NewDestination(web, Destination { weight: 3, ..pod("10.244.1.3:6443") }),
            Change::NewDestination(six, pod("[fd00:1::2]:8080")),
        ];
        ipvs.apply(&first).unwrap();
        let shown = tool("ipvsadm -S -n");
        for line in [
            "-A -t 10.96.0.1:443 -s rr\n",
            "-a -t 10.96.0.1:443 -r 10.244.1.2:6443 -m -w 1\n",
            "-a -t 10.96.0.1:443 -r 10.244.1.3:6443 -m -w 3\n",
            "-A -u 10.96.0.10:53 -s wlc -p 10800\n",
            "-A -t [fd00::1]:80 -s mh -p 300\n",
            "-a -t [fd00::1]:80 -r [fd00:1::2]:8080 -m -w 1\n",
        ] {
            assert!(shown.contains(line), "{line:?} is not in {shown}");
        }
        let mut services = ipvs.services().unwrap();
        services.sort_by_key(|state| state.service.key);
        let told: Vec<Service> = services.into_iter().map(|state| state.service).collect();
        assert_eq!(
            told,
            [
                server(web, "rr", None),
                server(six, "mh", Some(300)),
                server(dns, "wlc", Some(10_800))
            ]
        );
        let there = ipvs.destinations(&six).unwrap();
        assert_eq!(there.len(), 1);
        assert!(there[0].is_nat && there[0].destination == pod("[fd00:1::2]:8080"));
        ipvs.apply(&[
            Change::SetService(server(web, "wrr", Some(60))),
            Change::SetDestination(web, Destination { weight: 0, ..pod("10.244.1.2:6443") }),
            Change::DeleteDestination(web, "10.244.1.3:6443".parse().unwrap()),
            Change::DeleteDestination(web, "10.244.1.3:6443".parse().unwrap()),
            Change::DeleteService(dns),
            Change::DeleteService(dns),
        ])
        .unwrap();
        let shown = tool("ipvsadm -S -n");
        assert!(shown.contains("-A -t 10.96.0.1:443 -s wrr -p 60\n"), "{shown}");
        assert!(shown.contains("-r 10.244.1.2:6443 -m -w 0\n"), "{shown}");
        assert!(!shown.contains("10.244.1.3") && !shown.contains("10.96.0.10"), "{shown}");
        // A server that keeps no clients any more.
        ipvs.apply(&[Change::SetService(server(web, "wrr", None))]).unwrap();
        assert!(tool("ipvsadm -S -n").contains("-A -t 10.96.0.1:443 -s wrr\n"));
    });
}

#[test]
fn ipvs_tells_what_it_refuses() {
    in_namespace(|| {
        let Some(mut ipvs) = open() else { return };
        let web = key(6, "10.96.0.1", 443);
        let scheduler = ipvs.apply(&[Change::NewService(server(web, "nonsense", None))]);
        let scheduler = scheduler.unwrap_err().to_string();
        assert!(scheduler.contains("no scheduler \"nonsense\""), "{scheduler}");
        let outcome = ipvs.apply(&[
            Change::NewDestination(web, pod("10.244.1.2:1")),
            Change::NewService(server(web, "rr", None)),
            Change::NewDestination(web, pod("10.244.1.3:1")),
        ]);
        let error = outcome.unwrap_err().to_string();
        assert!(error.contains("send 10.96.0.1:443/TCP to 10.244.1.2:1"), "{error}");
        // What came after it was done.
        assert_eq!(ipvs.destinations(&web).unwrap().len(), 1);
        assert!(
            ipvs.apply(&[Change::NewService(server(web, "rr", None))])
                .unwrap_err()
                .already_exists()
        );
    });
}

#[test]
fn ipvs_timeouts_are_set_and_read() {
    in_namespace(|| {
        let Some(mut ipvs) = open() else { return };
        let before = ipvs.timeouts().unwrap();
        ipvs.set_timeouts(&Timeouts { tcp: 1000, tcp_fin: 0, udp: 77 }).unwrap();
        let after = ipvs.timeouts().unwrap();
        assert_eq!(after, Timeouts { tcp: 1000, tcp_fin: before.tcp_fin, udp: 77 });
        let shown = tool("ipvsadm -L --timeout");
        assert!(shown.contains(&format!("1000 {} 77", before.tcp_fin)), "{shown}");
    });
}

#[test]
fn ipvs_counts_connections() {
    in_namespace(|| {
        let Some(mut ipvs) = open() else { return };
        tool("ip addr add 10.96.0.1/32 dev lo");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to: SocketAddr = listener.local_addr().unwrap();
        let web = key(6, "10.96.0.1", 443);
        ipvs.apply(&[
            Change::NewService(server(web, "rr", None)),
            Change::NewDestination(web, Destination::new(to)),
        ])
        .unwrap();
        let client = TcpStream::connect("10.96.0.1:443").unwrap();
        let _accepted = listener.accept().unwrap();
        let there = &ipvs.destinations(&web).unwrap()[0];
        assert_eq!((there.active, there.inactive), (1, 0));
        // The kernel sums up what it counted every two seconds.
        for _ in 0..100 {
            if ipvs.services().unwrap()[0].counters.connections == 1 {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        let there = &ipvs.destinations(&web).unwrap()[0];
        assert_eq!((there.active, there.counters.connections), (1, 1));
        assert!(there.counters.packets_in > 0 && there.counters.bytes_in > 0);
        drop(client);
    });
}
