//! The daemon's metrics: kube-proxy's, under its names, and ours, which begin with `viaduct_`.
//!
//! One method per event. Whoever scrapes gets [`Metrics::render`].

mod api_watch;
mod conntrack;
mod iptables;
#[cfg(test)]
mod monitoring;
mod node;
mod series;

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use netlink::Family;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::registry::Registry;

use self::api_watch::Watches;
use self::iptables::Iptables;
use self::series::{Series, by_family};
use super::ip_family;
use crate::config::Mode;

/// Appends samples that are read at scrape time.
pub type ScrapeHook = Box<dyn Fn(&mut String) + Send + Sync>;

/// The metrics of one daemon. Clones share their values.
#[derive(Clone)]
pub struct Metrics {
    shared: Arc<Shared>,
}

struct Shared {
    series: Series,
    watches: Watches,
    node: node::NodeSeries,
    registry: Registry,
    /// In iptables mode alone.
    iptables: Option<Iptables>,
    hook: RwLock<Option<ScrapeHook>>,
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new(Mode::default())
    }
}

impl Metrics {
    /// Metrics of a mode, without any event yet.
    pub fn new(mode: Mode) -> Metrics {
        Metrics::with_sysctls(conntrack::from_proc, mode)
    }

    fn with_sysctls(read: conntrack::Read, mode: Mode) -> Metrics {
        let (series, mut registry) = Series::register(read);
        let iptables = (mode == Mode::Iptables).then(|| Iptables::register(&mut registry));
        let watches = Watches::register(&mut registry);
        let node = node::NodeSeries::register(&mut registry);
        let hook = RwLock::new(None);
        Metrics { shared: Arc::new(Shared { series, watches, node, registry, iptables, hook }) }
    }

    fn series(&self) -> &Series {
        &self.shared.series
    }

    /// A sync was requested now: `sync_proxy_rules_last_queued_timestamp_seconds`.
    pub fn sync_queued(&self, family: Family) {
        self.series().last_queued.get_or_create(&by_family(family)).set(unix_now());
    }

    /// A sync succeeded now, after `duration`; `full` if it did not only look at what had changed.
    pub fn sync_finished(&self, family: Family, full: bool, duration: Duration) {
        let (series, labels) = (self.series(), by_family(family));
        let seconds = duration.as_secs_f64();
        series.sync_duration.get_or_create(&labels).observe(seconds);
        let kind = if full { &series.full_sync_duration } else { &series.partial_sync_duration };
        kind.get_or_create(&labels).observe(seconds);
        series.last_synced.get_or_create(&labels).set(unix_now());
    }

    /// A sync failed: `sync_proxy_rules_nftables_sync_failures_total`, or for iptables
    /// `sync_proxy_rules_iptables_restore_failures_total`; `partial` if it was about what had changed alone.
    pub fn sync_failed(&self, family: Family, partial: bool) {
        if let Some(iptables) = &self.shared.iptables {
            return iptables.failed(family, partial);
        }
        self.series().sync_failures.get_or_create(&by_family(family)).inc();
    }

    /// What was left over could not be removed: `sync_proxy_rules_nftables_cleanup_failures_total`.
    pub fn cleanup_failed(&self, family: Family) {
        self.series().cleanup_failures.get_or_create(&by_family(family)).inc();
    }

    /// Seconds from a change of a Service or Pod
    /// (`endpoints.kubernetes.io/last-change-trigger-time`) until it was in force here.
    pub fn programming_latency(&self, family: Family, seconds: f64) {
        self.series().programming_latency.get_or_create(&by_family(family)).observe(seconds);
    }

    /// How many services have a Local policy and no local endpoint, by policy.
    pub fn no_local_endpoints(&self, family: Family, internal: usize, external: usize) {
        for (policy, count) in [("internal", internal), ("external", external)] {
            let labels = [("ip_family", ip_family(family)), ("traffic_policy", policy)];
            self.series().no_local_endpoints.get_or_create(&labels).set(gauge(count));
        }
    }

    /// How many changes wait for the next sync.
    pub fn changes_pending(&self, services: usize, endpoints: usize) {
        self.series().service_changes_pending.set(gauge(services));
        self.series().endpoint_changes_pending.set(gauge(endpoints));
    }

    /// So many more changes were received.
    pub fn changes_seen(&self, services: u64, endpoints: u64) {
        self.series().service_changes.inc_by(services);
        self.series().endpoint_changes.inc_by(endpoints);
    }

