//! Behind another plugin: its result is handed on, its interface gets ports, masquerade and limits.

use serde_json::json;
use testnet::{Cni, Family, Host, Lan, programs, skip};

#[test]
fn behind_the_reference_ptp_plugin() {
    if programs::installed_plugin("ptp").is_none() {
        skip("the plugin `ptp` is not installed (package containernetworking-plugins)");
        return;
    }
    let lan = Lan::new();
    let node = lan.node("n1");
    let container = node.container("a");
    let ptp = json!({"cniVersion": "1.0.0", "name": "net", "type": "ptp", "ipam": {
        "type": "host-local", "dataDir": node.data_dir(), "subnet": "10.7.0.0/24",
        "routes": [{"dst": "0.0.0.0/0"}]}});
    let call = |verb: &str, config: &serde_json::Value| {
        Cni::new(verb, config).container("a", container.path()).run(node.namespace())
    };
    let previous = call("ADD", &ptp).result();
    let mut ours = json!({"cniVersion": "1.0.0", "name": "net", "type": "viaduct", "ipMasq": true,
        "prevResult": previous, "runtimeConfig": {
            "portMappings": [{"hostPort": 8080, "containerPort": 80}],
            "bandwidth": {"ingressRate": 8_000_000, "ingressBurst": 800_000}}});
    assert_eq!(call("ADD", &ours).result(), previous, "the result is handed on unchanged");
    call("CHECK", &ours).result();

    let pod = Inside(&container);
    let _server = pod.serve_tcp(80);
    let _outside = lan.serve_tcp(8080);
    assert_eq!(lan.tcp((node.v4(), 8080)).unwrap().server, "a");
    assert_eq!(
        node.tcp(("127.0.0.1".parse::<std::net::IpAddr>().unwrap(), 8080)).unwrap().server,
        "a"
    );
    assert_eq!(pod.tcp((lan.outside(Family::V4), 8080)).unwrap().peer, node.v4(), "masqueraded");
    let shaped = node.namespace().command("tc", &["qdisc", "show"]);
    assert!(shaped.contains("tbf"), "{shaped}");

    node.namespace().command("nft", &["flush", "map", "inet", "viaduct-host", "hostports-any-4"]);
    assert_eq!(call("CHECK", &ours).error().0, 112);
    call("DEL", &ours).result();
    assert!(!node.namespace().ruleset().contains("net/a"), "elements are left");
    assert_eq!(container.links(), ["eth0"], "the interface is not ours to delete");
    assert_eq!(node.leases("net").len(), 1, "neither is the lease");
    call("DEL", &ours).result();
    ours["prevResult"] = json!({"cniVersion": "1.0.0", "ips": []});
    assert_eq!(call("ADD", &ours).error().0, 7, "a result without the interface");
}

struct Inside<'a>(&'a testnet::Namespace);

impl Host for Inside<'_> {
    fn namespace(&self) -> &testnet::Namespace {
        self.0
    }
}
