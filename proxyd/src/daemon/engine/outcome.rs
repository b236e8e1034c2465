//! What follows from a sync: what is told of it, and what others have to do about it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use netlink::{Errno, Error, Family};

use super::super::{backoff, conntrack, node};
use super::Engine;
use crate::cluster::{Dirty, Protocol, ServiceName};
use crate::dataplane::{FAMILIES, Node, NodePorts, Written, ipvs};
use crate::server::RelayTarget;
use crate::service::table::Delta;
use crate::service::{Address, FrontendKey, Resolution};
use crate::text::some_of;

/// Somebody who holds a lock lets it go soon.
const LOCKED: Duration = Duration::from_secs(4);
/// How old the sums in metrics and status may be.
const SUMS_AFTER: Duration = Duration::from_millis(200);

impl Engine {
    pub(super) fn committed(
        &mut self,
        dirty: &Dirty,
        full: bool,
        took: Duration,
        written: &Written,
    ) {
        if self.failing.is_empty() {
            self.syncs += 1;
            self.failures = 0;
            self.retry_at = None;
        }
        let in_force = FAMILIES.into_iter().filter(|family| !self.failing.contains(family));
        self.last = Some((Instant::now(), took));
        let metrics = &self.shared.metrics;
        for family in in_force.clone() {
            self.shared.health.updated(family);
            metrics.sync_finished(family, full, took);
        }
        metrics.committed(written.transactions, written.elements, written.bytes);
        metrics.changes_seen(dirty.counts.0 as u64, dirty.counts.1 as u64);
        metrics.changes_pending(0, 0);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        for triggered in std::mem::take(&mut self.triggers) {
            let seconds = (now as i64).saturating_sub(triggered) as f64 / 1e9;
            for family in in_force.clone() {
                metrics.programming_latency(family, seconds.max(0.0));
            }
        }
        let log = format!(
            "synced in {:.1} ms: {} elements in {} transactions ({} services and {} slices changed{})",
            took.as_secs_f64() * 1e3,
            written.elements,
            written.transactions,
            dirty.counts.0,
            dirty.counts.1,
            if full { "; everything was compared" } else { "" },
        );
        if full { tracing::info!("{log}") } else { tracing::debug!("{log}") }
    }

    pub(super) fn tell_drift(&self, drift: &[String], written: &Written) {
        // After a failed sync a comparison finds what that did not write: nobody else did it.
        if self.syncs <= 1 || drift.is_empty() {
            return;
        }
        let seen = some_of(drift);
        if !written.repairs.is_empty() || written.elements > 0 {
            self.shared.metrics.drift_repaired();
            let repairs = some_of(&written.repairs);
            tracing::warn!(
                "somebody else changed our tables ({seen}); repaired: {repairs}{}{} elements",
                if repairs.is_empty() { "" } else { "; " },
                written.elements
            );
        } else {
            tracing::info!("somebody else touched our tables ({seen}); nothing was missing");
        }
    }

    /// Tells what could not be removed, though everything is in force, and has it tried again.
    pub(super) fn tell_kept(&mut self, written: &Written) {
        let now = written.kept.iter().map(|(family, error)| {
            (*family, format!("{family}: chains that are to go stay, empty: {error}"))
        });
        // Of a family that failed, nothing new is known.
        let before = self.kept.iter().filter(|(family, _)| self.failing.contains(family)).cloned();
        let kept: Vec<_> = before.chain(now).collect();
        self.refusals = if kept.is_empty() { 0 } else { self.refusals + 1 };
        let wait = backoff(self.refusals, self.config.sync_period);
        self.remove_at = (!kept.is_empty()).then(|| Instant::now() + wait);
        for (family, _) in &written.kept {
            self.shared.metrics.sync_failed(*family, false);
        }
        for (_, what) in &kept {
            tracing::error!("{what}; that is tried again in {wait:?}");
        }
        if kept.is_empty() && !self.kept.is_empty() {
            tracing::info!("chains that were to go are gone");
        }
        if kept != self.kept {
            self.kept = kept;
            self.tell_problems();
        }
    }

