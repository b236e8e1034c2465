//! What is wrong with the settings, by the name the user gave them.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where a setting came from, as the user wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Setting {
    /// A command line flag, with its dashes: `--cluster-cidr`.
    Flag(&'static str),
    /// A field of the configuration file.
    Field {
        /// Its path: `iptables.masqueradeBit`.
        path: String,
        /// The file.
        file: Arc<Path>,
        /// The line it is on, from 1.
        line: u64,
    },
}

impl Setting {
    /// The name alone: the flag, or the field's path.
    pub fn name(&self) -> &str {
        match self {
            Setting::Flag(name) => name,
            Setting::Field { path, .. } => path,
        }
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Setting::Flag(name) => f.write_str(name),
            Setting::Field { path, file, line } => {
                write!(f, "{path} ({} line {line})", file.display())
            }
        }
    }
}

/// A value and the setting it was given by.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Given<T> {
    pub(super) value: T,
    pub(super) setting: Setting,
}

impl<T: fmt::Display> Given<T> {
    /// The error that refuses this value.
    pub(super) fn refuse(&self, reason: impl Into<String>) -> Error {
        Error::Invalid {
            setting: self.setting.clone(),
            value: self.value.to_string(),
            reason: reason.into(),
        }
    }
}

impl Given<String> {
    /// Reads the text with `parse`, whose error becomes the reason.
    pub(super) fn parse<V, E: fmt::Display>(
        &self,
        parse: impl FnOnce(&str) -> Result<V, E>,
    ) -> Result<V, Error> {
        parse(&self.value).map_err(|reason| self.refuse(reason.to_string()))
    }
}

impl Given<i64> {
    /// The number, which must be in `allowed` and so fits `N`.
    pub(super) fn within<N: TryFrom<i64>>(
        &self,
        allowed: std::ops::RangeInclusive<i64>,
    ) -> Result<N, Error> {
        let refuse =
            || self.refuse(format!("must be from {} to {}", allowed.start(), allowed.end()));
        if !allowed.contains(&self.value) {
            return Err(refuse());
        }
        N::try_from(self.value).map_err(|_| refuse())
    }
}

/// Why the settings are refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file of `--config` cannot be read.
    #[error("--config {}: {source}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What reading it said.
        source: std::io::Error,
    },
    /// The file is neither YAML nor JSON, holds several documents, or is no mapping.
    #[error("--config {}: {reason}", file.display())]
    Syntax {
        /// The file.
        file: PathBuf,
        /// What the parser said, with line and column.
        reason: String,
    },
    /// `apiVersion` or `kind` is missing or names another kind of object.
    #[error("--config {}: {field} is {found:?}, it must be {expected:?}", file.display())]
    Kind {
        /// The file.
        file: PathBuf,
        /// `apiVersion` or `kind`.
        field: &'static str,
        /// What the file says; empty if it says nothing.
        found: String,
        /// What it must say.
        expected: &'static str,
    },
    /// The file has a field that KubeProxyConfiguration v1alpha1 has not.
    #[error("unknown field {0}")]
    UnknownField(Setting),
    /// A value is of the wrong type, unreadable or out of range.
    #[error("{setting}: {value:?}: {reason}")]
    Invalid {
        /// The setting.
        setting: Setting,
        /// The value as written.
        value: String,
        /// What is wrong with it, and what would be right.
        reason: String,
    },
    /// Two settings exclude each other.
    #[error("{first} and {second}: {reason}")]
    Contradiction {
        /// One of them.
        first: Setting,
        /// The other.
        second: Setting,
        /// Why both cannot hold.
        reason: &'static str,
    },
}
