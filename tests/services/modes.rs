//! What is about a proxy mode other than the default, and about changing it.

use std::fs::File;
use std::net::SocketAddr;
use std::time::Duration;

use testnet::manifest::Endpoint;
use testnet::{Family, Host, Manifests, Mode, Namespace, Node, Proxyd, eventually, programs};

use super::churn::meanwhile;
use super::tables::fifty;
use super::world::{
    Addressed, PORT, World, address, both, external, gateway, neighbour, node_port_service,
    service, vip, with_slices,
};
use super::{FAMILIES, SILENCE, assert_dropped, assert_refused, mode_is, served, soon};

const NODE_PORT: u16 = 30080;
pub(crate) const IPTABLES: [&str; 2] = ["--proxy-mode", "iptables"];

/// The variant of iptables that daemons use here.
pub(crate) fn variant() -> &'static str {
    match Mode::of_tests() {
        Mode::Iptables(variant) => variant,
        Mode::Nftables | Mode::Ipvs => "nft",
    }
}

pub(crate) fn rules(namespace: &Namespace) -> String {
    Mode::Iptables(variant()).rules(namespace)
}

fn web(endpoint: Endpoint) -> String {
    with_slices(&node_port_service("web", 10, NODE_PORT), "web", &[endpoint])
}

/// Runs the daemon's program to its end; what it said.
fn run(node: &Node, inside: &Namespace, line: &[&str]) -> Result<String, String> {
    let line = Proxyd::command_line(node, line[0], &line[1..]);
    let (program, lock) = (programs::proxyd(), inside.xtables_lock().to_owned());
    let output = inside.run(move || {
        let mut command = std::process::Command::new(program);
        command.args(line).env("XTABLES_LOCKFILE", lock).output()
    });
    let output = output.map_err(|error| error.to_string())?;
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match output.status.success() {
        true => Ok(said(&output.stdout) + &said(&output.stderr)),
        false => Err(said(&output.stderr)),
    }
}

/// Whether rules of a mode are there, and none of another.
pub(super) fn only(world: &World, mode: &str) -> bool {
    let tables = world.n1.namespace().command("nft", &["list", "tables"]);
    let nftables = tables.contains("table ip viaduct") || tables.contains("table ip6 viaduct");
    let iptables = rules(world.n1.namespace()).contains("VIADUCT");
    (nftables, iptables) == (mode == "nftables", mode == "iptables")
}

#[test]
fn a_change_of_the_mode_fails_nobody() {
    let world = World::new();
    let (a, b) = (world.backend(&world.n1, "a"), world.backend(&world.n2, "b"));
    let client = world.pod(&world.n1, "client");
    let mut proxyd = Proxyd::start(&world.n1, &["--proxy-mode", "nftables"]);
    let service = node_port_service("web", 10, NODE_PORT);
    let endpoints = [Endpoint::of(&a), Endpoint::of(&b)];
    proxyd.apply("web", &with_slices(&service, "web", &endpoints));
    let mut connections = Vec::new();
    let mut flows = Vec::new();
    for family in FAMILIES {
        let to_vip = (vip(family, 10), PORT);
        let to_node = (world.n1.ip(family), NODE_PORT);
        for _ in 0..25 {
            connections.push(client.connect(to_vip).unwrap());
            connections.push(world.lan.connect(to_node).unwrap());
        }
        flows.push(client.udp_flow_within(to_vip, SILENCE).unwrap());
        flows.push(world.lan.udp_flow_within(to_node, SILENCE).unwrap());
    }
    let homes: Vec<String> =
        connections.iter_mut().map(|connection| connection.ask("x").unwrap().server).collect();
    let peers: Vec<u16> = flows.iter_mut().map(|flow| flow.ask("x").unwrap().peer_port).collect();
    let changes = FAMILIES.map(|family| [("iptables", family), ("nftables", family)]).concat();
    for (mode, family) in changes {
        let change = || {
            proxyd.stop();
            proxyd = Proxyd::spawn(&world.n1, &["--proxy-mode", mode]);
            let what = format!("nothing but rules of {mode} mode");
            eventually(&what, Duration::from_secs(30), || {
                // In use meanwhile: conntrack forgets an idle one after half a minute.
                for (flow, peer) in flows.iter_mut().zip(&peers) {
                    assert_eq!(flow.ask(mode).unwrap().peer_port, *peer, "{mode}");
                }
                only(&world, mode)
            });
            proxyd.await_sync();
            for (connection, home) in connections.iter_mut().zip(&homes) {
                assert_eq!(&connection.ask(mode).unwrap().server, home, "{mode}");
            }
        };
        let outer = (world.n1.ip(family), NODE_PORT);
        let inner = (vip(family, 10), PORT);
        let mut outside = (0, Vec::new());
        let (attempts, failures) = meanwhile(&client, inner, || {
            outside = meanwhile(&world.lan, outer, change);
        });
        // Where there is IPVS there is one slow CPU.
        let enough = if mode_is("ipvs") { 20 } else { 50 };
        assert!(attempts > enough && failures.is_empty(), "{mode}: {attempts}: {failures:?}");
        assert!(outside.0 > enough && outside.1.is_empty(), "{mode}: outside: {outside:?}");
    }
}

