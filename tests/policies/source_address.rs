//! A pod sends with its own addresses only: nobody passes policies as somebody else.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use serde_json::json;
use testnet::{Family, Host, Pod, Proxyd, eventually, programs};

use super::forgery::{UNDERWAY, advertise, arrives, know, send_tagged, take};
use super::world::{SOON, WEB, World};

const MODES: [&str; 2] = ["backend: host-gw\n", "backend: vxlan\nmode: routed\n"];
const FAMILIES: [Family; 2] = [Family::V4, Family::V6];
/// After somebody else changed the tables.
const REPAIRED: Duration = Duration::from_secs(10);

fn of(pod: &Pod<'_>, family: Family) -> IpAddr {
    match family {
        Family::V4 => pod.v4(),
        Family::V6 => pod.v6(),
    }
}

/// Web servers on both nodes that let nobody but the friend in.
fn only_the_friend(world: &World) {
    world.policy(
        "web",
        &json!({
            "podSelector": {"matchLabels": {"app": "web"}},
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"role": "friend"}}}]}],
        }),
    );
}

fn denied(daemon: &Proxyd<'_>) -> f64 {
    daemon.metric("viaduct_source_address_denied_packets_total", "").expect("the metric")
}

fn tables(world: &World) -> String {
    world.n1.namespace().command("nft", &["list", "tables"])
}

#[test]
fn a_pod_that_takes_anothers_address_is_not_heard_as_that_pod() {
    for settings in MODES {
        let world = World::new();
        let daemons = world.daemons(settings);
        only_the_friend(&world);
        let app = json!({"app": "web"});
        let (near, far) = (world.pod(&world.n1, "near", &app), world.pod(&world.n2, "far", &app));
        let friend = world.pod(&world.n1, "friend", &json!({"role": "friend"}));
        let thief = world.pod(&world.n1, "thief", &json!({}));
        let servers = [near.serve_udp(WEB), far.serve_udp(WEB)];
        let _tcp = near.serve_tcp(WEB);
        know(thief.namespace(), &near);
        for family in FAMILIES {
            let stolen = of(&friend, family);
            take(thief.namespace(), stolen);
            let before = denied(&daemons[0]);
            for (web, server) in [&near, &far].into_iter().zip(&servers) {
                let to = of(web, family);
                eventually("the friend is let in", SOON, || friend.udp((to, WEB)).is_ok());
                assert!(!arrives(thief.namespace(), stolen, to, server), "{settings}: to {to}");
                assert!(!arrives(thief.namespace(), of(&thief, family), to, server), "{to}");
            }
            assert!(denied(&daemons[0]) >= before + 2.0, "{settings}: both are counted");
            let told = match stolen {
                IpAddr::V4(_) => format!("from {stolen}:"),
                IpAddr::V6(_) => format!("from [{stolen}]:"),
            };
            let named = |line: &str| {
                line.contains(&told)
                    && line.contains("not from an address of pod default/thief (link vd")
            };
            eventually("the thief's name", SOON, || {
                let log = daemons[0].log();
                if log.lines().any(named) { Ok(()) } else { Err(log) }
            });
            assert!(friend.can_reach((of(&near, family), WEB)), "{settings}: the friend goes on");
        }
        let ruleset = world.n1.namespace().ruleset();
        assert!(ruleset.contains("table bridge viaduct-policy"), "{ruleset}");
    }
}

