//! What the kernel refuses `iptables-restore`: chains that somebody else's rules lead to, and all of a family.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use testnet::manifest::Endpoint;
use testnet::{Family, Host, Proxyd, eventually, programs};

use super::modes::{IPTABLES, rules, variant};
use super::world::{PORT, World, both, external, service, vip, with_slices};
use super::{SILENCE, SOON, served, soon};

/// The chain of Service `web`'s TCP port.
fn chain(world: &World) -> String {
    let rules = rules(world.n1.namespace());
    let mut lines = rules.lines().filter(|line| line.contains("default/web:tcp/tcp"));
    let line = lines.find(|line| line.starts_with("-A VIADUCT-SVC-")).expect("its chain");
    line.split(' ').nth(1).unwrap().to_owned()
}

/// An administrator's rule that leads there.
fn lead(world: &World, what: &str, chain: &str) {
    let line = format!("-t nat {what} OUTPUT -d 203.0.113.77/32 -j {chain}");
    let line: Vec<&str> = line.split(' ').collect();
    world.n1.namespace().command(&format!("iptables-{}", variant()), &line);
}

fn status(world: &World) -> String {
    let program = programs::proxyd().display().to_string();
    world.n1.namespace().try_command(&program, &["status"]).unwrap_or_else(|error| error)
}

fn web(endpoint: &Endpoint) -> String {
    with_slices(&service("web", 10), "web", std::slice::from_ref(endpoint))
}

#[test]
fn a_chain_that_somebody_elses_rule_leads_to_holds_up_nothing_else() {
    let world = World::new();
    let pods = ["a", "b"].map(|name| world.backend(&world.n1, name));
    let [a, b] = pods.each_ref().map(|pod| Endpoint::of(pod));
    let mut proxyd = Proxyd::start(&world.n1, &IPTABLES);
    proxyd.apply("web", &web(&a));
    let other = |endpoint: &Endpoint| {
        with_slices(&service("other", 11), "other", std::slice::from_ref(endpoint))
    };
    proxyd.apply("other", &other(&a));
    let chain = chain(&world);
    lead(&world, "-A", &chain);
    proxyd.remove("web");
    let named = |text: &str| {
        let program = format!("iptables-{}-restore: ", variant());
        text.contains(&program) && text.contains(&format!("-X {chain}"))
    };
    let told = |state: &str| {
        let status = status(&world);
        let lines: Vec<&str> = status.lines().filter(|line| named(line)).collect();
        match lines[..] {
            [line] if line.starts_with("problem: IPv4: ") && status.contains(state) => Ok(()),
            _ => Err(status),
        }
    };
    soon("the chain is named in the status", || told("state: programmed"));
    assert!(named(&proxyd.log()), "{}", proxyd.log());
    let failures = "kubeproxy_sync_proxy_rules_iptables_restore_failures_total";
    let counted = || proxyd.metric(failures, "IPv4").unwrap_or_default();
    let before = counted();
    assert!(before > 0.0);
    // It is empty, and whose rule leads there keeps it.
    let lists = |what: &str| rules(world.n1.namespace()).lines().any(|line| line.starts_with(what));
    assert!(!lists(&format!("-A {chain} ")));
    assert!(world.n1.tcp_within((vip(Family::V4, 10), PORT), SILENCE).is_err());
    // Others change as ever.
    for (endpoint, name) in [(&b, "b"), (&a, "a"), (&b, "b"), (&a, "a")] {
        let started = Instant::now();
        proxyd.write("other", &other(endpoint));
        soon("the other Service's change", || {
            world.n1.tcp((vip(Family::V4, 11), PORT)).ok().filter(|answer| answer.server == name)
        });
        assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    }
    soon("it is tried again", || counted() > before);
    assert_eq!(proxyd.log().matches("that is tried again in 500ms").count(), 1);
    assert!(lists("-A OUTPUT -d 203.0.113.77/32 "), "{}", rules(world.n1.namespace()));
    // So it is after a restart; and the chain can be used again.
    proxyd.stop();
    proxyd.start_again();
    soon("the chain is named in the status", || told("state: programmed"));
    assert_eq!(proxyd.http_get(10256, "/healthz").unwrap().status, 200);
    proxyd.apply("web", &web(&b));
    assert_eq!(served(&world.n1, (vip(Family::V4, 10), PORT)).0, "b");
    soon("nothing is wrong", || (!named(&status(&world))).then_some(()));
    proxyd.remove("web");
    soon("the chain is named in the status", || told("state: programmed"));
    lead(&world, "-D", &chain);
    soon("the chain is gone", || (!lists(&format!(":{chain} "))).then_some(()));
    soon("nothing is wrong", || (!named(&status(&world))).then_some(()));
}

