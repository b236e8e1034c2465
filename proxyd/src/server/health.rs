//! Whether the proxy keeps up, as kube-proxy defines it for /healthz and /livez (KEP-3836).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use netlink::Family;
use serde::Serialize;

use super::clock::{self, Clock, Moment};
use super::{ScrapeHook, ip_family};

/// Go's zero time, which kube-proxy prints for what has not happened yet.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// Health of the proxy: the dataplane thread reports, the servers ask.
///
/// Starts healthy and with the node eligible.
#[derive(Clone)]
pub struct Health {
    shared: Arc<Shared>,
}

struct Shared {
    timeout: Duration,
    clock: Clock,
    state: Mutex<State>,
}

struct State {
    node_eligible: bool,
    families: BTreeMap<Family, Progress>,
    /// Parts that were told of: in place, or why not.
    parts: BTreeMap<&'static str, Result<(), String>>,
}

#[derive(Default)]
struct Progress {
    oldest_queued: Option<Instant>,
    last_updated: Option<SystemTime>,
}

/// The body of /healthz and /livez.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HealthReport {
    /// RFC 3339. The current time if all is well, else the last sync of any family.
    pub last_updated: String,
    /// RFC 3339.
    pub current_time: String,
    /// False once the node is about to go away. Only in /healthz.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_eligible: Option<bool>,
    /// Every family keeps up; says nothing about the node.
    pub healthy: bool,
    /// By `IPv4` and `IPv6`.
    pub status: BTreeMap<&'static str, FamilyReport>,
}

/// One family's part of a [`HealthReport`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FamilyReport {
    /// RFC 3339; Go's zero time before the first sync.
    pub last_updated: String,
    /// No change waits for longer than the limit.
    pub healthy: bool,
}

impl HealthReport {
    /// Whether the answer is 200, else 503.
    pub fn ok(&self) -> bool {
        self.healthy && self.node_eligible != Some(false)
    }
}

impl Health {
    /// Health of a proxy that serves `families` and is to apply a change within twice
    /// `sync_period`.
    pub fn new(families: &[Family], sync_period: Duration) -> Health {
        Health::with_clock(families, sync_period, clock::system())
    }

    /// [`Health::new`] with another clock.
    pub fn with_clock(families: &[Family], sync_period: Duration, clock: Clock) -> Health {
        let families = families.iter().map(|&family| (family, Progress::default())).collect();
        let state = Mutex::new(State { node_eligible: true, families, parts: BTreeMap::new() });
        Health { shared: Arc::new(Shared { timeout: sync_period * 2, clock, state }) }
    }

    /// A change was queued now. Of several that wait, the oldest counts.
    pub fn queued(&self, family: Family) {
        let now = (self.shared.clock)().monotonic;
        if let Some(progress) = self.state().families.get_mut(&family) {
            progress.oldest_queued.get_or_insert(now);
        }
    }

    /// A sync finished: nothing waits any more.
    pub fn updated(&self, family: Family) {
        let now = (self.shared.clock)().wall;
        if let Some(progress) = self.state().families.get_mut(&family) {
            *progress = Progress { oldest_queued: None, last_updated: Some(now) };
        }
    }

    /// False when the node is about to go: its Node is being deleted, or has the taint
    /// `ToBeDeletedByClusterAutoscaler`.
    pub fn set_node_eligible(&self, eligible: bool) {
        self.state().node_eligible = eligible;
    }

    /// Whether every family keeps up. The node's state does not matter here.
    pub fn is_healthy(&self) -> bool {
        let now = (self.shared.clock)();
        self.state().families.values().all(|progress| self.keeps_up(progress, now))
    }

    /// Says whether a part of what the daemon does is in place, and if not, why. Parts that were never
    /// told of are not waited for.
    pub fn set_part(&self, part: &'static str, state: Result<(), String>) {
        self.state().parts.insert(part, state);
    }

    /// What /readyz answers: parts that are not in place, with the reason.
    pub fn missing(&self) -> Vec<String> {
        let state = self.state();
        let missing =
            state.parts.iter().filter_map(|(part, state)| Some((part, state.as_ref().err()?)));
        missing.map(|(part, why)| format!("{part}: {why}")).collect()
    }

    /// The same as a metric: `viaduct_ready`, 1 or 0 for each part that this daemon has.
    pub fn scrape_hook(&self) -> ScrapeHook {
        let health = self.clone();
        Box::new(move |text| {
            text.push_str(
                "# HELP viaduct_ready Whether a part of what the daemon does is in place.\n",
            );
            text.push_str("# TYPE viaduct_ready gauge\n");
            for (part, state) in &health.state().parts {
                let ready = u8::from(state.is_ok());
                // Writing to a String does not fail.
                let _ = writeln!(text, "viaduct_ready{{part=\"{part}\"}} {ready}");
            }
        })
    }

    /// What /healthz answers: the proxy and the node.
    pub fn healthz(&self) -> HealthReport {
        let node_eligible = self.state().node_eligible;
        self.report(Some(node_eligible))
    }

    /// What /livez answers: the proxy alone.
    pub fn livez(&self) -> HealthReport {
        self.report(None)
    }

