//! Another proxy's rules go once ours are in place, so that there is no gap.

use std::time::Duration;

use netlink::Prefix;
use serde_json::json;

use super::{Shared, backoff};
use crate::config::Mode;
use crate::dataplane::leftovers::{Keep, Removal, find, remove_others};

/// What could not be removed is tried again at least so often.
const LONGEST_RETRY: Duration = Duration::from_secs(30);

/// Removes them on a thread of its own, until nothing fails: there may be very many of them, and Services must
/// not wait.
pub(super) fn remove(shared: Shared, mode: Mode, keep: Keep, spared: Vec<Prefix>) {
    let work = move || {
        let (mut failures, mut told) = (0, Vec::new());
        while !remove_once(&shared, mode, keep, &spared, &mut told) {
            failures += 1;
            std::thread::sleep(backoff(failures, LONGEST_RETRY));
        }
    };
    let started = std::thread::Builder::new().name("leftovers".into()).spawn(work);
    if let Err(error) = started {
        tracing::warn!("rules of another proxy are not looked for: {error}");
    }
}

/// Whether nothing failed. What is left is told; in the log, if it is not what was `told` last.
fn remove_once(
    shared: &Shared,
    mode: Mode,
    keep: Keep,
    spared: &[Prefix],
    told: &mut Vec<String>,
) -> bool {
    let removal = remove_others(mode, keep, spared);
    for family in removal.failed.iter().flat_map(|failure| &failure.families) {
        shared.metrics.cleanup_failed(*family);
    }
    let left = removal.left();
    if left.is_empty() {
        shared.status.clear("leftovers");
    } else {
        shared.status.set("leftovers", json!(left));
    }
    report(&removal, left != *told);
    *told = left;
    // What cannot be looked into stays so.
    removal.failed.is_empty()
}

/// Logs what of kube-proxy's there is, before anything is programmed.
pub(super) fn announce(spared: &[Prefix]) {
    let found = find(spared);
    if !found.kube_proxys.is_empty() {
        tracing::warn!(
            "kube-proxy was here, or still is: {}. These are removed once ours are in place; see that it does not run on this node",
            found.kube_proxys.join(", ")
        );
    }
    if !found.unseen.is_empty() {
        tracing::warn!(
            "what another proxy may have left here cannot be looked into: {}",
            found.unseen.join("; ")
        );
    }
}

/// Logs what was removed, and with `failures` what could not be.
pub(super) fn report(removal: &Removal, failures: bool) {
    for removed in &removal.removed {
        tracing::info!("removed what another proxy left: {removed}");
    }
    for failure in removal.failed.iter().filter(|_| failures) {
        tracing::warn!("{:#}", failure.error);
    }
}
