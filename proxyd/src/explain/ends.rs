//! Both ends, as people write them.

use std::net::IpAddr;

use netlink::Family;
use netpol::World;
use netpol::evaluate::{self, End, Flow};

use super::View;
use crate::cluster::{Protocol, ServiceName};
use crate::dataplane::FAMILIES;
use crate::service::{Address, FrontendKey};

/// Without policies nobody has told of pods.
const NO_PODS: &str = "pods cannot be named yet: give the pod's address";

/// Who connects, as far as the rules can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Pod,
    ThisNode,
    Outside,
}

/// Who connects.
pub(super) struct Source {
    pub(super) address: IpAddr,
    pub(super) origin: Origin,
    /// The same for policies.
    pub(super) end: End,
}

/// Where to.
pub(super) enum Target {
    /// What may be a Service's.
    Frontend(FrontendKey),
    /// A pod, or an address without ports; at each of these ports of these protocols.
    Direct(End, Vec<(Option<Protocol>, u16)>),
}

/// The protocol that somebody asks for.
#[derive(Clone, Copy)]
enum Asked {
    Ports(Protocol),
    /// ICMP, or any other without ports.
    NoPorts,
}

pub(super) fn family(family: Family) -> evaluate::Family {
    if family == Family::V4 { evaluate::Family::V4 } else { evaluate::Family::V6 }
}

/// The protocol, as policies have it.
pub(super) fn judged(protocol: Protocol) -> netpol::Protocol {
    match protocol {
        Protocol::Tcp => netpol::Protocol::Tcp,
        Protocol::Udp => netpol::Protocol::Udp,
        Protocol::Sctp => netpol::Protocol::Sctp,
    }
}

/// Takes a protocol off the end, unless that is part of a name.
fn split_protocol(text: &str) -> (&str, Option<Asked>) {
    let Some((rest, name)) = text.rsplit_once('/') else { return (text, None) };
    let names = match text.split('/').next() {
        Some("pod" | "svc") => 2,
        Some("node") => 1,
        _ => 0,
    };
    if rest.matches('/').count() < names {
        return (text, None);
    }
    let name = name.to_uppercase();
    match Protocol::from_api(&name) {
        Some(protocol) => (rest, Some(Asked::Ports(protocol))),
        None if name == "ICMP" || name == "ICMPV6" => (rest, Some(Asked::NoPorts)),
        None => (text, None),
    }
}

/// `svc/NS/NAME[:PORT]`, `pod/NS/NAME[:PORT]`, `node/NAME:PORT`, `ADDRESS:PORT`, `[ADDRESS]:PORT`, each with a
/// `/PROTOCOL` if need be; ICMP has no port.
pub(super) fn target(view: View<'_>, text: &str) -> Result<Target, String> {
    let (text, asked) = split_protocol(text);
    if let Some(rest) = text.strip_prefix("pod/") {
        return pod_target(view.world.ok_or(NO_PODS)?, rest, asked);
    }
    let protocol = match asked {
        Some(Asked::NoPorts) if text.starts_with("svc/") => {
            return Err("a Service has no ICMP: name a pod, a node or an address".into());
        }
        Some(Asked::NoPorts) => {
            return Ok(Target::Direct(End::Address(host(view, text)?), vec![(None, 0)]));
        }
        Some(Asked::Ports(protocol)) => Some(protocol),
        None => None,
    };
    if let Some(rest) = text.strip_prefix("svc/") {
        return service_target(view, rest, protocol).map(Target::Frontend);
    }
    let (name, port) = text.rsplit_once(':').ok_or(format!("{text:?} has no port: add :PORT"))?;
    let port = port.parse().map_err(|_| format!("{port:?} is not a port"))?;
    let address = Address::Ip(host(view, name)?);
    let protocol = protocol.unwrap_or(Protocol::Tcp);
    Ok(Target::Frontend(FrontendKey { address, protocol, port }))
}

/// `node/NAME`, `ADDRESS`, `[ADDRESS]`.
fn host(view: View<'_>, text: &str) -> Result<IpAddr, String> {
    if let Some(name) = text.strip_prefix("node/") {
        return node_address(view, name, None);
    }
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    let error =
        || format!("{text:?} is neither svc/NS/NAME, pod/NS/NAME, node/NAME nor an address");
    bare.parse().map_err(|_| error())
}

