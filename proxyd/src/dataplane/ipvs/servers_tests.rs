use std::sync::Arc;

use netlink::ipvs::Counters;

use super::*;
use crate::cluster::{Affinity, ServiceName, ServicePortName};
use crate::service::Lists;

const WEB: &str = "10.96.0.1";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(in crate::dataplane::ipvs) fn backends(addresses: &[&str]) -> Vec<Backend> {
    let parse = |text: &&str| {
        let socket: SocketAddr = text.parse().unwrap();
        Backend { ip: socket.ip(), port: socket.port() }
    };
    addresses.iter().map(parse).collect()
}

pub(in crate::dataplane::ipvs) fn frontend(
    resolution: Resolution,
    cluster: &[&str],
    local: &[&str],
) -> Frontend {
    let owner = ServicePortName {
        service: ServiceName { namespace: "default".into(), name: "web".into() },
        port: "http".into(),
        protocol: Protocol::Tcp,
    };
    let lists = Lists {
        owner,
        cluster: backends(cluster),
        local: backends(local),
        hairpin: Vec::new(),
        affinity: None,
    };
    Frontend { resolution, cluster_ip: false, source_ranges: None, lists: Arc::new(lists) }
}

fn key(protocol: Protocol) -> ServiceKey {
    ServiceKey { protocol: protocol.number(), address: ip(WEB), port: 80 }
}

fn sets(plan: &Plan) -> Vec<SetId> {
    plan.items.iter().map(|item| item.set).collect()
}

fn server(destinations: &[&str]) -> Server {
    let destinations = destinations.iter().map(|text| text.parse().unwrap()).collect();
    Server { affinity: None, destinations }
}

/// What `differ` sends, in words.
fn changes(protocol: Protocol, known: &mut Option<Known>, wanted: Option<&Server>) -> Vec<String> {
    let mut out = Vec::new();
    differ(&key(protocol), known, wanted, "rr", &mut out);
    out.iter().map(ToString::to_string).collect()
}

#[test]
fn each_resolution_has_its_list_and_its_sets() {
    let (cluster, local) = (&["10.244.1.2:80", "10.244.2.2:80"][..], &["10.244.1.2:80"][..]);
    let cases = [
        (
            Resolution::Cluster(Masquerade::Always),
            local,
            Some(2),
            vec![SetId::Masquerade, SetId::Frontends],
        ),
        (Resolution::Cluster(Masquerade::OffCluster), local, Some(2), vec![SetId::Frontends]),
        (Resolution::Local, local, Some(1), vec![SetId::Frontends]),
        (Resolution::ByOrigin, local, Some(1), vec![SetId::Frontends]),
        (Resolution::ByOrigin, &[], Some(2), vec![SetId::InsideOnly, SetId::Frontends]),
        (Resolution::Reject, &[], None, vec![SetId::Rejected]),
        (Resolution::Drop, &[], None, vec![SetId::Dropped]),
    ];
    for (resolution, local, count, expected) in cases {
        let plan = plan(&key(Protocol::Tcp), &frontend(resolution, cluster, local));
        let destinations = plan.server.as_ref().map(|server| server.destinations.len());
        assert_eq!((destinations, sets(&plan)), (count, expected), "{resolution:?}");
    }
}

#[test]
fn a_frontend_has_its_affinity_sources_and_hairpin() {
    let mut web = frontend(Resolution::Cluster(Masquerade::OffCluster), &["10.244.1.2:80"], &[]);
    let lists = Lists {
        hairpin: vec![ip("10.244.1.2")],
        affinity: Some(Affinity(300)),
        ..(*web.lists).clone()
    };
    web.lists = Arc::new(lists);
    web.cluster_ip = true;
    web.source_ranges = Some(vec!["192.168.0.0/24".parse().unwrap()].into());
    let plan = plan(&key(Protocol::Tcp), &web);
    let expected = [
        SetId::ClusterIps,
        SetId::SourceRestricted,
        SetId::SourceAllowed,
        SetId::Frontends,
        SetId::Hairpin,
    ];
    assert_eq!(sets(&plan), expected);
    assert_eq!(plan.server.unwrap().affinity, Some(300));
}

#[test]
fn a_node_port_is_at_every_address_of_its_family() {
    let node = [ip("192.168.0.1"), ip("10.0.0.1"), ip("fd00::1")];
    let at = |address| FrontendKey { address, protocol: Protocol::Udp, port: 30_053 };
    let v4 = places(&at(Address::Node(Family::V4)), &node);
    assert_eq!(v4.iter().map(|place| place.address).collect::<Vec<_>>(), node[..2]);
    assert_eq!((v4[0].protocol, v4[0].port), (17, 30_053));
    assert_eq!(places(&at(Address::Node(Family::V6)), &node).len(), 1);
    assert_eq!(places(&at(Address::Ip(ip("1.2.3.4"))), &node)[0].address, ip("1.2.3.4"));
}

