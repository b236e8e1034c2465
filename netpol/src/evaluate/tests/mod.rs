//! Hand-written expectations. The letters are the kinds of `reference/netpol.md` 4.4.

mod tiers;

use serde_json::{Value, json};

use super::*;
use crate::api;
use crate::labels::Labels;
use crate::model::Protocol;
use crate::world::{ContainerPort, Namespace, Node};

/// Namespaces x, y, z with pods a, b, c each; a on node n1, the others on n2; and x/host in n1's network.
/// Port "http" is 80 of a and 8080 of b; c has none of that name, but a "dns" of UDP 53.
fn world() -> World {
    let mut world = World::default();
    for (number, node) in [(1, "n1"), (2, "n2")] {
        let addresses = vec![
            format!("192.168.0.{number}").parse().unwrap(),
            format!("fd01::{number}").parse().unwrap(),
        ];
        let labels = Labels::from_iter([("node", node)]);
        world.nodes.insert(node.into(), Node { labels, addresses, ..Node::default() });
    }
    for (i, namespace) in ["x", "y", "z"].into_iter().enumerate() {
        let labels =
            Labels::from_iter([("ns", namespace), ("kubernetes.io/metadata.name", namespace)]);
        world.namespaces.insert(namespace.into(), Namespace { labels, ..Namespace::default() });
        for (j, name) in ["a", "b", "c"].into_iter().enumerate() {
            let port = |name: &str, protocol, number| ContainerPort {
                name: name.into(),
                protocol,
                number,
            };
            let mut labels = vec![("pod", name)];
            if name == "a" {
                labels.push(("special", ""));
            }
            let pod = Pod {
                labels: Labels::from_iter(labels),
                addresses: [
                    format!("10.0.{i}.{j}").parse().unwrap(),
                    format!("fd00::{i}:{j}").parse().unwrap(),
                ]
                .into(),
                node: if name == "a" { "n1" } else { "n2" }.into(),
                ports: match name {
                    "a" => [port("http", Protocol::Tcp, 80)].into(),
                    "b" => [port("http", Protocol::Tcp, 8080)].into(),
                    _ => [port("dns", Protocol::Udp, 53)].into(),
                },
                ..Pod::default()
            };
            world.pods.insert(pod_name(&format!("{namespace}/{name}")), pod);
        }
    }
    let host = Pod {
        labels: Labels::from_iter([("pod", "host")]),
        addresses: world.nodes["n1"].addresses.clone().into(),
        node: "n1".into(),
        host_network: true,
        ..Pod::default()
    };
    world.pods.insert(pod_name("x/host"), host);
    world
}

fn pod_name(text: &str) -> PodName {
    let (namespace, name) = text.split_once('/').unwrap();
    PodName { namespace: namespace.into(), name: name.into() }
}

fn end(text: &str) -> End {
    match text.parse() {
        Ok(address) => End::Address(address),
        Err(_) if text.contains('/') => End::Pod(pod_name(text)),
        Err(_) => End::Node(text.into()),
    }
}

/// Adds a policy: "NAMESPACE/NAME" is a NetworkPolicy, "NAME" a ClusterNetworkPolicy.
fn add(world: &mut World, name: &str, spec: &Value) {
    let spec: api::PolicySpec = serde_json::from_value(spec.clone()).unwrap();
    match name.split_once('/') {
        Some((namespace, short)) => {
            let audit = short.starts_with("audit");
            let name = PolicyName { namespace: namespace.into(), name: short.into() };
            world.policies.insert(name, api::policy(&spec, audit).0);
        }
        None => {
            world.cluster_policies.insert(name.into(), api::cluster_policy(&spec).0.unwrap());
        }
    }
}

/// "FROM TO PORT/PROTOCOL" or "FROM TO ICMP", over IPv4 unless an end is an IPv6 address.
fn ask(world: &World, text: &str) -> Evaluation {
    let words: Vec<&str> = text.split(' ').collect();
    let (from, to) = (end(words[0]), end(words[1]));
    let (port, name) = words[2].split_once('/').unwrap_or(("0", "ICMP"));
    let protocol = Protocol::ALL.into_iter().find(|protocol| protocol.to_string() == name);
    let port = port.parse().unwrap();
    let family = if text.contains(':') { Family::V6 } else { Family::V4 };
    let flow = Flow::between(world, &from, &to, family, protocol, port).unwrap();
    evaluate(world, &flow)
}

struct Scenario {
    says: &'static str,
    policies: Vec<(&'static str, Value)>,
    allowed: &'static [&'static str],
    denied: &'static [&'static str],
}