    /// `before` are the families that were failing already.
    pub(super) fn failed(&mut self, error: Error, full: bool, before: &[Family]) -> Error {
        if self.failing.iter().any(|family| !before.contains(family)) {
            self.failures = 0;
        }
        self.failures += 1;
        // Whoever has the lock of xtables gives it back some time.
        let longest = if error.errno == Errno::AGAIN { LOCKED } else { self.config.sync_period };
        let wait = backoff(self.failures, longest);
        self.retry_at = Some(Instant::now() + wait);
        for family in &self.failing {
            self.shared.metrics.sync_failed(*family, !full);
        }
        let hint = hint(&error);
        tracing::error!("sync failed: {error}{hint}; everything is compared in {wait:?}");
        self.shared.status.set("state", format!("the last sync failed: {error}{hint}"));
        error
    }

    /// Everything that follows from a committed state.
    pub(super) fn after_commit(
        &mut self,
        delta: &Delta,
        full: bool,
        nodes: &[Node; 2],
        dirty: &Dirty,
        planned: &BTreeSet<ServiceName>,
    ) {
        if dirty.node || self.syncs == 1 {
            let going = self.cluster.this_node().is_some_and(|node| node.going_away);
            self.shared.health.set_node_eligible(!going);
        }
        self.clean_conntrack(delta, full, nodes, planned);
        self.update_relay();
        self.sums_at.get_or_insert(Instant::now() + SUMS_AFTER);
        if !self.failing.is_empty() {
            return;
        }
        if self.syncs == 1 {
            self.sums_at = Some(Instant::now());
            self.tell_sums();
        }
        let status = &self.shared.status;
        status.set("state", "programmed");
        status.set("syncs", self.syncs);
        if let Some((_, took)) = self.last {
            status.set("lastSyncMilliseconds", took.as_secs_f64() * 1e3);
        }
        status.set("lastSync", jiff::Timestamp::now().to_string());
    }

    fn update_relay(&self) {
        let wanted = node::localhost_nodeports(&self.config);
        if wanted == [false, false] {
            return;
        }
        let mut ports: BTreeMap<u16, RelayTarget> = BTreeMap::new();
        for (key, frontend) in self.table.frontends() {
            let (Address::Node(family), Protocol::Tcp) = (key.address, key.protocol) else {
                continue;
            };
            let target = ports.entry(key.port).or_default();
            let backends: Vec<SocketAddr> =
                frontend.lists.cluster.iter().map(|b| (*b).into()).collect();
            target.affinity = frontend.lists.affinity.map(|a| Duration::from_secs(u64::from(a.0)));
            match family {
                Family::V4 if wanted[0] => target.v4 = backends,
                Family::V6 if wanted[1] => target.v6 = backends,
                _ => {}
            }
        }
        self.shared.relay.update(ports);
    }

    /// Tells sums over everything, if it is time.
    pub(super) fn tell_sums(&mut self) {
        if self.sums_at.is_none_or(|at| at > Instant::now()) {
            return;
        }
        self.sums_at = None;
        self.tell_problems();
        let mut no_local: HashMap<Family, HashSet<_>> = HashMap::new();
        let mut no_internal: HashMap<Family, HashSet<_>> = HashMap::new();
        for (key, frontend) in self.table.frontends() {
            let owner = &frontend.lists.owner;
            match frontend.resolution {
                Resolution::Drop => no_internal.entry(key.family()).or_default().insert(owner),
                Resolution::ByOrigin if frontend.lists.local.is_empty() => {
                    no_local.entry(key.family()).or_default().insert(owner)
                }
                _ => continue,
            };
        }
        for family in FAMILIES {
            let count =
                |counts: &HashMap<Family, HashSet<_>>| counts.get(&family).map_or(0, HashSet::len);
            let (internal, external) = (count(&no_internal), count(&no_local));
            self.shared.metrics.no_local_endpoints(family, internal, external);
            let (frontends, endpoints) = self.dataplane.counts(family);
            self.shared.metrics.programmed(family, frontends, endpoints);
            for (table, all, last) in self.dataplane.rules(family) {
                self.shared.metrics.iptables_rules(family, table, all, last);
            }
        }
        let [v4, v6] = FAMILIES.map(|family| self.dataplane.counts(family));
        self.shared.status.set("frontends", v4.0 + v6.0);
        self.shared.status.set("endpoints", v4.1 + v6.1);
        self.shared.status.set("services", self.table.plans().count());
    }

