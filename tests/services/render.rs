//! The ruleset as text: `nft` loads it, and then has what the daemon programs.

use std::collections::BTreeMap;
use std::process::Command;

use testnet::manifest::{Endpoint, documents};
use testnet::{Family, Host, Manifests, Namespace, Node, Proxyd, programs};

use super::tables::fifty;
use super::world::{Addressed, PORT, World, node_port_service, service, vip, with_slices};
use super::{FAMILIES, SILENCE, assert_refused, only_in_mode, served};

/// A command of the daemon's program for a node, in any namespace.
fn proxyd(node: &Node, inside: &Namespace, command: &str, more: &[&str]) -> String {
    let line = Proxyd::command_line(node, command, more);
    let line: Vec<&str> = line.iter().map(String::as_str).collect();
    inside.command(&programs::proxyd().display().to_string(), &line)
}

/// Hands a ruleset to `nft`.
fn load(node: &Node, inside: &Namespace, ruleset: &str) {
    let file = node.folder().join("rendered.nft");
    std::fs::write(&file, ruleset).unwrap();
    inside.command("nft", &["-f", &file.display().to_string()]);
}

fn tables(inside: &Namespace) -> String {
    let list = |family| inside.command("nft", &["list", "table", family, "viaduct"]);
    list("ip") + &list("ip6")
}

/// The lines of every set and chain, by table and name. Elements stand in an order of their own; counters
/// have no values.
///
/// Maps with places of endpoints are told by types or by expressions: in what the daemon makes `nft` sees
/// types, and it loads the rules only with expressions. So that line is left out, and places are decimal.
fn parts(listing: &str) -> BTreeMap<String, Vec<String>> {
    let mut parts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let (mut table, mut part) = (String::new(), String::new());
    let joined = listing.replace(",\n\t\t\t", ",");
    for line in joined.lines().filter(|line| !line.trim().is_empty()) {
        let words = without_values(line);
        match line.trim_start_matches('\t').len() {
            length if length == line.len() => table = words,
            length if length + 1 == line.len() => part = format!("{table} {words}"),
            _ => {
                let lines = parts.entry(part.clone()).or_default();
                match words.strip_prefix("elements = { ").and_then(|w| w.strip_suffix(" }")) {
                    Some(elements) => lines.extend(elements.split(", ").map(decimal_place)),
                    None if words.ends_with(". mark : ipv4_addr . inet_service") => {}
                    None if words.ends_with(". mark : ipv6_addr . inet_service") => {}
                    None if words.starts_with("typeof ") => {}
                    None => lines.push(words),
                }
                if !part.contains(" chain ") {
                    lines.sort();
                }
            }
        }
    }
    parts
}

fn without_values(line: &str) -> String {
    let mut words: Vec<&str> = line.split_whitespace().collect();
    while let Some(at) = words.iter().position(|word| *word == "packets") {
        words.drain(at..at + 4);
    }
    words.join(" ")
}

fn decimal_place(element: &str) -> String {
    let Some((key, value)) = element.split_once(" : ") else { return element.to_owned() };
    let place = key.rsplit_once(" . 0x").and_then(|(frontend, place)| {
        Some(format!("{frontend} . {}", u32::from_str_radix(place, 16).ok()?))
    });
    format!("{} : {value}", place.as_deref().unwrap_or(key))
}

#[track_caller]
fn assert_same(ours: &str, theirs: &str) {
    let (ours, theirs) = (parts(ours), parts(theirs));
    for (name, lines) in &theirs {
        assert_eq!(ours.get(name), Some(lines), "{name}");
    }
    assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());
}

#[test]
fn what_is_rendered_is_what_the_daemon_programs() {
    if only_in_mode("nftables", "it is about rulesets of nftables mode") {
        return;
    }
    let world = World::new();
    let pods = ["a", "b", "c"].map(|name| world.backend(&world.n1, name));
    let daemon = world.start(&[]);
    let endpoints: Vec<Endpoint> = pods.iter().map(|pod| Endpoint::of(pod)).collect();
    fifty(&daemon, &endpoints, false);
    let ruleset = proxyd(&world.n1, world.n1.namespace(), "render", &[]);
    let fresh = Namespace::new("fresh");
    load(&world.n1, &fresh, &ruleset);
    // Chains are numbered as they come, so the daemon begins anew.
    let beside = Namespace::new("beside");
    assert_ne!(oneshot(&world.n1, &beside, &[]), "0 elements in 0 transactions");
    let programmed = tables(&beside);
    assert!(programmed.contains("nodeport-pick-masq-3"), "{programmed}");
    assert_same(&tables(&fresh), &programmed);
    // It replaces what is there, once more and whatever that is.
    fresh.command("nft", &["add chain ip viaduct of-another-version"]);
    load(&world.n1, &fresh, &ruleset);
    assert_same(&tables(&fresh), &programmed);
    // The daemon takes it for its own.
    assert_eq!(oneshot(&world.n1, &fresh, &[]), "0 elements in 0 transactions");
}

/// How much a single run wrote.
fn oneshot(node: &Node, inside: &Namespace, more: &[&str]) -> String {
    let line = Proxyd::command_line(node, "run", &[&["--oneshot"], more].concat());
    let output = inside.run(move || Command::new(programs::proxyd()).args(line).output()).unwrap();
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    let written = log.split_once(" ms: ").and_then(|(_, rest)| rest.split_once(" ("));
    written.unwrap_or_else(|| panic!("{log}")).0.to_owned()
}

