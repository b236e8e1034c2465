//! From a manifest's renaming to the commit, at 1,000 policies and 5,000 pods.

use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use netlink::nftables::NftMonitor;
use serde_json::Value;
use testnet::{Host, Namespace};

use super::node::World;
use super::objects::{self, NAMESPACES, lines};
use crate::report::{Report, quantile};

const POLICIES: usize = 1000;
const PODS: usize = 5000;
/// Pods of this node.
const LOCAL: usize = 100;
const SEEN_WITHIN: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(20);

/// Sees the commits to the table of policies.
pub(super) struct Commits(Receiver<Instant>);

impl Commits {
    pub(super) fn watch(namespace: &Namespace) -> Commits {
        let (sender, commits) = channel();
        // Ends with the first commit after nobody listens any more, or with the process.
        namespace.spawn(move || -> netlink::Result<()> {
            let mut monitor = NftMonitor::open()?;
            loop {
                let mut ours = false;
                let waited = monitor.wait(|event| ours |= event.table == "viaduct-policy");
                let now = Instant::now();
                if (waited.is_err() || ours) && sender.send(now).is_err() {
                    return Ok(());
                }
            }
        });
        Commits(commits)
    }

    pub(super) fn settle(&self) {
        while self.0.recv_timeout(Duration::from_millis(300)).is_ok() {}
    }

    /// The first commit after this.
    pub(super) fn next(&self, since: Instant) -> Result<Instant> {
        loop {
            let at = self.0.recv_timeout(SEEN_WITHIN).context("a change was not committed")?;
            if at > since {
                return Ok(at);
            }
        }
    }
}

/// The objects of a world, those that change in files of their own.
fn fill(world: &World) {
    let name = world.node.name();
    let node = |number: usize| if number < LOCAL { name } else { "elsewhere" };
    let namespaces = (0..NAMESPACES).map(|n| (n, objects::namespace(n, &objects::team(n))));
    for (number, namespace) in namespaces {
        world.put(&format!("namespace-{number}"), namespace);
    }
    for number in 0..POLICIES {
        let role = objects::role(number);
        world.put(&format!("policy-{number}"), objects::policy(number, &role));
    }
    for number in LOCAL..2 * LOCAL {
        let pod = objects::pod(number, node(number), &objects::role(number));
        world.put(&format!("pod-{number}"), pod);
    }
    let others = (0..PODS).filter(|number| !(LOCAL..2 * LOCAL).contains(number));
    let others = others.map(|number| objects::pod(number, node(number), &objects::role(number)));
    world.write("pods", &lines(others));
}

/// Every kind of change, so often.
pub(super) fn measure(report: &mut Report, count: usize) -> Result<()> {
    let world = World::new();
    fill(&world);
    let daemon = world.daemon()?;
    let commits = Commits::watch(world.node.namespace());
    commits.settle();
    let mut all = Vec::new();
    let mut change = |what: &str, make: &dyn Fn(usize) -> (String, Option<Value>)| -> Result<()> {
        let mut took = Vec::new();
        for number in 0..count {
            let (name, object) = make(number);
            let started = Instant::now();
            match object {
                Some(object) => world.put(&name, object),
                None => world.remove(&name),
            }
            let at = commits.next(started).with_context(|| format!("{what} {number}: {name}"))?;
            took.push((at - started).as_secs_f64() * 1e3);
            std::thread::sleep(PAUSE);
        }
        commits.settle();
        report.add(&format!("1k policies, 5k pods: {what}"), "viaduct", took.clone());
        all.extend(took);
        Ok(())
    };
    // Of policies for pods of this node, and pods and namespaces that those let in.
    let policy = |number: usize| number * 7 % LOCAL;
    change("a policy's peers change", &|number| {
        let which = policy(number);
        // Another one each time that it is its turn.
        let role = format!("r{}", 4 + number / LOCAL % 10);
        (format!("policy-{which}"), Some(objects::policy(which, &role)))
    })?;
    for which in 0..LOCAL {
        world.put(&format!("policy-{which}"), objects::policy(which, "r3"));
    }
    commits.settle();
    let pod = |number: usize| LOCAL + number / 2 % LOCAL;
    change("a pod's label changes", &|number| {
        let role = if number % 2 == 0 { "r3" } else { "r9" };
        (format!("pod-{}", pod(number)), Some(objects::pod(pod(number), "elsewhere", role)))
    })?;
    change("a pod comes and goes", &|number| {
        let new = PODS + number / 2 % NAMESPACES;
        let object = (number % 2 == 0).then(|| objects::pod(new, "elsewhere", "r3"));
        (format!("new-{new}"), object)
    })?;
    change("a namespace's label changes", &|number| {
        let which = number / 2 % NAMESPACES;
        let team = if number % 2 == 0 { "none".to_owned() } else { objects::team(which) };
        (format!("namespace-{which}"), Some(objects::namespace(which, &team)))
    })?;
    report.bar("from an event to the kernel, median", quantile(&all, 0.5), 5.0, "ms");
    report.bar("from an event to the kernel, p99", quantile(&all, 0.99), 20.0, "ms");
    drop(daemon);
    Ok(())
}
