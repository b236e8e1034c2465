//! The evaluator against the compiler, and against what must be true of any policies.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::compile::{Change, Compiler};
use crate::generate::{policy, rules, world};
use crate::labels::Selector;
use crate::model::{ClusterRule, Numbers, Port, Protocol, Rule};

/// Worlds per property; `PROPTEST_CASES` asks for others.
const CASES: u32 = 256;

/// Each node's view of a world.
fn compiled(world: &World) -> BTreeMap<Arc<str>, Compiler> {
    let nodes: BTreeSet<&Arc<str>> = world.pods.values().map(|pod| &pod.node).collect();
    let compile = |node: &Arc<str>| {
        let mut compiler = Compiler::new(Arc::clone(node));
        let World { namespaces, pods, nodes, policies, cluster_policies, .. } = world.clone();
        let changes = namespaces.into_iter().map(|(n, v)| Change::Namespace(n, Some(v)));
        let changes = changes.chain(pods.into_iter().map(|(n, v)| Change::Pod(n, Some(v))));
        let changes = changes.chain(nodes.into_iter().map(|(n, v)| Change::Node(n, Some(v))));
        let changes = changes.chain(policies.into_iter().map(|(n, v)| Change::Policy(n, Some(v))));
        let cluster = cluster_policies.into_iter();
        let cluster = cluster.map(|(n, v)| Change::ClusterPolicy(n, Some(v)));
        changes.chain(cluster).for_each(|change| compiler.apply(change));
        compiler.update();
        (Arc::clone(node), compiler)
    };
    nodes.into_iter().map(compile).collect()
}

/// Everybody who may talk, at each address.
fn ends(world: &World) -> Vec<(End, IpAddr)> {
    let mut all = BTreeSet::new();
    for (name, pod) in &world.pods {
        if !pod.host_network {
            all.extend(pod.addresses.iter().map(|address| (End::Pod(name.clone()), *address)));
        }
    }
    let known = (0..8).map(|n| IpAddr::from([10, 0, 0, n]));
    let known = known.chain((0..4).map(|n| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, n])));
    for address in known.chain([IpAddr::from([192, 0, 2, 1])]) {
        all.insert((owner(world, address), address));
    }
    all.into_iter().collect()
}

/// Ports at which verdicts may change.
fn interesting_ports(world: &World) -> BTreeSet<(Protocol, u16)> {
    let policies = world.policies.values();
    let rules = policies.flat_map(|policy| Direction::ALL.map(|way| policy.rules(way)));
    let ports = rules.flatten().flatten().filter_map(|rule| rule.ports.as_ref());
    let cluster = world.cluster_policies.values();
    let cluster: Vec<&ClusterRule> =
        cluster.flat_map(|policy| Direction::ALL.map(|way| policy.rules(way))).flatten().collect();
    let ports = ports.chain(cluster.into_iter().filter_map(|rule| rule.ports.as_ref()));
    let mut all: BTreeSet<(Protocol, u16)> = Protocol::ALL.map(|protocol| (protocol, 7)).into();
    for Port { protocol, numbers } in ports.flatten() {
        if let Numbers::Range(first, last) = numbers {
            let around = [first.saturating_sub(1), *first, *last, last.saturating_add(1)];
            all.extend(around.map(|port| (*protocol, port)));
        }
    }
    for port in world.pods.values().flat_map(|pod| &*pod.ports) {
        all.extend(Protocol::ALL.map(|protocol| (protocol, port.number)));
    }
    all
}

/// All connections that are worth asking for.
fn flows(world: &World) -> Vec<Flow> {
    let (ends, ports) = (ends(world), interesting_ports(world));
    let ports = ports.into_iter().map(|(protocol, port)| (Some(protocol), port));
    let ports: Vec<_> = ports.chain([(None, 0)]).collect();
    let mut all = Vec::new();
    for (from, from_address) in &ends {
        for (to, to_address) in &ends {
            let pods = [from, to].iter().any(|end| matches!(end, End::Pod(_)));
            if !pods || from_address.is_ipv4() != to_address.is_ipv4() {
                continue;
            }
            all.extend(ports.iter().map(|(protocol, port)| Flow {
                from: from.clone(),
                from_address: *from_address,
                to: to.clone(),
                to_address: *to_address,
                protocol: *protocol,
                port: *port,
            }));
        }
    }
    all
}

