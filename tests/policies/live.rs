//! Live connections, pods that start, daemons that die.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use serde_json::json;
use testnet::manifest::{Endpoint, EndpointSlice, Service, documents};
use testnet::{Family, Host, eventually};

use super::world::{SOON, WEB, World};

/// After the daemon has committed, no packet passes that is not allowed any more.
const REPAIRED: Duration = Duration::from_secs(10);

#[test]
fn what_is_taken_away_cuts_live_connections() {
    let world = World::new();
    let _daemons = world.daemons("backend: host-gw\n");
    world.policy(
        "web",
        &json!({
            "podSelector": {"matchLabels": {"app": "web"}},
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"role": "friend"}}}]}],
        }),
    );
    let friend = json!({"role": "friend"});
    let web = world.pod(&world.n1, "web", &json!({"app": "web"}));
    let near = world.pod(&world.n1, "near", &friend);
    let far = world.pod(&world.n2, "far", &friend);
    let other = world.pod(&world.n1, "other", &friend);
    let _servers = (web.serve_tcp(WEB), web.serve_udp(WEB));
    // One by way of a Service.
    let vip = "10.96.0.9".parse().unwrap();
    let service = Service::new("web").cluster_ips(&[vip]).port("web", "TCP", 80);
    let slice = EndpointSlice::new("web", Family::V4, &[Endpoint::of(&web)]);
    let slice = slice.port("web", "TCP", WEB.into());
    world.write("service", &documents(&[&service, &slice]));
    let to = (web.v4(), WEB);
    let mut tcp = near.connect(to).unwrap();
    let mut udp = near.udp_flow(to, 4000).unwrap();
    let mut by_service = eventually("the Service", SOON, || near.connect((vip, 80)).ok());
    let mut from_far = eventually("the friend from afar", SOON, || far.connect(to).ok());
    let mut kept = other.connect(to).unwrap();
    for connection in [&mut tcp, &mut by_service, &mut from_far, &mut kept] {
        connection.ask("before").unwrap();
    }
    udp.ask("before").unwrap();
    // And one that nobody answers.
    let port = WEB + 1;
    let [received, stream] = [web.namespace(), near.namespace()]
        .map(|inside| inside.run(move || UdpSocket::bind(("0.0.0.0", port))).unwrap());
    received.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let flows = || {
        stream.send_to(b"x", (web.v4(), port)).unwrap();
        received.recv(&mut [0]).is_ok()
    };
    assert!(flows() && flows());
    world.tell("near", &world.n1, &json!({}), Some(&near));
    world.tell("far", &world.n2, &json!({}), Some(&far));
    eventually("UDP is cut", SOON, || udp.ask("after").is_err());
    assert!(!flows());
    for (what, connection) in
        [("TCP", &mut tcp), ("by a Service", &mut by_service), ("from afar", &mut from_far)]
    {
        assert!(connection.ask("after").is_err(), "{what}");
    }
    kept.ask("after").unwrap();
    // Given back, what still lives goes on.
    world.tell("near", &world.n1, &friend, Some(&near));
    eventually("UDP goes on", SOON, || udp.ask("again").is_ok());
    assert!(flows());
}

#[test]
fn a_pod_is_isolated_before_its_first_packet() {
    let world = World::new();
    let _daemons = world.daemons("backend: host-gw\n");
    world.policy("all", &json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}));
    let outside = world.lan.serve_tcp(WEB);
    for number in 0..10 {
        let name = format!("pod-{number}");
        world.tell(&name, &world.n1, &json!({}), None);
        let pod = world.attach(&world.n1, &name);
        assert!(!pod.can_reach((world.lan.outside(Family::V4), WEB)), "{name} was not isolated");
    }
    drop(outside);
}

