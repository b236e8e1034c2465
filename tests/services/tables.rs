//! The tables as others see them.

use testnet::manifest::{Endpoint, Service, documents};
use testnet::{Family, Host, Mode, Proxyd, programs};

use super::world::{
    Addressed, PORT, World, both, external, node_port_service, service, slices, vip, with_slices,
};
use super::{FAMILIES, served};

/// Fifty services of all kinds; session affinity only if that is wanted.
pub(crate) fn fifty(proxyd: &Proxyd<'_>, endpoints: &[Endpoint], with_affinity: bool) {
    let sticky = |service: Service, seconds| {
        if with_affinity { service.affinity(seconds) } else { service }
    };
    for number in 10..60u8 {
        let name = format!("service-{number}");
        let port = 30000 + u16::from(number);
        let plain = node_port_service(&name, number, port);
        let balanced = || plain.clone().load_balancer(&both(external, number));
        let service = match number % 10 {
            0 => service(&name, number),
            1 => plain,
            2 => balanced(),
            3 => balanced().spec("externalTrafficPolicy", "Local"),
            4 => balanced()
                .spec("loadBalancerSourceRanges", ["10.0.0.0/8", "192.168.0.0/16", "fd00::/16"]),
            5 => sticky(balanced(), 60 + u32::from(number)),
            6 => sticky(plain.spec("internalTrafficPolicy", "Local"), 10_800),
            7 => plain.spec("externalIPs", both(external, number + 100)),
            8 => balanced().port("sctp", "SCTP", 132).port("", "UDP", 9),
            _ => sticky(service(&name, number), 30),
        };
        let count = usize::from(number / 10) % (endpoints.len() + 1);
        let text = documents(&[&service]) + &slices(&name, &endpoints[..count]);
        proxyd.write(&name, &text);
    }
    proxyd.await_sync();
}

#[test]
fn nft_lists_the_tables_of_fifty_services() {
    if !testnet::only_nftables("it is about what nft lists") {
        return;
    }
    let world = World::new();
    let pods = ["a", "b", "c"].map(|name| world.backend(&world.n1, name));
    let proxyd = world.start(&[]);
    let endpoints: Vec<Endpoint> = pods.iter().map(|pod| Endpoint::of(pod)).collect();
    fifty(&proxyd, &endpoints, true);
    for family in FAMILIES {
        assert_eq!(served(&world.n1, (vip(family, 39), PORT)).0.len(), 1);
    }
    for family in ["ip", "ip6"] {
        let table = world.n1.namespace().command("nft", &["list", "table", family, "viaduct"]);
        assert!(table.contains("service-") || table.contains("10.96.0.1") || family == "ip6");
        world.n1.namespace().command("nft", &["-j", "list", "table", family, "viaduct"]);
    }
    world.n1.namespace().ruleset();
    for name in 10..60 {
        proxyd.remove(&format!("service-{name}"));
    }
    proxyd.await_sync();
    let left = world.n1.namespace().ruleset();
    assert!(!left.contains("10.96.0.") && !left.contains("203.0.113."), "{left}");
}

#[test]
fn nothing_but_our_tables_is_touched() {
    let world = World::new();
    let a = world.backend(&world.n1, "a");
    let client = world.pod(&world.n1, "client");
    let strangers = "add table ip stranger; add chain ip stranger c { type filter hook input \
                     priority 0; policy accept; }; add rule ip stranger c tcp dport 9999 drop";
    world.n1.namespace().command("nft", &[strangers]);
    let stranger =
        || world.n1.namespace().command("nft", &["-a", "list", "table", "ip", "stranger"]);
    let host =
        || world.n1.namespace().command("nft", &["-a", "list", "table", "inet", "viaduct-host"]);
    let before = (stranger(), host());
    let proxyd = world.start(&[]);
    fifty(&proxyd, &[Endpoint::of(&a)], true);
    assert_eq!((stranger(), host()), before);
    let tables = world.n1.namespace().command("nft", &["list", "tables"]);
    let mut tables: Vec<&str> = tables.lines().collect();
    tables.sort_unstable();
    let own: &[&str] = match Mode::of_tests() {
        Mode::Nftables | Mode::Ipvs => &["table ip viaduct", "table ip6 viaduct"],
        Mode::Iptables("legacy") => &[],
        // Those of iptables: shared, but for our chains.
        Mode::Iptables(_) => &[
            "table ip filter",
            "table ip mangle",
            "table ip nat",
            "table ip6 filter",
            "table ip6 mangle",
            "table ip6 nat",
        ],
    };
    let mut known = [&["table inet viaduct-host", "table ip stranger"], own].concat();
    known.sort_unstable();
    assert_eq!(tables, known);
    client.ping(a.v4()).unwrap();
}

