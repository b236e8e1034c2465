//! Tiers, exemptions, and what is said of it.

use serde_json::{Value, json};

use super::*;

fn cluster(tier: &str, priority: u16, ingress: Value, egress: Value) -> Value {
    json!({"tier": tier, "priority": priority,
        "subject": {"namespaces": {"matchLabels": {"ns": "x"}}},
        "ingress": ingress, "egress": egress})
}

#[test]
fn tiers() {
    let all = json!([{"namespaces": {}}]);
    let rule = |action: &str| json!([{"name": action, "action": action, "from": all, "to": all}]);
    let y = |action: &str| {
        json!([{"action": action, "from": [{"namespaces": {"matchLabels": {"ns": "y"}}}],
            "to": [{"namespaces": {"matchLabels": {"ns": "y"}}}]}])
    };
    let none = json!([]);
    let deny = json!({"podSelector": {}});
    let (admin, baseline) = ("Admin", "Baseline");
    let row = |says, policies, allowed, denied| Scenario { says, policies, allowed, denied };
    check(vec![
        row(
            "L: nothing is isolated by a policy whose rules do not match",
            vec![("p", cluster(admin, 1, y("Deny"), y("Deny")))],
            &["z/a x/a 80/TCP", "x/a z/a 80/TCP", "8.8.8.8 x/a 80/TCP", "y/a z/a 80/TCP"],
            &["y/a x/a 80/TCP", "x/a y/a 80/TCP"],
        ),
        row(
            "L: Accept goes before NetworkPolicies, at this end",
            vec![
                ("p", cluster(admin, 1, y("Accept"), rule("Accept"))),
                ("x/deny", deny.clone()),
                ("z/deny", deny.clone()),
            ],
            &["y/a x/a 80/TCP"],
            &["z/b x/a 80/TCP", "x/a z/a 80/TCP"],
        ),
        row(
            "L: the lower priority first, then the name",
            vec![
                ("a", cluster(admin, 7, rule("Deny"), none.clone())),
                ("b", cluster(admin, 7, rule("Accept"), rule("Deny"))),
                ("c", cluster(admin, 3, y("Accept"), none.clone())),
            ],
            &["y/a x/a 80/TCP"],
            &["z/a x/a 80/TCP", "x/a y/a 80/TCP"],
        ),
        row(
            "L: Pass leaves it to NetworkPolicies",
            vec![
                ("a", cluster(admin, 1, rule("Pass"), none.clone())),
                ("b", cluster(admin, 2, rule("Deny"), none.clone())),
                (
                    "x/y",
                    json!({"podSelector": {"matchLabels": {"pod": "a"}},
                    "ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"ns": "y"}}}]}]}),
                ),
            ],
            &["y/a x/a 80/TCP", "z/a x/b 80/TCP"],
            &["z/a x/a 80/TCP"],
        ),
        row(
            "L: Baseline comes after NetworkPolicies, for the direction that none isolates",
            vec![
                ("p", cluster(baseline, 1, rule("Deny"), rule("Deny"))),
                ("x/y", from(json!([{"namespaceSelector": {"matchLabels": {"ns": "y"}}}]))),
            ],
            &["y/a x/a 80/TCP", "8.8.8.8 x/b 80/TCP"],
            &["z/a x/a 80/TCP", "y/a x/b 80/TCP", "x/a y/a 80/TCP"],
        ),
        row(
            "L: Pass in Baseline ends it",
            vec![
                ("a", cluster(baseline, 1, y("Pass"), none.clone())),
                ("b", cluster(baseline, 2, rule("Deny"), none.clone())),
            ],
            &["y/a x/a 80/TCP"],
            &["z/a x/a 80/TCP"],
        ),
        row(
            "L: networks are addresses of pods too, nodes those of nodes",
            vec![(
                "p",
                cluster(
                    admin,
                    1,
                    none.clone(),
                    json!([
                {"action": "Accept", "to": [{"networks": ["10.0.1.0/32"]}],
                    "protocols": [{"tcp": {"destinationPort": {"number": 80}}}]},
                {"action": "Deny", "to": [{"networks": ["10.0.1.0/24", "fd00::1:0/112"]}]},
                {"action": "Deny", "to": [{"nodes": {"matchLabels": {"node": "n2"}}}]}]),
                ),
            )],
            &["x/a y/a 80/TCP", "x/a z/a 81/TCP", "x/b n1 22/TCP", "x/b n2 22/TCP"],
            &[
                "x/a y/a 81/TCP",
                "x/a y/a ICMP",
                "x/a y/b 80/TCP",
                "x/a n2 22/TCP",
                "fd00::0:0 fd00::1:1 80/TCP",
            ],
        ),
        row(
            "L: a peer that is not known accepts nothing",
            vec![(
                "p",
                cluster(
                    admin,
                    1,
                    none.clone(),
                    json!([
                    {"action": "Accept", "to": [{"domainNames": ["a.example"]}]},
                    {"action": "Deny", "to": all}]),
                ),
            )],
            &["x/a 8.8.8.8 80/TCP"],
            &["x/a y/a 80/TCP"],
        ),
        row(
            "L: and passes nothing",
            vec![(
                "p",
                cluster(
                    baseline,
                    1,
                    none.clone(),
                    json!([
                    {"action": "Pass", "to": [{"domainNames": ["a.example"]}]}]),
                ),
            )],
            &["y/a x/a 80/TCP", "x/b n2 22/TCP"],
            &["x/a 8.8.8.8 80/TCP", "x/a n2 22/TCP"],
        ),
        row(
            "L: a named port",
            vec![(
                "p",
                cluster(
                    admin,
                    1,
                    none.clone(),
                    json!([
                    {"action": "Deny", "to": all, "protocols": [{"destinationNamedPort": "http"}]}]),
                ),
            )],
            &["x/a y/a 81/TCP", "x/a y/b 80/TCP", "x/a y/c 80/TCP"],
            &["x/a y/a 80/TCP", "x/a y/b 8080/TCP"],
        ),
    ]);
}

#[test]
fn exemptions() {
    let closed = json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]});
    check(vec![Scenario {
        says: "itself, and the own node, whoever speaks for it",
        policies: vec![("x/deny", closed)],
        allowed: &[
            "x/a x/a 80/TCP",
            "x/a 10.0.0.0 80/TCP",
            "n1 x/a 80/TCP",
            "x/a n1 22/TCP",
            "x/host x/a 80/TCP",
            "x/a x/host ICMP",
            "192.168.0.1 x/a 80/TCP",
            "y/a x/host 80/TCP",
        ],
        denied: &["n2 x/a 80/TCP", "x/a n2 22/TCP", "x/b x/host 80/TCP", "x/host x/b 80/TCP"],
    }]);
}