fn pod_name(text: &str) -> Result<netpol::PodName, String> {
    let (namespace, name) = text.split_once('/').ok_or(format!("pod/{text}: write pod/NS/NAME"))?;
    Ok(netpol::PodName { namespace: namespace.into(), name: name.into() })
}

/// A pod, and its port; without one, those that the pod names.
fn pod_target(world: &World, text: &str, asked: Option<Asked>) -> Result<Target, String> {
    let (name, port) = match text.split_once(':') {
        Some((name, port)) => (name, Some(port)),
        None => (text, None),
    };
    let name = pod_name(name)?;
    let pod = world.pods.get(&name).ok_or_else(|| format!("there is no pod {name}"))?;
    let protocol = match asked {
        Some(Asked::NoPorts) => return Ok(Target::Direct(End::Pod(name), vec![(None, 0)])),
        Some(Asked::Ports(protocol)) => protocol,
        None => Protocol::Tcp,
    };
    let of_protocol = pod.ports.iter().filter(|port| port.protocol == judged(protocol));
    let ports: Vec<u16> = match port.map(|port| (port, port.parse())) {
        Some((_, Ok(number))) => vec![number],
        Some((called, _)) => {
            of_protocol.filter(|port| *port.name == *called).map(|port| port.number).collect()
        }
        None => of_protocol.map(|port| port.number).collect(),
    };
    if ports.is_empty() {
        return Err(match port {
            Some(port) => format!("pod {name} calls no {protocol} port {port:?}"),
            None => format!("pod {name} names no {protocol} port: add :PORT"),
        });
    }
    Ok(Target::Direct(End::Pod(name), ports.into_iter().map(|p| (Some(protocol), p)).collect()))
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

/// `pod/NS/NAME`, `node/NAME` or `ADDRESS`; a port does not matter.
pub(super) fn source(view: View<'_>, text: &str, family: Family) -> Result<Source, String> {
    if let Some(rest) = text.strip_prefix("pod/") {
        let world = view.world.ok_or(NO_PODS)?;
        let (rest, _) = split_protocol(text)
            .0
            .strip_prefix("pod/")
            .unwrap_or(rest)
            .split_once(':')
            .unwrap_or((rest, ""));
        let end = End::Pod(pod_name(rest)?);
        let family = self::family(family);
        let flow = Flow::between(world, &end, &end, family, None, 0)?;
        return Ok(of_address(view, flow.from_address, Some(end)));
    }
    if let Some(name) = text.strip_prefix("node/") {
        let address = node_address(view, name, Some(family))?;
        let here = *name == **view.cluster.node_name();
        let origin = if here { Origin::ThisNode } else { Origin::Outside };
        return Ok(Source { address, origin, end: End::Address(address) });
    }
    if text.starts_with("svc/") {
        return Err("a Service opens no connections: name one of its pods".into());
    }
    let Ok(address) = text.parse::<IpAddr>() else {
        let hint = if view.world.is_none() { format!("; {NO_PODS}") } else { String::new() };
        return Err(format!("{text:?} is neither pod/NS/NAME, node/NAME nor an address{hint}"));
    };
    if Family::of(address) != family {
        return Err(format!("{address} cannot connect to an {family} address"));
    }
    Ok(of_address(view, address, None))
}

fn of_address(view: View<'_>, address: IpAddr, end: Option<End>) -> Source {
    let end = end.unwrap_or(End::Address(address));
    if is_this_node(view, address) {
        return Source { address, origin: Origin::ThisNode, end };
    }
    let index = FAMILIES.iter().position(|known| *known == Family::of(address)).unwrap_or(0);
    let is_pod = view.nodes[index].pod_cidrs.iter().any(|range| range.contains(address));
    Source { address, origin: if is_pod { Origin::Pod } else { Origin::Outside }, end }
}

pub(super) fn is_this_node(view: View<'_>, ip: IpAddr) -> bool {
    view.cluster.this_node().is_some_and(|node| node.addresses.contains(&ip))
}

fn node_address(view: View<'_>, name: &str, family: Option<Family>) -> Result<IpAddr, String> {
    let node = view.cluster.node(name).ok_or(format!("there is no Node {name}"))?;
    let wanted = |ip: &&IpAddr| family.is_none_or(|family| Family::of(**ip) == family);
    let found = node.addresses.iter().find(wanted).copied();
    found.ok_or(format!("Node {name} has no address of this family"))
}
