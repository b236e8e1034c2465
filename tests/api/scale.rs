//! Many objects at once.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testnet::{Host, eventually};

use super::fake::{SERVICES, SLICES};
use super::site::Site;
use super::{SOON, say};

const SERVICE_COUNT: usize = 5_000;
const ENDPOINTS: usize = 20;
/// A debug build on a busy machine; what it took is printed.
const READY_WITHIN: Duration = Duration::from_secs(180);

fn objects(number: usize) -> (Value, Value) {
    let name = format!("many-{number}");
    let ip = format!("10.96.{}.{}", 64 + number / 250, 1 + number % 250);
    let metadata = |name: &str| {
        json!({
            "name": name, "namespace": "default", "resourceVersion": "100", "uid": name,
            "labels": {"kubernetes.io/service-name": name},
        })
    };
    let service = json!({
        "metadata": metadata(&name),
        "spec": {
            "type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "ipFamilies": ["IPv4"],
            "ports": [{"name": "tcp", "protocol": "TCP", "port": 80}],
        },
    });
    let endpoint = |at: usize| {
        let address = number * ENDPOINTS + at;
        let address =
            format!("10.{}.{}.{}", 128 + (address >> 16), (address >> 8) & 255, address & 255);
        json!({
            "addresses": [address], "nodeName": "other",
            "conditions": {"ready": true, "serving": true, "terminating": false},
        })
    };
    let slice = json!({
        "metadata": metadata(&name), "addressType": "IPv4",
        "ports": [{"name": "tcp", "protocol": "TCP", "port": 8080}],
        "endpoints": (0..ENDPOINTS).map(endpoint).collect::<Vec<_>>(),
    });
    (service, slice)
}

#[test]
fn five_thousand_services_with_twenty_endpoints_each_are_programmed() {
    let site = Site::new();
    let (services, slices) = (0..SERVICE_COUNT).map(objects).unzip();
    site.fake.list(SERVICES, services);
    site.fake.list(SLICES, slices);
    let began = Instant::now();
    let daemon = site.spawn();
    eventually("the daemon is ready", READY_WITHIN, || {
        daemon.http_get(10256, "/readyz").filter(|answer| answer.status == 200)
    });
    say(&format!("ready after {:?}", began.elapsed()));
    // The kernel passes over elements of a table that it makes larger while it is listed.
    let all = (SERVICE_COUNT, SERVICE_COUNT * ENDPOINTS);
    eventually("a list of all that is in the kernel", SOON, || {
        let rules = site.node.namespace().command("nft", &["list", "table", "ip", "viaduct"]);
        let words = rules.split(|c: char| c != '.' && !c.is_ascii_digit());
        let addresses: BTreeSet<&str> = words.collect();
        let of = |net: &str| addresses.iter().filter(|address| address.starts_with(net)).count();
        let there = (of("10.96."), of("10.128.") + of("10.129."));
        if there == all { Ok(()) } else { Err(there) }
    });
}
