//! From a request to the API server until the kernel has it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use testnet::Host;

use super::control_plane::ControlPlane;
use super::load::{FIRST, slice_path};
use super::notifications::Notifications;
use super::proxy::{Proxy, Who};
use crate::report::Report;
use crate::services::objects::{Size, documents, other_endpoint};

/// What is not seen after this time was lost.
const SEEN_WITHIN: Duration = Duration::from_secs(120);
/// No more single changes than fit.
const SINGLE: Duration = Duration::from_secs(60);
const CHURN: Duration = Duration::from_secs(30);
const CHURN_EVERY: Duration = Duration::from_millis(10);
const WRITERS: usize = 4;
const IDLE: Duration = Duration::from_secs(60);

/// Everything that is measured of changes; returns the latencies of single ones.
pub(super) fn measure(
    report: &mut Report,
    plane: &ControlPlane,
    proxy: &Proxy,
    size: Size,
    count: u32,
) -> Result<Vec<f64>> {
    let case = |what: &str| format!("{}: {what}", size.name());
    let who = proxy.who.name();
    let mut notifications = Notifications::listen(proxy.node.namespace())?;
    let before = proxy.received()?;
    std::thread::sleep(IDLE);
    let idle = (proxy.received()? - before) / 1e3;
    report.figure(&case("idle, received in a minute"), who, &[idle], "kB");

    let (single, answered) = one_at_a_time(plane, &mut notifications, proxy.who, size, count)?;
    report.add(&case("write to kernel, one at a time"), who, single.clone());
    report.add(&case("of it, write to answer"), "the API server", answered);

    let (cpu, bytes) = (proxy.cpu()?, proxy.received()?);
    let sent = many(plane, proxy.who, size)?;
    let (cpu, bytes) = (proxy.cpu()? - cpu, proxy.received()? - bytes);
    let seconds = CHURN.as_secs_f64();
    let until = Instant::now() + SEEN_WITHIN;
    let mut waits = Vec::new();
    for (number, sent) in &sent {
        let at = notifications.wait(*number, until).context("100 a second: a change was lost")?;
        waits.push(at.saturating_duration_since(*sent).as_secs_f64() * 1e3);
    }
    report.add(&case("write to kernel, 100 a second"), who, waits);
    report.figure(
        &case("churn, written in a second"),
        who,
        &[sent.len() as f64 / seconds],
        "changes",
    );
    report.figure(&case("churn, processor"), who, &[cpu / seconds / 10.0], "% of a core");
    report.figure(&case("churn, received in a minute"), who, &[bytes * 60.0 / seconds / 1e6], "MB");
    Ok(single)
}

/// Each change once the one before is in the kernel; also how long the API server took to answer.
fn one_at_a_time(
    plane: &ControlPlane,
    notifications: &mut Notifications,
    who: Who,
    size: Size,
    count: u32,
) -> Result<(Vec<f64>, Vec<f64>)> {
    // kube-proxy syncs at most once a second (`minSyncPeriod`): that is not what is measured here.
    let pause = Duration::from_millis(if who == Who::KubeProxy { 1500 } else { 200 });
    let started = Instant::now();
    let mut connection = plane.connect()?;
    let (mut took, mut answered) = (Vec::new(), Vec::new());
    for number in 1..=count {
        let number = numbers(who) + number;
        if started.elapsed() > SINGLE {
            break;
        }
        let (path, slice) = change(size, number, number * 7919)?;
        let sent = Instant::now();
        connection.request("PUT", &path, &slice)?;
        answered.push(sent.elapsed().as_secs_f64() * 1e3);
        let at = notifications.wait(number, sent + SEEN_WITHIN).context("a change was lost")?;
        took.push(at.saturating_duration_since(sent).as_secs_f64() * 1e3);
        std::thread::sleep(pause);
    }
    Ok((took, answered))
}

/// Many a second, by several writers; returns each with the time at which it was sent.
fn many(plane: &ControlPlane, who: Who, size: Size) -> Result<Vec<(u32, Instant)>> {
    let numbers = numbers(who) + 10_000;
    let (start, next) = (Instant::now(), AtomicU32::new(0));
    let sent = Mutex::new(Vec::new());
    let work = || -> Result<()> {
        let mut connection = plane.connect()?;
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let due = CHURN_EVERY * number;
            if due >= CHURN || start.elapsed() >= CHURN {
                return Ok(());
            }
            let (path, slice) = change(size, numbers + number, number * 104_729)?;
            std::thread::sleep((start + due).saturating_duration_since(Instant::now()));
            let at = Instant::now();
            connection.request("PUT", &path, &slice)?;
            let mut sent = sent.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            sent.push((numbers + number, at));
        }
    };
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS).map(|_| scope.spawn(work)).collect();
        for writer in writers {
            writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        anyhow::Ok(())
    })?;
    let sent = sent.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    ensure!(!sent.is_empty(), "nothing was changed");
    Ok(sent)
}

/// Where a proxy's changes are counted from: what is there already is no change.
fn numbers(who: Who) -> u32 {
    match who {
        Who::Viaduct => 0,
        Who::KubeProxy => 30_000,
    }
}

/// Another endpoint in the slice of one of the Services, and where to PUT it.
fn change(size: Size, number: u32, pick: u32) -> Result<(String, String)> {
    let service = FIRST + pick % size.services;
    let both = documents(size, service, Some(other_endpoint(number)));
    let (_, slice) = both.split_once('\n').context("two documents")?;
    Ok((slice_path(service), slice.to_owned()))
}
