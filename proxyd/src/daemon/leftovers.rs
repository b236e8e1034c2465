//! Another proxy's rules go once ours are in place, so that there is no gap.

use crate::config::Mode;
use crate::dataplane::leftovers::{Removal, remove_others};

/// Removes them on a thread of its own: there may be very many of them, and Services must not wait.
pub(super) fn remove(mode: Mode) {
    let started = std::thread::Builder::new()
        .name("leftovers".into())
        .spawn(move || report(&remove_others(mode)));
    if let Err(error) = started {
        tracing::warn!("rules of another proxy are not looked for: {error}");
    }
}

/// Logs what was removed.
pub(super) fn report(removal: &Removal) {
    for removed in &removal.removed {
        tracing::info!("removed what another proxy left: {removed}");
    }
    for error in &removal.failed {
        tracing::warn!("{error:#}");
    }
}
