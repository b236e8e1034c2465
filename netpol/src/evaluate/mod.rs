//! What policies say of one connection, and why: written straight from the API's definition.
//!
//! This is the judge of what [`compile`](crate::compile) makes of the same world, and what `proxyd explain`
//! answers with. It is slow and plain, and shares nothing with the compiler but what policies are made of.
//! Where Kubernetes leaves something open it follows `docs/policy.md`.

mod decision;
mod flow;
mod matches;

use crate::model::{Action, Direction, Policy, PolicyName, Tier};
use crate::world::{Pod, PodName, World};
pub use decision::{ClusterRuleName, Decision, Evaluation, Reason, Verdict};
pub use flow::{End, Family, Flow, owner};
use matches::{Match, Question};

/// Whether a connection comes about.
pub fn evaluate(world: &World, flow: &Flow) -> Evaluation {
    let egress = decide(world, flow, Direction::Egress);
    let ingress = decide(world, flow, Direction::Ingress);
    Evaluation::of(egress, ingress)
}

/// What the policies of one end say.
fn decide(world: &World, flow: &Flow, direction: Direction) -> Decision {
    let (subject, address, peer) = match direction {
        Direction::Egress => (&flow.from, flow.from_address, &flow.to),
        Direction::Ingress => (&flow.to, flow.to_address, &flow.from),
    };
    let mut passed = Vec::new();
    let known = match subject {
        End::Pod(name) => world.pods.get_key_value(name).filter(|(_, pod)| !pod.host_network),
        _ => None,
    };
    let claimants = flow::claimants(world, address);
    let reason = match known {
        None if flow::is_unknown_pod(world, subject) => Reason::UnknownPod,
        None => Reason::NotAPod,
        Some(_) if flow.from == flow.to || flow.from_address == flow.to_address => Reason::Itself,
        Some((_, pod)) if *peer == End::Node(pod.node.clone()) => {
            Reason::ResidentNode(pod.node.clone())
        }
        Some(_) if claimants.len() > 1 => {
            Reason::Contested(claimants.iter().map(|(name, _)| (*name).clone()).collect())
        }
        Some((name, pod)) => {
            let asked = Asked { question: Question { world, flow, direction }, name, pod };
            asked.tiers(&mut passed)
        }
    };
    Decision { direction, subject: subject.clone(), passed, reason }
}

/// A connection, and the pod whose policies are asked.
struct Asked<'a> {
    question: Question<'a>,
    name: &'a PodName,
    pod: &'a Pod,
}

impl Asked<'_> {
    fn tiers(&self, passed: &mut Vec<ClusterRuleName>) -> Reason {
        if let Some(reason) = self.cluster_tier(Tier::Admin, passed) {
            return reason;
        }
        if let Some(reason) = self.network_policies() {
            return reason;
        }
        self.cluster_tier(Tier::Baseline, passed).unwrap_or(Reason::NotIsolated)
    }

    /// The first rule that matches, of all policies of a tier in their order; nothing if there is none, or
    /// if it leaves the matter to the next tier.
    fn cluster_tier(&self, tier: Tier, passed: &mut Vec<ClusterRuleName>) -> Option<Reason> {
        let all = &self.question.world.cluster_policies;
        let mut policies: Vec<_> = all.iter().filter(|(_, policy)| policy.tier == tier).collect();
        policies.sort_by_key(|(name, policy)| (policy.priority, (*name).clone()));
        for (name, policy) in policies {
            let rules = policy.rules(self.question.direction);
            if !policy.pods.matches(&self.pod.labels) || rules.is_empty() {
                continue;
            }
            let Some(namespace) = self.question.world.namespaces.get(&self.name.namespace) else {
                return Some(Reason::UnknownNamespace(self.name.namespace.clone()));
            };
            if !policy.namespaces.matches(&namespace.labels) {
                continue;
            }
            for (at, rule) in rules.iter().enumerate() {
                let found = self.question.cluster_rule(rule);
                let rule = ClusterRuleName {
                    tier,
                    policy: name.clone(),
                    rule: at,
                    name: rule.name.clone(),
                    action: rule.action,
                    understood: !matches!(found, Match::Closed),
                };
                match (found, rule.action) {
                    (Match::No, _) => {}
                    (Match::Yes, Action::Pass) => {
                        passed.push(rule);
                        return None;
                    }
                    _ => return Some(Reason::Cluster(rule)),
                }
            }
        }
        None
    }

    /// What NetworkPolicies say; nothing if none isolates the pod in this direction.
    fn network_policies(&self) -> Option<Reason> {
        let direction = self.question.direction;
        let mut isolating: Vec<(&PolicyName, &Policy)> = Vec::new();
        for (name, policy) in &self.question.world.policies {
            if name.namespace == self.name.namespace
                && policy.subject.matches(&self.pod.labels)
                && policy.rules(direction).is_some()
            {
                isolating.push((name, policy));
            }
        }
        if isolating.is_empty() {
            return None;
        }
        // What is only tried out does not change what others enforce, neither way.
        let namespace = self.question.world.namespaces.get(&self.name.namespace);
        let audit_namespace = namespace.is_some_and(|namespace| namespace.audit);
        let audit = isolating.iter().all(|(_, policy)| audit_namespace || policy.audit);
        if !audit {
            isolating.retain(|(_, policy)| !policy.audit);
        }
        for (name, policy) in &isolating {
            for (at, rule) in policy.rules(direction).unwrap_or_default().iter().enumerate() {
                if let Some((peer, port)) = self.question.rule(rule, &name.namespace) {
                    return Some(Reason::Allowed { policy: (*name).clone(), rule: at, peer, port });
                }
            }
        }
        let names = isolating.iter().map(|(name, _)| (*name).clone()).collect();
        Some(if audit { Reason::Audit(names) } else { Reason::Isolated(names) })
    }
}

#[cfg(test)]
mod differential;
#[cfg(test)]
mod tests;
