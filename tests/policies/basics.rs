//! Who may reach whom.

use serde_json::{Value, json};
use testnet::manifest::documents;
use testnet::{Host, eventually};

use super::forgery;
use super::world::{SOON, WEB, World};

fn only_those_who_are_allowed(settings: &str) {
    let world = World::new();
    let _daemons = world.daemons(settings);
    world.policy(
        "web",
        &json!({
            "podSelector": {"matchLabels": {"app": "web"}},
            "ingress": [{
                "from": [{"podSelector": {"matchLabels": {"role": "friend"}}}],
                "ports": [{"port": "web"}],
            }],
        }),
    );
    let web = world.pod(&world.n1, "web", &json!({"app": "web"}));
    let near = world.pod(&world.n1, "near", &json!({"role": "friend"}));
    let far = world.pod(&world.n2, "far", &json!({"role": "friend"}));
    let stranger = world.pod(&world.n1, "stranger", &json!({}));
    let _servers = [web.serve_tcp(WEB), web.serve_tcp(8081)];
    for ip in web.ips() {
        assert!(near.tcp((ip, WEB)).is_ok(), "{ip}");
        eventually("a friend on another node is let in", SOON, || far.tcp((ip, WEB)).is_ok());
        assert!(stranger.tcp((ip, WEB)).is_err(), "{ip}");
        assert!(stranger.ping(ip).is_err(), "{ip}");
        assert!(near.tcp((ip, 8081)).is_err(), "{ip}: another port");
        assert!(world.n1.tcp((ip, 8081)).is_ok(), "{ip}: the pod's own node");
        assert!(world.n2.tcp((ip, WEB)).is_err(), "{ip}: another node");
    }
    // What is not isolated in this direction goes on.
    let _elsewhere = stranger.serve_tcp(WEB);
    assert!(web.tcp((stranger.v4(), WEB)).is_ok());
    let leads = format!("{} : goto", web.v4());
    assert!(world.n1.namespace().ruleset().contains(&leads));
    world.remove("policy-web");
    eventually("everybody is let in", SOON, || stranger.tcp((web.v4(), WEB)).is_ok());
    let rules = world.n1.namespace().ruleset();
    let chain = |line: &&str| {
        let name = line.trim().strip_prefix("chain ").unwrap_or_default();
        name.starts_with("to-") || name.starts_with("from-")
    };
    let left: Vec<&str> = rules.lines().filter(chain).filter(|l| !l.contains("unknown")).collect();
    assert!(left.is_empty(), "without policies nobody has a chain: {left:?}");
    assert!(!rules.contains(&leads), "or leads to one: {rules}");
}

#[test]
fn on_bridges() {
    only_those_who_are_allowed("backend: host-gw\n");
}

#[test]
fn on_routed_links() {
    only_those_who_are_allowed("backend: vxlan\nmode: routed\n");
}

