//! The daemon behind `daemonSocket`: told of pods, waited for, asked for its readiness.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testnet::{Host, Lan, Network, Node};

use super::{dual_stack, status};

/// Answers every request with the same line and keeps what it was asked.
fn fake_daemon(node: &Node, answer: &'static str) -> (PathBuf, Arc<Mutex<Vec<Value>>>) {
    let path = node.folder().join("cni.sock");
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&asked);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).unwrap();
            log.lock().unwrap().push(serde_json::from_str(&line).unwrap());
            let _ = writeln!(stream, "{answer}");
        }
    });
    (path, asked)
}

fn network(node: &Node, socket: &std::path::Path) -> Network {
    dual_stack("bridge", node).set("daemonSocket", socket)
}

#[test]
fn the_daemon_hears_of_every_pod_and_owns_the_overlay() {
    let lan = Lan::new();
    let [n1, n2] = lan.nodes(["n1", "n2"]);
    let (socket, asked) = fake_daemon(&n1, r#"{"ok":true}"#);
    let network = network(&n1, &socket).vxlan(&n1, &[n1.record(), n2.record()]);
    status(&n1, &network).result();
    let pod = n1.pod(&network, "a");
    pod.delete();
    let asked = asked.lock().unwrap();
    let verbs: Vec<&str> = asked.iter().filter_map(|request| request["verb"].as_str()).collect();
    assert_eq!(verbs, ["STATUS", "ADD", "DEL"]);
    assert_eq!(
        asked[1]["pod"],
        json!({"namespace": "default", "name": "a", "uid": format!("uid-{}", pod.id())})
    );
    assert_eq!(asked[1]["ips"], json!(pod.ips()));
    assert_eq!(asked[1]["interface"], pod.host_link().as_str());
    assert_eq!(asked[2]["containerID"], pod.id());
    assert!(
        !n1.namespace().links().iter().any(|link| link.starts_with("vdvxlan")),
        "not ours to make"
    );
    assert_eq!(n1.namespace().sysctl("net/ipv4/ip_forward"), "0", "not ours to set");
    assert_eq!(n1.namespace().sysctl("net/ipv4/conf/viaduct0/forwarding"), "1");
}

#[test]
fn without_an_answer_add_is_denied_or_allowed_as_configured() {
    let lan = Lan::new();
    let node = lan.node("n1");
    let absent = node.folder().join("absent.sock");
    let network = network(&node, &absent);
    let (code, message) = node.try_pod(&network, "a").err().expect("denied").error();
    assert!(code == 11 && message.contains("absent.sock"), "{message}");
    assert!(node.leases("bridge").is_empty());
    assert!(!node.namespace().links().iter().any(|link| link.starts_with("vd")));
    assert_eq!(status(&node, &network).error().0, 50);
    let pod = node.pod(&network.set("onDaemonTimeout", "allow"), "a");
    pod.delete();
}

#[test]
fn a_silent_daemon_is_waited_for_only_so_long() {
    let lan = Lan::new();
    let node = lan.node("n1");
    let socket = node.folder().join("silent.sock");
    let _listener = UnixListener::bind(&socket).unwrap();
    let start = Instant::now();
    assert_eq!(node.try_pod(&network(&node, &socket), "a").err().expect("denied").error().0, 11);
    let waited = start.elapsed();
    assert!(waited > Duration::from_secs(4) && waited < Duration::from_secs(9), "{waited:?}");
}

#[test]
fn a_refusal_is_final_whatever_is_configured_for_silence() {
    let lan = Lan::new();
    let node = lan.node("n1");
    let (socket, _) = fake_daemon(&node, r#"{"ok":false,"error":"policy is not compiled yet"}"#);
    let network = network(&node, &socket).set("onDaemonTimeout", "allow");
    let (code, message) = node.try_pod(&network, "a").err().expect("denied").error();
    assert!(code == 11 && message.contains("policy is not compiled yet"), "{message}");
    assert!(status(&node, &network).error().1.contains("policy is not compiled yet"));
}