#[test]
fn an_unknown_namespace_is_selected_by_its_own_policies_alone() {
    let mut world = world();
    world.namespaces.remove("y");
    add(&mut world, "y/p", &from(json!([{"podSelector": {}}])));
    add(&mut world, "x/p", &from(json!([{"namespaceSelector": {}}])));
    for (flow, expected) in [
        ("y/b y/a 80/TCP", Verdict::Allowed),
        ("x/b y/a 80/TCP", Verdict::Denied),
        ("z/b x/a 80/TCP", Verdict::Allowed),
        ("y/b x/a 80/TCP", Verdict::Denied),
    ] {
        assert_eq!(ask(&world, flow).verdict, expected, "{flow}");
    }
    // A rule that takes any peer asks for no namespace.
    add(&mut world, "z/p", &to(json!([]), json!([{"port": "http"}])));
    assert_eq!(ask(&world, "z/a y/a 80/TCP").verdict, Verdict::Denied);
    world.policies.remove(&PolicyName { namespace: "y".into(), name: "p".into() });
    assert_eq!(ask(&world, "z/a y/a 80/TCP").verdict, Verdict::Allowed);
    differential::agree(&world).unwrap();
}

#[test]
fn a_cluster_policy_for_an_unknown_namespace_is_not_decided() {
    let mut world = world();
    world.namespaces.remove("x");
    let all = json!([{"action": "Deny", "from": [{"namespaces": {}}], "to": [{"namespaces": {}}]}]);
    add(&mut world, "p", &cluster("Admin", 1, json!([]), all));
    assert_eq!(ask(&world, "x/a y/a 80/TCP").verdict, Verdict::Unspecified);
    assert_eq!(ask(&world, "y/a x/a 80/TCP").verdict, Verdict::Allowed);
}

#[test]
fn a_contested_address_is_a_peer_only_where_all_are_who_claim_it() {
    let mut world = world();
    let address = world.pods[&pod_name("x/b")].addresses[0];
    world.pods.get_mut(&pod_name("y/b")).unwrap().addresses[0] = address;
    add(&mut world, "z/p", &from(json!([{"namespaceSelector": {"matchLabels": {"ns": "x"}}}])));
    assert_eq!(ask(&world, "x/c z/a 80/TCP").verdict, Verdict::Allowed);
    assert_eq!(ask(&world, "x/b z/a 80/TCP").verdict, Verdict::Denied);
    add(&mut world, "z/q", &from(json!([{"namespaceSelector": {"matchLabels": {"ns": "y"}}}])));
    assert_eq!(ask(&world, "x/b z/a 80/TCP").verdict, Verdict::Denied);
    add(&mut world, "z/r", &from(json!([{"namespaceSelector": {}}])));
    let found = ask(&world, "x/b z/a 80/TCP");
    assert_eq!(found.verdict, Verdict::Unspecified, "{found}");
    differential::agree(&world).unwrap();
}

