//! The node daemon.

#![forbid(unsafe_code)]

pub mod agent;
pub mod cluster;
pub mod commands;
pub mod config;
pub mod daemon;
pub mod dataplane;
pub mod explain;
pub mod reachability;
pub mod reporter;
pub mod server;
pub mod service;
pub mod source;
pub mod text;