#[test]
fn cleanup_removes_what_proxies_made_and_nothing_else() {
    let world = World::new();
    let a = world.backend(&world.n1, "a");
    let mut proxyd = world.start(&[]);
    let web = service("web", 10);
    proxyd.apply("web", &with_slices(&web, "web", &[Endpoint::of(&a)]));
    for table in ["ip kube-proxy", "ip6 kube-proxy", "ip stranger", "inet kube-proxy-not"] {
        world.n1.namespace().command("nft", &[&format!("add table {table}")]);
    }
    let sets = ["KUBE-CLUSTER-IP", "KUBE-6-LOAD-BALANCER-SOURCE-CID", "stranger"];
    for set in sets {
        world.n1.namespace().command("ipset", &["create", set, "hash:ip,port"]);
    }
    proxyd.stop();
    world.n1.namespace().command(&programs::proxyd().display().to_string(), &["cleanup"]);
    assert_eq!(world.n1.namespace().command("ipset", &["list", "-n"]).trim(), "stranger");
    let tables = world.n1.namespace().command("nft", &["list", "tables"]);
    let mut tables: Vec<&str> = tables.lines().collect();
    tables.sort_unstable();
    // Tables of iptables belong to nobody and stay; in them there is nothing of ours.
    let iptables =
        |table: &&str| ["nat", "filter"].contains(&table.rsplit(' ').next().unwrap_or(""));
    tables.retain(|table| !iptables(table));
    let left = ["table inet kube-proxy-not", "table inet viaduct-host", "table ip stranger"];
    assert_eq!(tables, left);
    if let Mode::Iptables(_) = Mode::of_tests() {
        let rules = Mode::of_tests().rules(world.n1.namespace());
        assert!(!rules.contains("VIADUCT"), "{rules}");
    }
    // The pods' own connectivity stays.
    world.n1.ping(a.v4()).unwrap();
    // Nothing left to clean is no error.
    world.n1.namespace().command(&programs::proxyd().display().to_string(), &["cleanup"]);
    proxyd.start_again();
    assert_eq!(served(&world.n1, (vip(Family::V4, 10), PORT)).0, "a");
}

#[test]
fn a_set_that_is_in_use_hides_no_other_from_cleanup() {
    if programs::installed("iptables-legacy").is_none() {
        return testnet::skip("iptables-legacy is not installed");
    }
    let world = World::new();
    let node = world.n1.namespace();
    node.command("ipset", &["create", "KUBE-CLUSTER-IP", "hash:ip,port"]);
    node.command("ipset", &["create", "KUBE-NODE-PORT-TCP", "bitmap:port", "range", "0-65535"]);
    let rule = "OUTPUT -m set --match-set KUBE-CLUSTER-IP dst,dst -j ACCEPT";
    let rule = |action| [&[action], &rule.split(' ').collect::<Vec<_>>()[..]].concat();
    node.command("iptables-legacy", &rule("-A"));
    let cleanup = || node.try_command(&programs::proxyd().display().to_string(), &["cleanup"]);
    let said = cleanup().expect_err("a set is in use");
    assert!(said.contains("KUBE-CLUSTER-IP") && said.contains("in use"), "{said}");
    assert_eq!(node.command("ipset", &["list", "-n"]), "KUBE-CLUSTER-IP\n");
    node.command("iptables-legacy", &rule("-D"));
    cleanup().unwrap();
    assert_eq!(node.command("ipset", &["list", "-n"]), "");
}

#[test]
fn cleanup_refuses_excluded_networks_that_are_none() {
    let world = World::new();
    let node = world.n1.namespace();
    node.command("nft", &["add table ip kube-proxy"]);
    let file = world.n1.folder().join("kube-proxy.yaml");
    let text = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n\
                ipvs: {excludeCIDRs: [10.0.0.0/33]}\n";
    std::fs::write(&file, text).unwrap();
    let file = file.display().to_string();
    for command in [&["run", "--cleanup"][..], &["cleanup"]] {
        for (setting, more) in [
            ("--ipvs-exclude-cidrs", ["--ipvs-exclude-cidrs", "10.0.0.0/33"]),
            ("ipvs.excludeCIDRs", ["--config", &file]),
        ] {
            let line = [command, &more[..]].concat();
            let said = node.try_command(&programs::proxyd().display().to_string(), &line);
            let said = said.expect_err("no network");
            assert!(said.contains(setting) && said.contains("bad prefix length"), "{said}");
        }
    }
    assert!(node.command("nft", &["list", "tables"]).contains("kube-proxy"));
}

