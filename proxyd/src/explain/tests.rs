use std::fs;

use netpol::compile::Compiler;

use super::*;
use crate::config::{self, Flags};
use crate::daemon::{node, open_source, take_judged};
use crate::service::plan;
use crate::service::table::Delta;

const OBJECTS: &str = "
apiVersion: v1
kind: Node
metadata: {name: n1}
spec: {podCIDRs: [10.1.1.0/24]}
status: {addresses: [{type: InternalIP, address: 192.168.0.1}]}
---
apiVersion: v1
kind: Node
metadata: {name: n2}
spec: {podCIDRs: [10.1.2.0/24]}
status: {addresses: [{type: InternalIP, address: 192.168.0.2}]}
---
apiVersion: v1
kind: Namespace
metadata: {name: a, labels: {team: a}}
---
apiVersion: v1
kind: Namespace
metadata: {name: b}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: a}
spec: {nodeName: n1}
status: {phase: Running, podIPs: [{ip: 10.1.1.1}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web-1, namespace: b, labels: {app: web, copy: one}}
spec: {nodeName: n1, containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]}
status: {phase: Running, podIPs: [{ip: 10.1.1.2}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web-2, namespace: b, labels: {app: web, copy: two}}
spec: {nodeName: n2, containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]}
status: {phase: Running, podIPs: [{ip: 10.1.2.2}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: b}
spec: {type: NodePort, clusterIP: 10.96.0.1, ports: [{port: 80, nodePort: 30080, targetPort: 8080}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: b, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{port: 8080}]
endpoints:
- {addresses: [10.1.1.2], nodeName: n1, conditions: {ready: true}}
- {addresses: [10.1.2.2], nodeName: n2, conditions: {ready: true}}
";

/// Isolates ingress of pods of namespace b; `from` is YAML.
fn ingress(name: &str, selector: &str, from: &str) -> String {
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
         metadata: {{name: {name}, namespace: b}}\n\
         spec: {{podSelector: {selector}, ingress: [{{from: {from}}}]}}\n"
    )
}

const DENY: &str = "---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny, namespace: b}
spec: {podSelector: {}}
";

/// What is told on node n1, with these objects besides; without policies the world is not known.
fn ask_with(more: &str, policies: bool, from: &str, to: &str) -> Value {
    ask_in("nftables", more, policies, from, to)
}

/// The same in a proxy mode.
fn ask_in(mode: &str, more: &str, policies: bool, from: &str, to: &str) -> Value {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("all.yaml"), format!("{OBJECTS}{more}")).unwrap();
    let flags = Flags {
        manifests: Some(folder.path().to_owned()),
        hostname_override: Some("n1".to_owned()),
        cluster_cidr: Some(vec!["10.1.0.0/16".to_owned()]),
        proxy_mode: Some(mode.to_owned()),
        ..Flags::default()
    };
    let config = config::load(&flags).unwrap().config;
    let mut update = open_source(&config).unwrap().read().unwrap();
    assert_eq!(update.problems.as_deref().unwrap_or_default().len(), 0, "{:?}", update.problems);
    let mut compiler = Compiler::new("n1");
    take_judged(&mut update.changes).into_iter().for_each(|change| compiler.apply(change));
    let mut cluster = Cluster::new("n1".into());
    update.changes.into_iter().for_each(|change| cluster.apply(change));
    let rules = node::rules(&config, &cluster);
    let mut table = Table::default();
    for (name, service) in cluster.services() {
        let plan = plan::plan(name, service, cluster.slices(name), &rules);
        table.replace(name, Some(plan), &mut Delta::new());
    }
    let nodes = node::tables(&config, &cluster, false);
    let world = policies.then(|| compiler.world());
    let mode = config.mode;
    answer(View { table: &table, cluster: &cluster, nodes: &nodes, mode, world }, from, to)
}

fn ask(more: &str, from: &str, to: &str) -> Value {
    ask_with(more, true, from, to)
}

