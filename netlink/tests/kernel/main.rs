//! Every operation against a fresh network namespace, judged by `ip`, `bridge`, `tc`, `nft`, `conntrack`, `ipset`.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a failed expectation is how a test fails")]

mod conntrack;
mod ipset;
mod ipvs;
mod monitor;
mod namespace;
mod nflog;
mod nftables;
mod route;
mod route_dump;
mod xtables;

use std::net::IpAddr;
use std::process::Command;
use std::sync::mpsc;

use netlink::{MacAddress, Namespace, Prefix};

/// Runs a test in a new namespace that ends with it.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let thread =
        std::thread::Builder::new().name(std::thread::current().name().unwrap_or("test").into());
    let result = thread
        .spawn(|| {
            Namespace::unshare().unwrap_or_else(|error| panic!("{error}: the tests need root"));
            test();
        })
        .unwrap()
        .join();
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

/// A second namespace: a thread that holds it, and a handle.
fn another() -> (Namespace, mpsc::Sender<()>) {
    let (handle, received) = mpsc::channel();
    let (hold, released) = mpsc::channel::<()>();
    std::thread::spawn(move || {
        Namespace::unshare().unwrap();
        handle.send(Namespace::current().unwrap()).unwrap();
        let _ = released.recv();
    });
    (received.recv().unwrap(), hold)
}

/// Runs a tool in the calling thread's namespace.
#[track_caller]
fn tool(command: &str) -> String {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[track_caller]
fn shows(command: &str, words: &[&str]) {
    let output = tool(command);
    for word in words {
        assert!(output.contains(word), "{word:?} is not in the output of {command}: {output}");
    }
}

fn mac(text: &str) -> MacAddress {
    text.parse().unwrap()
}

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}
