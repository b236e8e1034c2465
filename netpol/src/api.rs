//! Policies as the API has them, and what they mean: its defaults are applied here.
//!
//! A part that cannot be understood fails closed. A NetworkPolicy with such a part isolates the pods that it
//! selects and allows nothing; a rule of a ClusterNetworkPolicy accepts nothing, or denies everything.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;

use crate::cidr::Cidr;
use crate::labels::{Requirement, Selector};
use crate::model::{
    Action, ClusterPeer, ClusterPolicy, ClusterRule, Numbers, Peer, Policy, Port, Protocol, Rule,
    Tier,
};

/// A field, and what is wrong with it.
pub type Fault = (String, String);

/// `metav1.LabelSelector`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LabelSelector {
    match_labels: Option<BTreeMap<String, Option<String>>>,
    match_expressions: Option<Vec<Expression>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Expression {
    key: Option<String>,
    operator: Option<String>,
    values: Option<Vec<String>>,
}

/// `spec` of both kinds.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PolicySpec {
    /// NetworkPolicy: which pods.
    pub pod_selector: Option<LabelSelector>,
    /// NetworkPolicy: which directions.
    pub policy_types: Option<Vec<String>>,
    /// Rules.
    pub ingress: Option<Vec<ApiRule>>,
    /// Rules.
    pub egress: Option<Vec<ApiRule>>,
    /// ClusterNetworkPolicy: Admin or Baseline.
    pub tier: Option<String>,
    /// ClusterNetworkPolicy: 0 to 1000.
    pub priority: Option<i64>,
    /// ClusterNetworkPolicy: which pods.
    pub subject: Option<ApiPeer>,
}

/// `ingress[]` and `egress[]` of both kinds.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ApiRule {
    from: Option<Vec<ApiPeer>>,
    to: Option<Vec<ApiPeer>>,
    ports: Option<Vec<ApiPort>>,
    name: Option<String>,
    action: Option<String>,
    protocols: Option<Vec<ApiProtocol>>,
}

