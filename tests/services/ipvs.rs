//! What is of ipvs mode alone: these run with `scripts/test ipvs`.

use std::process::Command;
use std::time::Duration;

use testnet::manifest::{Endpoint, documents};
use testnet::{Family, Host, Manifests, Namespace, Node, Proxyd, eventually, programs};

use super::churn::meanwhile;
use super::modes::only;
use super::world::{
    Addressed, PORT, TARGET, World, both, external, node_port_service, service, slices, vip,
    with_slices,
};
use super::{FAMILIES, assert_refused, only_in_mode, served, soon};

const NODE_PORT: u16 = 30_080;
/// What others change is looked for every five seconds.
const REPAIRED_WITHIN: Duration = Duration::from_secs(10);

fn skipped() -> bool {
    only_in_mode("ipvs", "it is about virtual servers")
}

/// The virtual servers of a node, as `ipvsadm` saves them.
fn servers(node: &Node) -> String {
    node.namespace().command("ipvsadm", &["-S", "-n"])
}

fn has_device(node: &Node) -> bool {
    node.namespace().links().iter().any(|name| name == "kube-ipvs0")
}

#[test]
fn ipvs_servers_are_as_ipvsadm_shows_them() {
    if skipped() {
        return;
    }
    let world = World::new();
    let (a, b) = (world.backend(&world.n1, "a"), world.backend(&world.n2, "b"));
    let arguments = [
        "--ipvs-scheduler",
        "wlc",
        "--ipvs-strict-arp",
        "--ipvs-tcp-timeout",
        "20m",
        "--ipvs-udp-timeout",
        "77s",
    ];
    let proxyd = world.start(&arguments);
    let web = node_port_service("web", 10, NODE_PORT).affinity(300);
    proxyd.apply("web", &with_slices(&web, "web", &[Endpoint::of(&a), Endpoint::of(&b)]));
    let shown = servers(&world.n1);
    let (v4, v6) = (world.n1.v4(), world.n1.v6());
    for line in [
        "-A -t 10.96.0.10:80 -s wlc -p 300\n".to_owned(),
        format!("-a -t 10.96.0.10:80 -r {}:{TARGET} -m -w 1\n", a.v4()),
        format!("-a -u 10.96.0.10:80 -r {}:{TARGET} -m -w 1\n", b.v4()),
        format!("-A -t {v4}:{NODE_PORT} -s wlc -p 300\n"),
        format!("-A -u [{v6}]:{NODE_PORT} -s wlc -p 300\n"),
        format!("-a -t [fd00:96::10]:80 -r [{}]:{TARGET} -m -w 1\n", a.v6()),
    ] {
        assert!(shown.contains(&line), "{line:?} is not in {shown}");
    }
    // One program lists with names, so that this is what is asked for.
    let timeouts = world.n1.namespace().command("ipvsadm", &["-L", "--timeout"]);
    assert!(timeouts.contains("1200 ") && timeouts.contains(" 77"), "{timeouts}");
    assert_eq!(world.n1.namespace().sysctl("net/ipv4/vs/conntrack"), "1");
    assert_eq!(world.n1.namespace().sysctl("net/ipv4/conf/all/arp_ignore"), "1");
    assert_eq!(world.n1.namespace().sysctl("net/ipv4/conf/all/arp_announce"), "2");
}

#[test]
fn ipvs_keeps_a_connection_until_it_ends() {
    if skipped() {
        return;
    }
    let world = World::new();
    let (a, b) = (world.backend(&world.n1, "a"), world.backend(&world.n2, "b"));
    let client = world.pod(&world.n1, "client");
    let proxyd = world.start(&["--ipvs-tcpfin-timeout", "1s"]);
    proxyd.apply("web", &with_slices(&service("web", 10), "web", &[Endpoint::of(&a)]));
    for family in FAMILIES {
        let to = (vip(family, 10), PORT);
        let mut connection = client.connect(to).unwrap();
        assert_eq!(connection.ask("before").unwrap().server, "a");
        proxyd.apply("web", &with_slices(&service("web", 10), "web", &[Endpoint::of(&b)]));
        assert_eq!(served(&client, to).0, "b");
        assert_eq!(connection.ask("after").unwrap().server, "a");
        let gone = match family {
            Family::V4 => format!("-t 10.96.0.10:80 -r {}:{TARGET}", a.v4()),
            Family::V6 => format!("-t [fd00:96::10]:80 -r [{}]:{TARGET}", a.v6()),
        };
        assert!(servers(&world.n1).contains(&format!("{gone} -m -w 0\n")));
        // Looked at by now, and kept.
        std::thread::sleep(Duration::from_secs(6));
        assert_eq!(connection.ask("later").unwrap().server, "a");
        drop(connection);
        if family == Family::V6 {
            // A closed connection is known to IPVS for two minutes.
            eventually("the drained endpoint is removed", Duration::from_secs(150), || {
                !servers(&world.n1).contains(&gone)
            });
        }
        proxyd.apply("web", &with_slices(&service("web", 10), "web", &[Endpoint::of(&a)]));
    }
}

