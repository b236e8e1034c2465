//! Another proxy's rules go once ours are in place, so that there is no gap.

use netlink::Prefix;

use crate::config::Mode;
use crate::dataplane::leftovers::{Keep, Removal, kube_proxys, remove_others};

/// Removes them on a thread of its own: there may be very many of them, and Services must not wait.
pub(super) fn remove(mode: Mode, keep: Keep, spared: Vec<Prefix>) {
    let work = move || report(&remove_others(mode, keep, &spared));
    let started = std::thread::Builder::new().name("leftovers".into()).spawn(work);
    if let Err(error) = started {
        tracing::warn!("rules of another proxy are not looked for: {error}");
    }
}

/// Logs what of kube-proxy's there is, before anything is programmed.
pub(super) fn announce() {
    let found = kube_proxys();
    if !found.is_empty() {
        tracing::warn!(
            "kube-proxy was here, or still is: {}. These are removed once ours are in place; see that it does not run on this node",
            found.join(", ")
        );
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
