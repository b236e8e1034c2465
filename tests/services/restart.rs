//! The daemon ends, comes back, and repairs what others broke.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use testnet::manifest::{Endpoint, documents};
use testnet::{Host, Mode, Node, Proxyd, eventually, programs};

use super::world::{
    Addressed, Backend, PORT, World, both, external, node_port_service, slices, vip, with_slices,
};
use super::{FAMILIES, SILENCE, SOON, assert_refused, served, soon};

const NODE_PORT: u16 = 30080;

fn proxyd_command(node: &Node, line: &[String]) -> Result<String, String> {
    let line: Vec<&str> = line.iter().map(String::as_str).collect();
    node.namespace().try_command(&programs::proxyd().display().to_string(), &line)
}

fn tables(node: &Node) -> String {
    Mode::of_tests().rules(node.namespace())
}

fn web(proxyd: &Proxyd<'_>, pod: &Backend<'_>) {
    let web = node_port_service("web", 10, NODE_PORT)
        .load_balancer(&both(external, 1))
        .spec("loadBalancerSourceRanges", ["0.0.0.0/0", "::/0"]);
    proxyd.write("web", &documents(&[&web]));
    proxyd.apply("slices", &slices("web", &[Endpoint::of(pod)]));
}

#[track_caller]
fn assert_served(world: &World, name: &str) {
    for family in FAMILIES {
        assert_eq!(served(&world.n1, (vip(family, 10), PORT)).0, name, "{family:?}");
        assert_eq!(served(&world.lan, (world.n1.ip(family), NODE_PORT)).0, name, "{family:?}");
    }
}

#[test]
fn the_rules_stay_when_the_daemon_ends() {
    for how in ["stop", "kill"] {
        let world = World::new();
        let (a, b) = (world.backend(&world.n1, "a"), world.backend(&world.n2, "b"));
        let client = world.pod(&world.n1, "client");
        let mut proxyd = world.start(&[]);
        web(&proxyd, &a);
        let mut kept = Vec::new();
        for family in FAMILIES {
            let connection = client.connect((vip(family, 10), PORT)).unwrap();
            let outside = world.lan.connect((world.n1.ip(family), NODE_PORT)).unwrap();
            let flow = client.udp_flow_within((vip(family, 10), PORT), SILENCE).unwrap();
            kept.push((connection, outside, flow));
        }
        let peers: Vec<u16> = kept
            .iter_mut()
            .map(|(connection, outside, flow)| {
                connection.ask("x").unwrap();
                outside.ask("x").unwrap();
                flow.ask("x").unwrap().peer_port
            })
            .collect();
        let before = tables(&world.n1);
        match how {
            "stop" => assert!(proxyd.stop().success(), "SIGTERM is an orderly end"),
            _ => proxyd.kill(),
        }
        assert_eq!(tables(&world.n1), before, "{how}");
        assert_served(&world, "a");
        let mut check = |when: &str| {
            for ((connection, outside, flow), peer) in kept.iter_mut().zip(&peers) {
                assert_eq!(connection.ask(when).unwrap().server, "a", "{how}: {when}");
                assert_eq!(outside.ask(when).unwrap().server, "a", "{how}: {when}");
                assert_eq!(flow.ask(when).unwrap().peer_port, *peer, "{how}: {when}");
            }
        };
        check("while it is away");
        proxyd.start_again();
        check("after it came back");
        assert_served(&world, "a");
        proxyd.apply("slices", &slices("web", &[Endpoint::of(&b)]));
        assert_served(&world, "b");
    }
}

/// What is written to a node's nftables.
struct Monitor {
    child: Child,
    lines: Receiver<String>,
}

impl Monitor {
    fn start(node: &Node) -> Monitor {
        let start = || Command::new("nft").arg("monitor").stdout(Stdio::piped()).spawn();
        let mut child = node.namespace().run(start).unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        let monitor = Monitor { child, lines };
        // It takes a while until it listens.
        soon("the monitor listens", || {
            node.namespace().command("nft", &["add table ip begin; delete table ip begin"]);
            monitor.lines.recv_timeout(Duration::from_secs(1)).ok()
        });
        monitor.until(node, "started");
        monitor
    }

