//! The node agent where Nodes contradict each other, cannot be reached, or change all the time.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testnet::manifest::documents;
use testnet::{Host, Lan, Manifests, Network, Node, Pod, Proxyd, eventually};

use super::soon;
use super::world::World;

const REPAIRED_WITHIN: Duration = Duration::from_secs(10);

fn spawn<'n>(node: &'n Node, settings: &str) -> Proxyd<'n> {
    let settings = format!("policies: false\nsourceAddressCheck: false\n{settings}");
    Proxyd::spawn(node, &["--network-config", &node.agent_settings(&settings)])
}

/// A Node object with these addresses, in this order.
fn object(name: &str, addresses: &[&str], cidrs: &[&str]) -> Value {
    let list: Vec<Value> =
        addresses.iter().map(|address| json!({"type": "InternalIP", "address": address})).collect();
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
        "spec": {"podCIDRs": cidrs}, "status": {"addresses": list},
    })
}

fn aged(mut node: Value, created: &str, ready: &str) -> Value {
    node["metadata"]["creationTimestamp"] = created.into();
    node["status"]["conditions"] = json!([{"type": "Ready", "status": ready}]);
    node
}

fn write(node: &Node, objects: &[Value]) {
    let objects: Vec<&dyn std::fmt::Display> = objects.iter().map(|o| o as _).collect();
    Manifests::of(node).write("nodes", &documents(&objects));
}

fn routes(node: &Node) -> String {
    node.namespace().ip("route show proto 86") + &node.namespace().ip("-6 route show proto 86")
}

fn status(daemon: &Proxyd<'_>) -> Option<Value> {
    serde_json::from_str(&daemon.http_get(10249, "/status")?.body).ok()
}

/// Waits until the daemon has so many problems of its network, in the status and as a metric.
#[track_caller]
fn await_problems(what: &str, daemon: &Proxyd<'_>, count: usize) -> Value {
    soon(what, || {
        let status = status(daemon).ok_or("no status")?;
        let metric = daemon.metric("viaduct_network_problems", "");
        let right = status["problemCount"] == count
            && metric == Some(count as f64)
            && status["network"].as_str().is_some_and(|state| state.starts_with("in place"));
        if right { Ok(status) } else { Err(format!("{status} {metric:?}")) }
    })
}

#[test]
fn every_node_left_out_is_reported_once_and_when_it_ends() {
    let own = object("n1", &["192.168.0.1", "fd00:192:168::1"], &["10.244.1.0/24"]);
    let n2 = object("n2", &["192.168.0.2"], &["10.244.2.0/24"]);
    let third = |addresses: &[&str], cidr: &str| object("third", addresses, &[cidr]);
    // The backend, the faulty node, and words of its problem.
    let cases = [
        ("host-gw", third(&["172.31.5.9"], "10.244.3.0/24"), "172.31.5.9"),
        ("host-gw", third(&["192.168.0.1"], "10.244.3.0/24"), "192.168.0.1"),
        ("vxlan", third(&["fd00:192:168::3"], "10.244.3.0/24"), "IPv4"),
        ("vxlan", third(&["192.168.0.3"], "10.244.2.0/24"), "overlaps"),
        ("vxlan", third(&["192.168.0.3"], "10.244.1.0/24"), "overlaps"),
        ("vxlan", third(&["192.168.0.1"], "10.244.3.0/24"), "192.168.0.1"),
        ("vxlan", third(&[], "10.244.3.0/24"), "no address"),
    ];
    for (at, (backend, faulty, words)) in cases.into_iter().enumerate() {
        let what = format!("case {at}");
        let lan = Lan::new();
        let node = lan.node("n1");
        write(&node, &[own.clone(), n2.clone(), faulty]);
        let daemon = spawn(&node, &format!("backend: {backend}\n"));
        let status = await_problems(&what, &daemon, 1);
        let problem = status["problems"][0].as_str().unwrap();
        assert!(problem.contains("\"third\"") && problem.contains(words), "{what}: {problem}");
        assert_ne!(status["network"], "in place", "{what}");
        let ready = daemon.http_get(10256, "/readyz").map(|answer| answer.status);
        assert_eq!(ready, Some(200), "{what}: pods of this node work");
        let found = routes(&node);
        assert!(found.contains("10.244.2.0/24"), "{what}: {found}");
        assert_eq!(found.lines().count(), 1, "{what}: {found}");
        let log = daemon.log();
        assert!(log.contains("pods of 1 other nodes"), "{what}: {log}");
        write(&node, &[own.clone(), n2.clone()]);
        let status = await_problems(&format!("{what} ends"), &daemon, 0);
        assert_eq!(status["network"], "in place", "{what}");
        let log = daemon.log();
        let begins = log.lines().filter(|l| l.contains("WARN") && l.contains("\"third\"")).count();
        let ends = log.lines().filter(|l| l.contains("no longer") && l.contains("\"third\""));
        assert_eq!((begins, ends.count()), (1, 1), "{what}: {log}");
    }
}