fn check(scenarios: Vec<Scenario>) {
    for Scenario { says, policies, allowed, denied } in scenarios {
        let mut world = world();
        for (name, spec) in &policies {
            add(&mut world, name, spec);
        }
        differential::agree(&world).unwrap();
        for (flows, expected) in [(allowed, Verdict::Allowed), (denied, Verdict::Denied)] {
            for flow in flows {
                let found = ask(&world, flow);
                assert_eq!(found.verdict, expected, "{says}: {flow}: {found}");
            }
        }
    }
}

fn from(peers: Value) -> Value {
    json!({"podSelector": {"matchLabels": {"pod": "a"}}, "ingress": [{"from": peers}]})
}

fn to(peers: Value, ports: Value) -> Value {
    json!({"podSelector": {"matchLabels": {"pod": "a"}}, "policyTypes": ["Egress"],
        "egress": [{"to": peers, "ports": ports}]})
}

fn at(ports: Value) -> Value {
    json!({"podSelector": {}, "ingress": [{"ports": ports}]})
}

#[test]
fn targets_and_directions() {
    let row = |says, spec, allowed, denied| Scenario {
        says,
        policies: vec![("x/p", spec)],
        allowed,
        denied,
    };
    check(vec![
        Scenario {
            says: "without policies everything is allowed",
            policies: vec![],
            allowed: &["x/a y/b 80/TCP", "8.8.8.8 x/a 1/SCTP", "x/a n2 ICMP", "n1 n2 22/TCP"],
            denied: &[],
        },
        row(
            "A: all pods of the namespace, and of no other",
            json!({"podSelector": {}}),
            &["x/a y/a 80/TCP", "y/a z/a 80/TCP", "x/b x/b 80/TCP"],
            &["y/a x/a 80/TCP", "x/b x/a 80/TCP", "8.8.8.8 x/c 80/TCP", "n2 x/a 80/TCP"],
        ),
        row(
            "A: pods by labels and by expressions",
            json!({"podSelector": {"matchLabels": {"pod": "a"},
                "matchExpressions": [{"key": "special", "operator": "Exists"}]}}),
            &["x/c x/b 80/TCP"],
            &["x/c x/a 80/TCP"],
        ),
        row(
            "A: NotIn selects pods without the label",
            json!({"podSelector": {"matchExpressions":
                [{"key": "special", "operator": "NotIn", "values": ["1"]}]}}),
            &[],
            &["y/a x/a 80/TCP", "y/a x/b 80/TCP"],
        ),
        row(
            "A: a selector that selects nothing",
            json!({"podSelector": {"matchLabels": {"pod": "none"}}}),
            &["x/c x/b 80/TCP"],
            &[],
        ),
        row(
            "B: without types, empty egress does not isolate egress",
            json!({"podSelector": {}, "egress": []}),
            &["x/a y/a 80/TCP"],
            &["y/a x/a 80/TCP"],
        ),
        row(
            "B: without types, an egress rule isolates both",
            json!({"podSelector": {}, "egress": [{"ports": [{"port": 80}]}]}),
            &["x/a y/a 80/TCP"],
            &["x/a y/a 81/TCP", "y/a x/a 80/TCP"],
        ),
        row(
            "B: egress alone",
            json!({"podSelector": {}, "policyTypes": ["Egress"]}),
            &["y/a x/a 80/TCP", "8.8.8.8 x/a 80/TCP"],
            &["x/a y/a 80/TCP", "x/a 8.8.8.8 53/UDP"],
        ),
        row(
            "B: ingress rules of a policy that is about egress alone do not count",
            json!({"podSelector": {}, "policyTypes": ["Egress"], "ingress": [], "egress": [{}]}),
            &["y/a x/a 80/TCP", "x/a y/a 80/TCP"],
            &[],
        ),
        row(
            "B: an empty rule allows everything, empty lists too",
            json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"],
                "ingress": [{}], "egress": [{"to": [], "ports": []}]}),
            &["8.8.8.8 x/a 80/TCP", "x/a 8.8.8.8 ICMP", "y/a x/a ICMP"],
            &[],
        ),
    ]);
}

