//! From Services and EndpointSlices to the abstract service table. Pure: no I/O, no clock.
//!
//! - [`endpoints`]: which endpoints a port may use (readiness, termination, topology)
//! - [`plan`]: the rows of one Service
//! - [`table`]: all rows, and for each frontend exactly one owner
//!
//! Dataplanes consume [`Frontend`]s; none ever sees a Kubernetes object.

pub mod endpoints;
pub mod plan;
pub mod table;
#[cfg(test)]
mod tests;

pub use plan::{HealthCheck, Rules, ServicePlan};
pub use table::{Address, Backend, Frontend, FrontendKey, Lists, Masquerade, Resolution, Table};
