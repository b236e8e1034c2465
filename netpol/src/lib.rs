//! NetworkPolicy as a pure library: what policies mean, and what a node has to do about them.
//!
//! - [`api`]: policies as the API has them, with its defaults; [`model`]: what they say
//! - [`World`]: namespaces, pods, nodes and policies
//! - [`compile`]: the world as one node enforces it, kept up to date change by change
//! - [`evaluate`]: what the world says of one connection, and why
//!
//! Nothing here reads a file, a socket or a clock.

pub mod api;
mod cidr;
pub mod compile;
pub mod evaluate;
#[cfg(test)]
mod generate;
mod labels;
pub mod model;
mod world;

pub use cidr::{Cidr, CidrError};
pub use labels::{Labels, Requirement, Selector};
pub use model::{ClusterPolicy, Policy, PolicyName, Protocol};
pub use world::{ContainerPort, Namespace, Node, Pod, PodName, Uid, World};