#[test]
fn ipvs_lets_nothing_of_the_nodes_answer_at_a_service_address() {
    if skipped() {
        return;
    }
    let world = World::new();
    let a = world.backend(&world.n1, "a");
    let client = world.pod(&world.n1, "client");
    let proxyd = world.start(&[]);
    world.route_all(&both(external, 1));
    let web = service("web", 10).load_balancer(&both(external, 1));
    proxyd.apply("web", &with_slices(&web, "web", &[Endpoint::of(&a)]));
    let host = world.n1.serve_tcp(9999);
    for family in FAMILIES {
        client.tcp((world.n1.ip(family), 9999)).unwrap();
        assert_refused(&client, (vip(family, 10), 9999));
        assert_refused(&world.lan, (external(family, 1), 9999));
        assert_refused(&world.n1, (vip(family, 10), 9999));
    }
    drop(host);
}

#[test]
fn ipvs_comes_back_when_somebody_removes_it() {
    if skipped() {
        return;
    }
    let world = World::new();
    let a = world.backend(&world.n1, "a");
    let client = world.pod(&world.n1, "client");
    let proxyd = world.start(&[]);
    let web = node_port_service("web", 10, NODE_PORT);
    proxyd.apply("web", &with_slices(&web, "web", &[Endpoint::of(&a)]));
    let before = servers(&world.n1);
    let a4 = format!("{}:{TARGET}", a.v4());
    for damage in [
        &["ipvsadm", "-C"][..],
        &["ip", "link", "delete", "kube-ipvs0"],
        &["ip", "address", "delete", "10.96.0.10/32", "dev", "kube-ipvs0"],
        &["ipvsadm", "-D", "-t", "10.96.0.10:80"],
        &["ipvsadm", "-d", "-t", "10.96.0.10:80", "-r", &a4],
        &["ipvsadm", "-e", "-t", "10.96.0.10:80", "-r", &a4, "-m", "-w", "0"],
        &["ipvsadm", "-E", "-t", "10.96.0.10:80", "-s", "sh"],
        &["ipvsadm", "-A", "-t", "10.96.0.99:1", "-s", "rr"],
        &["nft", "flush set ip viaduct frontends"],
    ] {
        world.n1.namespace().command(damage[0], &damage[1..]);
        eventually(&format!("{damage:?} is repaired"), REPAIRED_WITHIN, || {
            let address = world.n1.namespace().ip("address show");
            servers(&world.n1) == before && address.contains("10.96.0.10/32")
        });
        soon("clients are served again", || client.tcp((vip(Family::V4, 10), PORT)).is_ok());
    }
    assert!(proxyd.log().contains("virtual servers missing"), "{}", proxyd.log());
}

#[test]
fn ipvs_leaves_what_is_excluded() {
    if skipped() {
        return;
    }
    let world = World::new();
    let add = |address: &str| {
        world.n1.namespace().command("ipvsadm", &["-A", "-t", address, "-s", "rr"]);
    };
    add("172.16.0.1:80");
    add("172.17.0.1:80");
    let _proxyd = world.start(&["--ipvs-exclude-cidrs", "172.16.0.0/16"]);
    let shown = servers(&world.n1);
    assert!(shown.contains("172.16.0.1:80") && !shown.contains("172.17.0.1:80"), "{shown}");
}