#[test]
fn a_pod_and_a_pod_are_judged_by_both_ends_policies() {
    let allowed = ask("", "pod/a/client", "pod/b/web-1:8080");
    assert_eq!(allowed["verdict"], "allowed");
    let found = ask(DENY, "pod/a/client:40000/TCP", "pod/b/web-1:http/TCP");
    assert_eq!(
        to_text(&found),
        "verdict: denied\n  \
           from: 10.1.1.1\n  \
           to: 10.1.1.2:8080\n  \
           egress policy: 10.1.1.2:8080: egress is allowed, as no policy isolates pod a/client\n  \
           ingress policy: 10.1.1.2:8080: ingress is denied, as NetworkPolicy b/deny isolates pod b/web-1 \
           and no rule matches\n\
         reason: ingress is denied, as NetworkPolicy b/deny isolates pod b/web-1 and no rule matches\n"
    );
    // Back, and from the pod's own node.
    assert_eq!(ask(DENY, "pod/b/web-1", "10.1.1.1:80")["verdict"], "allowed");
    assert_eq!(ask(DENY, "node/n1", "pod/b/web-1")["verdict"], "allowed");
    assert_eq!(ask(DENY, "node/n2", "pod/b/web-1")["verdict"], "denied");
    assert_eq!(ask(DENY, "pod/a/client", "pod/b/web-1/ICMP")["verdict"], "denied");
    assert_eq!(ask("", "pod/a/client", "pod/b/web-1/ICMP")["verdict"], "allowed");
}

/// A load balancer's address with the Local policy; endpoints as web's.
const LOCAL: &str = "---
apiVersion: v1
kind: Service
metadata: {name: local, namespace: b}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.2
  externalTrafficPolicy: Local
  healthCheckNodePort: 32000
  ports: [{port: 80, nodePort: 30082, targetPort: 8080}]
status: {loadBalancer: {ingress: [{ip: 203.0.113.1}]}}
---
";

#[test]
fn ipvs_has_one_list_for_all_clients_and_refuses_ports_of_all_its_addresses() {
    let (near, far) = ("10.1.1.2:8080", "10.1.2.2:8080");
    let slice = OBJECTS.rsplit("---\n").next().unwrap().replace("web", "local");
    let local = &format!("{LOCAL}{slice}");
    for (mode, inside) in
        [("nftables", &[near, far][..]), ("iptables", &[near, far]), ("ipvs", &[near])]
    {
        for (from, seen) in [("10.1.1.1", inside), ("node/n1", inside), ("1.2.3.4", &[near])] {
            let found = ask_in(mode, local, false, from, "203.0.113.1:80");
            let path = found["path"].as_array().unwrap();
            let hop = path.iter().find(|hop| hop["candidates"].is_array());
            let hop = hop.unwrap_or_else(|| panic!("{mode}: {from}: {found}"));
            assert_eq!(hop["candidates"], json!(seen), "{mode}: {from}: {found}");
            let masquerade = path.iter().any(|hop| hop["hop"] == "masquerade");
            assert_eq!(masquerade, from == "node/n1", "{mode}: {from}: {found}");
        }
        let found = ask_in(mode, local, false, "1.2.3.4", "203.0.113.1:81");
        let verdict = if mode == "ipvs" { "denied" } else { "unknown" };
        assert_eq!(found["verdict"], verdict, "{mode}: {found}");
    }
}

#[test]
fn all_endpoints_that_are_decided_alike_are_one_hop() {
    let found = ask(DENY, "pod/a/client", "svc/b/web:80");
    assert_eq!(
        to_text(&found),
        "verdict: denied\n  \
           from: 10.1.1.1\n  \
           frontend: 10.96.0.1:80/tcp\n  \
           endpoint: one of 10.1.1.2:8080, 10.1.2.2:8080\n  \
           egress policy: egress is allowed, as no policy isolates pod a/client\n  \
           ingress policy: ingress is denied, as NetworkPolicy b/deny isolates the endpoints and no rule \
           matches\n\
         reason: service b/web/tcp: internalTrafficPolicy Cluster: any endpoint; ingress is denied, as \
         NetworkPolicy b/deny isolates the endpoints and no rule matches\n"
    );
    let open = ingress("team-a", "{}", "[{namespaceSelector: {matchLabels: {team: a}}}]");
    let found = ask(&format!("{DENY}{open}"), "pod/a/client", "svc/b/web");
    assert_eq!(found["verdict"], "allowed");
    let path = found["path"].as_array().unwrap();
    let hops: Vec<&str> = path.iter().map(|hop| hop["hop"].as_str().unwrap()).collect();
    assert_eq!(hops, ["from", "frontend", "endpoint", "egress policy", "ingress policy"]);
    assert_eq!(
        path[4]["reason"],
        "ingress is allowed by NetworkPolicy b/team-a, ingress[0] (from[0], any port)"
    );
}

