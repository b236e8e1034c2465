//! ADD and DEL beside the reference plugins: same configuration, same run, in turn.

use std::fs;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use testnet::{Cni, Host, Lan, Namespace, Node, programs};

use crate::report::{Report, median};

const PEER: &str = "bridge + host-local";
const PEER_PORTS: &str = "bridge + portmap";

/// What a pod asks for.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    dual_stack: bool,
    masquerade: bool,
    host_port: bool,
}

const CASES: [Case; 4] = [
    Case { name: "plain", dual_stack: false, masquerade: false, host_port: false },
    Case { name: "masquerade", dual_stack: false, masquerade: true, host_port: false },
    Case { name: "masquerade + hostPort", dual_stack: false, masquerade: true, host_port: true },
    Case { name: "dual stack", dual_stack: true, masquerade: false, host_port: false },
];

/// Who adds and deletes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Contestant {
    Viaduct,
    Reference,
}

impl Contestant {
    /// The plugins of the chain, in the order of ADD.
    fn chain(self, case: Case, node: &Node) -> Vec<Value> {
        let mut ranges = vec![json!([{"subnet": "10.244.0.0/16"}])];
        if case.dual_stack {
            ranges.push(json!([{"subnet": "fd00:10::/64"}]));
        }
        let plugin = if self == Contestant::Viaduct { "viaduct" } else { "bridge" };
        let main = json!({
            "cniVersion": "1.0.0", "name": "net", "type": plugin, "bridge": "bench0",
            "isGateway": true, "isDefaultGateway": true, "ipMasq": case.masquerade,
            "ipam": {"type": "host-local", "dataDir": node.data_dir(), "ranges": ranges},
        });
        let ports = json!({"cniVersion": "1.0.0", "name": "net", "type": "portmap", "snat": true,
            "capabilities": {"portMappings": true}});
        match self {
            Contestant::Reference if case.host_port => vec![main, ports],
            _ => vec![main],
        }
    }
}

/// One contestant on its own node.
struct Arena<'a> {
    node: &'a Node,
    chain: Vec<Value>,
    host_port: bool,
}

impl Arena<'_> {
    fn configured(&self, number: usize) -> Vec<Value> {
        let mut chain = self.chain.clone();
        if self.host_port {
            let mapping =
                json!([{"hostPort": 10_000 + number, "containerPort": 80, "protocol": "tcp"}]);
            if let Some(last) = chain.last_mut() {
                last["runtimeConfig"] = json!({ "portMappings": mapping });
            }
        }
        chain
    }

    /// ADD through the chain; milliseconds and the final result.
    fn add(&self, container: &Namespace, number: usize) -> (f64, Value) {
        let mut result = Value::Null;
        let mut milliseconds = 0.0;
        for mut config in self.configured(number) {
            if !result.is_null() {
                config["prevResult"] = result;
            }
            let (elapsed, answer) = timed(self.node, "ADD", &config, container, number);
            milliseconds += elapsed;
            result = answer;
        }
        (milliseconds, result)
    }

    fn del(&self, container: &Namespace, number: usize, result: &Value) -> f64 {
        let chain = self.configured(number).into_iter().rev();
        chain
            .map(|mut config| {
                config["prevResult"] = result.clone();
                timed(self.node, "DEL", &config, container, number).0
            })
            .sum()
    }
}

fn timed(
    node: &Node,
    verb: &str,
    config: &Value,
    container: &Namespace,
    number: usize,
) -> (f64, Value) {
    let cni = Cni::new(verb, config).container(&format!("bench-{number}"), container.path());
    let start = Instant::now();
    let output = cni.run(node.namespace());
    let elapsed = start.elapsed().as_secs_f64() * 1000.0;
    (elapsed, output.result())
}

pub(crate) fn measure(report: &mut Report, runs: usize) -> Result<()> {
    for plugin in ["bridge", "host-local", "portmap"] {
        programs::installed_plugin(plugin).with_context(|| {
            format!("the peer's plugin {plugin} is not installed (containernetworking-plugins)")
        })?;
    }
    processes(report, runs)?;
    eprintln!("one pod at a time, in turn:");
    for case in CASES {
        alternate(report, case, runs);
    }
    floor(report, runs)?;
    eprintln!("8 workers, 10 pods each:");
    burst(report);
    eprintln!("110 pods on a node:");
    fill(report);
    Ok(())
}

/// Size, and what it costs to start.
fn processes(report: &mut Report, runs: usize) -> Result<()> {
    let viaduct = programs::plugin("viaduct");
    let megabytes = fs::metadata(&viaduct)?.len() as f64 / 1e6;
    report.bar("viaduct: size", megabytes, 2.5, "MB");
    let start = |mut command: Command| -> Result<f64> {
        let start = Instant::now();
        let output = command.output()?;
        anyhow::ensure!(output.status.success());
        Ok(start.elapsed().as_secs_f64() * 1000.0)
    };
    let (mut version, mut empty) = (Vec::new(), Vec::new());
    for _ in 0..runs * 4 {
        let mut command = Command::new(&viaduct);
        command.env("CNI_COMMAND", "VERSION");
        version.push(start(command)?);
        empty.push(start(Command::new(programs::built().join("empty")))?);
    }
    let version = report.add("start (VERSION)", "viaduct", version);
    let empty = report.add("start (VERSION)", "empty", empty);
    report.bar("VERSION above an empty static program", version - empty, 1.0, "ms");
    Ok(())
}