#[test]
fn without_the_check_it_is_heard_and_without_policies_there_is_no_table() {
    for settings in MODES {
        let world = World::new();
        let _daemons = world
            .daemons(&format!("{settings}sourceAddressCheck: false\ndenyUnknownPods: false\n"));
        let near = world.pod(&world.n1, "near", &json!({"app": "web"}));
        let friend = world.pod(&world.n1, "friend", &json!({"role": "friend"}));
        let thief = world.pod(&world.n1, "thief", &json!({}));
        assert!(!tables(&world).contains("viaduct-policy"), "{}", tables(&world));
        only_the_friend(&world);
        let server = near.serve_udp(WEB);
        know(thief.namespace(), &near);
        for family in FAMILIES {
            let (stolen, to) = (of(&friend, family), of(&near, family));
            take(thief.namespace(), stolen);
            eventually("the policy", SOON, || thief.udp((to, WEB)).is_err());
            assert!(arrives(thief.namespace(), stolen, to, &server), "{settings}: {to}");
        }
        assert!(!tables(&world).contains("bridge viaduct-policy"), "{}", tables(&world));
    }
}

#[test]
fn nobody_is_told_that_anothers_address_is_here() {
    let world = World::new();
    let daemons = world.daemons("backend: host-gw\n");
    let [victim, thief, other] =
        ["victim", "thief", "other"].map(|name| world.pod(&world.n1, name, &json!({})));
    let _server = victim.serve_udp(WEB);
    for family in FAMILIES {
        let (stolen, to) = (of(&victim, family), of(&other, family));
        assert!(other.udp((stolen, WEB)).is_ok());
        take(thief.namespace(), stolen);
        // Somebody who does not know the victim hears of it first by the thief, who has to ask for him.
        for namespace in [other.namespace(), thief.namespace()] {
            namespace.ip("neigh flush dev eth0");
        }
        let before = denied(&daemons[0]);
        thief.namespace().run(move || {
            let socket = UdpSocket::bind(SocketAddr::new(stolen, 0)).expect("the address");
            let _ = socket.send_to(b"where are you", SocketAddr::new(to, 9));
        });
        eventually("the lie", SOON, || denied(&daemons[0]) > before);
        let known = other.namespace().ip(&format!("neigh show {stolen} dev eth0"));
        assert!(!known.contains(thief.mac()), "{known}");
        // Both hear the question where the address is; one answers.
        assert_eq!(other.udp((stolen, WEB)).expect("an answer").server, "victim");
    }
    // What is told in one's own name is about somebody else all the same.
    let (stolen, to) = (victim.v6(), other.v6());
    let learned = || other.namespace().ip(&format!("neigh show {stolen} dev eth0"));
    assert!(learned().contains(victim.mac()), "{}", learned());
    let before = denied(&daemons[0]);
    advertise(thief.namespace(), thief.v6(), to, stolen, thief.mac());
    eventually("the advertisement", SOON, || denied(&daemons[0]) > before);
    assert!(learned().contains(victim.mac()), "{}", learned());
}

fn link_local(pod: &Pod<'_>) -> String {
    let links = pod.namespace().ip_json("address show dev eth0");
    let addresses = links[0]["addr_info"].as_array().expect("addresses");
    let address = addresses.iter().find(|address| address["scope"] == "link");
    address.and_then(|address| address["local"].as_str()).expect("an address").to_owned()
}

/// A link-local address is nobody's in any policy: it is for finding neighbours and for nothing else.
#[test]
fn link_local_addresses_lead_past_no_policy() {
    let world = World::new();
    let daemons = world.daemons("backend: host-gw\n");
    world.policy("web", &json!({"podSelector": {"matchLabels": {"app": "web"}}}));
    let web = world.pod(&world.n1, "web", &json!({"app": "web"}));
    let stranger = world.pod(&world.n1, "stranger", &json!({}));
    let _server = web.serve_udp(WEB);
    // A link-local address says by which link.
    let link = stranger.namespace().ip_json("link show dev eth0")[0]["ifindex"].clone();
    let to: SocketAddr = format!("[{}%{link}]:{WEB}", link_local(&web)).parse().unwrap();
    let before = denied(&daemons[0]);
    assert!(stranger.udp_within(to, UNDERWAY).is_err());
    assert!(denied(&daemons[0]) > before);
}

