//! Firewalls of other programs that drop what the node forwards, as Docker, ufw and firewalld set them up.

use std::time::Duration;

use testnet::{Family, Host, Network, eventually};

use super::node_state::{start, status};
use super::world::World;

const ADMITTED_WITHIN: Duration = Duration::from_secs(10);

#[test]
fn a_dropping_policy_of_iptables_does_not_cut_pods_off() {
    for variant in ["nft", "legacy"] {
        for settings in ["mode: bridge\n", "mode: routed\nbackend: host-gw\n"] {
            let world = World::new();
            let (daemon, list) = start(&world.n1, settings);
            let (_other, other_list) = start(&world.n2, settings);
            let network = Network::of_conflist(&list, &world.n1).host_port(8081, 80, "tcp");
            let pod = world.n1.pod(&network, "a");
            let neighbour = world.n1.pod(&Network::of_conflist(&list, &world.n1), "b");
            let far = world.n2.pod(&Network::of_conflist(&other_list, &world.n2), "c");
            let _servers = (pod.serve_tcp(80), world.lan.serve_tcp(8080));
            let lock = world.n1.namespace().xtables_lock().to_owned();
            for family in ["iptables", "ip6tables"] {
                let program = format!("{family}-{variant}");
                let lock = format!("XTABLES_LOCKFILE={}", lock.display());
                world.n1.namespace().command("env", &[&lock, &program, "-P", "FORWARD", "DROP"]);
            }
            let case = format!("{variant} {settings:?}");
            for (family, address) in [(Family::V4, world.n1.v4()), (Family::V6, world.n1.v6())] {
                let of = |pod: &testnet::Pod<'_>| match family {
                    Family::V4 => pod.v4(),
                    Family::V6 => pod.v6(),
                };
                eventually(&format!("{case}: pod of the node"), ADMITTED_WITHIN, || {
                    pod.ping(of(&neighbour)).is_ok()
                });
                eventually(&format!("{case}: pod of another node"), ADMITTED_WITHIN, || {
                    pod.ping(of(&far)).is_ok() && far.ping(of(&pod)).is_ok()
                });
                eventually(&format!("{case}: host port"), ADMITTED_WITHIN, || {
                    world.lan.can_reach((address, 8081))
                });
                eventually(&format!("{case}: way out"), ADMITTED_WITHIN, || {
                    pod.can_reach((world.lan.outside(family), 8080))
                });
            }
            assert!(daemon.log().contains("chain FORWARD"), "{case}: {}", daemon.log());
            // The program still reads its own table.
            let saved = world.n1.namespace().command(&format!("iptables-{variant}-save"), &[]);
            assert!(saved.contains("-j ACCEPT"), "{case}: {saved}");
        }
    }
}

#[test]
fn another_chain_that_drops_is_named() {
    let world = World::new();
    let (daemon, list) = start(&world.n1, "");
    let _pod = world.n1.pod(&Network::of_conflist(&list, &world.n1), "a");
    for command in [
        "add table inet fortress",
        "add chain inet fortress gate { type filter hook forward priority 0; policy drop; }",
    ] {
        world.n1.namespace().command("nft", &[command]);
    }
    eventually("the chain is named", ADMITTED_WITHIN, || {
        let problems = status(&daemon)["problems"].to_string();
        if problems.contains("gate") && problems.contains("fortress") {
            Ok(())
        } else {
            Err(problems)
        }
    });
    world.n1.namespace().command("nft", &["delete table inet fortress"]);
    eventually("no problem", ADMITTED_WITHIN, || status(&daemon)["problemCount"] == 0);
}
