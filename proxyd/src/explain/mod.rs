//! The path of a connection, and why: from the same table that programs the kernel, and from what policies
//! mean.

mod ends;
mod judge;

use std::fmt::Write as _;
use std::sync::Arc;

use netlink::Family;
use netpol::evaluate::{End, owner};
use serde_json::{Value, json};

use crate::cluster::{Cluster, Protocol};
use crate::config::Mode;
use crate::dataplane::{FAMILIES, Node, NodePorts, PodTraffic};
use crate::service::{Address, Backend, Frontend, FrontendKey, Masquerade, Resolution, Table};
use ends::{Origin, Source, Target};
use judge::{Candidate, Judgement, candidate, judge};

/// What explanations are made of.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// Frontends.
    pub table: &'a Table,
    /// Nodes, Services.
    pub cluster: &'a Cluster,
    /// What the tables hold besides.
    pub nodes: &'a [Node; 2],
    /// How Services are programmed.
    pub mode: Mode,
    /// What policies are about; `None` where none are enforced.
    pub world: Option<&'a netpol::World>,
}

/// The answer to "what becomes of a connection from `from` to `to`", as JSON: `verdict` (`allowed`,
/// `denied` or `unknown`), `path` (hops with addresses), `reason` (object and rule).
pub fn answer(view: View<'_>, from: &str, to: &str) -> Value {
    match try_answer(view, from, to) {
        Ok(answer) => answer,
        Err(reason) => json!({"verdict": "unknown", "path": [], "reason": reason}),
    }
}

/// The same as text for people; it begins with the verdict.
pub fn to_text(answer: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut out = format!("verdict: {}\n", text(&answer["verdict"]));
    for hop in answer["path"].as_array().into_iter().flatten() {
        let _ = write!(out, "  {}:", text(&hop["hop"]));
        let address = text(&hop["address"]);
        if !address.is_empty() {
            let _ = write!(out, " {address}");
        }
        let candidates: Vec<String> =
            hop["candidates"].as_array().into_iter().flatten().map(text).collect();
        if !candidates.is_empty() {
            let _ = write!(out, " one of {}", candidates.join(", "));
        }
        let reason = text(&hop["reason"]);
        if !reason.is_empty() {
            let colon = if address.is_empty() { "" } else { ":" };
            let _ = write!(out, "{colon} {reason}");
        }
        out.push('\n');
    }
    let _ = writeln!(out, "reason: {}", text(&answer["reason"]));
    out
}

fn try_answer(view: View<'_>, from: &str, to: &str) -> Result<Value, String> {
    let target = match ends::target(view, to)? {
        Target::Frontend(target) => target,
        Target::Direct(end, ports) => return direct(view, from, &end, &ports),
    };
    let source = ends::source(view, from, target.family())?;
    let ip = source.address;
    let mut path = vec![json!({"hop": "from", "address": ip.to_string()})];
    let node = &view.nodes[usize::from(target.family() == Family::V6)];
    let Some((key, frontend)) = find(view, &target, node) else {
        path.push(json!({"hop": "to", "address": target.to_string()}));
        return Ok(no_frontend(view, &source, &target, node, path));
    };
    let owner = &frontend.lists.owner;
    path.push(json!({"hop": "frontend", "address": key.to_string(), "service": owner.to_string()}));
    let say = |verdict: &str, path: Vec<Value>, rule: String| json!({"verdict": verdict, "path": path, "reason": format!("service {owner}: {rule}")});
    if let Some(ranges) = &frontend.source_ranges
        && !ranges.iter().any(|range| range.contains(ip))
    {
        let rule = format!("{ip} is in none of loadBalancerSourceRanges: dropped");
        return Ok(say("denied", path, rule));
    }
    let lists = &frontend.lists;
    let (backends, rule, masquerade): (&[Backend], String, bool) = match frontend.resolution {
        Resolution::Reject => {
            return Ok(say("denied", path, "no usable endpoint anywhere: refused".into()));
        }
        Resolution::Drop => {
            let rule = "internalTrafficPolicy Local and no endpoint on this node: dropped";
            return Ok(say("denied", path, rule.into()));
        }
        Resolution::Cluster(Masquerade::Always) => {
            let rule = "externalTrafficPolicy Cluster: any endpoint, masqueraded";
            (&lists.cluster, rule.into(), true)
        }
        Resolution::Cluster(Masquerade::OffCluster) => {
            let all = node.settings.masquerade_all;
            let known = node.settings.pod_traffic != PodTraffic::Unknown;
            let masquerade = all || (known && source.origin != Origin::Pod);
            (&lists.cluster, "internalTrafficPolicy Cluster: any endpoint".into(), masquerade)
        }
        Resolution::Local => {
            let rule = "internalTrafficPolicy Local: endpoints on this node";
            (&lists.local, rule.into(), false)
        }
        Resolution::ByOrigin
            if view.mode == Mode::Ipvs
                && source.origin != Origin::Outside
                && !lists.local.is_empty() =>
        {
            let rule = "externalTrafficPolicy Local: in ipvs mode endpoints on this node, for pods and the node too";
            (&lists.local, rule.into(), false)
        }
        Resolution::ByOrigin => match source.origin {
            Origin::Pod => {
                let rule = "externalTrafficPolicy Local does not concern pods: any endpoint";
                (&lists.cluster, rule.into(), false)
            }
            Origin::ThisNode => {
                let rule = "externalTrafficPolicy Local does not concern the node itself: any endpoint, masqueraded";
                (&lists.cluster, rule.into(), true)
            }
            Origin::Outside if lists.local.is_empty() => {
                let rule = "externalTrafficPolicy Local and no endpoint on this node: dropped";
                return Ok(say("denied", path, rule.into()));
            }
            Origin::Outside => {
                let rule = "externalTrafficPolicy Local: endpoints on this node, the client's address is kept";
                (&lists.local, rule.into(), false)
            }
        },
    };
    // IPVS gives the node's own connections the Service address as source.
    let masquerade = masquerade || (view.mode == Mode::Ipvs && source.origin == Origin::ThisNode);
    if masquerade {
        path.push(json!({"hop": "masquerade", "address": "this node"}));
    }
    let candidates: Vec<String> = backends.iter().map(Backend::to_string).collect();
    let kind = match lists.affinity {
        Some(affinity) => format!("endpoint, the same for {} s", affinity.0),
        None => "endpoint".to_owned(),
    };
    path.push(json!({"hop": kind, "address": "", "candidates": candidates}));
    let Some(world) = view.world else { return Ok(say("allowed", path, rule)) };
    let masquerading = masquerade.then(|| node_of(view, world, &source));
    let each = |backend: &Backend| {
        let port = (Some(key.protocol), backend.port);
        candidate(world, &source, &End::Address(backend.ip), port, masquerading)
    };
    let Judgement { verdict, hops, reason } =
        judge(&backends.iter().map(each).collect::<Result<Vec<_>, _>>()?);
    path.extend(hops);
    let rule = if reason.is_empty() { rule } else { format!("{rule}; {reason}") };
    Ok(say(verdict, path, rule))
}