    /// Conntrack was searched for stale UDP flows, and so many were deleted.
    pub fn conntrack_reconciled(&self, family: Family, duration: Duration, deleted: u64) {
        let (series, labels) = (self.series(), by_family(family));
        series.conntrack_duration.get_or_create(&labels).observe(duration.as_secs_f64());
        series.conntrack_deleted.get_or_create(&labels).inc_by(deleted);
    }

    /// /healthz was answered.
    pub fn healthz_answered(&self, code: u16) {
        self.series().healthz.get_or_create(&[("code", code)]).inc();
    }

    /// /livez was answered.
    pub fn livez_answered(&self, code: u16) {
        self.series().livez.get_or_create(&[("code", code)]).inc();
    }

    /// What is programmed: `viaduct_service_ports` and `viaduct_endpoints`.
    pub fn programmed(&self, family: Family, service_ports: usize, endpoints: usize) {
        let (series, labels) = (self.series(), by_family(family));
        series.service_ports.get_or_create(&labels).set(gauge(service_ports));
        series.endpoints.get_or_create(&labels).set(gauge(endpoints));
    }

    /// The rules of a table of iptables: `sync_proxy_rules_iptables_total`, and `…_last` for what the last sync wrote.
    pub fn iptables_rules(&self, family: Family, table: &'static str, all: usize, last: usize) {
        if let Some(iptables) = &self.shared.iptables {
            iptables.rules(family, table, all, last);
        }
    }

    /// The kernel took transactions that added or removed `elements` in `bytes` of messages; for iptables
    /// these are tables, lines and text.
    pub fn committed(&self, transactions: u64, elements: u64, bytes: u64) {
        let series = self.series();
        if let Some(iptables) = &self.shared.iptables {
            series.sync_bytes.inc_by(bytes);
            return iptables.committed(transactions, elements);
        }
        series.transactions.inc_by(transactions);
        series.elements_written.inc_by(elements);
        series.sync_bytes.inc_by(bytes);
    }

    /// Something in our tables that someone else had changed was put back.
    pub fn drift_repaired(&self) {
        self.series().drift_repairs.inc();
    }

    /// How many documents are in error now, so that their last good state is in force.
    pub fn source_errors(&self, documents: usize) {
        self.series().source_errors.set(gauge(documents));
    }

    /// Sets what adds samples at each scrape, in place of what did before. It writes whole lines of
    /// the OpenMetrics text format (of the types `counter`, `gauge` and `histogram`, so that older
    /// parsers follow) without `# EOF`, and may take its time: scrapes run on a thread of their
    /// own.
    pub fn set_scrape_hook(&self, hook: ScrapeHook) {
        *self.shared.hook.write().unwrap_or_else(PoisonError::into_inner) = Some(hook);
    }