#[test]
fn node_ports_of_iptables_mode_are_on_all_addresses_and_on_localhost() {
    let world = World::new();
    let a = world.backend(&world.n1, "a");
    let client = world.pod(&world.n1, "client");
    world.n1.namespace().ip("addr add 192.168.0.101/24 dev eth0");
    for (more, localhost) in
        [(&[] as &[&str], true), (&["--iptables-localhost-nodeports=false"], false)]
    {
        let proxyd = Proxyd::start(&world.n1, &[&IPTABLES, more].concat());
        proxyd.apply("web", &web(Endpoint::of(&a)));
        for family in FAMILIES {
            assert_eq!(served(&world.lan, (world.n1.ip(family), NODE_PORT)).0, "a");
            assert_eq!(served(&client, (gateway(family), NODE_PORT)).0, "a");
        }
        assert_eq!(served(&world.lan, ("192.168.0.101".parse().unwrap(), NODE_PORT)).0, "a");
        let loopback = (address(Family::V4, "127.0.0.1", "::1"), NODE_PORT);
        if localhost {
            soon("a node port on localhost", || world.n1.tcp_within(loopback, SILENCE));
        } else {
            assert_refused(&world.n1, loopback);
        }
        assert_eq!(world.n1.namespace().sysctl("net/ipv4/conf/all/route_localnet"), "0");
    }
}

#[test]
fn what_is_rendered_for_iptables_is_what_the_daemon_programs() {
    let world = World::new();
    let pods = ["a", "b", "c"].map(|name| world.backend(&world.n1, name));
    let daemon = Proxyd::start(&world.n1, &IPTABLES);
    let endpoints: Vec<Endpoint> = pods.iter().map(|pod| Endpoint::of(pod)).collect();
    fifty(&daemon, &endpoints, true);
    let text =
        run(&world.n1, world.n1.namespace(), &[&["render"], &IPTABLES[..]].concat()).unwrap();
    let fresh = Namespace::new("fresh");
    let parts: Vec<&str> = text.split("# ").filter(|part| !part.is_empty()).collect();
    assert_eq!(parts.len(), 2, "one for each family");
    for (part, start) in parts.iter().zip(["iptables", "ip6tables"]) {
        let file = world.n1.folder().join("rendered");
        std::fs::write(&file, format!("# {part}")).unwrap();
        let program = format!("{start}-{}-restore", variant());
        fresh.command(&program, &["--noflush", &file.display().to_string()]);
    }
    let sorted = |namespace: &Namespace| {
        let text = rules(namespace);
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&fresh), sorted(world.n1.namespace()));
    // The daemon takes it for its own, whatever there is.
    let said = run(&world.n1, &fresh, &[&["run", "--oneshot"], &IPTABLES[..]].concat()).unwrap();
    assert!(said.contains(": 0 elements in 0 transactions"), "{said}");
}