/// What the chains of one end say; nothing where the dataplane does not ask them.
fn compiled_verdict(
    world: &World,
    compilers: &BTreeMap<Arc<str>, Compiler>,
    flow: &Flow,
    direction: Direction,
) -> Verdict {
    let (subject, address, peer, peer_address) = match direction {
        Direction::Egress => (&flow.from, flow.from_address, &flow.to, flow.to_address),
        Direction::Ingress => (&flow.to, flow.to_address, &flow.from, flow.from_address),
    };
    let End::Pod(name) = subject else { return Verdict::Allowed };
    let node = &world.pods[name].node;
    // A pod does not leave its network to reach itself, and what its own node says is not judged.
    if subject == peer || address == peer_address || *peer == End::Node(Arc::clone(node)) {
        return Verdict::Allowed;
    }
    let compiler = &compilers[node];
    let verdicts = compiler.addresses().get(&address);
    let [ingress, egress] = verdicts.cloned().unwrap_or_default();
    let key = if direction == Direction::Ingress { ingress } else { egress };
    let allows = key.is_none_or(|key| {
        compiler.chain(&key).unwrap().allows(peer_address, flow.protocol, flow.port)
    });
    if allows { Verdict::Allowed } else { Verdict::Denied }
}

/// The compiler and the evaluator say the same of everything, where the evaluator says something.
pub(super) fn agree(world: &World) -> Result<(), TestCaseError> {
    let compilers = compiled(world);
    for flow in flows(world) {
        let found = evaluate(world, &flow);
        for decision in [&found.egress, &found.ingress] {
            if decision.verdict() != Verdict::Unspecified {
                let by_chain = compiled_verdict(world, &compilers, &flow, decision.direction);
                prop_assert_eq!(decision.verdict(), by_chain, "{:?}: {}", flow, decision);
            }
        }
    }
    Ok(())
}

/// Where everything is enforced, and every namespace is known.
fn plain(mut world: World) -> World {
    for policy in world.policies.values_mut() {
        policy.audit = false;
    }
    for name in ["x", "y"] {
        world.namespaces.entry(name.into()).or_default().audit = false;
    }
    world
}

/// No connection that was allowed is denied.
fn opens_only(before: &World, after: &World) -> Result<(), TestCaseError> {
    for flow in flows(before) {
        let (old, new) = (evaluate(before, &flow), evaluate(after, &flow));
        let closed = old.verdict == Verdict::Allowed && new.verdict != Verdict::Allowed;
        prop_assert!(!closed, "{flow:?} was {old}, is {new}");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(CASES),
        ..ProptestConfig::default()
    })]

    #[test]
    fn what_is_compiled_is_what_policies_mean(world in world()) {
        agree(&world)?;
    }

    #[test]
    fn one_more_rule_denies_nothing(
        world in world(), which in any::<prop::sample::Index>(), more in rules(), ingress: bool,
    ) {
        if world.policies.is_empty() {
            return Ok(());
        }
        let mut after = world.clone();
        let name = which.get(&world.policies.keys().collect::<Vec<_>>()).to_owned();
        let policy = after.policies.get_mut(name).unwrap();
        let rules = if ingress { &mut policy.ingress } else { &mut policy.egress };
        rules.iter_mut().for_each(|rules| rules.extend(more.clone()));
        opens_only(&world, &after)?;
    }

    #[test]
    fn one_more_policy_denies_nothing_to_pods_that_are_isolated(
        world in world(), which in any::<prop::sample::Index>(), more in policy(),
    ) {
        let world = plain(world);
        if world.policies.is_empty() {
            return Ok(());
        }
        let policies: Vec<_> = world.policies.iter().collect();
        let (first, isolating) = which.get(&policies);
        // It selects some of the pods of one that is there, and isolates in no other direction.
        let subject = isolating.subject.0.iter().chain(&more.subject.0).cloned().collect();
        let second = Policy {
            subject: Selector(subject),
            ingress: isolating.ingress.as_ref().and(more.ingress),
            egress: isolating.egress.as_ref().and(more.egress),
            audit: false,
        };
        let mut after = world.clone();
        after.policies.insert(PolicyName { name: "more".into(), ..(*first).clone() }, second);
        opens_only(&world, &after)?;
    }

    #[test]
    fn the_order_of_networkpolicies_and_of_their_parts_does_not_matter(world in world()) {
        let mut turned = world.clone();
        turned.policies.clear();
        for (name, policy) in &world.policies {
            let turned_name = if &*name.name == "p" { "q" } else { "p" };
            let name = PolicyName { name: turned_name.into(), ..name.clone() };
            let turn = |rules: &Vec<Rule>| {
                let mut rules = rules.clone();
                rules.reverse();
                for rule in &mut rules {
                    rule.peers.iter_mut().for_each(|peers| peers.reverse());
                    rule.ports.iter_mut().for_each(|ports| ports.reverse());
                }
                rules
            };
            let (ingress, egress) = (policy.ingress.as_ref().map(turn), policy.egress.as_ref().map(turn));
            turned.policies.insert(name, Policy { ingress, egress, ..policy.clone() });
        }
        for flow in flows(&world) {
            let (one, other) = (evaluate(&world, &flow), evaluate(&turned, &flow));
            prop_assert_eq!(one.verdict, other.verdict, "{:?}: {}, {}", flow, one, other);
        }
    }
}
