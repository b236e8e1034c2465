//! What was decided, and why.

use std::fmt;
use std::sync::Arc;

use super::flow::End;
use crate::model::{Action, Direction, PolicyName, Tier};
use crate::world::PodName;

/// Whether a connection comes about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// It does.
    Allowed,
    /// It does not.
    Denied,
    /// Neither Kubernetes nor Viaduct says.
    Unspecified,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verdict::Allowed => "allowed",
            Verdict::Denied => "denied",
            Verdict::Unspecified => "unspecified",
        })
    }
}

/// What the policies of both ends say of a connection: both must allow it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evaluation {
    /// Of both together.
    pub verdict: Verdict,
    /// Of the policies of the one who opens it.
    pub egress: Decision,
    /// Of the policies of the one who answers.
    pub ingress: Decision,
}

impl Evaluation {
    /// What follows from both.
    pub fn of(egress: Decision, ingress: Decision) -> Evaluation {
        let both = [egress.verdict(), ingress.verdict()];
        let verdict = if both.contains(&Verdict::Denied) {
            Verdict::Denied
        } else if both.contains(&Verdict::Unspecified) {
            Verdict::Unspecified
        } else {
            Verdict::Allowed
        };
        Evaluation { verdict, egress, ingress }
    }
}

impl fmt::Display for Evaluation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.verdict, self.egress, self.ingress)
    }
}

/// What the policies of one end say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Which way.
    pub direction: Direction,
    /// Whose policies.
    pub subject: End,
    /// Rules that left it to the next tier.
    pub passed: Vec<ClusterRuleName>,
    /// What decided.
    pub reason: Reason,
}

/// What decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// No policy is about nodes and addresses beyond the cluster.
    NotAPod,
    /// The address is one of a node's pods, and no pod is known to have it.
    UnknownPod,
    /// A pod may always talk to itself.
    Itself,
    /// A pod and the node where it runs may always talk.
    ResidentNode(Arc<str>),
    /// These pods claim the subject's address, and it is not known which of them is meant.
    Contested(Vec<PodName>),
    /// The labels of the subject's namespace are not known, and it may be one that a ClusterNetworkPolicy is
    /// about.
    UnknownNamespace(Arc<str>),
    /// No NetworkPolicy isolates the pod, and no other policy has anything against it.
    NotIsolated,
    /// A rule of a NetworkPolicy.
    Allowed {
        /// The policy.
        policy: PolicyName,
        /// Which rule of that direction, from 0.
        rule: usize,
        /// Which of its peers; `None`: it takes any.
        peer: Option<usize>,
        /// Which of its ports; `None`: it takes any.
        port: Option<usize>,
    },
    /// These NetworkPolicies isolate the pod, and none of their rules matches.
    Isolated(Vec<PolicyName>),
    /// These would deny it, but are only tried out.
    Audit(Vec<PolicyName>),
    /// A rule of a ClusterNetworkPolicy that accepts or denies.
    Cluster(ClusterRuleName),
}

/// A rule of a ClusterNetworkPolicy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterRuleName {
    /// Of which tier.
    pub tier: Tier,
    /// Of which policy.
    pub policy: Arc<str>,
    /// Which rule of that direction, from 0.
    pub rule: usize,
    /// The rule's own name; may be empty.
    pub name: Arc<str>,
    /// What it does.
    pub action: Action,
    /// Otherwise it denies, whatever its action.
    pub understood: bool,
}

impl Decision {
    /// What follows from it.
    pub fn verdict(&self) -> Verdict {
        match &self.reason {
            Reason::Contested(_) | Reason::UnknownNamespace(_) => Verdict::Unspecified,
            Reason::Isolated(_) | Reason::UnknownPod => Verdict::Denied,
            Reason::Cluster(rule) if !rule.understood => Verdict::Denied,
            Reason::Cluster(rule) if rule.action == Action::Deny => Verdict::Denied,
            _ => Verdict::Allowed,
        }
    }