    /// What is told until it tells of a table that is made now.
    fn until(&self, node: &Node, table: &str) -> Vec<String> {
        node.namespace().command("nft", &[&format!("add table ip {table}")]);
        let last = format!("add table ip {table}");
        let mut events = Vec::new();
        loop {
            let line = self.lines.recv_timeout(SOON).expect("what was written last");
            if line == last {
                return events;
            }
            if !line.starts_with('#') {
                events.push(line);
            }
        }
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_restart_writes_nothing_if_nothing_changed() {
    let world = World::new();
    let [a, b] = ["a", "b"].map(|name| world.backend(&world.n1, name));
    let mut proxyd = world.start(&[]);
    web(&proxyd, &a);
    let sticky = node_port_service("sticky", 11, 30081).affinity(600);
    let both = [Endpoint::of(&a), Endpoint::of(&b)];
    proxyd.apply("sticky", &with_slices(&sticky, "sticky", &both));
    served(&world.n1, (vip(testnet::Family::V4, 11), PORT));
    proxyd.stop();
    let before = tables(&world.n1);
    let monitor = Monitor::start(&world.n1);
    let mut again = Proxyd::spawn(&world.n1, &[]);
    soon("it has synced", || {
        again.http_get(10256, "/healthz").filter(|response| response.status == 200)?;
        again.metric("kubeproxy_sync_proxy_rules_last_timestamp_seconds", "").filter(|t| *t > 0.0)
    });
    let events = monitor.until(&world.n1, "ended");
    assert_eq!(events, Vec::<String>::new(), "events while it started");
    // Affinity's time runs, nothing else moves.
    let timeless = |text: String| {
        let words = text.split_whitespace().filter(|word| !word.ends_with("ms"));
        words.filter(|word| *word != "expires").collect::<Vec<_>>().join(" ")
    };
    assert_eq!(timeless(tables(&world.n1)), timeless(before));
    let log = again.log();
    let last = log.lines().rfind(|line| line.contains("synced in")).unwrap_or_default();
    assert!(last.contains(": 0 elements in 0 transactions"), "{last}");
    assert!(again.is_running());
}

#[test]
fn changes_during_its_absence_are_made_up_for() {
    let world = World::new();
    let [a, b] = ["a", "b"].map(|name| world.backend(&world.n1, name));
    let mut proxyd = world.start(&[]);
    web(&proxyd, &a);
    let old = node_port_service("old", 11, 30081);
    proxyd.apply("old", &with_slices(&old, "old", &[Endpoint::of(&a)]));
    proxyd.kill();
    proxyd.remove("old");
    proxyd.write("slices", &slices("web", &[Endpoint::of(&b)]));
    let new = node_port_service("new", 12, 30082);
    proxyd.write("new", &with_slices(&new, "new", &[Endpoint::of(&a)]));
    assert_served(&world, "a");
    proxyd.start_again();
    assert_served(&world, "b");
    for family in FAMILIES {
        assert_eq!(served(&world.lan, (world.n1.ip(family), 30082)).0, "a");
        assert_refused(&world.lan, (world.n1.ip(family), 30081));
        assert!(world.n1.tcp_within((vip(family, 11), PORT), SILENCE).is_err());
    }
}

#[test]
fn what_others_remove_comes_back() {
    let damages: &[&[&str]] = match Mode::of_tests() {
        Mode::Nftables | Mode::Ipvs => &[
            &["nft delete table ip viaduct"],
            &["nft delete table ip6 viaduct"],
            &["nft flush ruleset"],
            &["nft flush table ip viaduct", "nft flush table ip6 viaduct"],
        ],
        Mode::Iptables("legacy") => &[
            &["iptables-legacy -t nat -F"],
            &["iptables-legacy -t nat -F", "iptables-legacy -t nat -X"],
            &["ip6tables-legacy -t nat -D PREROUTING 1", "ip6tables-legacy -t nat -D OUTPUT 1"],
            &["iptables-legacy -t nat -F VIADUCT-ADDRESSES", "ip6tables-legacy -t filter -F"],
        ],
        Mode::Iptables(_) => &[
            &["nft flush ruleset"],
            &["iptables-nft -t nat -F", "iptables-nft -t nat -X"],
            &["ip6tables-nft -t nat -D PREROUTING 1", "ip6tables-nft -t nat -D OUTPUT 1"],
            &["nft delete table ip nat", "nft delete table ip filter", "nft delete table ip6 nat"],
            &["iptables-nft -t nat -R OUTPUT 1 -j RETURN"],
            &["ip6tables-nft -t nat -R VIADUCT-ADDRESSES 1 -j RETURN"],
        ],
    };
    for damage in damages {
        let world = World::new();
        let a = world.backend(&world.n1, "a");
        let proxyd = world.start(&[]);
        web(&proxyd, &a);
        // Once more, when it was looked for what others do already.
        for _ in 0..2 {
            let known = proxyd.log().lines().count();
            for command in *damage {
                let words: Vec<&str> = command.split(' ').collect();
                world.n1.namespace().command(words[0], &words[1..]);
            }
            eventually(&format!("all is back after {damage:?}"), Duration::from_secs(10), || {
                for family in FAMILIES {
                    world.n1.tcp_within((vip(family, 10), PORT), SILENCE)?;
                    world.lan.tcp_within((world.n1.ip(family), NODE_PORT), SILENCE)?;
                }
                std::io::Result::Ok(())
            });
            // It is told after it is mended.
            eventually(&format!("a word of {damage:?}"), SOON, || {
                let log: Vec<String> =
                    proxyd.log().lines().skip(known).map(str::to_owned).collect();
                let told = log.iter().any(|line| line.contains("WARN") || line.contains("ERROR"));
                if told { Ok(()) } else { Err(log) }
            });
        }
    }
}

#[test]
fn elements_that_others_remove_come_back() {
    if !testnet::only_nftables("iptables mode has no elements") {
        return;
    }
    let world = World::new();
    let a = world.backend(&world.n1, "a");
    let proxyd = world.start(&[]);
    web(&proxyd, &a);
    let before = tables(&world.n1);
    for family in ["ip", "ip6"] {
        let listed = world.n1.namespace().command("nft", &["list", "table", family, "viaduct"]);
        for line in listed.lines().map(str::trim) {
            let mut words = line.split_whitespace();
            if let (Some(kind @ ("map" | "set")), Some(name)) = (words.next(), words.next()) {
                // What rules hold on to cannot be emptied; the rest is.
                let _ = world
                    .n1
                    .namespace()
                    .try_command("nft", &["flush", kind, family, "viaduct", name]);
            }
        }
    }
    let names = |text: &str| {
        let words = text.split_whitespace().map(|word| word.trim_end_matches(','));
        let mut words: Vec<String> = words.map(str::to_owned).collect();
        words.sort();
        words
    };
    eventually("the tables are as before", Duration::from_secs(10), || {
        let strip = |text: String| {
            names(&text).into_iter().filter(|word| word.parse::<u64>().is_err()).collect::<Vec<_>>()
        };
        strip(tables(&world.n1)) == strip(before.clone())
    });
    assert_served(&world, "a");
    assert!(proxyd.log().contains("WARN"), "no word of it: {}", proxyd.log());
    // And changes go on.
    proxyd.apply("slices", &slices("web", &[]));
    for family in FAMILIES {
        assert_refused(&world.n1, (vip(family, 10), PORT));
    }
}

#[test]
fn a_single_sync_tells_how_it_went() {
    let world = World::new();
    let a = world.backend(&world.n1, "a");
    let web = node_port_service("web", 10, NODE_PORT);
    let manifests = testnet::Manifests::of(&world.n1);
    manifests.write("web", &with_slices(&web, "web", &[Endpoint::of(&a)]));
    let line = Proxyd::command_line(&world.n1, "run", &["--oneshot"]);
    proxyd_command(&world.n1, &line).unwrap_or_else(|error| panic!("{error}"));
    assert_served(&world, "a");
    // Again, when all is there.
    proxyd_command(&world.n1, &line).unwrap_or_else(|error| panic!("{error}"));
    assert_served(&world, "a");
    let nowhere: Vec<String> = ["run", "--oneshot", "--manifests", "/nonexistent/folder"]
        .iter()
        .map(|word| (*word).to_owned())
        .collect();
    let error = proxyd_command(&world.n1, &nowhere).unwrap_err();
    assert!(error.contains("/nonexistent/folder"), "{error}");
    // What it cannot read leaves what is in force, and shows in the exit code or on standard error.
    manifests.write("bad", "kind: [");
    let said = proxyd_command(&world.n1, &line);
    assert!(said.is_err(), "a broken manifest is no success");
    assert_served(&world, "a");
}

#[test]
fn settings_that_cannot_be_are_refused_by_name() {
    let world = World::new();
    for (more, name) in [
        (&["--nodeport-addresses", "300.1.2.3/8"] as &[&str], "nodeport-addresses"),
        (&["--no-such-flag"], "no-such-flag"),
        (&["--detect-local-mode", "Guess"], "detect-local-mode"),
        (&["--proxy-mode", "userspace"], "proxy-mode"),
        (&["--cluster-cidr", "10.0.0.0/99"], "cluster-cidr"),
    ] {
        let line = Proxyd::command_line(&world.n1, "run", &[more, &["--oneshot"]].concat());
        let error = proxyd_command(&world.n1, &line).expect_err(name);
        // The field of the configuration or the flag.
        let said = error.to_lowercase().replace('-', "");
        assert!(said.contains(&name.replace('-', "")), "{name}: {error}");
    }
}
