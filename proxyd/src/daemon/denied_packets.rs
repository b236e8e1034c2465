//! Metrics of denied packets, from the kernel's counters, read at each scrape.
//!
//! A chain's counter begins anew when the chain is written anew, so what was counted is added up here.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};

use netpol::model::Direction;

use super::counters::{grown, header};
use crate::dataplane::policy::{Denied, denied};
use crate::server::ScrapeHook;

#[derive(Default)]
struct Sums {
    /// By the chain's name and its policies.
    seen: HashMap<(String, String), u64>,
    /// By direction, and by the policies that the pods have in common.
    sums: BTreeMap<(&'static str, String), u64>,
    /// What the counters of source addresses showed last, by table, and their sum.
    sources: ([u64; 2], u64),
}

impl Sums {
    fn add(&mut self, all: Vec<Denied>) {
        let (mut seen, mut there) = (HashMap::new(), HashSet::new());
        for Denied { chain, direction, policies, packets } in all {
            let direction = match direction {
                Direction::Ingress => "ingress",
                Direction::Egress => "egress",
            };
            // A name may be given to the chain of other policies later.
            let known = (chain, policies.clone());
            let more = grown(self.seen.get(&known).copied().unwrap_or(0), packets);
            let key = (direction, policies);
            if more > 0 {
                *self.sums.entry(key.clone()).or_default() += more;
            }
            there.insert(key);
            seen.insert(known, packets);
        }
        self.seen = seen;
        // What no pod has any more is not told for ever.
        self.sums.retain(|key, _| there.contains(key));
    }

    fn add_sources(&mut self, now: [u64; 2]) {
        let (before, sum) = &mut self.sources;
        *sum += before.iter().zip(now).map(|(before, now)| grown(*before, now)).sum::<u64>();
        *before = now;
    }

    fn write(&self, text: &mut String) {
        header(
            text,
            "policy_denied_packets",
            "Packets that policies denied, or would deny (audit)",
        );
        for ((direction, policies), sum) in &self.sums {
            let policies = policies.replace('\\', "\\\\").replace('"', "\\\"");
            let _ = writeln!(
                text,
                "viaduct_policy_denied_packets_total{{direction=\"{direction}\",policies=\"{policies}\"}} {sum}"
            );
        }
        let help = "Packets of pods that were not from an address of the pod";
        header(text, "source_address_denied_packets", help);
        let _ = writeln!(text, "viaduct_source_address_denied_packets_total {}", self.sources.1);
    }
}

/// What [`crate::server::Metrics`] calls at each scrape.
pub(crate) fn scrape_hook() -> ScrapeHook {
    let state = Mutex::new(Sums::default());
    Box::new(move |text| {
        // What is behind it is plain data: whoever panicked left it whole.
        let mut sums = state.lock().unwrap_or_else(PoisonError::into_inner);
        match denied() {
            Ok((all, sources)) => {
                sums.add(all);
                sums.add_sources(sources);
            }
            Err(error) => tracing::warn!("{error}: the metrics lack denied packets"),
        }
        sums.write(text);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_that_begin_anew_go_on() {
        let of = |chain: &str, packets| Denied {
            chain: chain.to_owned(),
            direction: Direction::Ingress,
            policies: "default/deny".to_owned(),
            packets,
        };
        let mut sums = Sums::default();
        sums.add(vec![of("to-1", 5), of("to-2", 1)]);
        sums.add(vec![of("to-1", 7)]);
        sums.add(vec![of("to-9", 2)]);
        let mut text = String::new();
        sums.write(&mut text);
        let line = "viaduct_policy_denied_packets_total{direction=\"ingress\",policies=\"default/deny\"} 10\n";
        assert!(text.contains(line), "{text}");
        sums.add(Vec::new());
        let mut text = String::new();
        sums.write(&mut text);
        assert!(!text.contains("default/deny"), "{text}");
    }

    #[test]
    fn of_two_tables_each_may_begin_anew() {
        let mut sums = Sums::default();
        [[3, 1], [4, 1], [2, 5]].into_iter().for_each(|now| sums.add_sources(now));
        let mut text = String::new();
        sums.write(&mut text);
        // 3 + 1 + 2, and 1 + 4.
        assert!(text.ends_with("viaduct_source_address_denied_packets_total 11\n"), "{text}");
    }
}
