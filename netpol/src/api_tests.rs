//! The API's defaults, and what becomes of parts that cannot be understood.

use serde_json::{Value, json};

use super::*;
use crate::model::Direction;

fn read(spec: &Value) -> (Policy, Vec<Fault>) {
    policy(&serde_json::from_value(spec.clone()).unwrap(), false)
}

fn isolates(spec: Value) -> (bool, bool) {
    let (policy, faults) = read(&spec);
    assert_eq!(faults, [], "{spec}");
    (policy.ingress.is_some(), policy.egress.is_some())
}

#[test]
fn policy_types_have_the_apis_defaults() {
    for (spec, expected) in [
        (json!({}), (true, false)),
        (json!({"policyTypes": []}), (true, false)),
        (json!({"policyTypes": null, "egress": null}), (true, false)),
        (json!({"egress": []}), (true, false)),
        (json!({"egress": [{}]}), (true, true)),
        (json!({"policyTypes": ["Egress"]}), (false, true)),
        (json!({"policyTypes": ["Ingress"], "egress": [{}]}), (true, false)),
        (json!({"policyTypes": ["Ingress", "Egress"]}), (true, true)),
    ] {
        assert_eq!(isolates(spec.clone()), expected, "{spec}");
    }
}

#[test]
fn nothing_and_an_empty_list_are_the_same() {
    for spec in [json!({"ingress": [{}]}), json!({"ingress": [{"from": [], "ports": []}]})] {
        assert_eq!(read(&spec).0.ingress, Some(vec![Rule::default()]), "{spec}");
    }
    let (policy, _) = read(
        &json!({"ingress": [{"ports": [{}, {"protocol": "UDP"}, {"port": 80, "endPort": 90}]}]}),
    );
    let ports = policy.ingress.unwrap()[0].ports.clone().unwrap();
    let told: Vec<_> = ports.into_iter().map(|port| (port.protocol, port.numbers)).collect();
    let all = Numbers::Range(0, u16::MAX);
    assert_eq!(
        told,
        [
            (Protocol::Tcp, all.clone()),
            (Protocol::Udp, all),
            (Protocol::Tcp, Numbers::Range(80, 90))
        ]
    );
}

#[test]
fn what_cannot_be_understood_isolates_and_allows_nothing() {
    let good = json!({"ports": [{"port": 80}]});
    for (rule, field) in [
        (json!({"from": [{}]}), "spec.ingress[1].from[0]"),
        (
            json!({"from": [{"ipBlock": {"cidr": "10.0.0.0"}}]}),
            "spec.ingress[1].from[0].ipBlock.cidr",
        ),
        (
            json!({"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["x"]}}]}),
            "spec.ingress[1].from[0].ipBlock.except[0]",
        ),
        (
            json!({"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}]}),
            "spec.ingress[1].from[0]",
        ),
        (
            json!({"from": [{"podSelector": {"matchExpressions": [{"key": "a", "operator": "Near"}]}}]}),
            "spec.ingress[1].from[0].podSelector.matchExpressions[0].operator",
        ),
        (
            json!({"from": [{"podSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}]}),
            "spec.ingress[1].from[0].podSelector.matchExpressions[0].values",
        ),
        (json!({"ports": [{"port": 80, "endPort": 79}]}), "spec.ingress[1].ports[0].endPort"),
        (json!({"ports": [{"port": "web", "endPort": 79}]}), "spec.ingress[1].ports[0].endPort"),
        (json!({"ports": [{"port": 0}]}), "spec.ingress[1].ports[0].port"),
        (json!({"ports": [{"protocol": "ICMP"}]}), "spec.ingress[1].ports[0].protocol"),
    ] {
        let (policy, faults) = read(&json!({"ingress": [good, rule]}));
        assert_eq!(policy.rules(Direction::Ingress), Some(&[][..]), "{rule}");
        assert_eq!(policy.egress, None, "{rule}");
        assert_eq!(faults.len(), 1, "{rule}: {faults:?}");
        assert_eq!(faults[0].0, field, "{rule}");
    }
}

#[test]
fn of_a_broken_pod_selector_what_is_understood_counts() {
    let (policy, faults) = read(&json!({"podSelector": {
        "matchLabels": {"app": "web"}, "matchExpressions": [{"key": "a", "operator": "Near"}],
    }, "ingress": [{}]}));
    assert_eq!(policy.subject, Selector(vec![Requirement::In("app".into(), vec!["web".into()])]));
    assert_eq!((policy.ingress, faults.len()), (Some(Vec::new()), 1));
}

#[test]
fn old_spellings_of_networks_are_taken_and_told() {
    let spec = json!({"ingress": [{"from": [{"ipBlock": {"cidr": "10.1.2.3/8"}}]}]});
    let (policy, faults) = read(&spec);
    let peers = policy.ingress.unwrap()[0].peers.clone();
    assert_eq!(
        peers,
        Some(vec![Peer::Block { cidr: "10.0.0.0/8".parse().unwrap(), except: Vec::new() }])
    );
    assert_eq!(faults.len(), 1);
    assert_eq!(read(&json!({"ingress": [{"from": [{"ipBlock": {"cidr": "FD00::0/8"}}]}]})).1, []);
}

#[test]
fn a_cluster_policys_rule_that_is_not_understood_can_only_deny() {
    let spec = json!({
        "tier": "Admin", "priority": 10, "subject": {"namespaces": {}},
        "egress": [
            {"action": "Accept", "to": [{"networks": ["10.0.0.0/8"]}], "protocols": [{"tcp": {"destinationPort": {"number": 80}}}]},
            {"action": "Accept", "to": [{"domainNames": ["example.com"]}]},
            {"action": "Deny", "to": [{"networks": ["garbage"]}]},
            {"action": "Pass", "to": [{"nodes": {}}], "protocols": [{"udp": {}}, {"destinationNamedPort": "dns"}]},
        ],
    });
    let (policy, faults) = cluster_policy(&serde_json::from_value(spec).unwrap());
    let policy = policy.unwrap();
    assert_eq!((policy.tier, policy.priority), (Tier::Admin, 10));
    let egress = policy.egress;
    assert_eq!(
        egress[0].ports,
        Some(vec![Port { protocol: Protocol::Tcp, numbers: Numbers::Range(80, 80) }])
    );
    assert_eq!(egress[1].peers, [ClusterPeer::Unknown]);
    assert_eq!(
        (egress[2].action, &egress[2].peers[..]),
        (Action::Deny, &[ClusterPeer::Unknown][..])
    );
    assert_eq!(egress[3].peers, [ClusterPeer::Nodes(Selector::default())]);
    assert_eq!(egress[3].ports.as_ref().map(Vec::len), Some(4));
    assert_eq!(faults.len(), 2, "{faults:?}");
    for broken in [
        json!({"tier": "Admin", "priority": 1001, "subject": {"namespaces": {}}}),
        json!({"tier": "Middle", "priority": 1, "subject": {"namespaces": {}}}),
        json!({"tier": "Admin", "priority": 1, "subject": {}}),
    ] {
        let (policy, faults) = cluster_policy(&serde_json::from_value(broken.clone()).unwrap());
        assert_eq!((policy, faults.len()), (None, 1), "{broken}");
    }
}