/// Whether `from` reaches port `WEB` of each.
fn reaches(from: &impl Host, to: &[&testnet::Pod<'_>]) -> Vec<bool> {
    to.iter().map(|pod| from.can_reach((pod.v4(), WEB))).collect()
}

#[test]
fn networks_exceptions_and_ranges_of_ports() {
    let world = World::new();
    let _daemons = world.daemons("backend: host-gw\n");
    let client = world.pod(&world.n1, "client", &json!({"app": "client"}));
    let (a, b) = (world.pod(&world.n1, "a", &json!({})), world.pod(&world.n2, "b", &json!({})));
    let _servers = [a.serve_tcp(WEB), b.serve_tcp(WEB)];
    let to = |peers: Value, ports: Value| {
        world.policy(
            "out",
            &json!({
                "podSelector": {"matchLabels": {"app": "client"}}, "policyTypes": ["Egress"],
                "egress": [{"to": peers, "ports": ports}],
            }),
        );
    };
    let expect = |what: &str, expected: [bool; 2]| {
        eventually(what, SOON, || {
            let found = reaches(&client, &[&a, &b]);
            if found == expected { Ok(()) } else { Err(found) }
        });
    };
    let all = json!([{"port": WEB}]);
    to(json!([{"ipBlock": {"cidr": "192.0.2.0/24"}}]), all.clone());
    expect("elsewhere alone", [false, false]);
    to(json!([{"ipBlock": {"cidr": "0.0.0.0/0"}}]), all.clone());
    expect("everything of IPv4", [true, true]);
    let v6 = (a.v6(), WEB);
    assert!(client.tcp(v6).is_err(), "an IPv4 network covers no IPv6");
    to(
        json!([{"ipBlock": {"cidr": "10.244.0.0/16", "except": [world.n2.pod_cidr()]}}]),
        all.clone(),
    );
    expect("but not the other node's pods", [true, false]);
    to(
        json!([{"ipBlock": {"cidr": "10.244.0.0/16", "except": [format!("{}/32", a.v4())]}}, {"ipBlock": {"cidr": format!("{}/32", a.v4())}}]),
        all,
    );
    expect("another peer allows what one excepts", [true, true]);
    let ports = |first: u16, last: u16| json!([{"port": first, "endPort": last}]);
    to(json!([{"podSelector": {}}]), ports(8000, 8079));
    expect("a range that ends before", [false, false]);
    to(json!([{"podSelector": {}}]), ports(8000, 8080));
    expect("a range with it", [true, true]);
    to(json!([{"podSelector": {}}]), json!([{"protocol": "UDP"}]));
    expect("another protocol", [false, false]);
    to(json!([{"podSelector": {}}]), json!([{"protocol": "TCP"}]));
    expect("all ports of the protocol", [true, true]);
    to(json!([{"podSelector": {}}]), json!([{"port": "web"}]));
    expect("what the others call so", [true, true]);
    to(json!([{"podSelector": {}}]), json!([{"port": "dns"}]));
    expect("what nobody calls so", [false, false]);
    // A part that cannot be understood: the policy isolates, and allows nothing.
    to(json!([{"podSelector": {}}]), json!([{"port": WEB}, {"port": 90, "endPort": 80}]));
    expect("a broken policy isolates", [false, false]);
}

#[test]
fn cluster_policies_come_before_and_after() {
    let world = World::new();
    let _daemons = world.daemons("backend: host-gw\n");
    let web = world.pod(&world.n1, "web", &json!({"app": "web"}));
    let client = world.pod(&world.n1, "client", &json!({"app": "client"}));
    let _server = web.serve_tcp(WEB);
    let cluster = |tier: &str, action: &str| {
        let object = json!({
            "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
            "metadata": {"name": tier.to_lowercase()},
            "spec": {
                "tier": tier, "priority": 10, "subject": {"namespaces": {}},
                "ingress": [{"name": "rule", "action": action, "from": [{"namespaces": {}}]}],
            },
        });
        world.write(&format!("cluster-{tier}"), &testnet::manifest::documents(&[&object]));
    };
    let expect = |what: &str, expected: bool| {
        eventually(what, SOON, || {
            let found = client.can_reach((web.v4(), WEB));
            if found == expected { Ok(()) } else { Err(found) }
        });
    };
    cluster("Baseline", "Deny");
    expect("the baseline denies", false);
    world.policy("in", &json!({"podSelector": {}, "ingress": [{}]}));
    expect("a NetworkPolicy comes before it", true);
    cluster("Admin", "Deny");
    expect("the administrator comes first", false);
    cluster("Admin", "Pass");
    expect("and may pass", true);
    world.policy("in", &json!({"podSelector": {}}));
    expect("a NetworkPolicy isolates", false);
    cluster("Admin", "Accept");
    expect("the administrator's word is final", true);
}

#[test]
fn a_header_before_the_ports_opens_nothing() {
    let world = World::new();
    let _daemons = world.daemons("backend: host-gw\n");
    let web = world.pod(&world.n1, "web", &json!({}));
    let client = world.pod(&world.n1, "client", &json!({}));
    let server = web.serve_udp(WEB);
    let to = (web.v6(), WEB);
    let ask = |port| client.udp_flow(to, port).unwrap().ask("x");
    eventually("nobody denies", SOON, || ask(4000));
    let deny = json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
        "metadata": {"name": "deny"},
        "spec": {
            "tier": "Admin", "priority": 10, "subject": {"namespaces": {}},
            "ingress": [{
                "action": "Deny", "from": [{"namespaces": {}}],
                "protocols": [{"udp": {"destinationPort": {"number": WEB}}}],
            }],
        },
    });
    world.write("deny", &documents(&[&deny]));
    eventually("the administrator denies", SOON, || ask(4000).is_err());
    let answered = server.answered();
    forgery::send_authenticated(client.namespace(), 4001, web.v6());
    assert!(ask(4001).is_err());
    assert_eq!(server.answered(), answered);
}

#[test]
fn an_audit_denies_nothing_and_counts() {
    let world = World::new();
    let _daemons = world.daemons("backend: host-gw\n");
    let web = world.pod(&world.n1, "web", &json!({"app": "web"}));
    let client = world.pod(&world.n1, "client", &json!({}));
    let _server = web.serve_tcp(WEB);
    let nothing = json!({"podSelector": {"matchLabels": {"app": "web"}}});
    world.policy_with("web", &nothing, &json!({"viaduct.io/policy-mode": "audit"}));
    let listed = || world.n1.namespace().command("nft", &["list", "ruleset"]);
    eventually("its chain", SOON, || listed().contains("default/web"));
    assert!(client.can_reach((web.v4(), WEB)));
    let counter = || {
        let rules = listed();
        rules.lines().find(|line| line.contains("\"default/web\"")).unwrap_or_default().to_owned()
    };
    assert!(counter().contains("counter packets 1 "), "{}", counter());
    // Of a flow that nobody answers the first packet is judged, and no other.
    let to = (web.v4(), WEB);
    client.namespace().run(move || {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        (0..5).for_each(|_| assert_eq!(socket.send_to(b"x", to).unwrap(), 1));
    });
    assert!(counter().contains("counter packets 2 "), "{}", counter());
    // It lifts nothing that the cluster's administrator denies.
    let deny = json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
        "metadata": {"name": "deny"},
        "spec": {
            "tier": "Admin", "priority": 10, "subject": {"namespaces": {}},
            "ingress": [{"action": "Deny", "from": [{"namespaces": {}}]}],
        },
    });
    world.write("deny", &documents(&[&deny]));
    eventually("the administrator denies", SOON, || !client.can_reach((web.v4(), WEB)));
    world.remove("deny");
    eventually("nobody denies", SOON, || client.can_reach((web.v4(), WEB)));
    world.policy("web", &nothing);
    eventually("enforced, it denies", SOON, || !client.can_reach((web.v4(), WEB)));
}
