//! Where objects come from: one trait, several sources.
//!
//! A source runs on a thread of its own, converts API objects at once into the types of
//! [`crate::cluster`], and hands [`Update`]s to the daemon.

pub mod api;
mod api_time;
mod convert;
mod documents;
mod folder;
mod judged;
mod kubernetes;
mod manifests;
mod problem;

pub use kubernetes::{Access, Kubernetes, Options, Wanted, client};
pub use manifests::Manifests;
pub use problem::{Place, Problem};

use crate::cluster::Change;

/// Changes that belong together.
#[derive(Debug, Default)]
pub struct Update {
    /// Changes, in order.
    pub changes: Vec<Change>,
    /// Whether all is known that policies need.
    pub policies_complete: bool,
    /// Every object that is in error now; `None` if that did not change.
    pub problems: Option<Vec<Problem>>,
}

/// A source of objects.
pub trait Source: Send {
    /// Reads everything once: Services and EndpointSlices are complete after it, so that a restart never
    /// takes what was not read yet for deleted.
    fn read(&mut self) -> Result<Update, SourceError>;

    /// Waits for something to change, and tells what.
    fn wait(&mut self) -> Result<Update, SourceError>;
}

/// The source as a whole does not work.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {error}")]
pub struct SourceError {
    /// What was tried.
    pub what: String,
    /// Why it failed.
    pub error: std::io::Error,
}
