//! What policies are and what they are about: Pods, Namespaces, NetworkPolicies, ClusterNetworkPolicies.

use std::net::IpAddr;
use std::sync::Arc;

use netpol::api::PolicySpec;
use netpol::compile::Change;
use netpol::{ContainerPort, Labels, Namespace, Pod, PodName, PolicyName, Protocol};

use super::api;
use super::convert::{Faults, Object, ObjectName};
use crate::cluster::Names;

/// `audit`: what would be denied is only counted and logged. On a namespace or a NetworkPolicy.
const MODE: &str = "viaduct.io/policy-mode";
/// `off`: pods of the namespace may send from addresses that are not theirs. Tenants cannot change their namespace.
const SOURCE_CHECK: &str = "viaduct.io/source-address-check";

/// The kubelet's own UID of a static pod, on the object that stands for it.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// The kinds that are converted here, and their versions.
pub(super) const KINDS: [(&str, &str); 4] = [
    ("Namespace", "v1"),
    ("Pod", "v1"),
    ("NetworkPolicy", "networking.k8s.io/v1"),
    ("ClusterNetworkPolicy", "policy.networking.k8s.io/v1alpha2"),
];

/// Converts a document of one of [`KINDS`], whose name is known.
pub(super) fn convert(
    kind: &str,
    document: &api::Document,
    namespace: &str,
    name: Arc<str>,
    names: &mut Names,
    faults: &mut Faults,
) -> (String, Option<(ObjectName, Object)>) {
    let none = api::Metadata::default();
    let metadata = document.metadata.as_ref().unwrap_or(&none);
    let judged = |name, change| Some((name, Object::Judged(change)));
    match kind {
        "Namespace" => {
            let audit = audits(metadata, faults);
            let any_source = sends_from_anywhere(metadata, faults);
            let labels = namespace_labels(metadata, &name, names);
            let found = Namespace { labels, audit, any_source };
            let change = Change::Namespace(Arc::clone(&name), Some(found));
            (format!("Namespace {name}"), judged(ObjectName::Namespace(name), change))
        }
        "Pod" => {
            let key = PodName { namespace: names.intern(namespace), name };
            let title = format!("Pod {key}");
            let object = match pod(document, metadata, names, faults) {
                Some(pod) => Object::Judged(Change::Pod(key.clone(), Some(pod))),
                None => Object::Ignored,
            };
            (title, Some((ObjectName::Pod(key), object)))
        }
        "NetworkPolicy" => {
            let key = PolicyName { namespace: names.intern(namespace), name };
            let title = format!("NetworkPolicy {key}");
            let audit = audits(metadata, faults);
            let (policy, wrong) = netpol::api::policy(&policy_spec(document), audit);
            faults.extend(wrong);
            let change = Change::Policy(key.clone(), Some(policy));
            (title, judged(ObjectName::Policy(key), change))
        }
        _ => {
            let title = format!("ClusterNetworkPolicy {name}");
            let (policy, wrong) = netpol::api::cluster_policy(&policy_spec(document));
            faults.extend(wrong);
            let Some(policy) = policy else { return (title, None) };
            let change = Change::ClusterPolicy(Arc::clone(&name), Some(policy));
            (title, judged(ObjectName::ClusterPolicy(name), change))
        }
    }
}

/// The labels of any object.
pub(super) fn labels(metadata: &api::Metadata, names: &mut Names) -> Labels {
    let labels = metadata.labels.iter().flatten();
    let labels = labels
        .map(|(key, value)| (names.intern(key), names.intern(value.as_deref().unwrap_or_default())))
        .collect();
    names.intern_labels(labels)
}

/// Every namespace has its name as a label.
fn namespace_labels(metadata: &api::Metadata, name: &Arc<str>, names: &mut Names) -> Labels {
    const NAME: &str = "kubernetes.io/metadata.name";
    let own = labels(metadata, names);
    if own.get(NAME).is_some() {
        return own;
    }
    own.iter().chain([(NAME, &**name)]).collect()
}

