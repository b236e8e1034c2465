//! What only iptables mode counts.

use netlink::Family as IpFamily;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::series::by_family;
use crate::server::ip_family;

type ByTable = Family<[(&'static str, &'static str); 2], Gauge>;
type ByFamily = Family<[(&'static str, &'static str); 1], Counter>;

/// Where the events of iptables mode are counted: kube-proxy's names, and ours.
#[derive(Default)]
pub(super) struct Iptables {
    failures: ByFamily,
    partial_failures: ByFamily,
    rules: ByTable,
    last: ByTable,
    lines: Counter,
    commits: Counter,
}

impl Iptables {
    pub(super) fn register(registry: &mut Registry) -> Iptables {
        let all = Iptables::default();
        let kube_proxy = registry.sub_registry_with_prefix("kubeproxy");
        kube_proxy.register(
            "sync_proxy_rules_iptables_restore_failures",
            "Cumulative proxy iptables restore failures",
            all.failures.clone(),
        );
        kube_proxy.register(
            "sync_proxy_rules_iptables_partial_restore_failures",
            "Cumulative proxy iptables partial restore failures",
            all.partial_failures.clone(),
        );
        kube_proxy.register(
            "sync_proxy_rules_iptables_total",
            "Total number of iptables rules owned by the proxy",
            all.rules.clone(),
        );
        kube_proxy.register(
            "sync_proxy_rules_iptables_last",
            "Number of iptables rules written by the proxy in the last sync",
            all.last.clone(),
        );
        let viaduct = registry.sub_registry_with_prefix("viaduct");
        viaduct.register(
            "iptables_lines_written",
            "Rules and chains added or removed by iptables-restore",
            all.lines.clone(),
        );
        viaduct.register(
            "iptables_tables_committed",
            "Tables that iptables-restore committed",
            all.commits.clone(),
        );
        all
    }

    pub(super) fn failed(&self, family: IpFamily, partial: bool) {
        self.failures.get_or_create(&by_family(family)).inc();
        if partial {
            self.partial_failures.get_or_create(&by_family(family)).inc();
        }
    }

    pub(super) fn committed(&self, commits: u64, lines: u64) {
        self.commits.inc_by(commits);
        self.lines.inc_by(lines);
    }

    pub(super) fn rules(&self, family: IpFamily, table: &'static str, all: usize, last: usize) {
        let labels = [("ip_family", ip_family(family)), ("table", table)];
        self.rules.get_or_create(&labels).set(all as i64);
        self.last.get_or_create(&labels).set(last as i64);
    }
}
