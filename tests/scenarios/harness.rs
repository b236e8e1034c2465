//! The harness itself, judged with the reference plugin: what it reports is so, and nothing is left.

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use testnet::traffic::throughput;
use testnet::{
    Family, Host, Lan, Namespace, Network, Node, eventually, programs, require_root, skip,
    unpin_all,
};

/// Tells a copy of this executable to make namespaces and wait for its end.
const VICTIM: &str = "TESTNET_VICTIM_OF";

/// How long the kernel may take to dissolve a namespace that nobody uses.
const DISSOLVED_WITHIN: Duration = Duration::from_secs(10);

/// A dual-stack network by the reference plugins, or nothing, with the reason printed.
fn reference(node: &Node) -> Option<Network> {
    for plugin in ["bridge", "host-local"] {
        if programs::installed_plugin(plugin).is_none() {
            skip(&format!("the reference plugin {plugin} is not installed"));
            return None;
        }
    }
    let network = Network::reference_bridge("reference");
    Some(network.subnet(&node.pod_cidr()).subnet(&node.pod_cidr_v6()))
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn two_pods_of_another_plugin_talk_and_every_probe_tells_the_truth() {
    if !require_root() {
        return;
    }
    let lan = Lan::new();
    let node = lan.node("n1");
    assert_eq!(node.namespace().sysctl("net/ipv4/ip_forward"), "0", "a fresh node");
    let Some(network) = reference(&node) else { return };
    let (a, b) = (node.pod(&network, "a"), node.pod(&network, "b"));
    assert_eq!(node.leases("reference").len(), 4);
    let link = a.namespace().ip_json("link show dev eth0");
    assert_eq!(link[0]["address"], a.mac());

    let (tcp, udp) = (b.serve_tcp(8080), b.serve_udp(8080));
    for (from, to) in [(a.v4(), b.v4()), (a.v6(), b.v6())] {
        a.ping(to).unwrap();
        let answer = a.tcp((to, 8080)).unwrap();
        assert_eq!((answer.server.as_str(), answer.peer), ("b", from));
        assert_eq!(a.udp((to, 8080)).unwrap().peer, from);
        assert_eq!(a.tcp_from_port((to, 8080), 4711).unwrap().peer_port, 4711);

        let mut connection = a.connect((to, 8080)).unwrap();
        let mut flow = a.udp_flow((to, 8080), 4712).unwrap();
        for message in ["one", "two words"] {
            let answer = connection.ask(message).unwrap();
            assert_eq!(answer.echo, message);
            assert_eq!(answer.peer_port, connection.local().unwrap().port());
            assert_eq!(flow.ask(message).unwrap().peer_port, 4712);
        }
        assert_eq!(a.tcp((to, 8081)).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        assert_eq!(a.udp((to, 8081)).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        assert!(!a.can_reach((to, 8081)));
    }
    assert!(a.can_reach(format!("{}:8080", b.v4()).as_str()));
    // Per family: a probe, one from a port, a connection with two lines; and once more over IPv4.
    assert_eq!((tcp.connections(), tcp.answered()), (7, 9));
    assert_eq!(udp.answered(), 6);
    drop((tcp, udp));
    assert!(!a.can_reach((b.v4(), 8080)), "its server is gone");

    a.delete();
    assert_eq!(node.leases("reference").len(), 2);
    assert!(a.ping(b.v4()).is_err(), "a pod without its link");
}

#[test]
fn a_server_on_one_address_serves_no_other_and_a_taken_port_is_noticed() {
    let host = Lan::new();
    let _server = host.serve_tcp("198.51.100.1:80");
    let _datagrams = host.serve_udp((host.outside(Family::V6), 53));
    assert!(host.can_reach("198.51.100.1:80"));
    assert!(!host.can_reach("192.168.0.254:80"));
    host.udp((host.outside(Family::V6), 53)).unwrap();
    assert!(host.udp("[fd00:192:168::254]:53").is_err());
    for serve in [|lan: &Lan| lan.serve_tcp(80), |lan: &Lan| lan.serve_udp(53)] {
        let taken = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| serve(&host)));
        assert!(taken.is_err(), "a second server on the same port");
    }
}

#[test]
fn datagrams_are_answered_from_the_address_that_was_asked() {
    let lan = Lan::new();
    let node = lan.node("n1");
    let _server = lan.serve_udp(53);
    for family in [Family::V4, Family::V6] {
        // The route back to the node would suggest another source: the LAN's own address.
        node.udp((lan.outside(family), 53)).unwrap();
    }
}

#[test]
fn a_probe_without_an_answer_ends_in_time() {
    let lan = Lan::new();
    let node = lan.node("n1");
    let nobody = ip("192.168.0.99");
    let bounded = |what: &str, limit: Duration, probe: &dyn Fn() -> bool| {
        let start = Instant::now();
        assert!(!probe(), "{what} was answered");
        assert!(start.elapsed() < limit + Duration::from_secs(1), "{what} took too long");
    };
    bounded("a ping", Duration::from_secs(2), &|| node.ping(nobody).is_ok());
    lan.namespace().command("nft", &["add", "table", "inet", "t"]);
    let chain = "add chain inet t in { type filter hook input priority 0; policy drop; }";
    lan.namespace().command("nft", &[chain]);
    assert!(lan.namespace().ruleset().contains("policy drop"));
    let half = Duration::from_millis(500);
    let to = (lan.outside(Family::V4), 80);
    bounded("a connection", half, &|| {
        let answer = node.tcp_within(to, half);
        assert_eq!(answer.as_ref().unwrap_err().kind(), ErrorKind::TimedOut);
        answer.is_ok()
    });
    let _server = lan.serve_udp(80);
    bounded("a datagram", half, &|| {
        let answer = node.udp_within(to, half);
        assert_eq!(answer.as_ref().unwrap_err().kind(), ErrorKind::TimedOut);
        answer.is_ok()
    });
}

#[test]
fn a_live_connection_tells_when_it_is_cut_and_when_it_is_mended() {
    let lan = Lan::new();
    let node = lan.node("n1");
    let _server = (lan.serve_tcp(80), lan.serve_udp(80));
    let to = (lan.outside(Family::V4), 80);
    let (mut connection, mut flow) = (node.connect(to).unwrap(), node.udp_flow(to, 0).unwrap());
    connection.ask("before").unwrap();
    flow.ask("before").unwrap();
    lan.namespace().ip("link set node1 down");
    assert_eq!(connection.ask("cut").unwrap_err().kind(), ErrorKind::TimedOut);
    assert!(flow.ask("cut").is_err());
    lan.namespace().ip("link set node1 up");
    // The lost line is sent again by TCP, and its late answer is not taken for this one's.
    let answer =
        eventually("the connection goes on", Duration::from_secs(15), || connection.ask("mended"));
    assert_eq!(answer.echo, "mended");
    assert_eq!(flow.ask("mended").unwrap().echo, "mended");
}

#[test]
fn the_size_of_a_packet_that_fits_is_the_mtu() {
    let lan = Lan::with_mtu(1400);
    let node = lan.node("n1");
    for family in [Family::V4, Family::V6] {
        let outside = lan.outside(family);
        assert!(node.fits(outside, 1400) && !node.fits(outside, 1401), "{family:?}");
        node.ping_size(outside, 4000, false).expect("fragments");
    }
}

#[test]
fn the_outside_answers_nodes_and_masqueraded_pods_only() {
    let lan = Lan::new();
    let node = lan.node("n1");
    let Some(network) = reference(&node) else { return };
    let pod = node.pod(&network, "a");
    let server = lan.serve_tcp(80);
    let outside = (lan.outside(Family::V4), 80);
    assert_eq!(node.tcp(outside).unwrap().peer, node.v4());
    assert!(pod.ping(outside.0).is_err() && !pod.can_reach(outside), "not masqueraded");
    assert_eq!(server.connections(), 1);
    // The same packets with the node's address: nothing else was in their way.
    for command in [
        "add table ip t",
        "add chain ip t post { type nat hook postrouting priority 100; }",
        "add rule ip t post oifname eth0 masquerade",
    ] {
        node.namespace().command("nft", &[command]);
    }
    assert_eq!(pod.tcp(outside).unwrap().peer, node.v4());
    pod.ping(outside.0).unwrap();
}

#[test]
fn what_add_says_of_a_failure_is_handed_out() {
    let lan = Lan::new();
    let node = lan.node("n1");
    let Some(network) = reference(&node) else { return };
    let Err(output) = node.try_pod(&network.cni_version("9.9.9"), "a") else {
        panic!("version 9.9.9 was accepted");
    };
    assert_eq!(output.error().0, 1);
}

#[test]
fn throughput_is_what_the_link_was_made_for() {
    let lan = Lan::new();
    let node = lan.node("n1");
    let to = (lan.outside(Family::V4), 5001).into();
    let measure = || throughput(node.namespace(), lan.namespace(), to, Duration::from_secs(1));
    let free = measure();
    let shape = "qdisc add dev eth0 root tbf rate 20mbit burst 32kb latency 50ms";
    node.namespace().command("tc", &shape.split(' ').collect::<Vec<_>>());
    let shaped = measure();
    assert!(shaped > 1e6 && shaped < 24e6, "{shaped} bit/s where 20 Mbit/s are allowed");
    assert!(free > 2.0 * shaped, "{free} bit/s without a limit, {shaped} with one");
}

#[test]
fn a_panic_inside_reaches_the_caller_and_the_namespace_goes_on() {
    let namespace = Namespace::new("x");
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        namespace.run(|| assert_eq!(1, 2, "told inside"));
    }));
    let message = panic.unwrap_err();
    assert!(message.downcast_ref::<String>().unwrap().contains("told inside"));
    assert_eq!(namespace.run(|| 7), 7);
    assert!(namespace.try_command("ip", &["link", "show", "dev", "none"]).is_err());
}

