//! Metrics from the kernel's counters, read at each scrape.
//!
//! An element's counter begins anew when its frontend changes. So what was counted is added up here:
//! what is lost is what came between the last scrape and the change.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use netlink::Family;

use super::Event;
use crate::cluster::ServicePortName;
use crate::dataplane::nftables::{Counted, Counters, Reason};
use crate::service::FrontendKey;

/// How long the dataplane thread may take to tell whose the frontends are.
const ANSWER: Duration = Duration::from_secs(5);

/// Adds up counters that begin anew now and then.
#[derive(Default)]
struct Sums {
    seen: HashMap<(FrontendKey, Counted), u64>,
    services: HashMap<(ServicePortName, Counted), u64>,
    verdicts: HashMap<(Family, Reason), (u64, u64)>,
}

/// What a counter has counted since it was seen last.
pub(super) fn grown(before: u64, now: u64) -> u64 {
    if now >= before { now - before } else { now }
}

impl Sums {
    /// Takes in what was read; `owners` are those of the frontends, in their order.
    fn add(&mut self, counters: Counters, owners: Vec<Option<ServicePortName>>) {
        let mut seen = HashMap::new();
        for ((key, counted, now), owner) in counters.frontends.into_iter().zip(owners) {
            let before = self.seen.get(&(key, counted)).copied().unwrap_or(0);
            seen.insert((key, counted), now);
            if let Some(owner) = owner {
                *self.services.entry((owner, counted)).or_default() += grown(before, now);
            }
        }
        self.seen = seen;
        for (key, now) in counters.verdicts {
            let (before, sum) = self.verdicts.entry(key).or_default();
            *sum += grown(*before, now);
            *before = now;
        }
    }

    /// Services that are no more are not told of for ever.
    fn retain(&mut self, exists: impl Fn(&ServicePortName) -> bool) {
        self.services.retain(|(owner, _), _| exists(owner));
    }

    fn write(&self, text: &mut String) {
        let mut services: Vec<_> = self.services.iter().collect();
        services.sort();
        for (counted, name, help) in [
            (Counted::Connections, "service_connections", "Connections that got an endpoint"),
            (Counted::Refused, "service_refused_packets", "Packets to a Service without endpoints"),
        ] {
            header(text, name, help);
            for ((owner, _), sum) in services.iter().filter(|((_, of), _)| *of == counted) {
                let ServicePortName { service, port, protocol } = owner;
                let _ = writeln!(
                    text,
                    "viaduct_{name}_total{{namespace=\"{}\",service=\"{}\",port=\"{port}\",protocol=\"{protocol}\"}} {sum}",
                    service.namespace, service.name,
                );
            }
        }
        header(text, "verdict_packets", "Packets that were refused or dropped");
        let mut verdicts: Vec<_> = self.verdicts.iter().collect();
        verdicts.sort_by_key(|((family, reason), _)| (family.to_string(), *reason));
        for ((family, reason), (_, sum)) in verdicts {
            let (verdict, reason) = words(*reason);
            let _ = writeln!(
                text,
                "viaduct_verdict_packets_total{{ip_family=\"{family}\",verdict=\"{verdict}\",reason=\"{reason}\"}} {sum}"
            );
        }
    }
}

pub(super) fn header(text: &mut String, name: &str, help: &str) {
    let _ = writeln!(text, "# HELP viaduct_{name} {help}.\n# TYPE viaduct_{name} counter");
}

fn words(reason: Reason) -> (&'static str, &'static str) {
    match reason {
        Reason::NoEndpoints => ("rejected", "no_endpoints"),
        Reason::NoLocalEndpoints => ("dropped", "no_local_endpoints"),
        Reason::UnknownPort => ("rejected", "unknown_port"),
        Reason::UnallocatedAddress => ("dropped", "unallocated_address"),
        Reason::SourceRanges => ("dropped", "source_ranges"),
        Reason::Invalid => ("dropped", "invalid"),
    }
}

/// Whose frontends these are, and which of these Service ports are still there.
#[derive(Debug, Default)]
pub struct Owners {
    /// In the order of the frontends.
    pub of: Vec<Option<ServicePortName>>,
    /// In the order of the Service ports.
    pub exist: Vec<bool>,
}

/// What [`crate::server::Metrics`] calls at each scrape.
pub(crate) fn scrape_hook(events: Sender<Event>) -> crate::server::ScrapeHook {
    let state = Mutex::new((Sums::default(), events));
    Box::new(move |text| {
        // What is behind it is plain data: whoever panicked left it whole.
        let (sums, events) = &mut *state.lock().unwrap_or_else(PoisonError::into_inner);
        let counters = match Counters::read() {
            Ok(counters) => counters,
            Err(error) => {
                tracing::warn!("{error}: the metrics lack the kernel's counters");
                return sums.write(text);
            }
        };
        let frontends = counters.frontends.iter().map(|(key, ..)| *key).collect();
        let services: Vec<_> = sums.services.keys().map(|(owner, _)| owner.clone()).collect();
        let (answer, received) = channel();
        let event = Event::Owners { frontends, services: services.clone(), answer };
        let sent = events.send(event).ok().and_then(|()| received.recv_timeout(ANSWER).ok());
        if let Some(Owners { of, exist }) = sent {
            let gone: Vec<_> =
                services.iter().zip(exist).filter(|(_, exists)| !exists).map(|(s, _)| s).collect();
            sums.retain(|owner| !gone.contains(&owner));
            sums.add(counters, of);
        }
        sums.write(text);
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{Protocol, ServiceName};
    use crate::service::Address;

    fn counters(packets: u64) -> Counters {
        let key = FrontendKey {
            address: Address::Ip([10, 96, 0, 1].into()),
            protocol: Protocol::Tcp,
            port: 80,
        };
        Counters {
            frontends: vec![(key, Counted::Connections, packets)],
            verdicts: [((Family::V4, Reason::Invalid), packets)].into(),
        }
    }

    #[test]
    fn a_counter_that_begins_anew_goes_on() {
        let service = ServiceName { namespace: "default".into(), name: "web".into() };
        let owner = ServicePortName { service, port: "http".into(), protocol: Protocol::Tcp };
        let mut sums = Sums::default();
        for packets in [5, 7, 2] {
            sums.add(counters(packets), vec![Some(owner.clone())]);
        }
        let mut text = String::new();
        sums.write(&mut text);
        let of = "namespace=\"default\",service=\"web\",port=\"http\",protocol=\"tcp\"";
        assert!(text.contains(&format!("viaduct_service_connections_total{{{of}}} 9\n")), "{text}");
        let of = "ip_family=\"IPv4\",verdict=\"dropped\",reason=\"invalid\"";
        assert!(text.contains(&format!("viaduct_verdict_packets_total{{{of}}} 9\n")), "{text}");
        sums.retain(|_| false);
        let mut text = String::new();
        sums.write(&mut text);
        assert!(!text.contains("web"), "{text}");
    }
}
