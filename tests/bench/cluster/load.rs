//! The objects: made by several connections at once.

use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

use super::control_plane::ControlPlane;
use crate::services::objects::{Size, documents};

/// Services are counted from here: the first addresses of the range are the API server's own.
pub(super) const FIRST: u32 = 16;
const CONNECTIONS: usize = 8;
const NAMESPACES: &str = "/api/v1/namespaces";
const SERVICES: &str = "/api/v1/namespaces/bench/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/bench/endpointslices";
const NODES: &str = "/api/v1/nodes";

/// The Services and slices of a case.
pub(super) fn services(plane: &ControlPlane, size: Size) -> Result<()> {
    let namespace = r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"bench"}}"#;
    plane.connect()?.request("POST", NAMESPACES, namespace)?;
    each(plane, FIRST..FIRST + size.services, |number| {
        let both = documents(size, number, None);
        let (service, slice) = both.split_once('\n').context("two documents")?;
        Ok(vec![(SERVICES, service.to_owned()), (SLICES, slice.to_owned())])
    })
}

/// Where a Service's slice is.
pub(super) fn slice_path(service: u32) -> String {
    format!("{SLICES}/svc-{service}-x")
}

/// So many nodes, `node-0` first.
pub(super) fn nodes(plane: &ControlPlane, numbers: std::ops::Range<u32>) -> Result<()> {
    each(plane, numbers, |number| Ok(vec![(NODES, node(number))]))
}

fn node(number: u32) -> String {
    // `Lan` gives the first node 192.168.0.1; nobody answers at the others.
    let (high, low) = ((number + 1) / 250, (number + 1) % 250);
    let address = if number == 0 {
        "192.168.0.1".to_owned()
    } else {
        format!("192.168.{}.{}", 4 + high, 1 + low)
    };
    let cidr = format!("10.{}.{low}.0/24", 200 + high);
    format!(
        r#"{{"apiVersion":"v1","kind":"Node","metadata":{{"name":"node-{number}"}},"spec":{{"podCIDR":"{cidr}","podCIDRs":["{cidr}"]}},"status":{{"addresses":[{{"type":"InternalIP","address":"{address}"}},{{"type":"Hostname","address":"node-{number}"}}]}}}}"#
    )
}

/// POSTs what `make` says for each number.
fn each(
    plane: &ControlPlane,
    numbers: std::ops::Range<u32>,
    make: impl Fn(u32) -> Result<Vec<(&'static str, String)>> + Sync,
) -> Result<()> {
    let next = AtomicU32::new(numbers.start);
    let work = || -> Result<()> {
        let mut connection = plane.connect()?;
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= numbers.end {
                return Ok(());
            }
            for (path, body) in make(number)? {
                connection.request("POST", path, &body)?;
            }
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..CONNECTIONS).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        Ok(())
    })
}
