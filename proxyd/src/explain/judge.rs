//! What policies say of each place where a connection may end.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use netlink::Family;
use netpol::World;
use netpol::evaluate::{Decision, End, Evaluation, Flow, Reason, Verdict, evaluate};
use serde_json::{Value, json};

use super::ends::{Source, family, judged};
use crate::cluster::Protocol;

/// One place where a connection may end.
pub(super) struct Candidate {
    /// Address and port.
    pub(super) place: String,
    evaluation: Evaluation,
}

/// What policies say of all of them.
pub(super) struct Judgement {
    /// `allowed`, `denied` or `unknown`.
    pub(super) verdict: &'static str,
    /// Hops of the path.
    pub(super) hops: Vec<Value>,
    /// Why; empty if policies are about none of this.
    pub(super) reason: String,
}

/// A connection to an end, at an address of the source's family.
pub(super) fn candidate(
    world: &World,
    source: &Source,
    to: &End,
    (protocol, port): (Option<Protocol>, u16),
    masquerading: Option<&Arc<str>>,
) -> Result<Candidate, String> {
    let family = family(Family::of(source.address));
    let protocol = protocol.map(judged);
    let flow = Flow::between(world, &source.end, to, family, protocol, port)?;
    let place = match protocol {
        Some(_) => SocketAddr::new(flow.to_address, port).to_string(),
        None => flow.to_address.to_string(),
    };
    let mut evaluation = evaluate(world, &flow);
    // Another node sees who masqueraded, where the own one still knows who asked.
    if let Some((node, address)) = masquerading.and_then(|node| elsewhere(world, &flow, node)) {
        let seen = Flow { from: End::Node(Arc::clone(node)), from_address: address, ..flow };
        evaluation = Evaluation::of(evaluation.egress, evaluate(world, &seen).ingress);
    }
    Ok(Candidate { place, evaluation })
}

/// The node that masquerades and its address, if the pod that answers runs on another one.
fn elsewhere<'a>(world: &World, flow: &Flow, node: &'a Arc<str>) -> Option<(&'a Arc<str>, IpAddr)> {
    let End::Pod(pod) = &flow.to else { return None };
    if world.pods.get(pod)?.node == *node || flow.from == flow.to {
        return None;
    }
    let mut addresses = world.nodes.get(node)?.addresses.iter();
    let address = addresses.find(|address| address.is_ipv4() == flow.to_address.is_ipv4())?;
    Some((node, *address))
}

/// All candidates together.
pub(super) fn judge(candidates: &[Candidate]) -> Judgement {
    let egress: Vec<_> = candidates.iter().map(|c| (&*c.place, &c.evaluation.egress)).collect();
    let ingress: Vec<_> = candidates.iter().map(|c| (&*c.place, &c.evaluation.ingress)).collect();
    let mut hops = hops("egress policy", &egress);
    hops.extend(self::hops("ingress policy", &ingress));
    let of = |verdict| candidates.iter().filter(|c| c.evaluation.verdict == verdict).count();
    let (all, denied) = (candidates.len(), of(Verdict::Denied));
    if all > 0 && denied == all {
        let reason = deciding(&hops, "denied");
        return Judgement { verdict: "denied", hops, reason };
    }
    if denied == 0 && of(Verdict::Unspecified) == 0 {
        let reason = match candidates {
            [one] => {
                let both = [&one.evaluation.egress, &one.evaluation.ingress];
                let about = both.into_iter().filter(|decision| decision.reason != Reason::NotAPod);
                about.map(ToString::to_string).collect::<Vec<_>>().join("; ")
            }
            _ if hops.is_empty() => String::new(),
            _ => "policies allow all of them".to_owned(),
        };
        return Judgement { verdict: "allowed", hops, reason };
    }
    let reason = match denied {
        0 => deciding(&hops, "unknown"),
        _ => format!("policies deny {denied} of {all}: {}", deciding(&hops, "denied")),
    };
    Judgement { verdict: "unknown", hops, reason }
}

/// One hop for all that are decided alike; none if no policy is about any of them.
fn hops(hop: &str, decisions: &[(&str, &Decision)]) -> Vec<Value> {
    let decided = |d: &Decision| (d.reason.clone(), d.passed.clone());
    let line = |place: &str, decision: &Decision, reason: String| {
        let verdict = word(decision.verdict());
        json!({"hop": hop, "address": place, "verdict": verdict, "reason": reason})
    };
    if decisions.iter().all(|(_, decision)| decision.reason == Reason::NotAPod) {
        return Vec::new();
    }
    match decisions {
        [(_, first), others @ ..]
            if !others.is_empty() && others.iter().all(|(_, d)| decided(d) == decided(first)) =>
        {
            let same = others.iter().all(|(_, d)| d.subject == first.subject);
            let subject = if same { first.subject.to_string() } else { "the endpoints".to_owned() };
            vec![line("", first, first.sentence(&subject))]
        }
        _ => decisions.iter().map(|(place, d)| line(place, d, d.to_string())).collect(),
    }
}

/// What the hops with a verdict say.
fn deciding(hops: &[Value], verdict: &str) -> String {
    let places: BTreeSet<_> = hops.iter().filter_map(|hop| hop["address"].as_str()).collect();
    let text = |hop: &Value| {
        let (place, reason) = (hop["address"].as_str()?, hop["reason"].as_str()?);
        let one = place.is_empty() || places.len() == 1;
        Some(if one { reason.to_owned() } else { format!("{place}: {reason}") })
    };
    let deciding = hops.iter().filter(|hop| hop["verdict"] == verdict);
    deciding.filter_map(text).collect::<Vec<_>>().join("; ")
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Allowed => "allowed",
        Verdict::Denied => "denied",
        Verdict::Unspecified => "unknown",
    }
}
