//! When the next sync is due.

use std::time::{Duration, Instant};

use super::Engine;
use crate::dataplane::FAMILIES;

/// Under churn at most a third of the time is spent on syncs, and no change waits longer than this.
const LONGEST_WAIT: Duration = Duration::from_millis(100);
const SYNC_SHARE: u32 = 2;

impl Engine {
    /// When the next sync may be, if there is something to do.
    fn due_at(&self, now: Instant) -> Option<Instant> {
        let Some(retry_at) = self.retry_at else {
            return if self.syncs == 0 { Some(now) } else { self.work_due_at(now) };
        };
        // One family does not wait for the other.
        let other = self.failing.len() < FAMILIES.len();
        let work = if other { self.work_due_at(now) } else { None };
        work.into_iter().chain([retry_at]).min()
    }

    fn work_due_at(&self, now: Instant) -> Option<Instant> {
        if !self.drift.is_empty() {
            return Some(now);
        }
        self.changes_due_at(now).into_iter().chain(self.remove_at).min()
    }

    fn changes_due_at(&self, now: Instant) -> Option<Instant> {
        let dirty = self.cluster.dirty();
        if dirty.is_empty() {
            return None;
        }
        let Some((ended, took)) = self.last else { return Some(now) };
        if let Some(period) = self.config.min_sync_period {
            return Some(ended + period);
        }
        if dirty.removal {
            return Some(now);
        }
        Some(ended + (took * SYNC_SHARE).min(LONGEST_WAIT))
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.due_at(now).is_some_and(|at| at <= now)
    }

    /// How long to wait for events, if none comes.
    pub(super) fn patience(&self, complete: bool) -> Duration {
        let now = Instant::now();
        let due = if complete { self.due_at(now) } else { None };
        let due = due.into_iter().chain(self.sums_at).chain(self.compare_at);
        let due = due.chain(self.dataplane.look_at()).min();
        due.map_or(self.config.sync_period, |at| at.saturating_duration_since(now))
    }
}