#[test]
fn the_daemon_takes_over_kube_proxys_ipsets() {
    let world = World::new();
    for set in ["KUBE-CLUSTER-IP", "KUBE-6-CLUSTER-IP", "stranger"] {
        world.n1.namespace().command("ipset", &["create", set, "hash:ip,port"]);
    }
    let proxyd = world.start(&[]);
    let log = proxyd.log();
    assert!(log.contains("kube-proxy was here, or still is: 2 ipsets"), "{log}");
    super::soon("kube-proxy's sets are gone", || {
        let sets = world.n1.namespace().command("ipset", &["list", "-n"]);
        if sets.trim() == "stranger" { Ok(()) } else { Err(sets) }
    });
}

#[test]
fn the_daemon_takes_over_from_kube_proxys_nftables_mode() {
    let world = World::new();
    let a = world.backend(&world.n1, "a");
    world.n1.namespace().command("nft", &["add table ip kube-proxy; add table ip6 kube-proxy"]);
    let proxyd = world.start(&[]);
    let web = node_port_service("web", 10, 30080);
    proxyd.apply("web", &with_slices(&web, "web", &[Endpoint::of(&a)]));
    for family in FAMILIES {
        assert_eq!(served(&world.lan, (world.n1.ip(family), 30080)).0, "a");
    }
    super::soon("kube-proxy's tables are gone", || {
        let tables = world.n1.namespace().command("nft", &["list", "tables"]);
        if tables.contains("kube-proxy") { Err(tables) } else { Ok(()) }
    });
}

/// A node on which kube-proxy ran in iptables mode, beside a chain of somebody else.
fn after_iptables_mode() -> Option<World> {
    if programs::installed("iptables").is_none() {
        testnet::skip("iptables is not installed");
        return None;
    }
    let world = World::new();
    for program in ["iptables", "ip6tables"] {
        for line in [
            "-w 5 -t nat -N KUBE-SERVICES",
            "-w 5 -t nat -A PREROUTING -j KUBE-SERVICES",
            "-w 5 -t nat -N KUBE-SVC-TCOU7JCQXEZGVUNU",
            "-w 5 -t nat -A KUBE-SERVICES -p tcp --dport 80 -j KUBE-SVC-TCOU7JCQXEZGVUNU",
            "-w 5 -t nat -N STRANGER",
            "-w 5 -t nat -A PREROUTING -j STRANGER",
            "-w 5 -t mangle -N KUBE-PROXY-CANARY",
        ] {
            world.n1.namespace().command(program, &line.split(' ').collect::<Vec<_>>());
        }
    }
    Some(world)
}

#[track_caller]
fn assert_iptables_clean(world: &World) {
    for program in ["iptables-save", "ip6tables-save"] {
        super::soon(&format!("no chain of kube-proxy in {program}"), || {
            let saved = world.n1.namespace().command(program, &[]);
            assert!(saved.contains("-A PREROUTING -j STRANGER"), "{saved}");
            if saved.contains("KUBE-") { Err(saved) } else { Ok(()) }
        });
    }
}

#[test]
fn the_rules_of_the_iptables_mode_are_removed_at_the_start() {
    let Some(world) = after_iptables_mode() else { return };
    let _proxyd = world.start(&[]);
    assert_iptables_clean(&world);
}

#[test]
fn cleanup_removes_the_rules_of_the_iptables_mode() {
    let Some(world) = after_iptables_mode() else { return };
    world.n1.namespace().command(&programs::proxyd().display().to_string(), &["cleanup"]);
    assert_iptables_clean(&world);
}

#[test]
fn the_kernel_is_set_up_for_services() {
    let world = World::new();
    let _proxyd = world.start(&[]);
    for (name, value) in [
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv6/conf/all/forwarding", "1"),
        ("net/netfilter/nf_conntrack_tcp_timeout_established", "86400"),
        ("net/netfilter/nf_conntrack_tcp_timeout_close_wait", "3600"),
        ("net/ipv4/conf/all/route_localnet", "0"),
    ] {
        assert_eq!(world.n1.namespace().sysctl(name), value, "{name}");
    }
}