#[test]
fn a_pod_with_a_reused_address_is_heard_and_the_earlier_one_is_not() {
    for settings in MODES {
        let world = World::new();
        let _daemons = world.daemons(settings);
        let server = world.pod(&world.n1, "server", &json!({}));
        let (udp, _tcp) = (server.serve_udp(WEB), server.serve_tcp(WEB));
        let first = world.pod(&world.n1, "first", &json!({}));
        let addresses = [format!("{}/24", first.v4()), format!("{}/64", first.v6())];
        let network = || world.network(&world.n1).runtime("ips", json!(addresses));
        first.delete();
        let second = world.n1.pod(&network(), "second");
        assert_eq!(second.ips(), first.ips());
        for family in FAMILIES {
            assert!(second.udp((of(&server, family), WEB)).is_ok(), "{settings}");
            assert!(second.can_reach((of(&server, family), WEB)), "{settings}");
        }
        // A pod whose lease was lost while it lives is checked as before, and has no address any more.
        for address in second.ips() {
            let lease = world.n1.lease_file("viaduct", &address.to_string());
            std::fs::remove_file(&lease).expect("a lease");
        }
        let third = world.n1.pod(&network(), "third");
        assert_eq!(third.ips(), second.ips());
        assert!(third.udp((server.v4(), WEB)).is_ok(), "{settings}");
        know(second.namespace(), &server);
        for family in FAMILIES {
            let (own, to) = (of(&second, family), of(&server, family));
            assert!(!arrives(second.namespace(), own, to, &udp), "{settings}: {own}");
        }
    }
}

#[test]
fn the_check_outlives_the_daemon_and_comes_back() {
    for settings in MODES {
        let world = World::new();
        // Else there is always something to judge.
        let settings = format!("{settings}denyUnknownPods: false\n");
        let [mut daemon, _other] = world.daemons(&settings);
        let [web, friend, thief] =
            ["web", "friend", "thief"].map(|name| world.pod(&world.n1, name, &json!({})));
        let server = web.serve_udp(WEB);
        know(thief.namespace(), &web);
        take(thief.namespace(), friend.v4());
        let (node, stolen) = (world.n1.namespace(), friend.v4());
        let heard = || arrives(thief.namespace(), stolen, web.v4(), &server);
        assert!(!heard(), "{settings}: at first");
        daemon.kill();
        assert!(!heard(), "{settings}: without the daemon");
        daemon.start_again();
        for _ in 0..3 {
            assert!(!heard(), "{settings}: while the daemon starts");
        }
        for family in ["bridge", "inet"] {
            let repairs = || daemon.log().matches("changed by somebody else").count();
            let before = repairs();
            node.command("nft", &["delete", "table", family, "viaduct-policy"]);
            eventually("the table is back", REPAIRED, || repairs() > before);
            assert!(!heard(), "{settings}: after the repair of {family}");
        }
        assert!(friend.udp((web.v4(), WEB)).is_ok(), "{settings}");
        // Pods end, and with the last one the tables.
        for pod in [&web, &friend, &thief] {
            assert!(tables(&world).contains("viaduct-policy"));
            pod.delete();
        }
        eventually("no table without pods", SOON, || !tables(&world).contains("viaduct-policy"));
    }
}

