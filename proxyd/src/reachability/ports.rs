//! Ports to ask for.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use netpol::model::{Direction, Numbers};
use netpol::{Pod, Protocol, World};

/// A port, or all of ICMP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    /// `None`: a protocol without ports.
    pub protocol: Option<Protocol>,
    /// The number.
    pub number: u16,
}

impl Port {
    /// A protocol without ports.
    pub const ICMP: Port = Port { protocol: None, number: 0 };
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.protocol {
            Some(protocol) => write!(f, "{}/{protocol}", self.number),
            None => f.write_str("ICMP"),
        }
    }
}

/// `PORT`, `PORT/PROTOCOL` or `ICMP`.
impl FromStr for Port {
    type Err = String;

    fn from_str(text: &str) -> Result<Port, String> {
        if text.eq_ignore_ascii_case("icmp") {
            return Ok(Port::ICMP);
        }
        let (number, name) = text.split_once('/').unwrap_or((text, "TCP"));
        let protocol = Protocol::ALL
            .into_iter()
            .find(|protocol| protocol.to_string().eq_ignore_ascii_case(name));
        match (number.parse(), protocol) {
            (Ok(number), Some(protocol)) if number > 0 => {
                Ok(Port { protocol: Some(protocol), number })
            }
            _ => Err(format!("{text:?} is not PORT/PROTOCOL, such as 80/TCP, nor ICMP")),
        }
    }
}

/// The TCP ports that a pod names.
pub(super) fn named(pod: &Pod) -> BTreeSet<Port> {
    let tcp = pod.ports.iter().filter(|port| port.protocol == Protocol::Tcp);
    tcp.map(|port| Port { protocol: Some(port.protocol), number: port.number }).collect()
}

/// Ranges of ports, from the first to the last, within which all verdicts of these worlds are the same.
pub(super) fn ranges(worlds: [&World; 2]) -> Vec<(Port, u16)> {
    let mut starts: BTreeSet<(Protocol, u16)> = Protocol::ALL.map(|protocol| (protocol, 0)).into();
    let mut split = |protocol, first: u16, last: u16| {
        starts.insert((protocol, first));
        starts.extend(last.checked_add(1).map(|next| (protocol, next)));
    };
    for world in worlds {
        for port in world.pods.values().flat_map(|pod| &*pod.ports) {
            split(port.protocol, port.number, port.number);
        }
        let policies = world.policies.values();
        let rules = policies.flat_map(|policy| Direction::ALL.map(|way| policy.rules(way)));
        let ports = rules.flatten().flatten().filter_map(|rule| rule.ports.as_ref());
        let cluster = world.cluster_policies.values();
        let cluster = cluster.flat_map(|policy| Direction::ALL.map(|way| policy.rules(way)));
        let ports = ports.chain(cluster.flatten().filter_map(|rule| rule.ports.as_ref()));
        for port in ports.flatten() {
            if let Numbers::Range(first, last) = port.numbers {
                split(port.protocol, first, last);
            }
        }
    }
    let starts: Vec<(Protocol, u16)> = starts.into_iter().collect();
    let mut ranges = vec![(Port::ICMP, 0)];
    for (at, (protocol, first)) in starts.iter().enumerate() {
        let next = starts.get(at + 1).filter(|(of, _)| of == protocol);
        let last = next.map_or(u16::MAX, |(_, next)| next - 1);
        ranges.push((Port { protocol: Some(*protocol), number: *first }, last));
    }
    ranges
}