    /// All metrics as OpenMetrics text, which is also valid in Prometheus' older text format. Reads
    /// files and calls the scrape hook, so it may block.
    pub fn render(&self) -> String {
        let mut text = String::new();
        if let Err(error) = encode_registry(&mut text, &self.shared.registry) {
            tracing::error!("cannot encode the metrics: {error}");
        }
        if let Some(hook) = &*self.shared.hook.read().unwrap_or_else(PoisonError::into_inner) {
            hook(&mut text);
            if !text.ends_with('\n') {
                text.push('\n');
            }
        }
        // Writing to a String does not fail.
        let _ = encode_eof(&mut text);
        text
    }
}

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn unix_now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn metrics() -> Metrics {
        Metrics::with_sysctls(|_| None, Mode::Nftables)
    }

    /// The value of one sample.
    fn value(text: &str, sample: &str) -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {sample} in\n{text}")).parse().unwrap()
    }

    fn sample_names(text: &str) -> BTreeSet<&str> {
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        samples.map(|line| line.split(['{', ' ']).next().unwrap()).collect()
    }

    pub(super) fn one_of_each_event(metrics: &Metrics) {
        metrics.node_repaired("bridge");
        metrics.network_problems("overlay", 2);
        metrics.unenforced_policies(3);
        metrics.sync_queued(Family::V4);
        metrics.sync_finished(Family::V4, true, Duration::from_millis(3));
        metrics.sync_finished(Family::V6, false, Duration::from_millis(5));
        metrics.sync_failed(Family::V6, false);
        metrics.cleanup_failed(Family::V4);
        metrics.programming_latency(Family::V4, 0.3);
        metrics.no_local_endpoints(Family::V4, 2, 3);
        metrics.changes_pending(4, 5);
        metrics.changes_seen(6, 7);
        metrics.conntrack_reconciled(Family::V6, Duration::from_millis(1), 8);
        metrics.healthz_answered(503);
        metrics.livez_answered(200);
        metrics.programmed(Family::V4, 9, 10);
        metrics.committed(1, 11, 12);
        metrics.drift_repaired();
        metrics.source_errors(13);
        metrics.watch_up("Node", true);
        metrics.watch_failed("Node");
    }

    #[test]
    fn iptables_mode_has_its_own() {
        let metrics = Metrics::with_sysctls(|_| None, Mode::Iptables);
        one_of_each_event(&metrics);
        metrics.sync_failed(Family::V6, true);
        metrics.iptables_rules(Family::V4, "nat", 20, 3);
        let text = metrics.render();
        let failures =
            "kubeproxy_sync_proxy_rules_iptables_restore_failures_total{ip_family=\"IPv6\"}";
        assert_eq!(value(&text, failures), 2.0);
        let partial = failures.replace("_restore_", "_partial_restore_");
        assert_eq!(value(&text, &partial), 1.0);
        let rules = "kubeproxy_sync_proxy_rules_iptables_total{ip_family=\"IPv4\",table=\"nat\"}";
        assert_eq!(value(&text, rules), 20.0);
        assert_eq!(value(&text, "viaduct_iptables_lines_written_total"), 11.0);
        assert!(!text.contains("nftables_sync_failures_total"), "{text}");
    }

    #[test]
    fn metrics_with_labels_have_no_series_before_their_first_event() {
        let text = metrics().render();
        let expected = BTreeSet::from([
            "kubeproxy_sync_proxy_rules_endpoint_changes_pending",
            "kubeproxy_sync_proxy_rules_endpoint_changes_total",
            "kubeproxy_sync_proxy_rules_service_changes_pending",
            "kubeproxy_sync_proxy_rules_service_changes_total",
            "viaduct_build_info",
            "viaduct_drift_repairs_total",
            "viaduct_nftables_elements_written_total",
            "viaduct_nftables_transactions_total",
            "viaduct_source_errors",
            "viaduct_sync_bytes_total",
            "viaduct_unenforced_policies",
        ]);
        assert_eq!(sample_names(&text), expected);
    }

    #[test]
    fn each_event_has_its_sample() {
        let metrics = metrics();
        one_of_each_event(&metrics);
        let text = metrics.render();
        let v4 = "{ip_family=\"IPv4\"}";
        let v6 = "{ip_family=\"IPv6\"}";
        let k = |name: &str| format!("kubeproxy_{name}");
        let cases = [
            (k("sync_proxy_rules_duration_seconds_count") + v4, 1.0),
            (k("sync_full_proxy_rules_duration_seconds_sum") + v4, 0.003),
            (k("sync_partial_proxy_rules_duration_seconds_sum") + v6, 0.005),
            (k("sync_proxy_rules_nftables_sync_failures_total") + v6, 1.0),
            (k("sync_proxy_rules_nftables_cleanup_failures_total") + v4, 1.0),
            (k("network_programming_duration_seconds_sum") + v4, 0.3),
            (k("sync_proxy_rules_service_changes_pending"), 4.0),
            (k("sync_proxy_rules_endpoint_changes_pending"), 5.0),
            (k("sync_proxy_rules_service_changes_total"), 6.0),
            (k("sync_proxy_rules_endpoint_changes_total"), 7.0),
            (k("conntrack_reconciler_sync_duration_seconds_count") + v6, 1.0),
            (k("conntrack_reconciler_deleted_entries_total") + v6, 8.0),
            (k("proxy_healthz_total") + "{code=\"503\"}", 1.0),
            (k("proxy_livez_total") + "{code=\"200\"}", 1.0),
            ("viaduct_service_ports".to_owned() + v4, 9.0),
            ("viaduct_endpoints".to_owned() + v4, 10.0),
            ("viaduct_nftables_transactions_total".to_owned(), 1.0),
            ("viaduct_nftables_elements_written_total".to_owned(), 11.0),
            ("viaduct_sync_bytes_total".to_owned(), 12.0),
            ("viaduct_drift_repairs_total".to_owned(), 1.0),
            ("viaduct_source_errors".to_owned(), 13.0),
            ("viaduct_node_repairs_total{object=\"bridge\"}".to_owned(), 1.0),
            ("viaduct_network_problems{part=\"overlay\"}".to_owned(), 2.0),
            ("viaduct_unenforced_policies".to_owned(), 3.0),
            ("viaduct_api_watch_up{kind=\"Node\"}".to_owned(), 1.0),
            ("viaduct_api_watch_errors_total{kind=\"Node\"}".to_owned(), 1.0),
        ];
        for (sample, expected) in cases {
            assert_eq!(value(&text, &sample), expected, "{sample}");
        }
        for (policy, expected) in [("internal", 2.0), ("external", 3.0)] {
            let labels = format!("{{ip_family=\"IPv4\",traffic_policy=\"{policy}\"}}");
            let sample = k("sync_proxy_rules_no_local_endpoints_total") + &labels;
            assert_eq!(value(&text, &sample), expected);
        }
        for name in ["last_timestamp_seconds", "last_queued_timestamp_seconds"] {
            let sample = k("sync_proxy_rules_") + name + v4;
            assert!(value(&text, &sample) > 1.7e9, "{sample} is not the time");
        }
        assert!(!text.contains("sync_full_proxy_rules_duration_seconds_count{ip_family=\"IPv6\"}"));
    }

    #[test]
    fn buckets_are_kube_proxys() {
        let metrics = metrics();
        one_of_each_event(&metrics);
        let text = metrics.render();
        let bounds = |name: &str| -> Vec<f64> {
            let prefix = format!("kubeproxy_{name}_bucket{{");
            let lines = text.lines().filter(|line| line.starts_with(&prefix));
            let bound = |line: &str| line.split("le=\"").nth(1)?.split('"').next()?.parse().ok();
            lines.filter(|line| line.contains("IPv4")).map(|line| bound(line).unwrap()).collect()
        };
        let sync = bounds("sync_proxy_rules_duration_seconds");
        assert_eq!((sync.len(), sync[0], sync[14]), (16, 0.001, 16.384));
        assert_eq!(sync[15], f64::INFINITY);
        let latency = bounds("network_programming_duration_seconds");
        assert_eq!(latency.len(), 2 + 59 + 12 + 7 + 1);
        assert_eq!(latency[..4], [0.25, 0.5, 1.0, 2.0]);
        assert_eq!(latency[60..63], [59.0, 60.0, 65.0]);
        assert_eq!(latency[72..75], [115.0, 120.0, 150.0]);
        assert_eq!(latency[79..], [300.0, f64::INFINITY]);
    }

    #[test]
    fn the_text_suits_both_generations_of_parsers() {
        let metrics = Metrics::with_sysctls(|_| Some(1), Mode::Nftables);
        one_of_each_event(&metrics);
        let text = metrics.render();
        assert!(text.ends_with("\n# EOF\n"));
        let mut families = BTreeSet::new();
        for line in text.lines().filter(|line| line.starts_with("# TYPE ")) {
            let [name, kind] = line["# TYPE ".len()..].split(' ').collect::<Vec<_>>()[..] else {
                panic!("{line}")
            };
            // `info` and `unknown` are errors in the older format.
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(families.insert(name), "{name} is there twice");
            assert!(kind != "counter" || !name.ends_with("_total"), "{line} doubles its suffix");
        }
        assert!(!text.contains("_total_total") && !text.contains("_seconds_seconds"));
        assert!(text.contains(concat!(
            "\nviaduct_build_info{version=\"",
            env!("CARGO_PKG_VERSION"),
            "\"} 1\n"
        )));
    }

    #[test]
    fn conntrack_gauges_are_read_at_each_scrape_and_absent_if_unreadable() {
        let read: conntrack::Read = |name| match name {
            "net/netfilter/nf_conntrack_count" => Some(17),
            _ => None,
        };
        let text = Metrics::with_sysctls(read, Mode::Nftables).render();
        assert_eq!(value(&text, "viaduct_conntrack_entries"), 17.0);
        assert!(!text.contains("viaduct_conntrack_max"), "{text}");
    }

    #[test]
    fn the_hook_writes_before_the_end() {
        let metrics = metrics();
        metrics.set_scrape_hook(Box::new(|text| text.push_str("viaduct_service_packets_total 5")));
        assert!(metrics.clone().render().ends_with("\nviaduct_service_packets_total 5\n# EOF\n"));
    }
}