    fn report(&self, node_eligible: Option<bool>) -> HealthReport {
        let now = (self.shared.clock)();
        let state = self.state();
        let time = |time: Option<SystemTime>| time.map_or_else(|| NEVER.to_owned(), clock::rfc3339);
        let status: BTreeMap<_, _> = state
            .families
            .iter()
            .map(|(&family, progress)| {
                let healthy = self.keeps_up(progress, now);
                let last_updated = time(progress.last_updated);
                (ip_family(family), FamilyReport { last_updated, healthy })
            })
            .collect();
        let last_updated = state.families.values().filter_map(|p| p.last_updated).max();
        let mut report = HealthReport {
            last_updated: time(last_updated),
            current_time: clock::rfc3339(now.wall),
            node_eligible,
            healthy: status.values().all(|family| family.healthy),
            status,
        };
        // Old kube-proxies synced even if nothing had changed; who compares the two times still
        // expects a recent one while all is well.
        if report.ok() {
            report.last_updated.clone_from(&report.current_time);
        }
        report
    }

    fn keeps_up(&self, progress: &Progress, now: Moment) -> bool {
        progress
            .oldest_queued
            .is_none_or(|queued| now.monotonic.duration_since(queued) < self.shared.timeout)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code that holds the lock leaves the state half changed.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::server::testing::FakeClock;

    const PERIOD: Duration = Duration::from_secs(30);

    fn dual_stack() -> (Health, FakeClock) {
        let clock = FakeClock::new();
        (Health::with_clock(&[Family::V4, Family::V6], PERIOD, clock.clock()), clock)
    }

    #[test]
    fn a_change_that_waits_for_two_periods_is_unhealthy_until_a_sync() {
        let (health, clock) = dual_stack();
        clock.advance(PERIOD * 100);
        assert!(health.is_healthy(), "nothing is queued");
        health.queued(Family::V6);
        clock.advance(PERIOD);
        health.queued(Family::V6);
        clock.advance(PERIOD - Duration::from_secs(1));
        assert!(health.is_healthy(), "one second short of the limit");
        clock.advance(Duration::from_secs(1));
        assert!(!health.is_healthy(), "the first queued change counts, not the second");
        health.updated(Family::V4);
        assert!(!health.is_healthy(), "the other family's sync does not help");
        health.updated(Family::V6);
        assert!(health.is_healthy());
        clock.advance(PERIOD * 100);
        assert!(health.is_healthy());
    }

    #[test]
    fn a_node_that_leaves_fails_healthz_alone() {
        let (health, _) = dual_stack();
        assert!(health.healthz().ok());
        health.set_node_eligible(false);
        assert!(!health.healthz().ok());
        assert!(health.livez().ok());
        assert!(health.is_healthy());
        health.set_node_eligible(true);
        assert!(health.healthz().ok());
    }

    #[test]
    fn reports_have_kube_proxys_form() {
        let (health, clock) = dual_stack();
        health.updated(Family::V4);
        health.queued(Family::V6);
        clock.advance(PERIOD * 2);
        let report = json!({
            "lastUpdated": "1970-01-01T00:00:00.000000Z",
            "currentTime": "1970-01-01T00:01:00.000000Z",
            "nodeEligible": true,
            "healthy": false,
            "status": {
                "IPv4": {"lastUpdated": "1970-01-01T00:00:00.000000Z", "healthy": true},
                "IPv6": {"lastUpdated": NEVER, "healthy": false},
            },
        });
        assert_eq!(serde_json::to_value(health.healthz()).unwrap(), report);

        health.updated(Family::V6);
        clock.advance(PERIOD);
        let report = json!({
            "lastUpdated": "1970-01-01T00:01:30.000000Z",
            "currentTime": "1970-01-01T00:01:30.000000Z",
            "healthy": true,
            "status": {
                "IPv4": {"lastUpdated": "1970-01-01T00:00:00.000000Z", "healthy": true},
                "IPv6": {"lastUpdated": "1970-01-01T00:01:00.000000Z", "healthy": true},
            },
        });
        assert_eq!(serde_json::to_value(health.livez()).unwrap(), report);
    }

    #[test]
    fn readiness_is_told_of_each_part_that_there_is_in_words_and_as_a_metric() {
        let (health, _) = dual_stack();
        let samples = || {
            let mut text = String::new();
            health.scrape_hook()(&mut text);
            let samples = text.lines().filter(|line| !line.starts_with('#'));
            samples.map(str::to_owned).collect::<Vec<_>>()
        };
        assert!(samples().is_empty() && health.missing().is_empty());
        health.set_part("services", Err("not programmed yet".to_owned()));
        health.set_part("network", Ok(()));
        let expected =
            [r#"viaduct_ready{part="network"} 1"#, r#"viaduct_ready{part="services"} 0"#];
        assert_eq!(samples(), expected);
        assert_eq!(health.missing(), ["services: not programmed yet"]);
        health.set_part("services", Ok(()));
        assert_eq!(samples()[1], r#"viaduct_ready{part="services"} 1"#);
        assert!(health.missing().is_empty());
    }

    #[test]
    fn a_family_that_is_not_served_does_not_count() {
        let clock = FakeClock::new();
        let health = Health::with_clock(&[Family::V4], PERIOD, clock.clock());
        health.queued(Family::V6);
        clock.advance(PERIOD * 3);
        assert!(health.is_healthy());
        assert_eq!(health.livez().status.keys().collect::<Vec<_>>(), [&"IPv4"]);
    }
}