#[test]
fn a_contested_address_has_the_ports_that_all_call_so() {
    let mut world = world();
    let address = world.pods[&pod_name("x/b")].addresses[0];
    world.pods.get_mut(&pod_name("y/b")).unwrap().addresses[0] = address;
    world.pods.get_mut(&pod_name("y/c")).unwrap().addresses[0] = address;
    let all = json!([{"action": "Deny", "to": [{"namespaces": {}}],
        "protocols": [{"destinationNamedPort": "http"}]}]);
    let accepted = |world: &World| {
        let mut world = world.clone();
        let accept = json!([{"action": "Accept", "to": [{"namespaces": {}}],
            "protocols": [{"destinationNamedPort": "http"}]}, {"action": "Deny", "to": [{"namespaces": {}}]}]);
        add(&mut world, "p", &cluster("Admin", 1, json!([]), accept));
        differential::agree(&world).unwrap();
        ask(&world, "x/a 10.0.0.1 8080/TCP").egress.verdict()
    };
    // Who lets in asks all of them, who keeps out any.
    assert_eq!(accepted(&world), Verdict::Denied);
    add(&mut world, "p", &cluster("Admin", 1, json!([]), all));
    assert_eq!(ask(&world, "x/a 10.0.0.1 8080/TCP").egress.verdict(), Verdict::Denied);
    differential::agree(&world).unwrap();
    world.pods.remove(&pod_name("y/c"));
    assert_eq!(accepted(&world), Verdict::Allowed);
    assert_eq!(ask(&world, "x/a 10.0.0.1 8080/TCP").egress.verdict(), Verdict::Denied);
    differential::agree(&world).unwrap();
}

#[test]
fn a_deny_is_about_an_address_that_any_of_its_pods_claims() {
    let mut world = world();
    let address = world.pods[&pod_name("x/b")].addresses[0];
    world.pods.get_mut(&pod_name("y/b")).unwrap().addresses[0] = address;
    let rule = |action: &str| json!([{"action": action, "from": [{"namespaces": {"matchLabels": {"ns": "y"}}}]}]);
    add(&mut world, "p", &cluster("Admin", 1, rule("Deny"), json!([])));
    assert_eq!(ask(&world, "x/b x/a 80/TCP").ingress.verdict(), Verdict::Denied);
    assert_eq!(ask(&world, "x/c x/a 80/TCP").ingress.verdict(), Verdict::Allowed);
    differential::agree(&world).unwrap();
    add(&mut world, "p", &cluster("Admin", 1, rule("Pass"), json!([])));
    differential::agree(&world).unwrap();
}

#[test]
fn reasons_are_plain_sentences() {
    let mut world = world();
    let y = json!([{"podSelector": {}}, {"namespaceSelector": {"matchLabels": {"ns": "y"}}}]);
    add(
        &mut world,
        "x/in",
        &json!({"podSelector": {}, "ingress": [{"from": y, "ports": [{"port": 80}]}]}),
    );
    add(&mut world, "x/more", &json!({"podSelector": {}}));
    let out = json!([{"name": "no-z", "action": "Deny", "to": [{"namespaces": {"matchLabels": {"ns": "z"}}}]}]);
    add(&mut world, "lock", &cluster("Admin", 1, json!([]), out));
    for (flow, expected) in [
        (
            "y/a x/a 80/TCP",
            "allowed: egress is allowed, as no policy isolates pod y/a; \
             ingress is allowed by NetworkPolicy x/in, ingress[0] (from[1], ports[0])",
        ),
        (
            "8.8.8.8 x/a 80/TCP",
            "denied: egress is not asked, as no policy is about 8.8.8.8; \
             ingress is denied, as NetworkPolicies x/in and x/more isolate pod x/a and no rule matches",
        ),
        (
            "x/a z/a 80/TCP",
            "denied: egress is denied by Deny of ClusterNetworkPolicy lock (tier Admin), egress[0] \"no-z\"; \
             ingress is allowed, as no policy isolates pod z/a",
        ),
        (
            "x/b x/b 1/TCP",
            "allowed: egress is allowed, as pod x/b talks to itself; \
             ingress is allowed, as pod x/b talks to itself",
        ),
    ] {
        assert_eq!(ask(&world, flow).to_string(), expected, "{flow}");
    }
}
