//! The daemon's account: it may do what it does, and no more.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use testnet::manifest::NodeObject;
use testnet::{Proxyd, eventually};

use super::server::{self, Server};
use super::world::{World, await_ready, service};
use super::{SOON, say};

/// A verb on a resource of an API group, as `list services`, `patch nodes/status`, `watch
/// endpointslices.discovery.k8s.io`.
type Permission = String;

fn permission(verb: &str, resource: &str, group: &str) -> Permission {
    let dot = if group.is_empty() { "" } else { "." };
    format!("{verb} {resource}{dot}{group}")
}

pub(crate) fn texts(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// What roles of the manifests grant to the daemon's account, read back from the server.
fn granted(server: &Server) -> BTreeSet<Permission> {
    let list = server.kubectl(&["get", "clusterroles,roles", "--all-namespaces", "-o", "json"]);
    let list: Value = serde_json::from_str(&list).unwrap();
    let own = |role: &&Value| {
        let name = role["metadata"]["name"].as_str().unwrap_or_default();
        name == "viaduct" || name.starts_with("viaduct-") || name.starts_with("viaduct:")
    };
    let roles = list["items"].as_array().unwrap().iter().filter(own);
    let rules = roles.flat_map(|role| role["rules"].as_array().into_iter().flatten());
    let mut all = BTreeSet::new();
    for rule in rules {
        for group in texts(&rule["apiGroups"]) {
            for resource in texts(&rule["resources"]) {
                for verb in texts(&rule["verbs"]) {
                    all.insert(permission(verb, resource, group));
                }
            }
        }
    }
    assert!(all.len() >= 4, "{all:?}");
    assert!(all.iter().all(|permission| !permission.contains('*')), "no wildcards: {all:?}");
    all
}

/// What was asked of the server since, with the status codes of the answers.
fn asked(server: &Server, before: usize) -> BTreeSet<(Permission, u64)> {
    let log = server.audit_log();
    let events =
        log.lines().skip(before).filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let answered = events.filter_map(|event| {
        let code = event["responseStatus"]["code"].as_u64()?;
        let object = &event["objectRef"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut resource = text(&object["resource"]);
        if resource.is_empty() {
            resource = text(&event["requestURI"]);
        }
        if let Some(part) = object["subresource"].as_str() {
            resource += &format!("/{part}");
        }
        Some((permission(&text(&event["verb"]), &resource, &text(&object["apiGroup"])), code))
    });
    answered.collect()
}

/// What was refused since.
fn refused(server: &Server, before: usize) -> Vec<Permission> {
    let asked = asked(server, before).into_iter();
    asked.filter(|(_, code)| matches!(code, 401 | 403)).map(|(permission, _)| permission).collect()
}

/// The daemon with the node agent, on a Node that gets its pod addresses only later, so that there is
/// something to tell of.
#[test]
fn every_permission_that_is_used_is_granted_and_every_one_granted_is_used() {
    let Some(world) = World::new() else { return };
    let before = world.server.audit_log().lines().count();
    let bare = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": world.n1.name()},
        "status": {"addresses": [{"type": "InternalIP", "address": world.n1.v4()}]},
    });
    world.apply(&[&bare, &NodeObject::of(&world.n2), &service("web", 20)]);
    let settings = world.n1.agent_settings("backend: vxlan\n");
    let kubeconfig = world.kubeconfig_at(&world.n1, server::PORT).display().to_string();
    let daemon =
        Proxyd::spawn(&world.n1, &["--kubeconfig", &kubeconfig, "--network-config", &settings]);
    eventually("the daemon says what is missing", SOON, || {
        let answer = daemon.http_get(10256, "/readyz");
        let said = answer.is_some_and(|answer| answer.body.contains("spec.podCIDRs"));
        if said { Ok(()) } else { Err(format!("refused: {:?}", refused(world.server, before))) }
    });
    let patch = json!({"spec": {
        "podCIDR": world.n1.pod_cidr(), "podCIDRs": [world.n1.pod_cidr(), world.n1.pod_cidr_v6()],
    }});
    world.server.kubectl(&["patch", "node", world.n1.name(), "-p", &patch.to_string()]);
    await_ready(&daemon);
    // The end of a watch is followed by the next.
    let granted = granted(world.server);
    eventually("every permission that is granted is used", SOON, || {
        let used: BTreeSet<Permission> =
            asked(world.server, before).into_iter().map(|(permission, _)| permission).collect();
        // A list may come as the beginning of a watch, if the server can do that; and of a kind that is not
        // installed there is only the attempt to list it.
        let is_used = |permission: &&Permission| {
            let resource = permission.strip_prefix("list ").or(permission.strip_prefix("watch "));
            let reads = |resource| ["list", "watch"].map(|verb| format!("{verb} {resource}"));
            used.contains(*permission)
                || resource.is_some_and(|r| reads(r).iter().any(|read| used.contains(read)))
        };
        let unused: Vec<_> = granted.iter().filter(|p| !is_used(p)).cloned().collect();
        if unused.is_empty() { Ok(()) } else { Err(format!("granted and not used: {unused:?}")) }
    });
    let asked = asked(world.server, before);
    say(&format!("{} permissions, all used: {granted:?}", granted.len()));
    let missing: Vec<_> = asked.iter().filter(|(used, _)| !granted.contains(used)).collect();
    assert!(missing.is_empty(), "used and not granted: {missing:?}");
    assert_eq!(refused(world.server, before), [] as [Permission; 0]);
    assert!(!daemon.log().contains("orbidden"), "{}", daemon.log());
}
