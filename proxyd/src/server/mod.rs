//! What the daemon answers over HTTP, and the two small user-space servers.
//!
//! The dataplane thread reports what it did to [`Health`] and [`Metrics`], and tells
//! [`HealthCheckPorts`] and [`NodePortRelay`] what to serve. These are cheap handles that any
//! thread may hold; none of their calls wait for the network. The sockets live on the main thread's
//! tokio runtime, in the futures that [`http::serve`], [`HealthCheckPorts::run`] and
//! [`NodePortRelay::run`] return. Dropping such a future closes its listeners.

pub mod clock;
mod connection;
mod health;
mod health_check_ports;
pub mod http;
mod listeners;
mod metrics;
pub mod notify;
mod relay;
#[cfg(test)]
mod testing;

use netlink::Family;

pub use health::{FamilyReport, Health, HealthReport};
pub use health_check_ports::{HealthCheckPorts, ServiceHealth};
pub use metrics::{Metrics, ScrapeHook};
pub use relay::{NodePortRelay, RelayTarget};

/// How Kubernetes spells a family (`v1.IPFamily`), in JSON and in metric labels.
fn ip_family(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}
