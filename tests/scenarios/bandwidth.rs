//! Bandwidth limits, as they are felt.

use std::time::Duration;

use serde_json::json;
use testnet::traffic::throughput;
use testnet::{Host, Lan};

use super::{MODES, dual_stack};

const LIMIT: f64 = 20_000_000.0;

fn bits_per_second(from: &impl Host, to: &impl Host, address: std::net::IpAddr) -> f64 {
    throughput(from.namespace(), to.namespace(), (address, 5001).into(), Duration::from_secs(1))
}

#[test]
fn each_direction_has_its_own_limit() {
    let lan = Lan::new();
    let node = lan.node("n1");
    for mode in MODES {
        let network = dual_stack(mode, &node);
        let limited = |key: &str| {
            let bandwidth = match key {
                "ingress" => json!({"ingressRate": 20_000_000, "ingressBurst": 800_000}),
                _ => json!({"egressRate": 20_000_000, "egressBurst": 800_000}),
            };
            network.clone().runtime("bandwidth", bandwidth)
        };
        let free = node.pod(&network, "free");
        for direction in ["ingress", "egress"] {
            let pod = node.pod(&limited(direction), "limited");
            pod.check().result();
            let into = bits_per_second(&free, &pod, pod.v4());
            let out = bits_per_second(&pod, &free, free.v4());
            let (slow, fast) = if direction == "ingress" { (into, out) } else { (out, into) };
            assert!(slow < 1.5 * LIMIT, "{mode} {direction}: {slow:.0} bits/s is above the limit");
            assert!(
                slow > 0.3 * LIMIT,
                "{mode} {direction}: {slow:.0} bits/s is far below the limit"
            );
            assert!(
                fast > 5.0 * LIMIT,
                "{mode} {direction}: the other direction has {fast:.0} bits/s"
            );
            let before = node.namespace().links().len();
            pod.delete();
            let gone = if direction == "egress" { 2 } else { 1 };
            assert_eq!(node.namespace().links().len(), before - gone, "{mode} {direction}");
        }
        free.delete();
    }
}

#[test]
fn check_notices_a_lost_limit() {
    let lan = Lan::new();
    let node = lan.node("n1");
    let both = json!({"ingressRate": 8_000_000, "ingressBurst": 800_000,
        "egressRate": 8_000_000, "egressBurst": 800_000});
    let network = dual_stack("bridge", &node).runtime("bandwidth", both);
    for (damage, words) in [
        ("tc qdisc del dev HOST root", "ingress limit"),
        ("tc qdisc del dev HOST ingress", "not redirected"),
        ("tc qdisc replace dev HOST root tbf rate 1mbit burst 10kb latency 25ms", "ingress limit"),
    ] {
        let pod = node.pod(&network, "a");
        pod.check().result();
        let command = damage.replace("HOST", &pod.host_link());
        let words_of: Vec<&str> = command.split(' ').collect();
        node.namespace().command(words_of[0], &words_of[1..]);
        let (code, message) = pod.check().error();
        assert!(code == 112 && message.contains(words), "{damage}: {message}");
        pod.delete();
    }
}