#[test]
fn what_is_not_known_is_denied_until_it_is() {
    let world = World::new();
    let daemons = world.daemons("backend: host-gw\n");
    let free = world.attach(&world.n1, "free");
    let server = free.serve_tcp(WEB);
    world.policy("some", &json!({"podSelector": {"matchLabels": {"app": "some"}}}));
    // Nobody told of this pod: ADD waits, then the pod starts isolated.
    let began = Instant::now();
    let unknown = world.attach(&world.n1, "unknown");
    assert!(began.elapsed() >= Duration::from_secs(2), "{:?}", began.elapsed());
    assert!(!unknown.can_reach((free.v4(), WEB)));
    assert!(
        daemons[0].log().contains("pod default/unknown is not known yet"),
        "{}",
        daemons[0].log()
    );
    world.tell("free", &world.n1, &json!({}), Some(&free));
    world.tell("unknown", &world.n1, &json!({}), Some(&unknown));
    eventually("known, it may", SOON, || unknown.can_reach((free.v4(), WEB)));
    drop(server);
}

#[test]
fn a_reused_address_inherits_nothing() {
    let world = World::new();
    let _daemons = world.daemons("backend: host-gw\n");
    world.policy("shut", &json!({"podSelector": {"matchLabels": {"app": "shut"}}}));
    let client = world.pod(&world.n1, "client", &json!({}));
    let shut = world.pod(&world.n1, "shut", &json!({"app": "shut"}));
    let server = shut.serve_tcp(WEB);
    assert!(!client.can_reach((shut.v4(), WEB)));
    drop(server);
    shut.delete();
    // The API server still says that the address is the old pod's.
    world.tell("open", &world.n1, &json!({}), None);
    let address = shut.v4();
    let network = world.network(&world.n1).runtime("ips", json!([format!("{address}/24")]));
    let open = world.n1.pod(&network, "open");
    assert_eq!(open.v4(), address);
    let _server = open.serve_tcp(WEB);
    assert!(client.can_reach((address, WEB)), "the new pod is shut like the old one");
}

#[test]
fn rules_outlive_the_daemon_and_come_back() {
    let world = World::new();
    let [mut daemon, _other] = world.daemons("backend: host-gw\n");
    world.policy("web", &json!({"podSelector": {"matchLabels": {"app": "web"}}}));
    let web = world.pod(&world.n1, "web", &json!({"app": "web"}));
    let client = world.pod(&world.n1, "client", &json!({}));
    let _server = web.serve_tcp(WEB);
    let to = (web.v4(), WEB);
    let denied = |what: &str| assert!(!client.can_reach(to), "{what}");
    denied("at first");
    let generation = || {
        let rules = world.n1.namespace().command("nft", &["list", "ruleset"]);
        let told =
            rules.split("comment \"generation ").nth(1).and_then(|rest| rest.split('"').next());
        told.and_then(|number| number.parse::<u16>().ok()).expect("a generation")
    };
    let before = generation();
    daemon.kill();
    denied("without the daemon");
    daemon.start_again();
    for _ in 0..5 {
        denied("while the daemon starts");
    }
    // What carries the mark of an earlier one must not pass.
    assert!(generation() > before, "{} after {before}", generation());
    world.n1.namespace().command("nft", &["delete", "table", "inet", "viaduct-policy"]);
    eventually("the table is back", REPAIRED, || {
        daemon.log().contains("changed by somebody else").then_some(())
    });
    denied("after the repair");
}

#[test]
fn a_mark_of_a_table_that_is_gone_opens_nothing() {
    let world = World::new();
    let [mut daemon, _other] = world.daemons("backend: host-gw\n");
    let web = world.pod(&world.n1, "web", &json!({"app": "web"}));
    let client = world.pod(&world.n1, "client", &json!({}));
    let _server = web.serve_tcp(WEB);
    let mut connection = client.connect((web.v4(), WEB)).unwrap();
    connection.ask("before").unwrap();
    daemon.kill();
    let nft = |line: &str| world.n1.namespace().command("nft", &[line]);
    nft("delete table inet viaduct-policy");
    // What the first generation has.
    nft(
        "add table inet marker { chain every { type filter hook forward priority -1; ct mark set 0x10000; }; }",
    );
    connection.ask("marked").unwrap();
    nft("delete table inet marker");
    world.policy("web", &json!({"podSelector": {"matchLabels": {"app": "web"}}}));
    daemon.start_again();
    let rules = || world.n1.namespace().command("nft", &["list", "ruleset"]);
    eventually("the policy is in force", SOON, || rules().contains("\"default/web\""));
    assert!(connection.ask("after").is_err());
}

