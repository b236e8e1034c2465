//! Kills and crowds: nothing is doubled, nothing is lost, and what is left behind can be freed.

use std::collections::BTreeSet;
use std::time::Duration;

use testnet::{Host, Lan, Network, Node};

use super::gc;

fn network(node: &Node) -> Network {
    Network::bridge("net").subnet(&node.pod_cidr()).masquerade(&[]).host_port(0x7000, 80, "tcp")
}

#[test]
fn sixty_four_adds_at_once_share_nothing() {
    let lan = Lan::new();
    let node = lan.node("n1");
    let plain = Network::bridge("net").subnet("10.1.0.0/25").subnet("fd00:1::/64").masquerade(&[]);
    let containers: Vec<_> = (0..64).map(|n| node.container(&format!("c{n}"))).collect();
    let started: Vec<_> = containers
        .iter()
        .enumerate()
        .map(|(n, container)| {
            let config = plain.clone().host_port(20_000 + n as u16, 80, "tcp").to_json(&node);
            let add =
                testnet::Cni::new("ADD", &config).container(&format!("c{n}"), container.path());
            add.start(node.namespace())
        })
        .collect();
    let mut addresses = BTreeSet::new();
    for child in started {
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}");
        let result: serde_json::Value = serde_json::from_str(&text).unwrap();
        for ip in result["ips"].as_array().unwrap() {
            assert!(addresses.insert(ip["address"].to_string()), "{ip} was given twice");
        }
    }
    assert_eq!(addresses.len(), 128);
    containers[63].try_command("ping", &["-c1", "-W2", "10.1.0.1"]).unwrap();
    let rules = node.namespace().ruleset();
    assert_eq!(rules.matches(" . 80").count(), 64 * 2, "host ports of both families");
    let dels: Vec<_> = containers
        .iter()
        .enumerate()
        .map(|(n, container)| {
            let del = testnet::Cni::new("DEL", &plain.to_json(&node))
                .container(&format!("c{n}"), container.path());
            del.start(node.namespace())
        })
        .collect();
    for child in dels {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
    assert_clean(&node);
}

#[track_caller]
fn assert_clean(node: &Node) {
    assert!(node.leases("net").is_empty(), "leases are left: {:?}", node.leases("net"));
    let links = node.namespace().links();
    assert!(!links.iter().any(|link| link.starts_with("vd")), "links are left: {links:?}");
    let rules = node.namespace().ruleset();
    assert!(!rules.contains("net/"), "elements are left: {rules}");
}

/// Kills ADD or DEL after a growing delay, until it is longer than the whole verb takes.
fn kill_at_many_moments(verb: &str, recover: impl Fn(&Node, &testnet::Pod<'_>)) {
    let lan = Lan::new();
    let node = lan.node("n1");
    let network = network(&node);
    let keeper = node.pod(&Network::bridge("net").subnet(&node.pod_cidr()), "keeper");
    for moment in 0..100 {
        let container = node.container("a");
        let id = format!("{verb}-{moment}");
        let pod = node.try_attach(&network, container, &id).unwrap_or_else(|o| panic!("{o:?}"));
        let delay = Duration::from_micros(moment * if verb == "ADD" { 60 } else { 300 });
        if verb == "ADD" {
            pod.delete();
            // The same attachment again, without the first one's result.
            let config = network.to_json(&node);
            let add = testnet::Cni::new("ADD", &config).container(&id, pod.namespace().path());
            kill_after(add.start(node.namespace()), delay);
        } else {
            kill_after(pod.cni("DEL").start(node.namespace()), delay);
        }
        recover(&node, &pod);
        let keepers = node.leases("net");
        assert_eq!(keepers, [keeper.v4().to_string()], "moment {moment}");
        let left = node.namespace().links().into_iter().filter(|l| l.starts_with("vd"));
        assert_eq!(left.collect::<Vec<_>>(), [keeper.host_link()], "moment {moment}");
        assert!(!node.namespace().ruleset().contains("net/"), "moment {moment}");
    }
    keeper.check().result();
    keeper.delete();
    assert_clean(&node);
}

fn kill_after(mut child: std::process::Child, delay: Duration) {
    std::thread::sleep(delay);
    let _ = child.kill();
    let _ = child.wait();
}

#[test]
fn del_frees_what_a_killed_add_left() {
    kill_at_many_moments("ADD", |_, pod| pod.delete());
}

#[test]
fn gc_frees_what_a_killed_del_left() {
    kill_at_many_moments("DEL", |node, pod| {
        let keeper = node.leases("net");
        assert!(!keeper.is_empty());
        let valid: Vec<String> = keepers(node);
        let valid: Vec<&str> =
            valid.iter().map(String::as_str).filter(|id| *id != pod.id()).collect();
        gc(node, &network(node), Some(&valid)).result();
    });
}

/// The container IDs in the reservations.
fn keepers(node: &Node) -> Vec<String> {
    let folder = node.data_dir().join("net");
    let read = |ip: String| std::fs::read_to_string(folder.join(ip)).unwrap_or_default();
    let id = |content: String| content.lines().next().unwrap_or_default().trim().to_owned();
    node.leases("net").into_iter().map(read).map(id).collect()
}