#[test]
fn closures_threads_and_programs_are_inside() {
    let (namespace, other) = (Namespace::new("x"), Namespace::new("y"));
    namespace.ip("link add inside0 type bridge");
    assert_eq!(namespace.links(), ["inside0"]);
    assert!(other.links().is_empty());
    let ours = |inside: String| inside.contains("inside0");
    let read = || fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    assert!(ours(namespace.run(read)) && ours(namespace.spawn(read).join().unwrap()));
    assert!(!ours(other.run(read)) && !ours(read()));
    namespace.set_sysctl("net/ipv4/ip_default_ttl", "42");
    assert_eq!(namespace.sysctl("net/ipv4/ip_default_ttl"), "42");
    assert_ne!(other.sysctl("net/ipv4/ip_default_ttl"), "42");
    let inode = namespace.run(|| fs::read_link("/proc/thread-self/ns/net").unwrap());
    assert_eq!(fs::read_link(namespace.path()).unwrap(), inode);
}

#[test]
fn eventually_gives_up_with_the_name_of_what_it_waited_for() {
    let looks = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&looks);
    let found = eventually("the third look", Duration::from_secs(5), move || {
        (looks.fetch_add(1, Ordering::Relaxed) == 2).then_some("found")
    });
    assert_eq!((found, counted.load(Ordering::Relaxed)), ("found", 3));
    let panic = std::panic::catch_unwind(|| {
        eventually("Godot", Duration::from_millis(30), || Err::<(), _>("not today"));
    });
    let message = panic.unwrap_err().downcast_ref::<String>().unwrap().clone();
    assert!(message.contains("Godot") && message.contains("not today"), "{message}");
}