/// The node where a connection to a Service is translated: that of the pod that opens it, or this one.
fn node_of<'a>(view: View<'a>, world: &'a netpol::World, source: &Source) -> &'a Arc<str> {
    let End::Pod(pod) = &source.end else { return view.cluster.node_name() };
    world.pods.get(pod).map_or(view.cluster.node_name(), |pod| &pod.node)
}

/// A connection that no Service has to do with.
fn direct(
    view: View<'_>,
    from: &str,
    to: &End,
    ports: &[(Option<Protocol>, u16)],
) -> Result<Value, String> {
    let world = view.world.ok_or("no policies are enforced: the packet is routed as it is")?;
    let mut problem = String::new();
    for family in FAMILIES {
        let source = match ends::source(view, from, family) {
            Ok(source) => source,
            Err(error) => {
                problem = error;
                continue;
            }
        };
        let each = |port: &(Option<Protocol>, u16)| candidate(world, &source, to, *port, None);
        match ports.iter().map(each).collect::<Result<Vec<_>, _>>() {
            Ok(candidates) => {
                let mut path = vec![json!({"hop": "from", "address": source.address.to_string()})];
                let places = candidates.iter();
                path.extend(places.map(|c| json!({"hop": "to", "address": c.place})));
                return Ok(judged(path, &candidates));
            }
            Err(error) => problem = error,
        }
    }
    Err(problem)
}

fn judged(mut path: Vec<Value>, candidates: &[Candidate]) -> Value {
    let Judgement { verdict, hops, reason } = judge(candidates);
    path.extend(hops);
    json!({"verdict": verdict, "path": path, "reason": reason})
}

/// A destination that nobody owns.
fn no_frontend(
    view: View<'_>,
    source: &Source,
    target: &FrontendKey,
    node: &Node,
    path: Vec<Value>,
) -> Value {
    let Address::Ip(ip) = target.address else {
        return json!({"verdict": "denied", "path": path, "reason": "no Service has this node port"});
    };
    // In ipvs mode every Service address is the node's own, and refuses what no Service has.
    let refuses = |frontend: &Frontend| frontend.cluster_ip || view.mode == Mode::Ipvs;
    let refusing = view
        .table
        .frontends()
        .find(|(key, frontend)| refuses(frontend) && key.address == target.address);
    if let Some((_, frontend)) = refusing {
        let service = &frontend.lists.owner.service;
        let reason =
            format!("service {service} has no port {}/{}: refused", target.port, target.protocol);
        return json!({"verdict": "denied", "path": path, "reason": reason});
    }
    if node.service_cidrs.iter().any(|range| range.contains(ip)) {
        let reason = format!("{ip} is in a ServiceCIDR and belongs to no Service: dropped");
        return json!({"verdict": "denied", "path": path, "reason": reason});
    }
    if let Some(world) = view.world {
        let (end, port) = (End::Address(ip), (Some(target.protocol), target.port));
        let beyond =
            |end: &End, ip| matches!(end, End::Address(_)) && owner(world, ip) == End::Address(ip);
        if !(beyond(&source.end, source.address) && beyond(&end, ip))
            && let Ok(candidate) = candidate(world, source, &end, port, None)
        {
            return judged(path, &[candidate]);
        }
    }
    let reason = format!("{ip} belongs to no Service: the packet is routed on as it is");
    json!({"verdict": "unknown", "path": path, "reason": reason})
}

fn find<'a>(
    view: View<'a>,
    target: &FrontendKey,
    node: &Node,
) -> Option<(FrontendKey, &'a Frontend)> {
    if let Some(frontend) = view.table.frontend(target) {
        return Some((*target, frontend));
    }
    let Address::Ip(ip) = target.address else { return None };
    let answers = match node.settings.nodeports {
        NodePorts::Everywhere => ends::is_this_node(view, ip),
        _ => node.nodeport_addresses.iter().any(|prefix| prefix.contains(ip)),
    };
    let key = FrontendKey { address: Address::Node(target.family()), ..*target };
    view.table.frontend(&key).filter(|_| answers).map(|frontend| (key, frontend))
}

#[cfg(test)]
mod tests;