/// No connection fails while the mode changes from and to the other two.
#[test]
fn ipvs_is_entered_and_left_without_a_gap() {
    if skipped() {
        return;
    }
    let world = World::new();
    let a = world.backend(&world.n1, "a");
    let client = world.pod(&world.n1, "client");
    let mut proxyd = Proxyd::start(&world.n1, &["--proxy-mode", "nftables"]);
    let web = node_port_service("web", 250, NODE_PORT);
    proxyd.write("web", &with_slices(&web, "web", &[Endpoint::of(&a)]));
    // Their addresses come first, and each takes its time.
    let others: Vec<_> =
        (11..111).map(|number| service(&format!("other-{number}"), number)).collect();
    let others: Vec<&dyn std::fmt::Display> = others.iter().map(|other| other as _).collect();
    proxyd.apply("others", &documents(&others));
    for (mode, family) in [
        ("ipvs", Family::V4),
        ("iptables", Family::V6),
        ("ipvs", Family::V4),
        ("nftables", Family::V6),
    ] {
        let change = || {
            proxyd.stop();
            proxyd = Proxyd::spawn(&world.n1, &["--proxy-mode", mode]);
            eventually("the mode before is gone", Duration::from_secs(60), || {
                let there = servers(&world.n1).contains("10.96.0.250:80");
                let ipvs = mode == "ipvs";
                // Its filter is in nftables.
                let mode = if ipvs { "nftables" } else { mode };
                (there, has_device(&world.n1)) == (ipvs, ipvs) && only(&world, mode)
            });
        };
        let to = (vip(family, 250), PORT);
        let mut outside = (0, Vec::new());
        let (attempts, failures) = meanwhile(&client, to, || {
            outside = meanwhile(&world.lan, (world.n1.ip(family), NODE_PORT), change);
        });
        assert!(attempts > 5 && failures.is_empty(), "to {mode}: {attempts}: {failures:?}");
        assert!(outside.0 > 5 && outside.1.is_empty(), "to {mode}: from outside: {outside:?}");
    }
}

/// The kernel of the tests has all schedulers but this one.
#[test]
fn ipvs_tells_of_a_scheduler_that_the_kernel_lacks_and_keeps_what_it_has() {
    if skipped() {
        return;
    }
    let world = World::new();
    let (a, b) = (world.backend(&world.n1, "a"), world.backend(&world.n1, "b"));
    let mut proxyd = world.start(&[]);
    let web = service("web", 10);
    proxyd.write("web", &with_slices(&web, "web", &[Endpoint::of(&a)]));
    world.route_all(&both(external, 1));
    let balancer = service("lb", 11).load_balancer(&both(external, 1));
    let restricted = balancer.clone().spec("loadBalancerSourceRanges", ["192.168.0.2/32"]);
    proxyd.apply("lb", &with_slices(&restricted, "lb", &[Endpoint::of(&a)]));
    proxyd.stop();
    let proxyd = Proxyd::spawn(&world.n1, &["--ipvs-scheduler", "twos"]);
    let status = soon("the status tells", || {
        let page = proxyd.http_get(10249, "/status").map(|page| page.body).unwrap_or_default();
        page.contains("twos").then_some(page)
    });
    assert!(status.contains("module ip_vs_twos"), "{status}");
    let failures = "kubeproxy_sync_proxy_rules_nftables_sync_failures_total";
    assert!(proxyd.metric(failures, "").is_some_and(|count| count > 0.0));
    for family in FAMILIES {
        assert_eq!(served(&world.n1, (vip(family, 10), PORT)).0, "a");
    }
    // Endpoints change all the same.
    proxyd.write("web", &with_slices(&web, "web", &[Endpoint::of(&b)]));
    soon("the other endpoint", || {
        FAMILIES.iter().all(|family| served(&world.n1, (vip(*family, 10), PORT)).0 == "b")
    });
    // So does who may come in.
    let to = (external(Family::V4, 1), PORT);
    assert!(world.lan.tcp(to).is_err());
    proxyd.write("lb", &with_slices(&balancer, "lb", &[Endpoint::of(&a)]));
    soon("no ranges", || world.lan.tcp(to));
}

#[test]
fn ipvs_is_removed_by_cleanup() {
    if skipped() {
        return;
    }
    let world = World::new();
    let a = world.backend(&world.n1, "a");
    let mut proxyd = world.start(&[]);
    let web = service("web", 10);
    proxyd.apply("web", &with_slices(&web, "web", &[Endpoint::of(&a)]));
    proxyd.stop();
    assert!(has_device(&world.n1));
    world.n1.namespace().command(&programs::proxyd().display().to_string(), &["cleanup"]);
    assert_eq!(servers(&world.n1), "");
    assert!(!has_device(&world.n1));
}