fn alternate(report: &mut Report, case: Case, runs: usize) {
    let lan = Lan::new();
    let nodes = lan.nodes(["ours", "theirs"]);
    let arenas = [Contestant::Viaduct, Contestant::Reference].map(|who| {
        let node = &nodes[usize::from(who == Contestant::Reference)];
        Arena { node, chain: who.chain(case, node), host_port: case.host_port }
    });
    let mut figures = [(Vec::new(), Vec::new()), (Vec::new(), Vec::new())];
    // The kernel tears a namespace down in the background, which would slow whoever comes next: all
    // stay until the end.
    let mut used = Vec::new();
    // The first pod makes the bridge and the rules; it is not counted.
    for number in 0..=runs {
        for (arena, figures) in arenas.iter().zip(&mut figures) {
            let container = arena.node.container("pod");
            let (add, result) = arena.add(&container, number);
            let del = arena.del(&container, number, &result);
            used.push(container);
            if number > 0 {
                figures.0.push(add);
                figures.1.push(del);
            }
        }
    }
    let [(our_add, our_del), (their_add, their_del)] = figures;
    let peer = if case.host_port { PEER_PORTS } else { PEER };
    let (add, del) = (format!("ADD {}", case.name), format!("DEL {}", case.name));
    let our_add = report.add(&add, "viaduct", our_add);
    let their_add = report.add(&add, peer, their_add);
    let our_del = report.add(&del, "viaduct", our_del);
    let their_del = report.add(&del, peer, their_del);
    match case.name {
        "plain" => {
            report.bar("ADD plain, of bridge + host-local", our_add / their_add, 1.0 / 3.0, "x")
        }
        "masquerade + hostPort" => {
            report.bar(
                "ADD masquerade + hostPort, of bridge + portmap",
                our_add / their_add,
                0.1,
                "x",
            );
            report.bar(
                "DEL masquerade + hostPort, of bridge + portmap",
                our_del / their_del,
                0.25,
                "x",
            );
        }
        _ => {}
    }
}

/// The plain ADD beside the bare netlink messages.
fn floor(report: &mut Report, runs: usize) -> Result<()> {
    let lan = Lan::new();
    let node = lan.node("n1");
    let chain = Contestant::Viaduct.chain(CASES[0], &node);
    let arena = Arena { node: &node, chain, host_port: false };
    let floor = programs::built().join("floor").display().to_string();
    let keeper = node.container("keeper");
    let _ = arena.add(&keeper, 0);
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for number in 1..=runs * 2 {
        let container = node.container("pod");
        let (add, result) = arena.add(&container, number);
        arena.del(&container, number, &result);
        ours.push(add);

        let container = node.container("pod");
        let name = format!("floor{number}");
        let address = format!("10.244.{}.{}/16", 100 + number / 200, 1 + number % 200);
        let netns = container.path().display().to_string();
        let start = Instant::now();
        node.namespace().command(&floor, &["ADD", "bench0", &name, &address, "10.244.0.1", &netns]);
        bare.push(start.elapsed().as_secs_f64() * 1000.0);
        node.namespace().command(&floor, &["DEL", &name]);
    }
    let ours = report.add("ADD plain, beside its floor", "viaduct", ours);
    let bare = report.add("ADD plain, beside its floor", "floor", bare);
    report.bar("ADD plain, of the bare netlink messages", ours / bare, 1.5, "x");
    Ok(())
}

/// 80 ADDs and 80 DELs by eight workers, three times each.
fn burst(report: &mut Report) {
    const WORKERS: usize = 8;
    const PODS: usize = 10;
    let case = CASES[2];
    let mut medians = Vec::new();
    for who in [Contestant::Viaduct, Contestant::Reference] {
        let mut rounds = Vec::new();
        for _ in 0..3 {
            let lan = Lan::new();
            let node = lan.node("n1");
            let arena = Arena { node: &node, chain: who.chain(case, &node), host_port: true };
            let containers: Vec<Namespace> =
                (0..WORKERS * PODS).map(|_| node.container("pod")).collect();
            let start = Instant::now();
            std::thread::scope(|scope| {
                for worker in 0..WORKERS {
                    let (arena, containers) = (&arena, &containers);
                    scope.spawn(move || {
                        let own = || (worker * PODS)..((worker + 1) * PODS);
                        let results: Vec<Value> =
                            own().map(|n| arena.add(&containers[n], n).1).collect();
                        for (n, result) in own().zip(&results) {
                            arena.del(&containers[n], n, result);
                        }
                    });
                }
            });
            rounds.push(start.elapsed().as_secs_f64() * 1000.0);
        }
        let name = if who == Contestant::Viaduct { "viaduct" } else { PEER_PORTS };
        medians.push(report.add("80 pods by 8 workers, ADD and DEL", name, rounds));
    }
    report.bar("80 pods by 8 workers, of bridge + portmap", medians[0] / medians[1], 0.1, "x");
}

/// ADD of the first and of the last pods of a full node.
fn fill(report: &mut Report) {
    const PODS: usize = 110;
    const EDGE: usize = 20;
    for case in [CASES[0], CASES[2]] {
        let (mut first, mut last) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            let lan = Lan::new();
            let node = lan.node("n1");
            let chain = Contestant::Viaduct.chain(case, &node);
            let arena = Arena { node: &node, chain, host_port: case.host_port };
            let containers: Vec<Namespace> = (0..=PODS).map(|_| node.container("pod")).collect();
            // The first of all makes the bridge and the rules.
            let adds: Vec<f64> =
                containers.iter().enumerate().map(|(n, c)| arena.add(c, n).0).skip(1).collect();
            first.extend_from_slice(&adds[..EDGE]);
            last.extend_from_slice(&adds[PODS - EDGE..]);
        }
        let ratio = median(&last) / median(&first);
        report.add(&format!("ADD {}, pods 1 to 20", case.name), "viaduct", first);
        report.add(&format!("ADD {}, pods 91 to 110", case.name), "viaduct", last);
        report.bar(&format!("ADD {}: pod 110 of pod 1", case.name), ratio, 1.2, "x");
    }
}
