//! The daemon and the API server: a real one with etcd, and a fake one that misbehaves.
//!
//! The real one is started once and shared: tests take turns. Those that need it are skipped, with a
//! word of why, where it is not installed; `scripts/test api` installs it.

#![allow(clippy::unwrap_used, reason = "a failed expectation is how a test fails")]

mod agent;
mod cable;
mod credentials;
mod fake;
mod faults;
mod kube_proxy;
mod lists;
mod manifests;
mod missing;
mod node_condition;
mod outage;
mod packets;
mod prober;
mod programs;
mod rbac;
mod scale;
mod server;
mod silence;
mod site;
mod streams;
mod world;

use std::io::Write;
use std::time::Duration;

use testnet::Family;

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// How long something may take that waits for no timer. The machine may be busy.
const SOON: Duration = Duration::from_secs(20);

/// Tells what was measured, past the test runner, which keeps to itself what passing tests print.
fn say(what: &str) {
    let thread = std::thread::current();
    let _ = writeln!(std::io::stderr(), "{}: {what}", thread.name().unwrap_or("a test"));
}