#[test]
fn a_namespace_can_be_spared_and_policies_be_off() {
    for settings in MODES {
        let world = World::new();
        let [daemon, _other] = world.daemons(&format!("{settings}policies: false\n"));
        only_the_friend(&world);
        let web = world.pod(&world.n1, "web", &json!({"app": "web"}));
        let friend = world.pod(&world.n1, "friend", &json!({}));
        let vpn = world.pod(&world.n1, "vpn", &json!({}));
        let server = web.serve_udp(WEB);
        know(vpn.namespace(), &web);
        for address in friend.ips() {
            take(vpn.namespace(), address);
        }
        assert!(vpn.udp((web.v4(), WEB)).is_ok(), "{settings}: policies are off");
        let heard =
            |family| arrives(vpn.namespace(), of(&friend, family), of(&web, family), &server);
        assert_eq!(FAMILIES.map(heard), [false; 2], "{settings}");
        let spare = |text: &str| {
            let object = json!({
                "apiVersion": "v1", "kind": "Namespace",
                "metadata": {"name": "default", "annotations": {"viaduct.io/source-address-check": text}},
            });
            world.write("namespace-default", &testnet::manifest::documents(&[&object]));
        };
        spare("off");
        eventually("the namespace is spared", SOON, || FAMILIES.map(heard) == [true; 2]);
        spare("of");
        eventually("what is not understood is told", SOON, || {
            daemon.log().contains("viaduct.io/source-address-check")
        });
        eventually("and checked", SOON, || FAMILIES.map(heard) == [false; 2]);
    }
}

#[test]
fn pods_that_others_attached_are_left_alone_and_cleanup_removes_the_check() {
    let world = World::new();
    let [mut daemon, _other] = world.daemons("backend: host-gw\ndenyUnknownPods: false\n");
    let [web, friend] = ["web", "friend"].map(|name| world.pod(&world.n1, name, &json!({})));
    let server = web.serve_udp(WEB);
    let network = world.network(&world.n1).without("daemonSocket");
    let foreign = world.n1.pod(&network, "foreign");
    know(foreign.namespace(), &web);
    take(foreign.namespace(), friend.v4());
    assert!(arrives(foreign.namespace(), friend.v4(), web.v4(), &server));
    daemon.kill();
    assert!(tables(&world).contains("bridge viaduct-policy"));
    world.n1.namespace().command(&programs::proxyd().display().to_string(), &["cleanup"]);
    assert!(!tables(&world).contains("viaduct-policy"), "{}", tables(&world));
}

#[test]
fn a_pod_with_two_links_may_answer_by_either() {
    for settings in MODES {
        let world = World::new();
        let _daemons = world.daemons(settings);
        let [web, friend] = ["web", "friend"].map(|name| world.pod(&world.n1, name, &json!({})));
        let server = web.serve_udp(WEB);
        let pod = world.pod(&world.n1, "two", &json!({}));
        // The same pod's second interface.
        let second = pod.cni("ADD").ifname("net1").run(world.n1.namespace()).result();
        let address = second["ips"][0]["address"].as_str().unwrap().split('/').next().unwrap();
        let address: IpAddr = address.parse().unwrap();
        know(pod.namespace(), &web);
        take(pod.namespace(), friend.v4());
        for source in [pod.v4(), address] {
            assert!(arrives(pod.namespace(), source, web.v4(), &server), "{settings}: {source}");
        }
        assert!(!arrives(pod.namespace(), friend.v4(), web.v4(), &server), "{settings}");
    }
}

/// Whoever receives a frame with the tag of VLAN 0 takes it as one without a tag, while a bridge does not look behind
/// it: no policy would see what is in it.
#[test]
fn a_tag_leads_past_no_policy() {
    let world = World::new();
    let daemons = world.daemons("backend: host-gw\n");
    world.policy("web", &json!({"podSelector": {"matchLabels": {"app": "web"}}}));
    let web = world.pod(&world.n1, "web", &json!({"app": "web"}));
    let stranger = world.pod(&world.n1, "stranger", &json!({}));
    let server = web.serve_udp(WEB);
    if stranger.namespace().try_command("python3", &["-V"]).is_err() {
        return testnet::skip("no python3 that could send frames with tags");
    }
    let before = denied(&daemons[0]);
    let tags = ["81000000", "8100000081000000", "88a80000"];
    for tag in tags {
        send_tagged(&stranger, &web, tag);
    }
    eventually("all frames", SOON, || denied(&daemons[0]) >= before + tags.len() as f64);
    assert_eq!(server.answered(), 0);
}