/// Ties a namespace to `witness` by a link, which the kernel removes with the namespace and not before.
fn tie(namespace: &Namespace, witness: &std::path::Path, name: &str) {
    let witness = witness.display();
    namespace.ip(&format!("link add {name} type veth peer name {name} netns {witness}"));
}

#[test]
fn dropped_namespaces_are_gone() {
    let witness = Namespace::new("witness");
    let thread = {
        let lan = Lan::new();
        let node = lan.node("n1");
        let pod = node.container("a");
        let _server = node.serve_tcp(80);
        tie(lan.namespace(), witness.path(), "lan");
        tie(node.namespace(), witness.path(), "node");
        tie(&pod, witness.path(), "pod");
        assert_eq!(witness.links().len(), 3);
        assert!(!witness.command("ip", &["netns", "list"]).contains("n1-a"));
        node.namespace().path().to_owned()
    };
    assert!(!thread.exists(), "{} lives", thread.display());
    eventually("the namespaces dissolve", DISSOLVED_WITHIN, || match witness.links() {
        left if left.is_empty() => Ok(()),
        left => Err(left),
    });
}

#[test]
fn a_named_namespace_can_be_entered_until_it_is_dropped_or_removed() {
    let prefix = format!("viaduct-harness-{}-", std::process::id());
    let name = |n: u8| format!("{prefix}{n}");
    let listed = || {
        let output = Command::new("ip").args(["netns", "list"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().matches(&prefix).count()
    };
    let witness = Namespace::new("witness");
    let (first, second) = (Namespace::named(&name(1)), Namespace::named(&name(2)));
    tie(&first, witness.path(), "first");
    tie(&second, witness.path(), "second");
    let inside = Command::new("ip").args(["netns", "exec", &name(1), "ip", "link"]).output();
    assert!(String::from_utf8(inside.unwrap().stdout).unwrap().contains("first@"));
    assert_eq!(listed(), 2);
    second.keep();
    drop((first, second));
    assert_eq!(listed(), 1, "the one that is kept");
    eventually("the other dissolves", DISSOLVED_WITHIN, || witness.links() == ["second"]);
    assert_eq!(unpin_all(&prefix), [name(2)]);
    assert_eq!(listed(), 0);
    eventually("both dissolve", DISSOLVED_WITHIN, || witness.links().is_empty());
}

#[test]
fn a_killed_process_leaves_no_namespace() {
    if let Some(witness) = std::env::var_os(VICTIM) {
        return wait_for_the_end(witness.as_ref());
    }
    let witness = Namespace::new("witness");
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "harness::a_killed_process_leaves_no_namespace", "--nocapture"])
        .env(VICTIM, witness.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(victim.stdout.take().unwrap());
    let ready = output.lines().map_while(Result::ok).any(|line| line.contains("READY"));
    assert!(ready, "the victim ended early");
    let mut links = witness.links();
    links.sort();
    assert_eq!(links, ["lan", "node", "pod"], "namespaces of the victim");
    victim.kill().unwrap();
    assert!(!victim.wait().unwrap().success());
    eventually("the victim's namespaces dissolve", DISSOLVED_WITHIN, || match witness.links() {
        left if left.is_empty() => Ok(()),
        left => Err(left),
    });
}

/// What the victim does: a node with a pod and a server, until it is killed or its parent is gone.
fn wait_for_the_end(witness: &std::path::Path) {
    let lan = Lan::new();
    let node = lan.node("n1");
    let pod = node.container("a");
    let _server = node.serve_tcp(80);
    tie(lan.namespace(), witness, "lan");
    tie(node.namespace(), witness, "node");
    tie(&pod, witness, "pod");
    let mut output = std::io::stdout().lock();
    writeln!(output, "READY").unwrap();
    drop(output);
    // Ends with the parent, whose end of the pipe is then closed.
    let _ = std::io::stdin().read_line(&mut String::new());
}