/// A peer of both kinds, and the subject of a ClusterNetworkPolicy.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ApiPeer {
    pod_selector: Option<LabelSelector>,
    namespace_selector: Option<LabelSelector>,
    ip_block: Option<IpBlock>,
    namespaces: Option<LabelSelector>,
    pods: Option<NamespacedPods>,
    networks: Option<Vec<String>>,
    nodes: Option<LabelSelector>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct NamespacedPods {
    namespace_selector: Option<LabelSelector>,
    pod_selector: Option<LabelSelector>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct IpBlock {
    cidr: Option<String>,
    except: Option<Vec<String>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ApiPort {
    protocol: Option<String>,
    port: Option<IntOrString>,
    end_port: Option<i64>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum IntOrString {
    Int(i64),
    String(String),
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ApiProtocol {
    tcp: Option<Destination>,
    udp: Option<Destination>,
    sctp: Option<Destination>,
    destination_named_port: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Destination {
    destination_port: Option<DestinationPort>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct DestinationPort {
    number: Option<i64>,
    range: Option<PortRange>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct PortRange {
    start: Option<i64>,
    end: Option<i64>,
}

/// Collects faults, below a field.
struct Reader {
    faults: Vec<Fault>,
    /// Something that cannot be understood, and not only oddly written.
    broken: bool,
}

impl Reader {
    fn new() -> Reader {
        Reader { faults: Vec::new(), broken: false }
    }

    fn odd(&mut self, field: &str, message: impl Into<String>) {
        self.faults.push((field.to_owned(), message.into()));
    }

    fn broken(&mut self, field: &str, message: impl Into<String>) {
        self.broken = true;
        self.odd(field, message);
    }

    /// A requirement that cannot be understood is left out, so that more is selected.
    fn selector(&mut self, field: &str, api: &LabelSelector) -> Selector {
        let mut all = Vec::new();
        for (key, value) in api.match_labels.iter().flatten() {
            let value = value.as_deref().unwrap_or_default();
            all.push(Requirement::In(key.as_str().into(), vec![value.into()]));
        }
        for (at, expression) in api.match_expressions.iter().flatten().enumerate() {
            let field = format!("{field}.matchExpressions[{at}]");
            all.extend(self.requirement(&field, expression));
        }
        all.sort();
        all.dedup();
        Selector(all)
    }

    fn requirement(&mut self, field: &str, api: &Expression) -> Option<Requirement> {
        let Some(key) = api.key.as_deref().filter(|key| !key.is_empty()) else {
            self.broken(&format!("{field}.key"), "is missing");
            return None;
        };
        let key: Arc<str> = key.into();
        let mut values: Vec<Arc<str>> =
            api.values.iter().flatten().map(|value| value.as_str().into()).collect();
        values.sort();
        values.dedup();
        let operator = api.operator.as_deref().unwrap_or_default();
        let needs_values = matches!(operator, "In" | "NotIn");
        if needs_values == values.is_empty()
            && matches!(operator, "In" | "NotIn" | "Exists" | "DoesNotExist")
        {
            let problem = if needs_values { "must have values" } else { "must have no values" };
            self.broken(&format!("{field}.values"), format!("operator {operator} {problem}"));
            return None;
        }
        match operator {
            "In" => Some(Requirement::In(key, values)),
            "NotIn" => Some(Requirement::NotIn(key, values)),
            "Exists" => Some(Requirement::Exists(key)),
            "DoesNotExist" => Some(Requirement::DoesNotExist(key)),
            other => {
                let field = format!("{field}.operator");
                self.broken(&field, format!("{other:?} is not In, NotIn, Exists or DoesNotExist"));
                None
            }
        }
    }

    fn cidr(&mut self, field: &str, text: Option<&str>) -> Option<Cidr> {
        let text = text.unwrap_or_default();
        match text.parse::<Cidr>() {
            Ok(cidr) => {
                // IPv6 has many spellings; of IPv4 there is one.
                if cidr.is_ipv4() && cidr.to_string() != text {
                    self.odd(field, format!("{text:?} is taken for {cidr}"));
                }
                Some(cidr)
            }
            Err(error) => {
                self.broken(field, error.to_string());
                None
            }
        }
    }

    fn protocol(&mut self, field: &str, name: Option<&str>) -> Option<Protocol> {
        let protocol = Protocol::from_api(name);
        if protocol.is_none() {
            let other = name.unwrap_or_default();
            self.broken(field, format!("{other:?} is not TCP, UDP or SCTP"));
        }
        protocol
    }

    fn port_number(&mut self, field: &str, number: i64) -> Option<u16> {
        match u16::try_from(number) {
            Ok(number) if number > 0 => Some(number),
            _ => {
                self.broken(field, format!("{number} is not 1 to 65535"));
                None
            }
        }
    }

    fn port(&mut self, field: &str, api: &ApiPort) -> Option<Port> {
        let protocol = self.protocol(&format!("{field}.protocol"), api.protocol.as_deref())?;
        let end = format!("{field}.endPort");
        let numbers = match (&api.port, api.end_port) {
            (None, None) => Numbers::Range(0, u16::MAX),
            (Some(IntOrString::Int(number)), None) => {
                let number = self.port_number(&format!("{field}.port"), *number)?;
                Numbers::Range(number, number)
            }
            (Some(IntOrString::Int(number)), Some(last)) => {
                let first = self.port_number(&format!("{field}.port"), *number)?;
                let last = self.port_number(&end, last)?;
                if last < first {
                    self.broken(&end, format!("{last} is below port {first}"));
                    return None;
                }
                Numbers::Range(first, last)
            }
            (Some(IntOrString::String(name)), None) if !name.is_empty() => {
                Numbers::Named(name.as_str().into())
            }
            (Some(IntOrString::String(name)), None) => {
                self.broken(&format!("{field}.port"), format!("{name:?} is no name"));
                return None;
            }
            (_, Some(_)) => {
                self.broken(&end, "needs a port that is a number");
                return None;
            }
        };
        Some(Port { protocol, numbers })
    }

    fn peer(&mut self, field: &str, api: &ApiPeer) -> Option<Peer> {
        match (&api.ip_block, &api.namespace_selector, &api.pod_selector) {
            (Some(block), None, None) => {
                let cidr = self.cidr(&format!("{field}.ipBlock.cidr"), block.cidr.as_deref())?;
                let mut except = Vec::new();
                for (at, text) in block.except.iter().flatten().enumerate() {
                    let field = format!("{field}.ipBlock.except[{at}]");
                    except.push(self.cidr(&field, Some(text))?);
                }
                Some(Peer::Block { cidr, except })
            }
            (Some(_), ..) => {
                self.broken(field, "ipBlock stands alone in a peer");
                None
            }
            (None, Some(namespaces), pods) => Some(Peer::PodsOf {
                namespaces: self.selector(&format!("{field}.namespaceSelector"), namespaces),
                pods: match pods {
                    Some(pods) => self.selector(&format!("{field}.podSelector"), pods),
                    None => Selector::default(),
                },
            }),
            (None, None, Some(pods)) => {
                Some(Peer::Pods(self.selector(&format!("{field}.podSelector"), pods)))
            }
            (None, None, None) => {
                self.broken(field, "has neither podSelector, namespaceSelector nor ipBlock");
                None
            }
        }
    }

    fn rule(&mut self, field: &str, peers: (&str, Option<&[ApiPeer]>), api: &ApiRule) -> Rule {
        let (name, peers) = peers;
        let peers = peers.filter(|peers| !peers.is_empty()).map(|peers| {
            let each = |(at, peer)| self.peer(&format!("{field}.{name}[{at}]"), peer);
            peers.iter().enumerate().filter_map(each).collect()
        });
        let ports = api.ports.as_deref().filter(|ports| !ports.is_empty()).map(|ports| {
            let each = |(at, port)| self.port(&format!("{field}.ports[{at}]"), port);
            ports.iter().enumerate().filter_map(each).collect()
        });
        Rule { peers, ports }
    }

    fn rules(&mut self, name: &str, api: Option<&[ApiRule]>) -> Vec<Rule> {
        let ingress = name == "spec.ingress";
        let each = |(at, rule): (usize, &ApiRule)| {
            let peers = if ingress { ("from", &rule.from) } else { ("to", &rule.to) };
            self.rule(&format!("{name}[{at}]"), (peers.0, peers.1.as_deref()), rule)
        };
        api.unwrap_or_default().iter().enumerate().map(each).collect()
    }
}

/// What a NetworkPolicy says, and what is wrong with it.
pub fn policy(spec: &PolicySpec, audit: bool) -> (Policy, Vec<Fault>) {
    let mut reader = Reader::new();
    let none = LabelSelector::default();
    let subject = reader.selector("spec.podSelector", spec.pod_selector.as_ref().unwrap_or(&none));
    let types = spec.policy_types.as_deref().unwrap_or_default();
    let (mut isolates_ingress, mut isolates_egress) = (false, false);
    for (at, text) in types.iter().enumerate() {
        match text.as_str() {
            "Ingress" => isolates_ingress = true,
            "Egress" => isolates_egress = true,
            other => reader.broken(
                &format!("spec.policyTypes[{at}]"),
                format!("{other:?} is not Ingress or Egress"),
            ),
        }
    }
    if types.is_empty() {
        isolates_ingress = true;
        isolates_egress = spec.egress.as_ref().is_some_and(|rules| !rules.is_empty());
    }
    let ingress = reader.rules("spec.ingress", spec.ingress.as_deref());
    let egress = reader.rules("spec.egress", spec.egress.as_deref());
    let broken = reader.broken;
    let rules = |isolates: bool, rules: Vec<Rule>| {
        isolates.then(|| if broken { Vec::new() } else { rules })
    };
    let policy = Policy {
        subject,
        ingress: rules(isolates_ingress, ingress),
        egress: rules(isolates_egress, egress),
        audit,
    };
    (policy, reader.faults)
}

impl Reader {
    fn namespaced(&mut self, field: &str, api: &NamespacedPods) -> (Selector, Selector) {
        let none = LabelSelector::default();
        let (namespaces, pods) = (&api.namespace_selector, &api.pod_selector);
        (
            self.selector(
                &format!("{field}.namespaceSelector"),
                namespaces.as_ref().unwrap_or(&none),
            ),
            self.selector(&format!("{field}.podSelector"), pods.as_ref().unwrap_or(&none)),
        )
    }

    fn cluster_peer(&mut self, field: &str, api: &ApiPeer, egress: bool) -> ClusterPeer {
        match (&api.namespaces, &api.pods, &api.networks, &api.nodes) {
            (Some(namespaces), None, None, None) => ClusterPeer::PodsOf {
                namespaces: self.selector(&format!("{field}.namespaces"), namespaces),
                pods: Selector::default(),
            },
            (None, Some(pods), None, None) => {
                let (namespaces, pods) = self.namespaced(&format!("{field}.pods"), pods);
                ClusterPeer::PodsOf { namespaces, pods }
            }
            (None, None, Some(networks), None) if egress => {
                let mut all = Vec::new();
                for (at, text) in networks.iter().enumerate() {
                    all.extend(self.cidr(&format!("{field}.networks[{at}]"), Some(text)));
                }
                ClusterPeer::Networks(all)
            }
            (None, None, None, Some(nodes)) if egress => {
                ClusterPeer::Nodes(self.selector(&format!("{field}.nodes"), nodes))
            }
            _ => {
                self.odd(
                    field,
                    "is of a form that is not known here: it accepts nothing, and denies all",
                );
                ClusterPeer::Unknown
            }
        }
    }

    fn cluster_port(&mut self, field: &str, api: &ApiProtocol, ports: &mut Vec<Port>) {
        if let Some(name) = &api.destination_named_port {
            for protocol in Protocol::ALL {
                ports.push(Port { protocol, numbers: Numbers::Named(name.as_str().into()) });
            }
            return;
        }
        let (protocol, destination) = match (&api.tcp, &api.udp, &api.sctp) {
            (Some(tcp), None, None) => (Protocol::Tcp, tcp),
            (None, Some(udp), None) => (Protocol::Udp, udp),
            (None, None, Some(sctp)) => (Protocol::Sctp, sctp),
            _ => return self.broken(field, "has none of tcp, udp, sctp and destinationNamedPort"),
        };
        let none = DestinationPort::default();
        let port = destination.destination_port.as_ref().unwrap_or(&none);
        let numbers = match (port.number, &port.range) {
            (None, None) => Some((0, u16::MAX)),
            (Some(number), None) => {
                self.port_number(&format!("{field}.destinationPort.number"), number).map(|n| (n, n))
            }
            (None, Some(range)) => {
                let at = format!("{field}.destinationPort.range");
                let first = self.port_number(&format!("{at}.start"), range.start.unwrap_or(0));
                let last = self.port_number(&format!("{at}.end"), range.end.unwrap_or(0));
                match (first, last) {
                    (Some(first), Some(last)) if first <= last => Some((first, last)),
                    (Some(_), Some(_)) => {
                        self.broken(&at, "ends before it starts");
                        None
                    }
                    _ => None,
                }
            }
            (Some(_), Some(_)) => {
                self.broken(&format!("{field}.destinationPort"), "has both number and range");
                None
            }
        };
        if let Some((first, last)) = numbers {
            ports.push(Port { protocol, numbers: Numbers::Range(first, last) });
        }
    }

    fn cluster_rules(&mut self, name: &str, api: Option<&[ApiRule]>) -> Vec<ClusterRule> {
        let mut rules = Vec::new();
        for (at, rule) in api.unwrap_or_default().iter().enumerate() {
            let field = format!("{name}[{at}]");
            let before = std::mem::take(&mut self.broken);
            let action = match rule.action.as_deref() {
                Some("Accept") => Action::Accept,
                Some("Deny") => Action::Deny,
                Some("Pass") => Action::Pass,
                other => {
                    let other = other.unwrap_or_default();
                    self.broken(
                        &format!("{field}.action"),
                        format!("{other:?} is not Accept, Deny or Pass"),
                    );
                    Action::Deny
                }
            };
            let egress = name == "spec.egress";
            let (side, list) = if egress { ("to", &rule.to) } else { ("from", &rule.from) };
            let mut peers = Vec::new();
            for (at, peer) in list.iter().flatten().enumerate() {
                peers.push(self.cluster_peer(&format!("{field}.{side}[{at}]"), peer, egress));
            }
            let ports = rule.protocols.as_deref().filter(|list| !list.is_empty()).map(|list| {
                let mut ports = Vec::new();
                for (at, protocol) in list.iter().enumerate() {
                    self.cluster_port(&format!("{field}.protocols[{at}]"), protocol, &mut ports);
                }
                ports
            });
            // What is not understood can only deny, and denies to all.
            let broken = std::mem::replace(&mut self.broken, before);
            let (peers, ports) =
                if broken { (vec![ClusterPeer::Unknown], None) } else { (peers, ports) };
            let name = rule.name.as_deref().unwrap_or_default().into();
            rules.push(ClusterRule { name, action, peers, ports });
        }
        rules
    }
}

/// What a ClusterNetworkPolicy says, and what is wrong with it; nothing if its subject, its tier or its
/// priority cannot be understood.
pub fn cluster_policy(spec: &PolicySpec) -> (Option<ClusterPolicy>, Vec<Fault>) {
    let mut reader = Reader::new();
    let tier = match spec.tier.as_deref() {
        Some("Admin") => Some(Tier::Admin),
        Some("Baseline") => Some(Tier::Baseline),
        other => {
            let other = other.unwrap_or_default();
            reader.broken("spec.tier", format!("{other:?} is not Admin or Baseline"));
            None
        }
    };
    let priority = match spec.priority {
        Some(number @ 0..=1000) => Some(number as u16),
        other => {
            let other = other.map_or("nothing".to_owned(), |number| number.to_string());
            reader.broken("spec.priority", format!("{other} is not 0 to 1000"));
            None
        }
    };
    let subject = match &spec.subject {
        Some(ApiPeer { namespaces: Some(namespaces), pods: None, .. }) => {
            Some((reader.selector("spec.subject.namespaces", namespaces), Selector::default()))
        }
        Some(ApiPeer { namespaces: None, pods: Some(pods), .. }) => {
            Some(reader.namespaced("spec.subject.pods", pods))
        }
        _ => {
            reader.broken("spec.subject", "must have namespaces or pods");
            None
        }
    };
    let ingress = reader.cluster_rules("spec.ingress", spec.ingress.as_deref());
    let egress = reader.cluster_rules("spec.egress", spec.egress.as_deref());
    let policy = match (tier, priority, subject) {
        (Some(tier), Some(priority), Some((namespaces, pods))) => {
            Some(ClusterPolicy { tier, priority, namespaces, pods, ingress, egress })
        }
        _ => None,
    };
    (policy, reader.faults)
}

#[cfg(test)]
#[path = "api_tests.rs"]
mod tests;