#[test]
fn ipvs_cleanup_leaves_what_is_excluded() {
    if skipped() {
        return;
    }
    let world = World::new();
    let node = world.n1.namespace();
    let cleanup = programs::proxyd().display().to_string();
    for line in [&["run", "--cleanup"][..], &["cleanup"]] {
        node.ip("link add kube-ipvs0 type dummy");
        for address in ["172.16.0.1:80", "172.17.0.1:80"] {
            node.command("ipvsadm", &["-A", "-t", address, "-s", "rr"]);
        }
        let excluded = ["--ipvs-exclude-cidrs", "172.16.0.0/16"];
        node.command(&cleanup, &[line, &excluded].concat());
        assert_eq!(servers(&world.n1), "-A -t 172.16.0.1:80 -s rr\n");
        node.command("ipvsadm", &["-C"]);
    }
}

#[test]
fn ipvs_of_kube_proxy_is_named_at_the_start_and_ours_is_not() {
    if skipped() {
        return;
    }
    let world = World::new();
    let node = world.n1.namespace();
    node.ip("link add kube-ipvs0 type dummy");
    node.command("ipvsadm", &["-A", "-t", "172.17.0.1:80", "-s", "rr"]);
    let mut proxyd = world.start(&[]);
    let told = "kube-proxy was here, or still is: device kube-ipvs0 with 1 virtual servers";
    assert!(proxyd.log().contains(told), "{}", proxyd.log());
    proxyd.stop();
    proxyd.start_again();
    assert_eq!(proxyd.log().matches("kube-proxy was here").count(), 1, "{}", proxyd.log());
}

#[test]
fn a_kernel_without_ipvs_is_told_by_its_module() {
    let world = World::new();
    let line = Proxyd::command_line(&world.n1, "run", &["--proxy-mode", "ipvs", "--oneshot"]);
    Manifests::of(&world.n1);
    let line: Vec<&str> = line.iter().map(String::as_str).collect();
    let program = programs::proxyd().display().to_string();
    let outcome = world.n1.namespace().try_command(&program, &line);
    // To ask for IPVS loads its module.
    if std::path::Path::new("/proc/net/ip_vs").exists() {
        return testnet::skip("this kernel has IPVS");
    }
    let said = outcome.expect_err("it cannot work");
    assert!(said.contains("module ip_vs"), "{said}");
    assert!(said.contains("use --proxy-mode nftables or iptables"), "{said}");
}

/// This needs no kernel with IPVS.
#[test]
fn ipvs_mode_renders_what_ipvsadm_restores() {
    let world = World::new();
    let a = world.backend(&world.n1, "a");
    let manifests = Manifests::of(&world.n1);
    let web = node_port_service("web", 10, NODE_PORT).affinity(60);
    let none = service("none", 11);
    manifests.write("web", &(documents(&[&web, &none]) + &slices("web", &[Endpoint::of(&a)])));
    let line = Proxyd::command_line(&world.n1, "render", &["--proxy-mode", "ipvs"]);
    let inside = Namespace::new("inside");
    let output = inside.run(move || Command::new(programs::proxyd()).args(line).output()).unwrap();
    let ruleset = String::from_utf8_lossy(&output.stdout).into_owned();
    for line in [
        "# address 10.96.0.10 on kube-ipvs0\n".to_owned(),
        "# 10.96.0.11:80/TCP has no endpoint here\n".to_owned(),
        "-A -t 10.96.0.10:80 -s rr -p 60\n".to_owned(),
        format!("-a -u [fd00:96::10]:80 -r [{}]:{TARGET} -m -w 1\n", a.v6()),
        format!("-A -t {}:{NODE_PORT} -s rr -p 60\n", world.n1.v4()),
    ] {
        assert!(ruleset.contains(&line), "{line:?} is not in {ruleset}");
    }
    if super::mode_is("ipvs") {
        let file = world.n1.folder().join("rendered");
        std::fs::write(&file, &ruleset).unwrap();
        inside.ip("link set lo up");
        inside
            .command("sh", &["-c", &format!("grep -v '^#' {} | ipvsadm-restore", file.display())]);
        let restored = inside.command("ipvsadm", &["-S", "-n"]);
        let lines = |text: &str| {
            let mut lines: Vec<String> =
                text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect();
            lines.sort();
            lines
        };
        assert_eq!(lines(&restored), lines(&ruleset));
    }
}
