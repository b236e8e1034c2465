//! NetworkPolicy: what it costs a packet, and how soon a change is in force.
//!
//! - `objects`: the clusters; `node`: a node with its daemon
//! - `packets`: packets that are judged, and connections; `kube_router`: the shape of the peer
//! - `changes`: from a manifest to the kernel; `revocation`: to the last packet
//! - `start`: pods that start; `memory`: what the daemon keeps of pods elsewhere

mod changes;
mod kube_router;
mod memory;
mod node;
mod objects;
mod packets;
mod revocation;
mod start;

use anyhow::Result;

use crate::report::Report;

/// `rounds` of everything that is repeated; ten times as many changes.
pub(crate) fn measure(report: &mut Report, rounds: usize) -> Result<()> {
    eprintln!("packets and connections:");
    packets::measure(report, rounds)?;
    eprintln!("changes:");
    changes::measure(report, rounds * 20)?;
    eprintln!("live connections:");
    revocation::measure(report, rounds * 4)?;
    eprintln!("pods that start:");
    start::measure(report)?;
    eprintln!("memory:");
    memory::measure(report)
}
