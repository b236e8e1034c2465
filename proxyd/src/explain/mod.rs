//! The path of a connection to a Service, and why: from the same table that programs the kernel.

use std::fmt::Write as _;
use std::net::IpAddr;

use netlink::Family;
use serde_json::{Value, json};

use crate::cluster::{Cluster, Protocol, ServiceName};
use crate::dataplane::nftables::{FAMILIES, Node, NodePorts, PodTraffic};
use crate::service::{Address, Backend, Frontend, FrontendKey, Masquerade, Resolution, Table};

/// What explanations are made of.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// Frontends.
    pub table: &'a Table,
    /// Nodes, Services.
    pub cluster: &'a Cluster,
    /// What the tables hold besides.
    pub nodes: &'a [Node; 2],
}

/// Who connects, as far as the rules can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Pod,
    ThisNode,
    Outside,
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
        out.push('\n');
    }
    let _ = writeln!(out, "reason: {}", text(&answer["reason"]));
    out
}

fn try_answer(view: View<'_>, from: &str, to: &str) -> Result<Value, String> {
    let (to, protocol) = split_protocol(to)?;
    let target = parse_target(view, to, protocol)?;
    let (source, origin) = parse_source(view, from, target.family())?;
    let mut path = vec![
        json!({"hop": "from", "address": source.map_or(from.to_owned(), |ip| ip.to_string())}),
    ];
    let node = &view.nodes[usize::from(target.family() == Family::V6)];
    let Some((key, frontend)) = find(view, &target, node) else {
        path.push(json!({"hop": "to", "address": target.to_string()}));
        return Ok(no_frontend(view, &target, node, path));
    };
    let owner = &frontend.lists.owner;
    path.push(json!({"hop": "frontend", "address": key.to_string(), "service": owner.to_string()}));
    let say = |verdict: &str, path: Vec<Value>, rule: String| json!({"verdict": verdict, "path": path, "reason": format!("service {owner}: {rule}")});
    if let (Some(ranges), Some(ip)) = (&frontend.source_ranges, source)
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
            let masquerade = all || (known && origin != Origin::Pod);
            (&lists.cluster, "internalTrafficPolicy Cluster: any endpoint".into(), masquerade)
        }
        Resolution::Local => {
            let rule = "internalTrafficPolicy Local: endpoints on this node";
            (&lists.local, rule.into(), false)
        }
        Resolution::ByOrigin => match origin {
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
    if masquerade {
        path.push(json!({"hop": "masquerade", "address": "this node"}));
    }
    let candidates: Vec<String> = backends.iter().map(Backend::to_string).collect();
    let kind = match lists.affinity {
        Some(affinity) => format!("endpoint, the same for {} s", affinity.0),
        None => "endpoint".to_owned(),
    };
    path.push(json!({"hop": kind, "address": "", "candidates": candidates}));
    Ok(say("allowed", path, rule))
}

/// A destination that nobody owns.
fn no_frontend(view: View<'_>, target: &FrontendKey, node: &Node, path: Vec<Value>) -> Value {
    let Address::Ip(ip) = target.address else {
        return json!({"verdict": "denied", "path": path, "reason": "no Service has this node port"});
    };
    let is_cluster_ip = view
        .table
        .frontends()
        .find(|(key, frontend)| frontend.cluster_ip && key.address == target.address);
    if let Some((_, frontend)) = is_cluster_ip {
        let service = &frontend.lists.owner.service;
        let reason =
            format!("service {service} has no port {}/{}: refused", target.port, target.protocol);
        return json!({"verdict": "denied", "path": path, "reason": reason});
    }
    if node.service_cidrs.iter().any(|range| range.contains(ip)) {
        let reason = format!("{ip} is in a ServiceCIDR and belongs to no Service: dropped");
        return json!({"verdict": "denied", "path": path, "reason": reason});
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
        NodePorts::Everywhere => is_this_node(view, ip),
        _ => node.nodeport_addresses.iter().any(|prefix| prefix.contains(ip)),
    };
    let key = FrontendKey { address: Address::Node(target.family()), ..*target };
    view.table.frontend(&key).filter(|_| answers).map(|frontend| (key, frontend))
}

fn is_this_node(view: View<'_>, ip: IpAddr) -> bool {
    view.cluster.this_node().is_some_and(|node| node.addresses.contains(&ip))
}