    /// Forgets UDP flows whose server does not serve any more. That an endpoint stopped serving need not
    /// show in a frontend: it may have been out of the lists for long.
    fn clean_conntrack(
        &mut self,
        delta: &Delta,
        full: bool,
        nodes: &[Node; 2],
        planned: &BTreeSet<ServiceName>,
    ) {
        for (family, node) in FAMILIES.into_iter().zip(nodes) {
            let udp = |key: &&FrontendKey| key.protocol == Protocol::Udp && key.family() == family;
            let mut plans = planned.iter().filter_map(|name| self.table.plan(name));
            let concerned = delta.keys().any(|key| udp(&key))
                || plans.any(|plan| plan.frontends.iter().any(|(key, _)| udp(&key)));
            if !full && !concerned {
                continue;
            }
            let gone: HashSet<FrontendKey> = delta
                .iter()
                .filter(|(key, frontend)| udp(key) && frontend.is_none())
                .map(|(key, _)| *key)
                .collect();
            let started = Instant::now();
            let own = match conntrack::own_addresses() {
                Ok(own) => own,
                Err(error) => {
                    tracing::warn!("{error}: UDP flows are not cleaned");
                    return;
                }
            };
            let on_node = |ip| match node.settings.nodeports {
                NodePorts::Everywhere => own.contains(&ip),
                NodePorts::Listed | NodePorts::InNetworks => {
                    node.nodeport_addresses.iter().any(|prefix| prefix.contains(ip))
                        && own.contains(&ip)
                }
            };
            let (conntrack, table) = (&mut self.conntrack, &self.table);
            let outcome =
                conntrack::reconcile(conntrack, family, table, &self.cluster, &gone, on_node);
            match outcome {
                Ok(deleted) => {
                    let took = started.elapsed();
                    self.shared.metrics.conntrack_reconciled(family, took, deleted);
                    if deleted > 0 {
                        tracing::info!(
                            "{deleted} {family} UDP flows went to endpoints that are gone"
                        );
                    }
                }
                Err(error) => tracing::warn!("{error}: UDP flows are not cleaned"),
            }
        }
    }
}

/// What to do about a refusal of the kernel's.
fn hint(error: &Error) -> &'static str {
    if error.detail.as_ref().is_some_and(|detail| detail.ends_with(ipvs::OR_ANOTHER_MODE)) {
        return "";
    }
    match error.errno {
        Errno::PERM | Errno::ACCESS => " (CAP_NET_ADMIN is needed in this network namespace)",
        Errno::OPNOTSUPP | Errno::PROTONOSUPPORT | Errno::AFNOSUPPORT => {
            " (the kernel lacks this part of nf_tables: 5.13 or newer with nft_numgen, nft_fib, nft_masq and nft_reject is needed)"
        }
        Errno::NOBUFS => " (the answer did not fit: it is asked for again)",
        Errno::BUSY => " (something still refers to it: an older kernel frees it a moment later)",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_module_is_not_taken_for_a_lack_of_nf_tables() {
        let mut error = Error::new("create dummy device \"kube-ipvs0\"", Errno::OPNOTSUPP);
        assert!(hint(&error).contains("nf_tables"));
        error.detail = Some("Unknown device type".to_owned());
        let error = ipvs::missing_dummy(error);
        let said = format!("{error}{}", hint(&error));
        assert!(said.contains("module dummy"), "{said}");
        assert!(said.ends_with("use --proxy-mode nftables or iptables"), "{said}");
    }
}