#[test]
fn only_what_differs_is_sent() {
    let mut known = None;
    let two = server(&["10.244.1.2:80", "10.244.2.2:80"]);
    let first = changes(Protocol::Tcp, &mut known, Some(&two));
    assert_eq!(
        first,
        [
            "make virtual server 10.96.0.1:80/TCP",
            "send 10.96.0.1:80/TCP to 10.244.1.2:80",
            "send 10.96.0.1:80/TCP to 10.244.2.2:80",
        ]
    );
    assert!(changes(Protocol::Tcp, &mut known, Some(&two)).is_empty());
    // One endpoint gone and another come.
    let other = server(&["10.244.2.2:80", "10.244.3.2:80"]);
    assert_eq!(
        changes(Protocol::Tcp, &mut known, Some(&other)),
        [
            "send 10.96.0.1:80/TCP to 10.244.3.2:80",
            "send 10.96.0.1:80/TCP to 10.244.1.2:80 with weight 0",
        ]
    );
    assert!(known.as_ref().unwrap().is_draining());
    // It comes back before its last connection has ended.
    assert_eq!(
        changes(Protocol::Tcp, &mut known, Some(&two)),
        [
            "send 10.96.0.1:80/TCP to 10.244.1.2:80 with weight 1",
            "send 10.96.0.1:80/TCP to 10.244.3.2:80 with weight 0",
        ]
    );
    let sticky = Server { affinity: Some(60), ..two };
    assert_eq!(
        changes(Protocol::Tcp, &mut known, Some(&sticky)),
        ["change virtual server 10.96.0.1:80/TCP"]
    );
}

#[test]
fn a_server_of_another_scheduler_is_changed() {
    let mut known = Some(Known { scheduler: "wlc".into(), ..Known::default() });
    let told = changes(Protocol::Tcp, &mut known, Some(&server(&[])));
    assert_eq!(told, ["change virtual server 10.96.0.1:80/TCP"]);
}

#[test]
fn tcp_is_drained_and_udp_goes_at_once() {
    let one = server(&["10.244.1.2:80"]);
    let mut known = None;
    changes(Protocol::Tcp, &mut known, Some(&one));
    assert_eq!(
        changes(Protocol::Tcp, &mut known, None),
        ["send 10.96.0.1:80/TCP to 10.244.1.2:80 with weight 0"]
    );
    assert!(changes(Protocol::Tcp, &mut known, None).is_empty());
    let mut known = None;
    changes(Protocol::Udp, &mut known, Some(&one));
    assert_eq!(
        changes(Protocol::Udp, &mut known, Some(&server(&[]))),
        ["stop sending 10.96.0.1:80/UDP to 10.244.1.2:80"]
    );
    changes(Protocol::Udp, &mut known, Some(&one));
    assert_eq!(
        changes(Protocol::Udp, &mut known, None),
        ["remove virtual server 10.96.0.1:80/UDP"]
    );
    assert_eq!(known, None);
}

#[test]
fn a_drained_destination_goes_with_its_last_connection() {
    let key = key(Protocol::Tcp);
    let mut known = None;
    changes(Protocol::Tcp, &mut known, Some(&server(&["10.244.1.2:80", "10.244.2.2:80"])));
    let wanted = server(&["10.244.2.2:80"]);
    changes(Protocol::Tcp, &mut known, Some(&wanted));
    let told = |active, inactive| {
        [DestinationState {
            destination: Destination {
                weight: 0,
                ..Destination::new("10.244.1.2:80".parse().unwrap())
            },
            is_nat: true,
            active,
            inactive,
            persistent: 0,
            counters: Counters::default(),
        }]
    };
    let mut out = Vec::new();
    for (active, inactive) in [(1, 0), (0, 1)] {
        drain(&key, &mut known, Some(&wanted), &told(active, inactive), &mut out);
        assert!(out.is_empty());
    }
    drain(&key, &mut known, Some(&wanted), &told(0, 0), &mut out);
    assert_eq!(out, [Change::DeleteDestination(key, "10.244.1.2:80".parse().unwrap())]);
    assert!(!known.as_ref().unwrap().is_draining());
    // Nobody wants the server any more: it goes with the last destination, which closing connections do not keep.
    changes(Protocol::Tcp, &mut known, Some(&server(&["10.244.1.2:80"])));
    changes(Protocol::Tcp, &mut known, None);
    out.clear();
    drain(&key, &mut known, None, &told(1, 0), &mut out);
    assert_eq!(out, [Change::DeleteDestination(key, "10.244.2.2:80".parse().unwrap())]);
    out.clear();
    drain(&key, &mut known, None, &told(0, 1), &mut out);
    assert_eq!((out, known), (vec![Change::DeleteService(key)], None));
}
