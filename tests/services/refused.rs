//! What the kernel refuses `iptables-restore`, since a rule of somebody else's leads to a chain that is to go.

use std::time::{Duration, Instant};

use testnet::manifest::Endpoint;
use testnet::{Family, Host, Proxyd, programs};

use super::modes::{IPTABLES, rules, variant};
use super::world::{PORT, World, both, external, service, vip, with_slices};
use super::{SILENCE, served, soon};

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
    proxyd.apply("web", &with_slices(&balancer, "web", &[Endpoint::of(&a)]));
    let to = (external(Family::V4, 1), PORT);
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
