//! Clusters of many pods and policies.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

/// Pods are spread over so many namespaces.
pub(super) const NAMESPACES: usize = 50;
/// Pods with the same `app`.
const APPS: usize = 100;
/// Pods with the same `role`.
const ROLES: usize = 20;
/// Namespaces of the same `team`.
const TEAMS: usize = 10;

/// Where pods that no test attaches have their addresses.
pub(super) fn address(number: usize) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 128, 0, 0)) + number as u32)
}

pub(super) fn namespace_name(number: usize) -> String {
    format!("ns-{}", number % NAMESPACES)
}

pub(super) fn namespace(number: usize, team: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": format!("ns-{number}"), "labels": {"team": team}}})
}

pub(super) fn team(namespace: usize) -> String {
    format!("t{}", namespace % TEAMS)
}

/// The cluster's pods without those that a test makes.
pub(super) fn pod(number: usize, node: &str, role: &str) -> Value {
    object(
        &namespace_name(number),
        &format!("pod-{number}"),
        node,
        Some(address(number)),
        |labels| {
            labels["app"] = json!(format!("a{}", number % APPS));
            labels["role"] = json!(role);
        },
    )
}

pub(super) fn role(number: usize) -> String {
    format!("r{}", number / NAMESPACES % ROLES)
}

pub(super) fn object(
    namespace: &str,
    name: &str,
    node: &str,
    address: Option<Ipv4Addr>,
    label: impl FnOnce(&mut Value),
) -> Value {
    let mut labels = json!({});
    label(&mut labels);
    let ips: Vec<Value> = address.iter().map(|ip| json!({"ip": ip})).collect();
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {"nodeName": node, "containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 8080}]}]},
        "status": {"phase": "Running", "podIPs": ips}})
}

/// A policy of a namespace; a pod of every app has some.
pub(super) fn policy(number: usize, role: &str) -> Value {
    let namespace = namespace_name(number);
    let app = format!("a{}", number % APPS);
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
    "metadata": {"name": format!("policy-{number}"), "namespace": namespace},
    "spec": {
        "podSelector": {"matchLabels": {"app": app}},
        "ingress": [
            {"from": [{"podSelector": {"matchLabels": {"role": role}}}], "ports": [{"port": 8080}]},
            {"from": [{"namespaceSelector": {"matchLabels": {"team": team(number)}}}], "ports": [{"port": 9090}]},
        ]}})
}

/// A namespace's policy that lets all peers in it in.
pub(super) fn peers_policy(namespace: usize) -> Value {
    let role = |role: &str| json!({"matchLabels": {"role": role}});
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "peers", "namespace": namespace_name(namespace)},
        "spec": {"podSelector": role("local"), "ingress": [{"from": [{"podSelector": role("peer")}]}]}})
}

/// As a manifest.
pub(super) fn lines(objects: impl IntoIterator<Item = Value>) -> String {
    objects.into_iter().fold(String::new(), |text, object| text + &object.to_string() + "\n---\n")
}
