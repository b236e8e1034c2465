//! The node daemon.

#![forbid(unsafe_code)]

pub mod config;
pub mod server;