#[test]
fn peers() {
    let row = |says, peers, allowed, denied| Scenario {
        says,
        policies: vec![("x/p", from(peers))],
        allowed,
        denied,
    };
    check(vec![
        row(
            "C: pods alone are of the policy's namespace",
            json!([{"podSelector": {"matchLabels": {"pod": "b"}}}]),
            &["x/b x/a 80/TCP"],
            &["y/b x/a 80/TCP", "x/c x/a 80/TCP", "10.9.9.9 x/a 80/TCP"],
        ),
        row(
            "C: namespaces alone mean all their pods",
            json!([{"namespaceSelector": {"matchLabels": {"ns": "y"}}}]),
            &["y/a x/a 80/TCP", "y/c x/a 80/TCP"],
            &["x/b x/a 80/TCP", "z/a x/a 80/TCP"],
        ),
        row(
            "C: both in one peer mean both",
            json!([{"namespaceSelector": {"matchExpressions":
                    [{"key": "ns", "operator": "NotIn", "values": ["x"]}]},
                "podSelector": {"matchExpressions": [{"key": "special", "operator": "Exists"}]}}]),
            &["y/a x/a 80/TCP", "z/a x/a 80/TCP"],
            &["y/b x/a 80/TCP", "x/b x/a 80/TCP"],
        ),
        row(
            "C: in two peers either",
            json!([{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "y"}}},
                {"podSelector": {"matchExpressions": [{"key": "special", "operator": "DoesNotExist"}]}}]),
            &["y/b x/a 80/TCP", "x/b x/a 80/TCP"],
            &["z/b x/a 80/TCP"],
        ),
        row(
            "C: empty selectors mean all pods, and only pods",
            json!([{"namespaceSelector": {}, "podSelector": {}}]),
            &["z/c x/a 80/TCP", "fd00::2:1 fd00::0:0 80/TCP"],
            &["8.8.8.8 x/a 80/TCP", "n2 x/a 80/TCP"],
        ),
        row(
            "D: a block without others",
            json!([{"ipBlock": {"cidr": "10.0.0.0/16", "except": ["10.0.1.0/24", "10.0.1.0/25"]}}]),
            &["x/b x/a 80/TCP", "z/b x/a 80/TCP", "10.0.77.1 x/a 80/TCP"],
            &["y/b x/a 80/TCP", "10.0.1.77 x/a 80/TCP", "fd00::2:1 fd00::0:0 80/TCP"],
        ),
        row(
            "D: what one block leaves out another may allow",
            json!([{"ipBlock": {"cidr": "10.0.0.0/16", "except": ["10.0.1.0/24"]}},
                {"ipBlock": {"cidr": "10.0.1.1/32"}}]),
            &["y/b x/a 80/TCP"],
            &["y/c x/a 80/TCP"],
        ),
        row(
            "D: /0 is of one family, and nodes are addresses too",
            json!([{"ipBlock": {"cidr": "0.0.0.0/0"}}]),
            &["8.8.8.8 x/a 80/TCP", "n2 x/a 80/TCP", "y/a x/a 80/TCP"],
            &["2001:db8::1 fd00::0:0 80/TCP", "fd00::1:0 fd00::0:0 80/TCP"],
        ),
        row(
            "D: host bits and leading zeros",
            json!([{"ipBlock": {"cidr": "010.0.2.9/24"}}]),
            &["z/b x/a 80/TCP"],
            &["y/b x/a 80/TCP"],
        ),
        row(
            "a peer without anything isolates and allows nothing",
            json!([{}, {"podSelector": {}}]),
            &["x/a x/b 80/TCP"],
            &["x/b x/a 80/TCP"],
        ),
    ]);
}

