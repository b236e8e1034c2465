//! Whether the API server answers those who ask for a kind of object.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::{Metrics, unix_now};

type ByKind<M> = Family<[(&'static str, &'static str); 1], M>;

/// By kind, as in `Service`.
#[derive(Default)]
pub(super) struct Watches {
    up: ByKind<Gauge>,
    changed: ByKind<Gauge<f64, AtomicU64>>,
    errors: ByKind<Counter>,
}

impl Watches {
    pub(super) fn register(registry: &mut Registry) -> Watches {
        let all = Watches::default();
        let viaduct = registry.sub_registry_with_prefix("viaduct");
        viaduct.register(
            "api_watch_up",
            "Whether the API server answered when it was last asked for objects of this kind",
            all.up.clone(),
        );
        viaduct.register(
            "api_watch_changed_timestamp_seconds",
            "When viaduct_api_watch_up changed last; at first, when the daemon started",
            all.changed.clone(),
        );
        viaduct.register(
            "api_watch_errors",
            "Lists and watches of this kind that failed",
            all.errors.clone(),
        );
        all
    }
}

impl Metrics {
    /// From now on the API server answers those who ask for this kind (as in `Service`), or does not.
    pub fn watch_up(&self, kind: &'static str, up: bool) {
        let (watches, labels) = (&self.shared.watches, [("kind", kind)]);
        watches.up.get_or_create(&labels).set(up.into());
        watches.changed.get_or_create(&labels).set(unix_now());
        // A counter that is not there cannot increase.
        let _ = watches.errors.get_or_create(&labels);
    }

    /// A list or a watch of this kind failed: `viaduct_api_watch_errors_total`.
    pub fn watch_failed(&self, kind: &'static str) {
        self.shared.watches.errors.get_or_create(&[("kind", kind)]).inc();
    }
}