#[test]
fn what_is_rendered_follows_the_settings() {
    if only_in_mode("nftables", "it is about rulesets of nftables mode") {
        return;
    }
    let world = World::new();
    let a = world.backend(&world.n1, "a");
    let web = node_port_service("web", 10, 30080);
    let text = with_slices(&web, "web", &[Endpoint::of(&a)]);
    Manifests::of(&world.n1).write("web", &text);
    let everywhere = ["--nodeport-addresses", "0.0.0.0/0,::/0"];
    let networks = ["--nodeport-addresses", "10.0.0.0/24,10.0.1.0/24,10.0.2.0/24,fd00::/8"];
    for settings in [
        &["--masquerade-all"][..],
        &["--cluster-cidr", "0.0.0.0/0,::/0"],
        &[
            &["--detect-local-mode", "BridgeInterface", "--pod-bridge-interface", "cni0"],
            &everywhere[..],
        ]
        .concat(),
        &[
            &["--detect-local-mode", "InterfaceNamePrefix"],
            &["--pod-interface-name-prefix", "veth"],
            &networks[..],
        ]
        .concat(),
        &["--detect-local-mode", "NodeCIDR", "--hostname-override", "nobody"],
    ] {
        let [loaded, programmed] = ["loaded", "programmed"].map(Namespace::new);
        let ruleset = proxyd(&world.n1, &loaded, "render", settings);
        load(&world.n1, &loaded, &ruleset);
        proxyd(&world.n1, &programmed, "run", &[&["--oneshot"], settings].concat());
        assert_same(&tables(&loaded), &tables(&programmed));
        let written = oneshot(&world.n1, &loaded, settings);
        assert_eq!(written, "0 elements in 0 transactions", "{settings:?}");
    }
    // A single run leaves the node's settings alone; the daemon would set this one first.
    let inside = Namespace::new("inside");
    let drops = |more| proxyd(&world.n1, &inside, "render", more).contains("ct state invalid");
    assert!(drops(&[]) && !drops(&["--conntrack-tcp-be-liberal"]));
}

#[test]
fn rules_of_session_affinity_are_rendered_as_nft_lists_them() {
    if only_in_mode("nftables", "it is about rulesets of nftables mode") {
        return;
    }
    let world = World::new();
    let pods = ["a", "b", "c"].map(|name| world.backend(&world.n1, name));
    let daemon = world.start(&[]);
    let endpoints: Vec<Endpoint> = pods.iter().map(|pod| Endpoint::of(pod)).collect();
    fifty(&daemon, &endpoints, true);
    let chains = |listing: &str| {
        let mut chains = parts(listing);
        chains.retain(|name, _| name.contains(" chain "));
        for lines in chains.values_mut() {
            // `nft` has words for some priorities.
            lines.retain(|line| !line.starts_with("type "));
        }
        chains
    };
    let rendered = chains(&proxyd(&world.n1, world.n1.namespace(), "render", &[]));
    let listed = chains(&tables(world.n1.namespace()));
    assert!(rendered.keys().any(|name| name.contains("nodeport-sticky-")), "{rendered:#?}");
    assert_eq!(rendered, listed);
}

#[test]
fn clients_are_served_by_what_nft_loaded() {
    if only_in_mode("nftables", "it is about rulesets of nftables mode") {
        return;
    }
    let world = World::new();
    let (a, client) = (world.backend(&world.n1, "a"), world.pod(&world.n1, "client"));
    let mut daemon = world.start(&[]);
    let web = node_port_service("web", 10, 30080);
    daemon.write("web", &with_slices(&web, "web", &[Endpoint::of(&a)]));
    daemon.apply("empty", &documents(&[&service("empty", 11)]));
    daemon.stop();
    let n1 = world.n1.namespace();
    n1.command(&programs::proxyd().display().to_string(), &["cleanup"]);
    for family in FAMILIES {
        assert!(client.tcp_within((vip(family, 10), PORT), SILENCE).is_err());
    }
    load(&world.n1, n1, &proxyd(&world.n1, n1, "render", &[]));
    for family in FAMILIES {
        let (name, peer) = served(&client, (vip(family, 10), PORT));
        assert_eq!((name.as_str(), peer), ("a", client.ip(family)));
        assert_eq!(served(&world.n1, (vip(family, 10), PORT)).0, "a");
        assert_eq!(served(&world.lan, (world.n1.ip(family), 30080)).0, "a");
        assert_eq!(client.udp((vip(family, 10), PORT)).unwrap().server, "a");
        // The pod reaches itself.
        assert_eq!(served(&*a, (vip(family, 10), PORT)).0, "a");
        assert_refused(&client, (vip(family, 11), PORT));
    }
}

#[test]
fn bad_manifests_are_told_beside_the_ruleset_of_the_good_ones() {
    if only_in_mode("nftables", "it is about rulesets of nftables mode") {
        return;
    }
    let world = World::new();
    let a = world.backend(&world.n1, "a");
    let manifests = Manifests::of(&world.n1);
    manifests.write("web", &with_slices(&service("web", 10), "web", &[Endpoint::of(&a)]));
    manifests.write("bad", "kind: Service\napiVersion: v1\nspec: 7\n");
    let line = Proxyd::command_line(&world.n1, "render", &[]);
    let inside = Namespace::new("inside");
    let output = inside.run(move || Command::new(programs::proxyd()).args(line).output()).unwrap();
    assert!(!output.status.success());
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("bad.yaml"), "{told}");
    let ruleset = String::from_utf8_lossy(&output.stdout);
    assert!(ruleset.contains(&vip(Family::V4, 10).to_string()) && ruleset.ends_with("\n}\n"));
    assert!(!ruleset.contains("bad.yaml"));
    assert_eq!(inside.ruleset(), "", "nothing is touched");
}