#[test]
fn explain_tells_what_packets_do_in_iptables_mode() {
    let world = World::new();
    let a = world.backend(&world.n1, "a");
    [both(external, 1), both(vip, 10), both(vip, 11)].iter().for_each(|to| world.route_all(to));
    let proxyd = Proxyd::start(&world.n1, &IPTABLES);
    let balancer = node_port_service("web", 10, NODE_PORT)
        .load_balancer(&both(external, 1))
        .spec("loadBalancerSourceRanges", ["10.0.0.0/8", "fd00:10::/32"]);
    proxyd.write("empty", &service("empty", 11).to_string());
    proxyd.apply("web", &with_slices(&balancer, "web", &[Endpoint::of(&a)]));
    for family in FAMILIES {
        let outside = neighbour(family).to_string();
        let node = world.n1.ip(family);
        let (web, empty) = (vip(family, 10), vip(family, 11));
        for (to, reason, then) in [
            ((web, PORT), "internalTrafficPolicy Cluster: any endpoint", "a"),
            ((web, 81), "has no port 81/tcp: refused", "refused"),
            ((empty, PORT), "no usable endpoint anywhere: refused", "refused"),
            ((node, NODE_PORT), "externalTrafficPolicy Cluster: any endpoint, masqueraded", "a"),
            ((external(family, 1), PORT), "in none of loadBalancerSourceRanges", "dropped"),
        ] {
            let target = SocketAddr::from(to).to_string();
            let question = ["explain", "--from", &outside, "--to", &target];
            let said = run(&world.n1, world.n1.namespace(), &[&question, &IPTABLES[..]].concat());
            let said = said.unwrap();
            let verdict = if then == "a" { "verdict: allowed" } else { "verdict: denied" };
            assert!(said.starts_with(verdict) && said.contains(reason), "{target}: {said}");
            match then {
                "refused" => assert_refused(&world.lan, to),
                "dropped" => assert_dropped(&world.lan, to),
                name => {
                    assert!(said.contains("masquerade: this node"), "{said}");
                    assert_eq!(served(&world.lan, to), (name.to_owned(), gateway(family)));
                }
            }
        }
    }
}

#[test]
fn kube_proxys_chains_go_and_ours_stay() {
    let world = World::new();
    let a = world.backend(&world.n1, "a");
    for start in ["iptables", "ip6tables"] {
        let program = format!("{start}-{}", variant());
        for line in [
            "-t nat -N KUBE-SERVICES",
            "-t nat -A PREROUTING -j KUBE-SERVICES",
            "-t nat -N STRANGER",
            "-t nat -A PREROUTING -j STRANGER",
        ] {
            world.n1.namespace().command(&program, &line.split(' ').collect::<Vec<_>>());
        }
    }
    let more = [&IPTABLES[..], &["--takeover"]].concat();
    let proxyd = Proxyd::start(&world.n1, &more);
    proxyd.apply("web", &web(Endpoint::of(&a)));
    soon("kube-proxy's chains are gone", || !rules(world.n1.namespace()).contains("KUBE-"));
    assert_eq!(rules(world.n1.namespace()).matches("-A PREROUTING -j STRANGER").count(), 2);
    assert!(proxyd.log().contains("kube-proxy was here"), "{}", proxyd.log());
    for family in FAMILIES {
        assert_eq!(served(&world.lan, (world.n1.ip(family), NODE_PORT)).0, "a");
    }
}

#[test]
fn a_lock_that_somebody_holds_delays_changes_and_nothing_else() {
    if variant() != "legacy" {
        return testnet::skip("the nft variant of iptables has no lock");
    }
    let world = World::new();
    let [a, b] = ["a", "b"].map(|name| world.backend(&world.n1, name));
    let proxyd = Proxyd::start(&world.n1, &IPTABLES);
    proxyd.apply("web", &web(Endpoint::of(&a)));
    let lock = File::options().write(true).open(world.n1.namespace().xtables_lock()).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    proxyd.write("web", &web(Endpoint::of(&b)));
    let status = || proxyd.http_get(10249, "/status").map(|answer| answer.body).unwrap_or_default();
    eventually("the lock is named", Duration::from_secs(10), || {
        if status().contains("lock of xtables") { Ok(()) } else { Err(status()) }
    });
    for family in FAMILIES {
        assert_eq!(served(&world.n1, (vip(family, 10), PORT)).0, "a");
    }
    let failures = "kubeproxy_sync_proxy_rules_iptables_restore_failures_total";
    assert!(proxyd.metric(failures, "").is_some_and(|count| count > 0.0));
    drop(lock);
    eventually("the change is in force", Duration::from_secs(15), || {
        world.n1.tcp((vip(Family::V4, 10), PORT)).ok().filter(|answer| answer.server == "b")
    });
}

