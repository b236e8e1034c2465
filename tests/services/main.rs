//! What the service proxy does, scenario by scenario, with real packets.
//!
//! Every test makes its own cluster, so all run side by side. What is expected is kube-proxy's behaviour
//! unless the scenario says otherwise.

#![allow(clippy::unwrap_used, reason = "a failed expectation is how a test fails")]

mod affinity;
mod agent;
mod agent_problems;
mod bad_input;
mod churn;
mod cluster_ip;
mod conntrack;
mod counters;
mod dice;
mod empty;
mod endpoints;
mod firewall;
mod health;
mod ipvs;
mod killed;
mod load_balancer;
mod masquerade;
mod modes;
mod node_port;
mod node_state;
mod nodes;
mod policies;
mod programmed;
mod refused;
mod render;
mod restart;
mod service_cidrs;
mod source_ranges;
mod tables;
mod topology;
mod udp_flows;
mod world;

use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::time::Duration;

use testnet::traffic::Answer;
use testnet::{Family, Host, Look, eventually};

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];
const PROTOCOLS: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];

/// Whether scenarios run in this mode; what a mode does otherwise is told where it matters.
fn mode_is(mode: &str) -> bool {
    testnet::Mode::of_tests().name() == mode
}

/// Whether a scenario is not for the mode that they run in; prints why.
fn only_in_mode(mode: &str, reason: &str) -> bool {
    let other = !mode_is(mode);
    if other {
        testnet::skip(&format!("only in {mode} mode: {reason}"));
    }
    other
}

/// The same the other way round.
fn not_in_mode(mode: &str, reason: &str) -> bool {
    let this = mode_is(mode);
    if this {
        testnet::skip(&format!("not in {mode} mode: {reason}"));
    }
    this
}

/// How long something may take that does not wait for a timer.
const SOON: Duration = Duration::from_secs(10);

/// The wait for an answer where none is expected.
const SILENCE: Duration = Duration::from_millis(700);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    fn probe(self, from: &impl Host, to: (IpAddr, u16)) -> io::Result<Answer> {
        match self {
            Protocol::Tcp => from.tcp(to),
            Protocol::Udp => from.udp(to),
        }
    }
}

#[track_caller]
fn soon<L: Look>(what: &str, look: impl FnMut() -> L) -> L::Found {
    eventually(what, SOON, look)
}

/// Who answers a TCP probe, and where it seemed to come from.
#[track_caller]
fn served(from: &impl Host, to: (IpAddr, u16)) -> (String, IpAddr) {
    let answer = from.tcp(to);
    let answer =
        answer.unwrap_or_else(|e| panic!("TCP {} to {to:?}: {e}", from.namespace().name()));
    (answer.server, answer.peer)
}

/// How a UDP probe fails. What is dropped or rejected before it leaves its own host is not permitted,
/// says the first attempt to send it; whether it was rejected shows in what comes after.
fn udp_failure(from: &impl Host, to: (IpAddr, u16), timeout: Duration) -> Option<ErrorKind> {
    let mut flow = from.udp_flow_within(to, timeout).expect("a socket");
    match flow.ask("probe").map_err(|error| error.kind()) {
        Err(ErrorKind::PermissionDenied) => match flow.ask("probe").map_err(|error| error.kind()) {
            Err(ErrorKind::PermissionDenied) => Some(ErrorKind::TimedOut),
            second => second.err(),
        },
        first => first.err(),
    }
}

/// Nobody answers a probe of either protocol, and nobody says so.
#[track_caller]
fn assert_dropped(from: &impl Host, to: (IpAddr, u16)) {
    let name = from.namespace().name();
    let tcp = from.tcp_within(to, SILENCE).map_err(|error| error.kind());
    assert_eq!(tcp, Err(ErrorKind::TimedOut), "TCP {name} to {to:?}");
    let udp = udp_failure(from, to, SILENCE);
    assert_eq!(udp, Some(ErrorKind::TimedOut), "UDP {name} to {to:?}");
}

/// A probe of either protocol is rejected at once.
#[track_caller]
fn assert_refused(from: &impl Host, to: (IpAddr, u16)) {
    let name = from.namespace().name();
    let tcp = from.tcp_within(to, SILENCE).map_err(|error| error.kind());
    assert_eq!(tcp, Err(ErrorKind::ConnectionRefused), "TCP {name} to {to:?}");
    let udp = udp_failure(from, to, SILENCE);
    assert_eq!(udp, Some(ErrorKind::ConnectionRefused), "UDP {name} to {to:?}");
}

/// A probe of either protocol is not answered, be it dropped or rejected.
#[track_caller]
fn assert_closed(from: &impl Host, to: (IpAddr, u16)) {
    let name = from.namespace().name();
    assert!(from.tcp_within(to, SILENCE).is_err(), "TCP {name} to {to:?}");
    assert!(from.udp_within(to, SILENCE).is_err(), "UDP {name} to {to:?}");
}

/// The names of those who answer many new connections, sorted.
#[track_caller]
fn servers(from: &impl Host, to: (IpAddr, u16)) -> Vec<String> {
    // Of three equally likely servers, one is not seen once in four million runs.
    let mut names: Vec<String> = (0..40).map(|_| served(from, to).0).collect();
    names.sort();
    names.dedup();
    names
}
