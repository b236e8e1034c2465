//! Who can talk to whom, as policies have it: for all pods at once, and how two states of the objects differ.
//!
//! Everything is asked of [`netpol::evaluate`], connection by connection; nothing here decides anything.

mod diff;
mod html;
mod matrix;
mod ports;

use std::net::IpAddr;
use std::sync::Arc;

use netpol::World;
use netpol::evaluate::{Evaluation, Verdict};

pub use diff::{Change, Diff, diff};
pub use html::page;
pub use matrix::{Cell, Matrix, Outcome, matrix};
pub use ports::Port;

/// Pods without an address get one that no policy means (of 0.0.0.0/8 and of the discard prefix, RFC 6666), so
/// that they can be judged by their labels. Tells what cannot be told exactly.
fn prepared(world: &World) -> (World, Vec<String>) {
    let (mut world, mut notes) = (world.clone(), Vec::new());
    let without = world.pods.iter_mut().filter(|(_, pod)| pod.addresses.is_empty());
    for (at, (name, pod)) in (1u16..).zip(without) {
        notes.push(format!(
            "pod {name} has no address yet: of networks only /0 is taken to hold it"
        ));
        pod.addresses = stand_ins(at).into();
    }
    let unknown = |namespace: &&Arc<str>| !world.namespaces.contains_key(*namespace);
    let mut namespaces: Vec<_> =
        world.pods.keys().map(|pod| &pod.namespace).filter(unknown).collect();
    namespaces.dedup();
    notes.extend(namespaces.into_iter().map(|name| {
        format!(
            "there is no Namespace {name}: no namespaceSelector selects it, whatever its labels"
        )
    }));
    (world, notes)
}

/// 0.x.y.z is of no use to anybody, as 100::/64 is not.
fn stand_ins(at: u16) -> [IpAddr; 2] {
    let [high, low] = at.to_be_bytes();
    [IpAddr::from([0, 0, high, low]), IpAddr::from([0x100, 0, 0, 0, 0, 0, 0, at])]
}

/// A verdict in words.
fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Allowed => "allowed",
        Verdict::Denied => "denied",
        Verdict::Unspecified => "unknown",
    }
}

/// Why, in words: what denies, or else what both ends say.
fn why(evaluation: &Evaluation) -> String {
    let both = [&evaluation.egress, &evaluation.ingress];
    let deciding = both.into_iter().filter(|decision| {
        evaluation.verdict == Verdict::Allowed || decision.verdict() == evaluation.verdict
    });
    deciding.map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests;
