//! The node daemon.

#![forbid(unsafe_code)]

pub mod cluster;
pub mod config;
pub mod server;
pub mod service;
pub mod source;