#[test]
fn ports() {
    let row = |says, spec, allowed, denied| Scenario {
        says,
        policies: vec![("x/p", spec)],
        allowed,
        denied,
    };
    check(vec![
        row(
            "E: a number is of TCP by default",
            at(json!([{"port": 80}])),
            &["y/a x/b 80/TCP"],
            &["y/a x/b 81/TCP", "y/a x/b 80/UDP", "y/a x/b 80/SCTP", "y/a x/b ICMP"],
        ),
        row(
            "E: a protocol alone means all its ports",
            at(json!([{"protocol": "SCTP"}])),
            &["y/a x/b 1/SCTP", "y/a x/b 65535/SCTP"],
            &["y/a x/b 1/TCP", "y/a x/b ICMP"],
        ),
        row(
            "E: ranges include both ends",
            at(
                json!([{"port": 1, "endPort": 1}, {"protocol": "UDP", "port": 100, "endPort": 65535}]),
            ),
            &["y/a x/b 1/TCP", "y/a x/b 100/UDP", "y/a x/b 65535/UDP"],
            &["y/a x/b 2/TCP", "y/a x/b 99/UDP", "y/a x/b 100/TCP"],
        ),
        row(
            "E: a name is what each pod calls so, for connections to it",
            at(json!([{"port": "http"}])),
            &["y/a x/a 80/TCP", "y/a x/b 8080/TCP", "8.8.8.8 x/b 8080/TCP"],
            &["y/a x/a 8080/TCP", "y/a x/b 80/TCP", "y/a x/c 80/TCP", "y/a x/a 80/UDP"],
        ),
        row(
            "E: a name of another protocol is no name",
            at(json!([{"port": "dns"}])),
            &[],
            &["y/a x/c 53/UDP", "y/a x/c 53/TCP"],
        ),
        row(
            "E: a name of the right protocol is",
            at(json!([{"port": "dns", "protocol": "UDP"}])),
            &["y/a x/c 53/UDP"],
            &["y/a x/c 53/TCP"],
        ),
        row(
            "E: a name in egress is what the pod that answers calls so, in any namespace",
            to(json!([]), json!([{"port": "http"}])),
            &["x/a y/a 80/TCP", "x/a z/b 8080/TCP", "x/a x/b 8080/TCP"],
            &["x/a y/b 80/TCP", "x/a y/c 80/TCP", "x/a 8.8.8.8 80/TCP", "x/a n2 80/TCP"],
        ),
        row(
            "E: a name and peers",
            to(
                json!([{"namespaceSelector": {"matchLabels": {"ns": "y"}}}]),
                json!([{"port": "http"}]),
            ),
            &["x/a y/a 80/TCP", "x/a y/b 8080/TCP"],
            &["x/a z/a 80/TCP"],
        ),
    ]);
}

#[test]
fn policies_together() {
    let deny = json!({"podSelector": {}});
    check(vec![
        Scenario {
            says: "F: policies add up",
            policies: vec![
                ("x/deny", deny.clone()),
                ("x/b", from(json!([{"podSelector": {"matchLabels": {"pod": "b"}}}]))),
                ("x/y", from(json!([{"namespaceSelector": {"matchLabels": {"ns": "y"}}}]))),
                ("y/deny", deny.clone()),
            ],
            allowed: &["x/b x/a 80/TCP", "y/a x/a 80/TCP"],
            denied: &["x/c x/a 80/TCP", "z/a x/a 80/TCP", "x/a x/b 80/TCP", "x/a y/a 80/TCP"],
        },
        Scenario {
            says: "F: both ends must allow",
            policies: vec![
                (
                    "x/out",
                    to(json!([{"namespaceSelector": {"matchLabels": {"ns": "y"}}}]), json!([])),
                ),
                ("y/in", json!({"podSelector": {}, "ingress": [{"ports": [{"port": 80}]}]})),
            ],
            allowed: &["x/a y/a 80/TCP", "x/b y/a 80/TCP", "x/b z/a 81/TCP"],
            denied: &["x/a y/a 81/TCP", "x/a z/a 80/TCP", "x/b y/a 81/TCP"],
        },
        Scenario {
            says: "what is only tried out denies nothing",
            policies: vec![("x/audit", deny.clone())],
            allowed: &["y/a x/a 80/TCP"],
            denied: &[],
        },
        Scenario {
            says: "nor does it allow what others deny",
            policies: vec![("x/deny", deny), ("x/audit", at(json!([{"port": 80}])))],
            allowed: &[],
            denied: &["y/a x/a 80/TCP", "y/a x/a 81/TCP"],
        },
    ]);
}

#[test]
fn an_address_of_pods_that_no_pod_has_is_denied_where_that_is_asked_for() {
    let mut world = world();
    let flows = ["10.0.0.99 x/a 80/TCP", "x/a 10.0.0.99 80/TCP", "192.0.2.1 10.0.0.99 80/TCP"];
    for text in flows {
        assert_eq!(ask(&world, text).verdict, Verdict::Allowed, "{text}: not asked for");
    }
    world.deny_unknown_pods = true;
    let network = crate::Cidr::new("10.0.0.0".parse().unwrap(), 24).unwrap();
    world.nodes.get_mut("n1").unwrap().pod_networks.push(network);
    for text in flows {
        assert_eq!(ask(&world, text).verdict, Verdict::Denied, "{text}");
    }
    let said = ask(&world, "x/a 10.0.0.99 80/TCP").ingress.to_string();
    assert_eq!(said, "ingress is denied, as 10.0.0.99 is an address of pods, and no pod has it");
    for text in ["x/a x/b 80/TCP", "192.0.2.1 x/a 80/TCP", "n1 x/a 80/TCP"] {
        assert_eq!(ask(&world, text).verdict, Verdict::Allowed, "{text}");
    }
}