    /// Whether policies were asked at all.
    pub fn asked(&self) -> bool {
        !matches!(
            self.reason,
            Reason::NotAPod
                | Reason::UnknownPod
                | Reason::Itself
                | Reason::ResidentNode(_)
                | Reason::Contested(_)
        )
    }

    /// The same as the text for people, told of somebody else than the subject.
    pub fn sentence(&self, subject: &str) -> String {
        Sentence(self, subject).to_string()
    }

    fn rule(&self, f: &mut fmt::Formatter<'_>, rule: &ClusterRuleName) -> fmt::Result {
        let ClusterRuleName { tier, policy, rule: at, name, action, .. } = rule;
        write!(f, "{action:?} of ClusterNetworkPolicy {policy} (tier {tier:?}), ")?;
        write!(f, "{}[{at}]", self.direction)?;
        if name.is_empty() { Ok(()) } else { write!(f, " {name:?}") }
    }
}

/// Names in a row, after what they are.
fn listed<T: fmt::Display>(one: &str, many: &str, names: &[T]) -> String {
    let texts: Vec<String> = names.iter().map(T::to_string).collect();
    match texts.split_last() {
        Some((last, before)) if !before.is_empty() => {
            format!("{many} {} and {last}", before.join(", "))
        }
        _ => format!("{one} {}", texts.join("")),
    }
}

fn policies(names: &[PolicyName]) -> String {
    listed("NetworkPolicy", "NetworkPolicies", names)
}

/// A decision, told of somebody.
struct Sentence<'a>(&'a Decision, &'a str);

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Sentence(self, &self.subject.to_string()).fmt(f)
    }
}

impl fmt::Display for Sentence<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Sentence(decision, subject) = self;
        let way = decision.direction;
        write!(f, "{way} ")?;
        match &decision.reason {
            Reason::NotAPod => write!(f, "is not asked, as no policy is about {subject}")?,
            Reason::UnknownPod => {
                write!(f, "is denied, as {subject} is an address of pods, and no pod has it")?;
            }
            Reason::Itself => write!(f, "is allowed, as {subject} talks to itself")?,
            Reason::ResidentNode(node) => {
                write!(f, "is allowed, as node {node} and its own pods may always talk")?;
            }
            Reason::Contested(pods) => {
                let pods = listed("pod", "pods", pods);
                write!(f, "is not known, as {pods} claim one address")?;
            }
            Reason::UnknownNamespace(name) => {
                write!(f, "is not known, as there is no Namespace {name}, whose labels ")?;
                write!(f, "ClusterNetworkPolicies ask for")?;
            }
            Reason::NotIsolated => write!(f, "is allowed, as no policy isolates {subject}")?,
            Reason::Allowed { policy, rule, peer, port } => {
                write!(f, "is allowed by NetworkPolicy {policy}, {way}[{rule}] (")?;
                let side = if way == Direction::Ingress { "from" } else { "to" };
                match peer {
                    Some(peer) => write!(f, "{side}[{peer}], ")?,
                    None => write!(f, "any peer, ")?,
                }
                match port {
                    Some(port) => write!(f, "ports[{port}])")?,
                    None => write!(f, "any port)")?,
                }
            }
            Reason::Isolated(names) => {
                let isolate = if names.len() > 1 { "isolate" } else { "isolates" };
                let names = policies(names);
                write!(f, "is denied, as {names} {isolate} {subject} and no rule matches")?;
            }
            Reason::Audit(names) => {
                let names = policies(names);
                write!(f, "is allowed, as {names} would deny it, but only in audit mode")?;
            }
            Reason::Cluster(rule) => {
                let verdict = decision.verdict();
                write!(f, "is {verdict} by ")?;
                decision.rule(f, rule)?;
                if !rule.understood {
                    write!(f, ", which cannot be understood and so denies everything")?;
                }
            }
        }
        for rule in &decision.passed {
            write!(f, ", after ")?;
            decision.rule(f, rule)?;
        }
        Ok(())
    }
}
