//! Denied packets, told in the log with the pods' names.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use netlink::nflog::{Logged, NflogListener, PacketEnds};
use netlink::{Errno, RouteSocket};
use netpol::compile::{ChainKey, Compiler};
use netpol::model::Direction;

use super::policies::{PolicyEvent, ToPolicies};
use crate::dataplane::policy::{
    LOG_GROUP, LOGGED_BYTES, SOURCE_LOG_PREFIX, logged_by, unknown_pod,
};

/// The log is for people: of more lines than this in a while it only tells how many there were.
const LINES: usize = 20;
const WHILE: Duration = Duration::from_secs(1);

/// Hands logged packets to the policy thread, on a thread of its own.
pub(super) fn listen(events: ToPolicies) {
    let mut listener = match NflogListener::open(LOG_GROUP, LOGGED_BYTES) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!("{error}: denied packets are counted, but not told in this log");
            return;
        }
    };
    let work = move || {
        loop {
            let mut open = true;
            let waited = listener.wait(|packet| {
                open &= events.send(PolicyEvent::Denied(packet)).is_ok();
            });
            match waited {
                Err(error) if error.errno != Errno::NOBUFS => {
                    tracing::warn!("{error}: denied packets are not told in this log any more");
                    return;
                }
                _ if !open => return,
                _ => {}
            }
        }
    };
    if let Err(error) = std::thread::Builder::new().name("denials".into()).spawn(work) {
        tracing::warn!("denied packets are not told in this log: {error}");
    }
}

/// Writes the lines.
pub(super) struct Denials {
    since: Instant,
    lines: usize,
    passed_over: usize,
}

impl Denials {
    pub(super) fn new() -> Denials {
        Denials { since: Instant::now(), lines: 0, passed_over: 0 }
    }

    /// Tells of a packet that a chain has denied, or that was not from an address of the pod.
    pub(super) fn tell(&mut self, packet: &Logged, chain: Option<&ChainKey>, compiler: &Compiler) {
        let now = Instant::now();
        if now.duration_since(self.since) >= WHILE {
            if self.passed_over > 0 {
                tracing::info!("denied: {} more packets", self.passed_over);
            }
            *self = Denials::new();
        }
        if self.lines == LINES {
            self.passed_over += 1;
            return;
        }
        let line = match (chain, &packet.ends) {
            (Some(key), Some(ends)) => {
                let why = (key.direction, key);
                sentence(verdict(&packet.prefix), why, ends, |address| name(compiler, address))
            }
            (None, Some(ends)) if let Some(why) = unknown_pod(&packet.prefix) => {
                sentence("denied", why, ends, |address| name(compiler, address))
            }
            (None, ends) if packet.prefix == SOURCE_LOG_PREFIX => {
                forged(ends.as_ref(), &sender(packet, compiler))
            }
            // A chain that is no more, or a packet that is none of IP.
            _ => return,
        };
        self.lines += 1;
        tracing::info!("{line}");
    }
}

/// Of what a packet was logged with.
fn verdict(prefix: &str) -> &'static str {
    let (_, audit) = logged_by(prefix);
    if audit { "would be denied (audit)" } else { "denied" }
}

fn name(compiler: &Compiler, address: IpAddr) -> Option<String> {
    compiler.pod_at(address).map(ToString::to_string)
}

/// `pod default/client (link vdabc)`
fn sender(packet: &Logged, compiler: &Compiler) -> String {
    let look_up = |index| RouteSocket::open()?.link_by_index(index);
    let link = packet.link.and_then(|index| look_up(index).ok().flatten());
    let Some(link) = link else { return "a pod that is gone".to_owned() };
    let pod = compiler.pod_behind(&link.name).map(ToString::to_string);
    format!("pod {} (link {})", pod.unwrap_or_else(|| "of unknown name".to_owned()), link.name)
}

/// `denied: UDP from 10.244.1.5:40312 to 10.244.1.6:8080: not from an address of pod default/client (link vdabc)`
fn forged(ends: Option<&PacketEnds>, sender: &str) -> String {
    let what = match ends {
        Some(ends) => {
            let [from, to] = places(ends);
            format!("{} from {from} to {to}", protocol(ends.protocol))
        }
        None => "ARP, or another frame that is not IP".to_owned(),
    };
    format!("denied: {what}: not from an address of {sender}")
}

fn protocol(number: u8) -> String {
    match number {
        1 => "ICMP".to_owned(),
        6 => "TCP".to_owned(),
        17 => "UDP".to_owned(),
        58 => "ICMPv6".to_owned(),
        132 => "SCTP".to_owned(),
        other => format!("protocol {other}"),
    }
}

/// Both ends, sender first, with their ports.
fn places(ends: &PacketEnds) -> [String; 2] {
    let place = |address: IpAddr, port: Option<u16>| match (address, port) {
        (address, None) => address.to_string(),
        (IpAddr::V4(address), Some(port)) => format!("{address}:{port}"),
        (IpAddr::V6(address), Some(port)) => format!("[{address}]:{port}"),
    };
    let (from, to) = ends.ports.unzip();
    [place(ends.source, from), place(ends.destination, to)]
}

/// `denied: TCP from pod default/client (10.244.1.5:40312) to pod default/web (10.244.1.6:8080): ingress, default/deny`
fn sentence(
    verdict: &str,
    (direction, why): (Direction, impl std::fmt::Display),
    ends: &PacketEnds,
    name: impl Fn(IpAddr) -> Option<String>,
) -> String {
    let named = |address: IpAddr, at: String| match name(address) {
        Some(pod) => format!("pod {pod} ({at})"),
        None => at,
    };
    let [from, to] = places(ends);
    let (from, to) = (named(ends.source, from), named(ends.destination, to));
    let protocol = protocol(ends.protocol);
    format!("{verdict}: {protocol} from {from} to {to}: {direction}, {why}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_pods_policy_and_direction() {
        let key = ChainKey::blocked(Direction::Egress);
        let ends = PacketEnds {
            source: "fd00::1".parse().unwrap(),
            destination: "10.0.0.2".parse().unwrap(),
            protocol: 6,
            ports: Some((40_000, 80)),
        };
        let name = |address: IpAddr| address.is_ipv6().then(|| "a/b".to_owned());
        assert_eq!(
            sentence(verdict("from-1"), (key.direction, &key), &ends, name),
            "denied: TCP from pod a/b ([fd00::1]:40000) to 10.0.0.2:80: egress, it is not known what this pod may do"
        );
        let bare = PacketEnds { protocol: 47, ports: None, ..ends };
        let audited = sentence(verdict("from-1.audit"), (key.direction, &key), &bare, name);
        assert!(audited.starts_with(
            "would be denied (audit): protocol 47 from pod a/b (fd00::1) to 10.0.0.2: egress"
        ));
    }

    #[test]
    fn a_line_about_a_forged_address_names_the_pod_by_its_link() {
        let ends = PacketEnds {
            source: "10.0.0.1".parse().unwrap(),
            destination: "10.0.0.2".parse().unwrap(),
            protocol: 17,
            ports: Some((4000, 80)),
        };
        assert_eq!(
            forged(Some(&ends), "pod a/b (link vd1)"),
            "denied: UDP from 10.0.0.1:4000 to 10.0.0.2:80: not from an address of pod a/b (link vd1)"
        );
        assert!(forged(None, "pod a/b (link vd1)").contains("ARP"));
    }
}
