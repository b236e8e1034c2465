//! The names, labels and buckets of all metrics.
//!
//! Names as `kubernetes/pkg/proxy/metrics/metrics.go` has them since 1.33, without those of the
//! iptables mode. prometheus-client appends `_total` to counters, so it is missing from their names
//! here; `no_local_endpoints_total` is a gauge in kube-proxy too.

use std::sync::atomic::AtomicU64;

use netlink::Family as IpFamily;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets, linear_buckets};
use prometheus_client::registry::{Metric, Registry};

use super::conntrack;
use crate::server::ip_family;

type Labels<V, const N: usize> = [(&'static str, V); N];
type ByFamily<M> = Family<Labels<&'static str, 1>, M, fn() -> M>;
type ByCode = Family<Labels<u16, 1>, Counter>;
type Seconds = Gauge<f64, AtomicU64>;

/// The label of metrics that are counted by family.
pub(super) fn by_family(family: IpFamily) -> Labels<&'static str, 1> {
    [("ip_family", ip_family(family))]
}

/// Where events are counted.
pub(super) struct Series {
    pub(super) sync_duration: ByFamily<Histogram>,
    pub(super) full_sync_duration: ByFamily<Histogram>,
    pub(super) partial_sync_duration: ByFamily<Histogram>,
    pub(super) programming_latency: ByFamily<Histogram>,
    pub(super) last_synced: ByFamily<Seconds>,
    pub(super) last_queued: ByFamily<Seconds>,
    pub(super) endpoint_changes_pending: Gauge,
    pub(super) endpoint_changes: Counter,
    pub(super) service_changes_pending: Gauge,
    pub(super) service_changes: Counter,
    pub(super) no_local_endpoints: Family<Labels<&'static str, 2>, Gauge>,
    pub(super) sync_failures: ByFamily<Counter>,
    pub(super) cleanup_failures: ByFamily<Counter>,
    pub(super) conntrack_duration: ByFamily<Histogram>,
    pub(super) conntrack_deleted: ByFamily<Counter>,
    pub(super) healthz: ByCode,
    pub(super) livez: ByCode,
    pub(super) service_ports: ByFamily<Gauge>,
    pub(super) endpoints: ByFamily<Gauge>,
    pub(super) elements_written: Counter,
    pub(super) transactions: Counter,
    pub(super) drift_repairs: Counter,
    pub(super) source_errors: Gauge,
    pub(super) sync_bytes: Counter,
}

impl Series {
    /// All metrics, and the registry that encodes them.
    pub(super) fn register(sysctls: conntrack::Read) -> (Series, Registry) {
        let mut registry = Registry::default();

        let kube_proxy = &mut Prefixed(registry.sub_registry_with_prefix("kubeproxy"));
        let sync_duration = kube_proxy.add(
            "sync_proxy_rules_duration_seconds",
            "SyncProxyRules latency in seconds",
            Family::new_with_constructor(sync_histogram as fn() -> Histogram),
        );
        let full_sync_duration = kube_proxy.add(
            "sync_full_proxy_rules_duration_seconds",
            "SyncProxyRules latency in seconds for full resyncs",
            Family::new_with_constructor(sync_histogram as fn() -> Histogram),
        );
        let partial_sync_duration = kube_proxy.add(
            "sync_partial_proxy_rules_duration_seconds",
            "SyncProxyRules latency in seconds for partial resyncs",
            Family::new_with_constructor(sync_histogram as fn() -> Histogram),
        );
        let programming_latency = kube_proxy.add(
            "network_programming_duration_seconds",
            "In Cluster Network Programming Latency in seconds",
            Family::new_with_constructor(latency_histogram as fn() -> Histogram),
        );
        let last_synced = kube_proxy.gauges(
            "sync_proxy_rules_last_timestamp_seconds",
            "The last time proxy rules were successfully synced",
        );
        let last_queued = kube_proxy.gauges(
            "sync_proxy_rules_last_queued_timestamp_seconds",
            "The last time a sync of proxy rules was queued",
        );
        let endpoint_changes_pending = kube_proxy.gauge(
            "sync_proxy_rules_endpoint_changes_pending",
            "Pending proxy rules Endpoint changes",
        );
        let endpoint_changes = kube_proxy.counter(
            "sync_proxy_rules_endpoint_changes",
            "Cumulative proxy rules Endpoint changes",
        );
        let service_changes_pending = kube_proxy.gauge(
            "sync_proxy_rules_service_changes_pending",
            "Pending proxy rules Service changes",
        );
        let service_changes = kube_proxy
            .counter("sync_proxy_rules_service_changes", "Cumulative proxy rules Service changes");
        let no_local_endpoints = kube_proxy.add(
            "sync_proxy_rules_no_local_endpoints_total",
            "Number of services with a Local traffic policy and no endpoints",
            Family::default(),
        );
        let sync_failures = kube_proxy.counters(
            "sync_proxy_rules_nftables_sync_failures",
            "Cumulative proxy nftables sync failures",
        );
        let cleanup_failures = kube_proxy.counters(
            "sync_proxy_rules_nftables_cleanup_failures",
            "Cumulative proxy nftables cleanup failures",
        );
        let conntrack_duration = kube_proxy.add(
            "conntrack_reconciler_sync_duration_seconds",
            "ReconcileConntrackFlowsLatency latency in seconds",
            Family::new_with_constructor(sync_histogram as fn() -> Histogram),
        );
        let conntrack_deleted = kube_proxy.counters(
            "conntrack_reconciler_deleted_entries",
            "Cumulative conntrack flows deleted by conntrack reconciler",
        );
        let healthz = kube_proxy.add(
            "proxy_healthz",
            "Cumulative proxy healthz HTTP status",
            Family::default(),
        );
        let livez =
            kube_proxy.add("proxy_livez", "Cumulative proxy livez HTTP status", Family::default());

        let viaduct = &mut Prefixed(registry.sub_registry_with_prefix("viaduct"));
        let service_ports = viaduct.gauges("service_ports", "Service ports that are programmed");
        let endpoints = viaduct.gauges("endpoints", "Endpoints that are programmed");
        let elements_written = viaduct.counter(
            "nftables_elements_written",
            "Set and map elements added to or removed from the kernel",
        );
        let transactions =
            viaduct.counter("nftables_transactions", "Transactions that the kernel took");
        let drift_repairs =
            viaduct.counter("drift_repairs", "Times that something missing was put back");
        let source_errors =
            viaduct.gauge("source_errors", "Documents that are in error and have no effect");
        let sync_bytes = viaduct.counter("sync_bytes", "Bytes of netlink messages sent by syncs");
        // A gauge as in Kubernetes: the type `info` is an error to parsers of the older text
        // format.
        let build_info: Family<Labels<&'static str, 1>, Gauge> =
            viaduct.add("build_info", "The version of this daemon", Family::default());
        build_info.get_or_create(&[("version", env!("CARGO_PKG_VERSION"))]).set(1);
        viaduct.0.register_collector(Box::new(conntrack::Usage(sysctls)));

        let series = Series {
            sync_duration,
            full_sync_duration,
            partial_sync_duration,
            programming_latency,
            last_synced,
            last_queued,
            endpoint_changes_pending,
            endpoint_changes,
            service_changes_pending,
            service_changes,
            no_local_endpoints,
            sync_failures,
            cleanup_failures,
            conntrack_duration,
            conntrack_deleted,
            healthz,
            livez,
            service_ports,
            endpoints,
            elements_written,
            transactions,
            drift_repairs,
            source_errors,
            sync_bytes,
        };
        (series, registry)
    }
}

/// Registers metrics and hands them out.
struct Prefixed<'a>(&'a mut Registry);

impl Prefixed<'_> {
    fn add<M: Metric + Clone>(&mut self, name: &str, help: &str, metric: M) -> M {
        self.0.register(name, help, metric.clone());
        metric
    }

    fn counter(&mut self, name: &str, help: &str) -> Counter {
        self.add(name, help, Counter::default())
    }

    fn counters(&mut self, name: &str, help: &str) -> ByFamily<Counter> {
        self.add(name, help, Family::default())
    }

    fn gauge(&mut self, name: &str, help: &str) -> Gauge {
        self.add(name, help, Gauge::default())
    }

    fn gauges<G>(&mut self, name: &str, help: &str) -> ByFamily<G>
    where
        G: Default,
        ByFamily<G>: Metric,
    {
        self.add(name, help, Family::default())
    }
}

/// 1 ms to 16 s.
fn sync_histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 15))
}

fn latency_histogram() -> Histogram {
    let buckets = linear_buckets(0.25, 0.25, 2)
        .chain(linear_buckets(1.0, 1.0, 59))
        .chain(linear_buckets(60.0, 5.0, 12))
        .chain(linear_buckets(120.0, 30.0, 7));
    Histogram::new(buckets)
}
