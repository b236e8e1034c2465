//! How full the conntrack table is, read at each scrape.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

/// Reads a number under `/proc/sys`; none if the kernel lacks it or it cannot be read.
pub(super) type Read = fn(&str) -> Option<u64>;

/// The real files, of this network namespace.
pub(super) fn from_proc(name: &str) -> Option<u64> {
    netlink::sysctl::read(name).ok()?.parse().ok()
}

/// The two gauges.
#[derive(Debug)]
pub(super) struct Usage(pub(super) Read);

impl Collector for Usage {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let gauges = [
            ("entries", "Connections that are tracked now", "net/netfilter/nf_conntrack_count"),
            ("max", "Connections that can be tracked", "net/netfilter/nf_conntrack_max"),
        ];
        for (name, help, file) in gauges {
            if let Some(value) = (self.0)(file) {
                let name = format!("conntrack_{name}");
                let metric = encoder.encode_descriptor(&name, help, None, MetricType::Gauge)?;
                ConstGauge::new(value).encode(metric)?;
            }
        }
        Ok(())
    }
}
