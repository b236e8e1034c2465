//! What tests of this source share.

mod log;
mod server;

pub(super) use log::Log;
pub(super) use server::Server;