#[test]
fn endpoints_that_differ_leave_the_verdict_open() {
    let one = ingress("one", "{matchLabels: {copy: one}}", "[{podSelector: {}}]");
    let found = ask(&one, "pod/a/client", "svc/b/web");
    assert_eq!(found["verdict"], "unknown");
    let reason = found["reason"].as_str().unwrap();
    assert!(
        reason.contains(
            "policies deny 1 of 2: 10.1.1.2:8080: ingress is denied, as NetworkPolicy b/one"
        ),
        "{reason}"
    );
    let hops = found["path"].as_array().unwrap().iter();
    assert_eq!(hops.filter(|hop| hop["hop"] == "ingress policy").count(), 2, "{found}");
}

#[test]
fn a_client_that_is_masqueraded_is_this_node_to_the_pods_of_others() {
    let client = ingress("client", "{}", "[{ipBlock: {cidr: 203.0.113.0/24}}]");
    let found = ask(&client, "203.0.113.9", "node/n1:30080");
    assert_eq!(found["verdict"], "unknown", "{found}");
    let node = ingress("node", "{}", "[{ipBlock: {cidr: 192.168.0.1/32}}]");
    assert_eq!(
        ask(&format!("{client}{node}"), "203.0.113.9", "node/n1:30080")["verdict"],
        "allowed"
    );
}

#[test]
fn the_first_reason_against_it_is_the_services() {
    let found = ask(DENY, "pod/a/client", "svc/b/web:81");
    assert_eq!(found["reason"], "service b/web has no port 81/tcp: refused");
}

#[test]
fn addresses_beyond_the_cluster_are_judged_at_one_end() {
    let egress = "---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: out, namespace: a}
spec: {podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 8.8.8.0/24}}]}]}
";
    assert_eq!(ask(egress, "pod/a/client", "8.8.8.8:53/UDP")["verdict"], "allowed");
    assert_eq!(ask(egress, "pod/a/client", "9.9.9.9:53/UDP")["verdict"], "denied");
    assert_eq!(ask(egress, "203.0.113.9", "9.9.9.9:53/UDP")["verdict"], "unknown");
}

#[test]
fn what_cannot_be_told_says_why() {
    for (from, to, reason) in [
        ("pod/a/nobody", "svc/b/web", "there is no pod a/nobody"),
        ("pod/a/client", "pod/b/nobody:80", "there is no pod b/nobody"),
        ("pod/a/client", "pod/b/web-1:dns", "pod b/web-1 calls no tcp port \"dns\""),
        ("pod/b/web-1", "pod/a/client", "pod a/client names no tcp port: add :PORT"),
        ("svc/b/web", "pod/b/web-1", "a Service opens no connections: name one of its pods"),
    ] {
        let found = ask("", from, to);
        assert_eq!((&found["verdict"], &found["reason"]), (&json!("unknown"), &json!(reason)));
    }
}

#[test]
fn without_policies_the_path_is_all_there_is() {
    let found = ask_with(DENY, false, "10.1.1.1", "svc/b/web");
    assert_eq!(found["verdict"], "allowed");
    assert!(found["path"].as_array().unwrap().iter().all(|hop| hop["reason"].is_null()), "{found}");
    let found = ask_with("", false, "pod/a/client", "svc/b/web");
    assert_eq!(found["reason"], "pods cannot be named yet: give the pod's address");
}