#[test]
fn a_problem_of_the_network_survives_one_of_services() {
    let world = World::new();
    let far = object("far", &["172.31.5.9"], &["10.244.3.0/24"]);
    Manifests::of(&world.n1).write("far", &documents(&[&far]));
    let daemon = spawn(&world.n1, "backend: host-gw\n");
    await_problems("the node", &daemon, 1);
    daemon.write(
        "bad",
        "apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec: {clusterIP: none-such}\n",
    );
    soon("both", || {
        let problems = status(&daemon)?["problems"].to_string();
        (problems.contains("far") && problems.contains("none-such")).then_some(())
    });
    daemon.remove("bad");
    await_problems("the node alone", &daemon, 1);
}

#[test]
fn a_subnet_belongs_to_the_ready_and_older_node() {
    let own = object("n1", &["192.168.0.1"], &["10.244.1.0/24"]);
    let (old, new) = ("2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z");
    let a = |created: &str, ready: &str| {
        aged(object("a", &["192.168.0.2"], &["10.244.2.0/24"]), created, ready)
    };
    let b = |created: &str, ready: &str| {
        aged(object("b", &["192.168.0.3"], &["10.244.2.0/25"]), created, ready)
    };
    let lan = Lan::new();
    let node = lan.node("n1");
    write(&node, &[own.clone(), a(new, "True"), b(old, "True")]);
    let daemon = spawn(&node, "backend: host-gw\n");
    let await_owner = |what: &str, route: &str| {
        soon(what, || {
            let found = routes(&node);
            if found.lines().count() == 1 && found.contains(route) { Ok(()) } else { Err(found) }
        });
    };
    let (of_a, of_b) = ("10.244.2.0/24 via 192.168.0.2", "10.244.2.0/25 via 192.168.0.3");
    await_owner("the older one", of_b);
    write(&node, &[own.clone(), a(new, "True"), b(old, "Unknown")]);
    await_owner("the ready one", of_a);
    write(&node, &[own.clone(), a(new, "False"), b(old, "Unknown")]);
    await_owner("the older one, if none is ready", of_b);
    write(&node, &[own.clone(), a(old, "True"), b(old, "True")]);
    await_owner("the first by name", of_a);
    // This node's own subnet is its own, however young it is.
    let claims = object("b", &["192.168.0.3"], &["10.244.1.0/24"]);
    write(&node, &[aged(own, new, "False"), a(old, "True"), aged(claims, old, "True")]);
    soon("the claim is a problem", || {
        let problems = status(&daemon)?["problems"].to_string();
        (problems.contains("10.244.1.0/24") && problems.contains("n1")).then_some(())
    });
    await_owner("the other one", of_a);
}

#[test]
fn dual_stack_nodes_in_any_order_reach_each_other() {
    // The order of addresses of each node, IPv6 first or not.
    for ipv6_first in [[false, true], [true, false], [true, true]] {
        let world = World::new();
        let addresses = |node: &Node, ipv6: bool| {
            let mut list = [node.v4().to_string(), node.v6().to_string()];
            if ipv6 {
                list.reverse();
            }
            list
        };
        let nodes = [&world.n1, &world.n2];
        let objects: Vec<Value> = nodes
            .iter()
            .zip(ipv6_first)
            .map(|(node, ipv6)| {
                let [first, second] = addresses(node, ipv6);
                let cidrs = [node.pod_cidr(), node.pod_cidr_v6()];
                object(node.name(), &[&first, &second], &[&cidrs[0], &cidrs[1]])
            })
            .collect();
        let daemons = nodes.map(|node| {
            write(node, &objects);
            spawn(node, "backend: vxlan\n")
        });
        let pods = [0, 1].map(|at| pod(nodes[at], &daemons[at], "pod"));
        for address in pods[1].ips() {
            pods[0].ping(address).unwrap_or_else(|e| panic!("{ipv6_first:?} {address}: {e}"));
        }
        let tunnel = world.n1.namespace().ip("-d link show vdvxlan1");
        let local = if ipv6_first == [true, true] { world.n1.v6() } else { world.n1.v4() };
        assert!(tunnel.contains(&format!("local {local} ")), "{ipv6_first:?}: {tunnel}");
        await_problems("no problem", &daemons[0], 0);
    }
}

fn conflist(node: &Node) -> Option<Value> {
    let text = std::fs::read(node.folder().join("net.d").join("10-viaduct.conflist")).ok()?;
    serde_json::from_slice(&text).ok()
}