#[test]
fn a_pod_that_ended_while_no_daemon_ran_is_forgotten() {
    let world = World::new();
    let [mut daemon, _other] = world.daemons("backend: host-gw\n");
    let attachments = world.n1.folder().join("attachments");
    let count = || std::fs::read_dir(&attachments).unwrap().count();
    let [_stays, ends] = ["stays", "ends"].map(|name| world.pod(&world.n1, name, &json!({})));
    assert_eq!(count(), 2);
    daemon.kill();
    // Nobody calls DEL.
    let link = ends.result()["interfaces"][1]["name"].as_str().unwrap();
    world.n1.namespace().command("ip", &["link", "del", link]);
    daemon.start_again();
    assert_eq!(count(), 1);
    assert!(daemon.log().contains("forgot 1 pods that ended while no daemon ran"));
}

#[test]
fn the_log_names_who_was_denied_and_by_which_policy() {
    let world = World::new();
    let [daemon, _other] = world.daemons("backend: host-gw\n");
    world.policy("web", &json!({"podSelector": {"matchLabels": {"app": "web"}}}));
    let web = world.pod(&world.n1, "web", &json!({"app": "web"}));
    let client = world.pod(&world.n1, "client", &json!({}));
    for (family, to) in [(Family::V4, web.v4()), (Family::V6, web.v6())] {
        assert!(!client.can_reach((to, WEB)));
        let from = if family == Family::V4 { client.v4() } else { client.v6() };
        eventually("a line about it", SOON, || {
            let log = daemon.log();
            let told = |line: &str| {
                line.contains("denied: TCP from pod default/client (")
                    && line.contains(&from.to_string())
                    && line.contains(&format!(
                        "to pod default/web ({}",
                        std::net::SocketAddr::new(to, WEB)
                    ))
                    && line.ends_with("ingress, default/web")
            };
            if log.lines().any(told) { Ok(()) } else { Err(log) }
        });
    }
    let denied = daemon.metric("viaduct_policy_denied_packets_total", "policies=\"default/web\"");
    assert!(denied.is_some_and(|packets| packets >= 2.0), "{denied:?}");
    // Much at once is told in few lines.
    let before = daemon.log().lines().count();
    let closed = (web.v4(), 9);
    client.namespace().run(move || {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        (0..2000).for_each(|_| drop(socket.send_to(&[0], closed)));
    });
    assert!(daemon.log().lines().count() - before < 40);
}

/// Not even a datagram that nobody could answer: what IPVS forwards does not pass where other packets are judged.
#[test]
fn nothing_reaches_an_isolated_pod_by_a_service() {
    let world = World::new();
    let _daemons = world.daemons("backend: host-gw\n");
    world.policy(
        "web",
        &json!({
            "podSelector": {"matchLabels": {"app": "web"}},
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"role": "friend"}}}]}],
        }),
    );
    let web = world.pod(&world.n1, "web", &json!({"app": "web"}));
    let friend = world.pod(&world.n1, "friend", &json!({"role": "friend"}));
    let stranger = world.pod(&world.n1, "stranger", &json!({}));
    let server = web.serve_udp(WEB);
    let vip = "10.96.0.9".parse().unwrap();
    let service = Service::new("web").cluster_ips(&[vip]).port("web", "UDP", 80);
    let slice = EndpointSlice::new("web", Family::V4, &[Endpoint::of(&web)]);
    world.write("service", &documents(&[&service, &slice.port("web", "UDP", WEB.into())]));
    eventually("the Service", SOON, || friend.udp((vip, 80)).is_ok());
    let before = server.answered();
    assert!(stranger.udp_within((vip, 80), Duration::from_millis(700)).is_err());
    assert_eq!(server.answered(), before);
}