#[test]
fn a_load_balancer_that_cannot_go_lets_nobody_in_meanwhile() {
    let world = World::new();
    let a = world.backend(&world.n1, "a");
    world.route_all(&both(external, 1));
    let proxyd = Proxyd::start(&world.n1, &IPTABLES);
    let balancer = service("web", 10)
        .load_balancer(&both(external, 1))
        .spec("loadBalancerSourceRanges", ["192.168.0.2/32"]);
    let to = (external(Family::V4, 1), PORT);
    let open = service("web", 10).load_balancer(&both(external, 1));
    proxyd.apply("web", &with_slices(&open, "web", &[Endpoint::of(&a)]));
    assert_eq!(served(&world.lan, to).0, "a", "without ranges");
    proxyd.apply("web", &with_slices(&balancer, "web", &[Endpoint::of(&a)]));
    let chain = chain(&world);
    lead(&world, "-A", &chain);
    proxyd.remove("web");
    let until = Instant::now() + Duration::from_secs(3);
    while Instant::now() < until {
        let answer = world.lan.tcp_within(to, Duration::from_millis(50));
        assert!(answer.is_err(), "{answer:?}");
    }
    soon("the rules of the load balancer are gone", || {
        (!rules(world.n1.namespace()).contains("VIADUCT-FW-")).then_some(())
    });
    lead(&world, "-D", &chain);
}

#[test]
fn a_family_that_fails_does_not_hold_up_the_other() {
    if variant() != "nft" {
        return testnet::skip("only the nft variant's tables can belong to a process");
    }
    let world = World::new();
    let pods = ["a", "b"].map(|name| world.backend(&world.n1, name));
    // As long as this runs, nobody else can write to the table.
    let mut owner = world.n1.namespace().run(|| {
        let mut nft = Command::new("nft");
        nft.arg("-i").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
    });
    let mut orders = owner.stdin.take().unwrap();
    orders.write_all(b"add table ip6 nat { flags owner; }\n").unwrap();
    soon("the table has an owner", || {
        let tables = world.n1.namespace().command("nft", &["list", "tables"]);
        tables.contains("table ip6 nat").then_some(())
    });
    let proxyd = Proxyd::spawn(&world.n1, &IPTABLES);
    let to = |family| (vip(family, 10), PORT);
    let serves = |family, name: &str| {
        world.n1.tcp(to(family)).ok().filter(|answer| answer.server == name).map(|_| ())
    };
    proxyd.write("web", &web(&Endpoint::of(&pods[0])));
    soon("IPv4 is served", || serves(Family::V4, "a"));
    eventually("it is tried ever more rarely", 2 * SOON, || {
        if proxyd.log().contains("everything is compared in 8s") {
            Ok(())
        } else {
            Err(proxyd.log())
        }
    });
    for (pod, name) in [(&pods[1], "b"), (&pods[0], "a"), (&pods[1], "b")] {
        let started = Instant::now();
        proxyd.write("web", &web(&Endpoint::of(pod)));
        soon("IPv4 follows", || serves(Family::V4, name));
        assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    }
    let said = status(&world);
    assert!(said.contains("the last sync failed: ip6tables-nft-restore"), "{said}");
    let failures = "kubeproxy_sync_proxy_rules_iptables_restore_failures_total";
    assert!(proxyd.metric(failures, "IPv6").is_some_and(|count| count > 0.0));
    assert!(proxyd.metric(failures, "IPv4").is_none_or(|count| count == 0.0));
    assert!(world.n1.tcp_within(to(Family::V6), SILENCE).is_err());
    drop(orders);
    owner.wait().unwrap();
    soon("IPv6 is served", || serves(Family::V6, "b"));
    soon("all is well", || status(&world).contains("state: programmed").then_some(()));
}
