//! Flows that live on when their endpoint changes.

use serde_json::json;
use testnet::{Family, Host, IN_FORCE, Proxyd, eventually};

use super::manifests::{service, slice};
use super::{BOTH, World, address, node_address, serve, vip};

#[test]
fn a_udp_flow_that_never_pauses_follows_the_service() {
    let world = World::new();
    let client = world.pod(0, "client");
    let (a, b) = (world.pod(0, "a"), world.pod(1, "b"));
    let _servers = (serve(&a, 8080), serve(&b, 8080), serve(&b, 9090));
    for family in BOTH {
        let proxyd = Proxyd::start(world.node(), &[]);
        let node = node_address(world.node(), family);
        let text = |slice: Option<super::manifests::Slice>| {
            let web = service("web", vip(family, 96, 10)).node_port(80, 30080).text();
            world.objects() + &web + &slice.map(|slice| slice.text()).unwrap_or_default()
        };
        let (first, second) = (
            slice("web", 8080).ready(address(&a, family), "n1"),
            slice("web", 8080).ready(address(&b, family), "n2"),
        );
        proxyd.apply("web.yaml", &text(Some(first.clone())));
        let mut flows = [
            client.udp_flow((vip(family, 96, 10), 80), 40_001).unwrap(),
            client.udp_flow((node, 30080), 40_002).unwrap(),
            world.lan.udp_flow((node, 30080), 40_003).unwrap(),
        ];
        let mut reach = |server: &str| {
            for (at, flow) in flows.iter_mut().enumerate() {
                let answer = eventually(&format!("flow {at} at {server}"), IN_FORCE, || {
                    flow.ask("on").ok().filter(|answer| answer.server == server)
                });
                assert_eq!(answer.server, server);
            }
        };
        reach("a");
        proxyd.apply("web.yaml", &text(Some(second.clone())));
        reach("b");
        // Nobody is there for a while.
        proxyd.apply("web.yaml", &text(None));
        proxyd.apply("web.yaml", &text(Some(first)));
        reach("a");
        // Another port of another pod.
        let other = slice("web", 9090).ready(address(&b, family), "n2");
        proxyd.apply("web.yaml", &text(Some(other)));
        reach("b");
    }
}

#[test]
fn a_udp_flow_from_before_the_rules_finds_its_way() {
    let world = World::new();
    let (client, server) = (world.pod(0, "client"), world.pod(1, "a"));
    let _server = serve(&server, 8080);
    let ip = vip(Family::V4, 96, 10);
    let mut flow = client.udp_flow((ip, 80), 40_001).unwrap();
    let mut proxyd = Proxyd::start(world.node(), &[]);
    flow.send("too early").unwrap();
    let text =
        service("web", ip).port(80).text() + &slice("web", 8080).ready(server.v4(), "n2").text();
    proxyd.apply("web.yaml", &(world.objects() + &text));
    eventually("the flow is answered", IN_FORCE, || flow.ask("now"));
    // A restart leaves it alone.
    proxyd.terminate();
    proxyd.restart();
    assert_eq!(flow.ask("still").unwrap().server, "a");
}

#[test]
fn tcp_connections_outlive_their_endpoint_in_the_slice_and_the_service() {
    let world = World::new();
    let (client, server) = (world.pod(0, "client"), world.pod(1, "a"));
    let other = world.pod(0, "b");
    let _servers = (serve(&server, 8080), serve(&other, 8080));
    for family in BOTH {
        let proxyd = Proxyd::start(world.node(), &[]);
        let ip = vip(family, 96, 10);
        let web = service("web", ip).port(80).text();
        let at = |pod, node| slice("web", 8080).ready(address(pod, family), node).text();
        proxyd.apply("web.yaml", &(world.objects() + &web + &at(&server, "n2")));
        let mut connection = client.connect((ip, 80)).unwrap();
        connection.ask("one").unwrap();
        proxyd.apply("web.yaml", &(world.objects() + &web + &at(&other, "n1")));
        assert_eq!(connection.ask("two").unwrap().server, "a");
        assert_eq!(client.tcp((ip, 80)).unwrap().server, "b");
        proxyd.apply("web.yaml", &world.objects());
        assert_eq!(connection.ask("three").unwrap().server, "a");
    }
}

#[test]
fn a_udp_flow_stays_with_an_endpoint_that_terminates_until_that_is_gone() {
    let world = World::new();
    let client = world.pod(0, "client");
    let (a, b) = (world.pod(0, "a"), world.pod(1, "b"));
    let _servers = (serve(&a, 8080), serve(&b, 8080));
    for family in BOTH {
        let proxyd = Proxyd::start(world.node(), &[]);
        let ip = vip(family, 96, 10);
        let web = world.objects() + &service("web", ip).port(80).text();
        let first = slice("web", 8080).ready(address(&a, family), "n1");
        proxyd.apply("web.yaml", &(web.clone() + &first.text()));
        let mut flow = client.udp_flow((ip, 80), 40_001).unwrap();
        assert_eq!(flow.ask("one").unwrap().server, "a");
        let leaving = json!({"conditions": {"ready": false, "serving": true, "terminating": true}});
        let second = slice("web", 8080)
            .endpoint(address(&a, family), "n1", leaving)
            .ready(address(&b, family), "n2");
        proxyd.apply("web.yaml", &(web.clone() + &second.text()));
        assert_eq!(client.udp((ip, 80)).unwrap().server, "b", "a new flow");
        assert_eq!(flow.ask("two").unwrap().server, "a", "the old flow");
        // No list changes by this: the endpoint was out of them already.
        let third = slice("web", 8080).ready(address(&b, family), "n2");
        proxyd.apply("web.yaml", &(web + &third.text()));
        eventually("the flow moves", IN_FORCE, || {
            flow.ask("three").ok().filter(|answer| answer.server == "b")
        });
    }
}