fn audits(metadata: &api::Metadata, faults: &mut Faults) -> bool {
    let mode = faults.annotation(metadata, MODE, "audit or enforce", |text| match text {
        "audit" => Some(true),
        "enforce" => Some(false),
        _ => None,
    });
    mode.unwrap_or(false)
}

fn sends_from_anywhere(metadata: &api::Metadata, faults: &mut Faults) -> bool {
    let off = faults.annotation(metadata, SOURCE_CHECK, "on or off", |text| match text {
        "off" => Some(true),
        "on" => Some(false),
        _ => None,
    });
    off.unwrap_or(false)
}

/// A pod that has not ended: whoever has its address afterwards is another one.
fn pod(
    document: &api::Document,
    metadata: &api::Metadata,
    names: &mut Names,
    faults: &mut Faults,
) -> Option<Pod> {
    let no_spec = api::Spec::default();
    let spec = document.spec.as_ref().unwrap_or(&no_spec);
    let no_status = api::Status::default();
    let status = document.status.as_ref().unwrap_or(&no_status);
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return None;
    }
    let mut texts: Vec<&str> =
        status.pod_ips.iter().flatten().filter_map(|ip| ip.ip.as_deref()).collect();
    if texts.is_empty() {
        texts.extend(status.pod_ip.as_deref());
    }
    let mut addresses: Vec<IpAddr> = Vec::new();
    for (at, text) in texts.into_iter().enumerate().filter(|(_, text)| !text.is_empty()) {
        let field = || format!("status.podIPs[{at}].ip");
        addresses.extend(faults.parse(field, text, "an IP address", |t| t.parse::<IpAddr>().ok()));
    }
    Some(Pod {
        // The runtime knows a static pod by another UID than the API server.
        uid: metadata.annotation(MIRROR).or(metadata.uid.as_deref()).unwrap_or_default().into(),
        labels: labels(metadata, names),
        addresses: addresses.into(),
        node: names.intern(spec.node_name.as_deref().unwrap_or_default()),
        host_network: spec.host_network.unwrap_or(false),
        ports: named_ports(spec, names),
    })
}

/// Of all containers that run beside each other: init containers that restart for ever are among them.
fn named_ports(spec: &api::Spec, names: &mut Names) -> Arc<[ContainerPort]> {
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars =
        sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let mut ports = Vec::new();
    for port in
        spec.containers.iter().flatten().chain(sidecars).flat_map(|c| c.ports.iter().flatten())
    {
        let Some(protocol) = Protocol::from_api(port.protocol.as_deref()) else { continue };
        let number = port.container_port.and_then(|number| u16::try_from(number).ok());
        if let (Some(name), Some(number)) = (port.name.as_deref(), number) {
            ports.push(ContainerPort { name: names.intern(name), protocol, number });
        }
    }
    ports.sort_unstable();
    ports.dedup();
    names.intern_ports(ports)
}

fn policy_spec(document: &api::Document) -> PolicySpec {
    let Some(spec) = document.spec.clone() else { return PolicySpec::default() };
    PolicySpec {
        pod_selector: spec.pod_selector,
        policy_types: spec.policy_types,
        ingress: spec.ingress,
        egress: spec.egress,
        tier: spec.tier,
        priority: spec.priority,
        subject: spec.subject,
    }
}

#[cfg(test)]
mod tests {
    use netpol::Uid;
    use serde_json::json;

    use super::*;
    use crate::source::convert;

    #[test]
    fn a_static_pod_has_the_uid_that_the_runtime_knows() {
        let uid = |annotations: serde_json::Value| {
            let pod = json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": "a", "uid": "of the API", "annotations": annotations},
            });
            let document: api::Document = serde_json::from_value(pod).unwrap();
            let converted = convert::convert(&document, &mut Names::default());
            match converted.expect("a pod").object {
                Some((_, Object::Judged(Change::Pod(_, Some(pod))))) => pod.uid,
                _ => panic!("no pod"),
            }
        };
        assert_eq!(uid(json!({})), Uid::from("of the API"));
        assert_eq!(uid(json!({MIRROR: "of the kubelet"})), Uid::from("of the kubelet"));
    }
}