/// A pod by the configuration that the daemon wrote, once it is ready.
fn pod<'n>(node: &'n Node, daemon: &Proxyd<'_>, name: &str) -> Pod<'n> {
    soon("the network is ready", || {
        daemon.http_get(10256, "/readyz").filter(|answer| answer.status == 200)
    });
    let list = conflist(node).expect("a configuration");
    node.pod(&Network::of_conflist(&list, node), name)
}

#[test]
fn a_stream_of_node_events_does_not_put_repair_off() {
    let world = World::new();
    let daemon = spawn(&world.n1, "backend: host-gw\n");
    let cidr = world.n2.pod_cidr();
    soon("the route", || routes(&world.n1).contains(&cidr));
    world.n1.namespace().ip(&format!("route del {cidr}"));
    let started = Instant::now();
    let mut number = 0;
    while !routes(&world.n1).contains(&cidr) {
        assert!(started.elapsed() < REPAIRED_WITHIN, "{}", daemon.log());
        number += 1;
        let cidr = format!("10.244.{}.0/24", 100 + number % 100);
        let third = object("third", &["192.168.0.77"], &[&cidr]);
        daemon.write("third", &documents(&[&third]));
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn backend_none_gives_way_to_the_routes_of_others() {
    for backend in ["vxlan", "host-gw"] {
        let world = World::new();
        let nodes = [&world.n1, &world.n2];
        let daemons = nodes.map(|node| spawn(node, &format!("backend: {backend}\n")));
        let pods = [0, 1].map(|at| pod(nodes[at], &daemons[at], "pod"));
        pods[0].ping(pods[1].v4()).unwrap();
        for (node, other) in [(&world.n1, &world.n2), (&world.n2, &world.n1)] {
            let (cidr, via) = (other.pod_cidr(), other.v4());
            node.namespace().ip(&format!("route add {cidr} via {via} metric 100"));
        }
        drop(daemons);
        let daemon = spawn(&world.n1, "backend: none\n");
        eventually("what the overlay left is gone", REPAIRED_WITHIN, || {
            let left = routes(&world.n1);
            let links = world.n1.namespace().links();
            let tunnel = links.iter().any(|link| link.starts_with("vdvxlan"));
            if left.is_empty() && !tunnel { Ok(()) } else { Err(left) }
        });
        assert!(!routes(&world.n2).is_empty(), "the other node goes on");
        world.n2.namespace().ip("route flush proto 86");
        pods[0].ping(pods[1].v4()).unwrap_or_else(|error| panic!("{backend}: {error}"));
        assert_eq!(await_problems("none", &daemon, 0)["network"], "in place");
    }
}

#[test]
fn a_former_tunnel_of_a_lone_node_goes() {
    let lan = Lan::new();
    let node = lan.node("n1");
    let own = |cidr: &str| object("n1", &["192.168.0.1"], &[cidr]);
    let tunnels = || {
        let links = node.namespace().links().into_iter();
        links.filter(|link| link.starts_with("vdvxlan")).collect::<Vec<_>>()
    };
    let await_tunnels = |what: &str, wanted: &[&str]| {
        eventually(what, REPAIRED_WITHIN, || {
            let found = tunnels();
            if found == wanted { Ok(()) } else { Err(found) }
        });
    };
    write(&node, &[own("10.244.1.0/24")]);
    let daemon = spawn(&node, "backend: vxlan\n");
    await_tunnels("the first", &["vdvxlan1"]);
    drop(daemon);
    // Another VNI, together with another pod subnet.
    write(&node, &[own("10.244.9.0/24")]);
    let daemon = spawn(&node, "backend: vxlan\nvni: 7\n");
    await_tunnels("another VNI", &["vdvxlan7"]);
    drop(daemon);
    write(&node, &[own("10.244.8.0/24")]);
    let _daemon = spawn(&node, "backend: host-gw\n");
    await_tunnels("host-gw", &[]);
}

#[test]
fn a_rival_tunnel_is_named_until_it_goes() {
    let world = World::new();
    let rival =
        "link add flannel.1 type vxlan id 1 dstport 8472 dev eth0 local 192.168.0.1 nolearning";
    world.n1.namespace().ip(rival);
    world.n1.namespace().ip("link set flannel.1 up");
    let daemon = spawn(&world.n1, "backend: vxlan\n");
    soon("its name", || {
        let answer = daemon.http_get(10256, "/readyz")?;
        let words = ["flannel.1", "VNI 1", "port 8472", "another vni"];
        words.iter().all(|word| answer.body.contains(word)).then_some(())
    });
    assert!(!world.n1.namespace().links().contains(&"vdvxlan1".to_owned()));
    world.n1.namespace().ip("link del flannel.1");
    eventually("the tunnel", REPAIRED_WITHIN, || {
        world.n1.namespace().links().contains(&"vdvxlan1".to_owned())
    });
    soon("ready", || daemon.http_get(10256, "/readyz").filter(|answer| answer.status == 200));
}
