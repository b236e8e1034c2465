//! Reports policies that exist while nothing enforces them.

use std::collections::BTreeSet;
use std::sync::Arc;

use netpol::compile::Change as PolicyChange;

use super::status::Status;
use crate::server::Metrics;

/// Counts the policies that a source has, for a daemon that enforces none.
pub(super) struct UnenforcedPolicies {
    reason: &'static str,
    names: BTreeSet<String>,
    reported: usize,
    status: Arc<Status>,
    metrics: Metrics,
}

impl UnenforcedPolicies {
    /// `reason` says which setting keeps the daemon from enforcing.
    pub(super) fn new(
        reason: &'static str,
        status: Arc<Status>,
        metrics: Metrics,
    ) -> UnenforcedPolicies {
        metrics.unenforced_policies(0);
        UnenforcedPolicies { reason, names: BTreeSet::new(), reported: 0, status, metrics }
    }

    /// Takes in changes, and reports if the number of policies changed.
    pub(super) fn apply(&mut self, changes: &[PolicyChange]) {
        for change in changes {
            let (name, exists) = match change {
                PolicyChange::Policy(name, policy) => {
                    (format!("NetworkPolicy {}/{}", name.namespace, name.name), policy.is_some())
                }
                PolicyChange::ClusterPolicy(name, policy) => {
                    (format!("ClusterNetworkPolicy {name}"), policy.is_some())
                }
                _ => continue,
            };
            if exists {
                self.names.insert(name);
            } else {
                self.names.remove(&name);
            }
        }
        self.report();
    }

    fn report(&mut self) {
        let count = self.names.len();
        if count == self.reported {
            return;
        }
        self.metrics.unenforced_policies(count);
        let sentence = self.names.first().map(|first| {
            let others = match count - 1 {
                0 => String::new(),
                others => format!(" and {others} more"),
            };
            format!("{first}{others} not enforced: {}", self.reason)
        });
        match &sentence {
            Some(sentence) => tracing::warn!("{sentence}"),
            None => tracing::info!("no policy is left that is not enforced"),
        }
        self.status.set_problems("policies", sentence.into_iter().collect());
        self.reported = count;
    }
}