fn split_protocol(text: &str) -> Result<(&str, Option<Protocol>), String> {
    let Some((rest, name)) = text.rsplit_once('/') else { return Ok((text, None)) };
    match Protocol::from_api(&name.to_uppercase()) {
        Some(protocol) => Ok((rest, Some(protocol))),
        None => Ok((text, None)), // part of a name
    }
}

/// `svc/NS/NAME[:PORT]`, `node/NAME:PORT`, `ADDRESS:PORT`, `[ADDRESS]:PORT`.
fn parse_target(
    view: View<'_>,
    text: &str,
    protocol: Option<Protocol>,
) -> Result<FrontendKey, String> {
    if let Some(rest) = text.strip_prefix("svc/") {
        return service_target(view, rest, protocol);
    }
    if text.starts_with("pod/") {
        return Err(NO_PODS.into());
    }
    let (host, port) = text.rsplit_once(':').ok_or(format!("{text:?} has no port: add :PORT"))?;
    let port = port.parse().map_err(|_| format!("{port:?} is not a port"))?;
    let protocol = protocol.unwrap_or(Protocol::Tcp);
    let address = match host.strip_prefix("node/") {
        Some(name) => Address::Ip(node_address(view, name, None)?),
        None => {
            let bare = host.trim_start_matches('[').trim_end_matches(']');
            Address::Ip(bare.parse().map_err(|_| {
                format!("{host:?} is neither svc/NS/NAME, node/NAME nor an address")
            })?)
        }
    };
    Ok(FrontendKey { address, protocol, port })
}

fn service_target(
    view: View<'_>,
    text: &str,
    protocol: Option<Protocol>,
) -> Result<FrontendKey, String> {
    let (name, port) = match text.split_once(':') {
        Some((name, port)) => (name, Some(port)),
        None => (text, None),
    };
    let (namespace, name) = name.split_once('/').ok_or(format!("svc/{name}: write svc/NS/NAME"))?;
    let name = ServiceName { namespace: namespace.into(), name: name.into() };
    let service = view.cluster.service(&name).ok_or(format!("there is no Service {name}"))?;
    let ip = service.cluster_ips.first().ok_or(format!("Service {name} has no ClusterIP"))?;
    let matches = |p: &&crate::cluster::ServicePort| {
        port.is_none_or(|port| *port == *p.name || port == p.port.to_string())
            && protocol.is_none_or(|protocol| protocol == p.protocol)
    };
    let found = service.ports.iter().find(matches);
    match (found, port.and_then(|port| port.parse().ok())) {
        (Some(port), _) => {
            Ok(FrontendKey { address: Address::Ip(*ip), protocol: port.protocol, port: port.port })
        }
        (None, Some(port)) => Ok(FrontendKey {
            address: Address::Ip(*ip),
            protocol: protocol.unwrap_or(Protocol::Tcp),
            port,
        }),
        (None, None) => Err(format!("Service {name} has no such port")),
    }
}

/// Pods are not among the objects that are read yet.
const NO_PODS: &str = "pods cannot be named yet: give the pod's address";

fn parse_source(
    view: View<'_>,
    text: &str,
    family: Family,
) -> Result<(Option<IpAddr>, Origin), String> {
    if let Some(name) = text.strip_prefix("node/") {
        let ip = node_address(view, name, Some(family))?;
        let here = *name == **view.cluster.node_name();
        return Ok((Some(ip), if here { Origin::ThisNode } else { Origin::Outside }));
    }
    let Ok(ip) = text.parse::<IpAddr>() else {
        return Err(format!("{text:?} is neither node/NAME nor an address; {NO_PODS}"));
    };
    if Family::of(ip) != family {
        return Err(format!("{ip} cannot connect to an {family} address"));
    }
    if is_this_node(view, ip) {
        return Ok((Some(ip), Origin::ThisNode));
    }
    let index = FAMILIES.iter().position(|known| *known == family).unwrap_or(0);
    let is_pod = view.nodes[index].pod_cidrs.iter().any(|range| range.contains(ip));
    Ok((Some(ip), if is_pod { Origin::Pod } else { Origin::Outside }))
}

fn node_address(view: View<'_>, name: &str, family: Option<Family>) -> Result<IpAddr, String> {
    let node = view.cluster.node(name).ok_or(format!("there is no Node {name}"))?;
    let wanted = |ip: &&IpAddr| family.is_none_or(|family| Family::of(**ip) == family);
    let found = node.addresses.iter().find(wanted).copied();
    found.ok_or(format!("Node {name} has no address of this family"))
}
