//! Logs go to standard error, as text or JSON.

use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::Log;

/// Starts logging; verbosity 4 and above shows every sync.
pub(super) fn start(log: &Log) {
    let level = match log.verbosity {
        0..=3 => LevelFilter::INFO,
        4..=5 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    // What goes wrong in the libraries is told by who uses them.
    let others = if level == LevelFilter::TRACE { level } else { LevelFilter::OFF };
    let own = ["proxyd", "overlay", "netlink"].map(|name| (name, level));
    let filter = Targets::new().with_targets(own).with_default(others);
    let text = || tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    let registry = tracing_subscriber::registry();
    // Somebody else may have started logging already, in tests.
    let _ = if log.json {
        registry.with(text().json().with_filter(filter)).try_init()
    } else {
        registry.with(text().with_ansi(false).with_filter(filter)).try_init()
    };
}
