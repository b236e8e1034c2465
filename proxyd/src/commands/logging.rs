//! Logs go to standard error, as text or JSON.

use tracing::level_filters::LevelFilter;

use crate::config::Log;

/// Starts logging; verbosity 4 and above shows every sync.
pub(super) fn start(log: &Log) {
    let level = match log.verbosity {
        0..=3 => LevelFilter::INFO,
        4..=5 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    let builder = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(false);
    // Somebody else may have started logging already, in tests.
    let _ = if log.json { builder.json().try_init() } else { builder.try_init() };
}