/// Other programs hold the lock for a moment only; the chains stay until it is free.
#[test]
fn what_could_not_be_removed_is_told_and_tried_again() {
    if programs::installed("iptables-legacy").is_none() {
        return testnet::skip("iptables-legacy is not installed");
    }
    let world = World::new();
    let node = world.n1.namespace();
    for line in ["-t nat -N VIADUCT-SERVICES", "-t nat -A PREROUTING -j VIADUCT-SERVICES"] {
        node.command("iptables-legacy", &line.split(' ').collect::<Vec<_>>());
    }
    node.command("nft", &["add table ip kube-proxy"]);
    let lock = File::options().write(true).open(node.xtables_lock()).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let proxyd = Proxyd::start(&world.n1, &["--proxy-mode", "nftables"]);
    let status = || node.command(&programs::proxyd().display().to_string(), &["status"]);
    let left = || status().lines().find(|line| line.starts_with("leftovers: ")).map(str::to_owned);
    let told = eventually("what is left is told", Duration::from_secs(15), left);
    assert!(told.contains("iptables-legacy: ") && told.contains("lock of xtables"), "{told}");
    let failures = "kubeproxy_sync_proxy_rules_nftables_cleanup_failures_total";
    assert!(proxyd.metric(failures, "IPv4").is_some_and(|count| count > 0.0));
    assert_eq!(proxyd.metric(failures, "IPv6"), None);
    let tables = node.command("nft", &["list", "tables"]);
    assert!(!tables.contains("kube-proxy"), "one failure hides nothing else: {tables}");
    drop(lock);
    eventually("the chains are gone", Duration::from_secs(20), || {
        let saved = node.command("iptables-legacy-save", &["-t", "nat"]);
        if saved.contains("VIADUCT") { Err(saved) } else { Ok(()) }
    });
    soon("nothing more is told", || left().is_none());
}

/// Runs the daemon's program where those of iptables are not installed; the error is what it said.
fn run_without_programs(node: &Node, more: &[&str]) -> Result<String, String> {
    let line = Proxyd::command_line(node, "run", more);
    let script = "mount -t tmpfs none /usr/sbin && exec \"$0\" \"$@\" 2>&1";
    let program = programs::proxyd().display().to_string();
    let mut all = vec!["-m", "sh", "-c", script, &program];
    all.extend(line.iter().map(String::as_str));
    Manifests::of(node);
    node.namespace().try_command("unshare", &all)
}

#[test]
fn tables_that_nobody_can_look_into_are_told() {
    if programs::installed("iptables-legacy").is_none() {
        return testnet::skip("iptables-legacy is not installed");
    }
    let world = World::new();
    let once = ["--proxy-mode", "nftables", "--oneshot"];
    let said = run_without_programs(&world.n1, &once).unwrap();
    assert!(!said.contains("kube-proxy"), "{said}");
    for (program, chain) in [("ip6tables-nft", "KUBE-SERVICES"), ("iptables-legacy", "STRANGER")] {
        world.n1.namespace().command(program, &["-t", "nat", "-N", chain]);
    }
    let said = run_without_programs(&world.n1, &once).unwrap();
    assert!(said.contains("kube-proxy was here, or still is: chains of ip6tables-nft."), "{said}");
    let lines: Vec<&str> = said.lines().filter(|line| line.contains("looked into")).collect();
    let [line] = lines[..] else { panic!("not one line: {said}") };
    for unseen in ["ip6tables-nft: ", "iptables-legacy (nat): "] {
        assert!(line.contains(unseen), "{line}");
    }
}

#[test]
fn a_missing_program_is_told_by_its_name() {
    let world = World::new();
    let once = [&IPTABLES[..], &["--oneshot"]].concat();
    let said = run_without_programs(&world.n1, &once).expect_err("it cannot work");
    assert!(said.contains("-save is not installed here"), "{said}");
    assert!(said.contains("install iptables"), "{said}");
}
