//! cnitool drives every verb through a conflist; the runtimes call neither CHECK nor GC.

use std::net::IpAddr;
use std::path::PathBuf;

use serde_json::json;
use testnet::{Host, Lan, skip};

use super::{NETWORK, last_json, leftovers, node, shell, write_conflist};

/// The client of the oldest or newest libcni that runtimes may use, or a reason to skip.
pub(super) fn cnitool(age: &str) -> Result<PathBuf, String> {
    let path = std::env::var_os(format!("VIADUCT_CNITOOL_{}", age.to_uppercase()));
    path.map(PathBuf::from).filter(|path| path.is_file()).ok_or_else(|| {
        format!(
            "cnitool of the {age} libcni is not built: `scripts/test clients` builds it with Go"
        )
    })
}

#[test]
fn every_verb_through_a_conflist() {
    let cnitool = match cnitool("newest") {
        Ok(cnitool) => cnitool,
        Err(reason) => return skip(&reason),
    };
    let lan = Lan::new();
    let node = node(&lan);
    write_conflist(&node, "1.1.0");
    let (a, b) = (node.container("a"), node.container("b"));
    let capabilities = json!({"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}],
        "ips": ["10.244.1.50"], "mac": "02:00:00:00:00:50"});
    let call = |verb: &str, netns: &std::path::Path, capabilities: &serde_json::Value| {
        let script = format!(
            "CNI_PATH=/opt/cni/bin NETCONFPATH=/etc/cni/net.d CAP_ARGS='{capabilities}' {} {verb} {NETWORK} {}",
            cnitool.display(),
            netns.display()
        );
        shell(&node, &script)
    };
    let none = json!({});
    call("status", a.path(), &none).unwrap();
    let result = last_json(&call("add", a.path(), &capabilities).unwrap());
    assert_eq!(result["ips"][0]["address"], "10.244.1.50/24");
    assert_eq!(result["interfaces"][2]["mac"], "02:00:00:00:00:50");
    call("add", b.path(), &none).unwrap();
    assert_eq!(node.leases(NETWORK).len(), 4);
    call("check", a.path(), &capabilities).unwrap();
    call("check", b.path(), &none).unwrap();
    let address: IpAddr = "10.244.1.50".parse().unwrap();
    node.ping(address).unwrap();

    a.ip("link set eth0 down");
    let refused = call("check", a.path(), &capabilities).unwrap_err();
    assert!(refused.contains("is down"), "{refused}");
    call("del", a.path(), &capabilities).unwrap();
    assert_eq!(node.leases(NETWORK).len(), 2);
    call("del", a.path(), &capabilities).unwrap();

    // cnitool names no valid attachments: everything goes.
    call("gc", b.path(), &none).unwrap();
    assert_eq!(leftovers(&node), Vec::<String>::new());
}
