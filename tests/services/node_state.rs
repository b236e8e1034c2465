//! The node's own state under the daemon: damaged by hand, back within ten seconds; left out, said so.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testnet::manifest::documents;
use testnet::{Family, Host, Network, Node, Pod, Proxyd, eventually};

use super::soon;
use super::world::World;

const REPAIRED_WITHIN: Duration = Duration::from_secs(10);
const HOST_PORT: u16 = 8081;

/// The daemon with the agent, once it serves pods, and the configuration list that it wrote.
pub(crate) fn start<'n>(node: &'n Node, settings: &str) -> (Proxyd<'n>, Value) {
    let settings = format!("policies: false\nsourceAddressCheck: false\n{settings}");
    let daemon = Proxyd::spawn(node, &["--network-config", &node.agent_settings(&settings)]);
    let list = soon("the configuration list", || {
        let text = std::fs::read(node.folder().join("net.d/10-viaduct.conflist")).ok()?;
        serde_json::from_slice::<Value>(&text).ok()
    });
    soon("it is ready", || is_ready(&daemon));
    (daemon, list)
}

fn is_ready(daemon: &Proxyd<'_>) -> bool {
    daemon.http_get(10256, "/readyz").is_some_and(|answer| answer.status == 200)
}

pub(crate) fn status(daemon: &Proxyd<'_>) -> Value {
    let page = soon("the status page", || daemon.http_get(10249, "/status"));
    serde_json::from_str(&page.body).expect("JSON")
}

/// A pod with a host port on the daemon's network.
fn serving<'n>(node: &'n Node, list: &Value, name: &str, port: u16) -> Pod<'n> {
    node.pod(&Network::of_conflist(list, node).host_port(port, 80, "tcp"), name)
}

#[track_caller]
fn await_service(world: &World, pod: &Pod<'_>, other: &Pod<'_>, damage: &str) {
    let start = Instant::now();
    for family in [Family::V4, Family::V6] {
        let node = pod.node();
        let (own, address) = match family {
            Family::V4 => (node.v4(), other.v4()),
            Family::V6 => (node.v6(), other.v6()),
        };
        eventually(&format!("{damage}: host port by {family:?}"), REPAIRED_WITHIN, || {
            world.lan.can_reach((own, HOST_PORT))
        });
        eventually(&format!("{damage}: way out by {family:?}"), REPAIRED_WITHIN, || {
            let answer = pod.tcp((world.lan.outside(family), 8080));
            answer.is_ok_and(|answer| answer.peer == own)
        });
        eventually(
            &format!("{damage}: pod of another node by {family:?}"),
            REPAIRED_WITHIN,
            || pod.ping(address).is_ok(),
        );
    }
    assert!(start.elapsed() < REPAIRED_WITHIN, "{damage} took {:?}", start.elapsed());
}

fn damages(mode: &str, link: &str) -> Vec<String> {
    let mut all: Vec<String> = [
        "nft flush ruleset",
        "nft delete table inet viaduct-host",
        "nft flush map inet viaduct-host hostports-any-4",
        "nft flush set inet viaduct-host masquerade-6",
        "nft flush set inet viaduct-host masquerade-exclude-4",
        "nft flush chain inet viaduct-host prerouting",
        "nft flush set inet viaduct-host loops",
        "sysctl -qw net.ipv4.ip_forward=0",
        "sysctl -qw net.ipv6.conf.all.forwarding=0",
    ]
    .map(str::to_owned)
    .into();
    all.push(format!("ip link set {link} down"));
    all.push(format!("ip link set {link} mtu 1300"));
    let own: &[&str] = match mode {
        "routed" => &[
            "ip addr flush dev LINK",
            "ip route flush dev LINK",
            "ip -6 route flush dev LINK",
            "sysctl -qw net.ipv4.conf.LINK.forwarding=0",
        ],
        _ => &[
            "ip link set viaduct0 down",
            "ip addr flush dev viaduct0",
            "ip route flush dev viaduct0",
            "ip -6 route flush dev viaduct0",
            "ip link set LINK nomaster",
            "ip link del viaduct0",
            "ip link set viaduct0 address 02:00:00:00:00:77",
            "sysctl -qw net.ipv4.conf.viaduct0.forwarding=0",
        ],
    };
    all.extend(own.iter().map(|damage| damage.replace("LINK", link)));
    all
}

fn every_damage_is_repaired(mode: &str) {
    let world = World::new();
    let (daemon, list) = start(&world.n1, &format!("mode: {mode}\n"));
    let (_other_daemon, other_list) = start(&world.n2, &format!("mode: {mode}\n"));
    let pod = serving(&world.n1, &list, "pod", HOST_PORT);
    let other = serving(&world.n2, &other_list, "other", HOST_PORT);
    let _servers = (pod.serve_tcp(80), world.lan.serve_tcp(8080));
    await_service(&world, &pod, &other, "before any damage");
    for damage in damages(mode, &pod.host_link()) {
        let repairs = || daemon.log().matches("repaired the node's state").count();
        let before = repairs();
        let words: Vec<&str> = damage.split(' ').collect();
        world.n1.namespace().command(words[0], &words[1..]);
        eventually(&format!("{damage}: a line in the log"), REPAIRED_WITHIN, || repairs() > before);
        await_service(&world, &pod, &other, &damage);
        pod.check().result();
    }
    assert!(daemon.metric("viaduct_node_repairs_total", "") >= Some(10.0));
    eventually("it is ready", REPAIRED_WITHIN, || is_ready(&daemon));
}

#[test]
fn damage_is_repaired_with_a_bridge() {
    every_damage_is_repaired("bridge");
}

#[test]
fn damage_is_repaired_with_routed_links() {
    every_damage_is_repaired("routed");
}

#[test]
fn nothing_is_written_while_nothing_is_damaged() {
    for mode in ["bridge", "routed"] {
        let world = World::new();
        let (daemon, list) = start(&world.n1, &format!("mode: {mode}\n"));
        let _pods = [serving(&world.n1, &list, "a", 8081), serving(&world.n1, &list, "b", 8082)];
        // One comparison after the pods, then a quiet time.
        std::thread::sleep(Duration::from_secs(2));
        let (before, log) = (generation(&world.n1), daemon.log());
        std::thread::sleep(Duration::from_secs(11));
        assert_eq!(generation(&world.n1), before, "{mode}: something was committed");
        assert_eq!(daemon.log(), log, "{mode}: something was logged");
    }
}

/// The number of nftables transactions of a node.
fn generation(node: &Node) -> u32 {
    let text = node.namespace().command("nft", &["-j", "list", "ruleset"]);
    // The generation itself is not in the listing: handles grow with each transaction that adds something.
    text.matches("\"handle\"").count() as u32
}

/// Random damage for a while, then quiet: the node equals one where nothing was ever damaged.
#[test]
fn random_damage_leaves_the_state_of_a_fresh_node() {
    let count = std::env::var("VIADUCT_DAMAGES").ok().and_then(|text| text.parse().ok());
    for mode in ["bridge", "routed"] {
        let world = World::new();
        let (daemon, list) = start(&world.n1, &format!("mode: {mode}\n"));
        let pods: Vec<Pod<'_>> =
            (0..3).map(|n| serving(&world.n1, &list, &format!("p{n}"), HOST_PORT + n)).collect();
        std::thread::sleep(Duration::from_secs(2));
        let fresh = snapshot(&world.n1);
        let mut dice = 0x9e37_79b9_7f4a_7c15_u64;
        let mut roll = |below: usize| {
            dice ^= dice << 13;
            dice ^= dice >> 7;
            dice ^= dice << 17;
            (dice % below as u64) as usize
        };
        for step in 0..count.unwrap_or(40) {
            let all = damages(mode, &pods[roll(pods.len())].host_link());
            let damage = &all[roll(all.len())];
            let words: Vec<&str> = damage.split(' ').collect();
            // What an earlier damage removed cannot be damaged again.
            let _ = world.n1.namespace().try_command(words[0], &words[1..]);
            if step % 5 == 0 {
                let third = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n3"},
                    "spec": {"podCIDRs": [format!("10.244.{}.0/24", 100 + step % 50)]},
                    "status": {"addresses": [{"type": "InternalIP", "address": "192.168.0.77"}]}});
                daemon.write("n3", &documents(&[&third]));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = std::fs::remove_file(daemon.manifests().path().join("n3.yaml"));
        eventually(&format!("{mode}: the state of a fresh node"), Duration::from_secs(20), || {
            let now = snapshot(&world.n1);
            let differences: Vec<String> = fresh
                .iter()
                .filter(|(name, value)| now.get(*name) != Some(value))
                .map(|(name, value)| format!("{name}: {value}\nis now: {:?}", now.get(name)))
                .collect();
            if differences.is_empty() { Ok(()) } else { Err(differences.join("\n")) }
        });
        for pod in &pods {
            pod.check().result();
        }
    }
}

/// Everything of a node that the pod network needs, in an order that does not depend on history.
fn snapshot(node: &Node) -> BTreeMap<String, String> {
    let sorted = |text: String| {
        let mut lines: Vec<&str> = text.lines().map(str::trim).collect();
        lines.sort_unstable();
        lines.join("\n")
    };
    let namespace = node.namespace();
    let mut all = BTreeMap::new();
    all.insert("routes 4".into(), sorted(namespace.ip("-4 route show table main")));
    all.insert("routes 6".into(), sorted(namespace.ip("-6 route show table main")));
    for link in namespace.ip_json("addr").as_array().into_iter().flatten() {
        let name = link["ifname"].as_str().unwrap_or_default();
        let addresses = link["addr_info"].as_array().into_iter().flatten();
        let mut addresses: Vec<String> =
            addresses.map(|a| format!("{}/{}", a["local"], a["prefixlen"])).collect();
        addresses.sort();
        let text = format!("{} {} {} {addresses:?}", link["mtu"], link["master"], link["address"]);
        all.insert(format!("link {name}"), text);
    }
    for table in ["inet viaduct-host", "ip viaduct", "ip6 viaduct"] {
        let words: Vec<&str> = ["list", "table"].into_iter().chain(table.split(' ')).collect();
        let listed = namespace.try_command("nft", &words).unwrap_or_default();
        let listed = listed.replace(", ", "\n").replace("elements = {", "").replace('}', "");
        all.insert(format!("table {table}"), sorted(listed));
    }
    for name in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
        all.insert(name.into(), namespace.sysctl(name));
    }
    all
}

/// A policy that denies everything to the pods of namespace `default`.
fn deny_all() -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "deny-all", "namespace": "default"},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress"]}})
}

#[test]
fn policies_that_nothing_enforces_are_a_warning() {
    let world = World::new();
    let (daemon, _) = start(&world.n1, "");
    assert_eq!(daemon.metric("viaduct_unenforced_policies", ""), Some(0.0));
    daemon.write("policy", &documents(&[&deny_all()]));
    eventually("a warning", REPAIRED_WITHIN, || {
        let problems = status(&daemon)["problems"].to_string();
        (problems.contains("default/deny-all") && problems.contains("policies: false"))
            .then_some(())
    });
    assert!(daemon.log().contains("not enforced"), "{}", daemon.log());
    assert_eq!(daemon.metric("viaduct_unenforced_policies", ""), Some(1.0));
    daemon.remove("policy");
    eventually("no warning", REPAIRED_WITHIN, || status(&daemon)["problemCount"] == 0);
}

#[test]
fn policies_of_a_folder_hold_without_a_network_configuration() {
    let world = World::new();
    let daemon = world.start(&[]);
    assert!(!world.n1.namespace().ruleset().contains("viaduct-policy"), "nothing for nothing");
    let (a, b) = (world.pod(&world.n1, "a"), world.pod(&world.n1, "b"));
    let _server = b.serve_tcp(80);
    let object = |pod: &Pod<'_>| {
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": pod.namespace().name(), "namespace": "default", "uid": pod.id()},
            "spec": {"nodeName": "n1"},
            "status": {"phase": "Running", "podIPs": pod.ips().iter().map(|ip| json!({"ip": ip})).collect::<Vec<_>>()}})
    };
    let namespace =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}});
    daemon.apply("pods", &documents(&[&namespace, &object(&a), &object(&b)]));
    assert!(a.can_reach((b.v4(), 80)) && a.can_reach((b.v6(), 80)), "without any policy");
    daemon.write("policy", &documents(&[&deny_all()]));
    eventually("the policy holds", REPAIRED_WITHIN, || {
        !a.can_reach((b.v4(), 80)) && !a.can_reach((b.v6(), 80))
    });
    daemon.remove("policy");
    eventually("the policy is gone", REPAIRED_WITHIN, || {
        a.can_reach((b.v4(), 80)) && a.can_reach((b.v6(), 80))
    });
}

#[test]
fn damage_that_stays_is_the_reason_for_not_ready() {
    let world = World::new();
    let (daemon, list) = start(&world.n1, "");
    let _pod = serving(&world.n1, &list, "a", HOST_PORT);
    world.n1.namespace().ip("link del viaduct0");
    // Whichever comes first: the daemon's bridge goes again, and the name stays taken.
    let _ = world.n1.namespace().try_command("ip", &["link", "del", "viaduct0"]);
    world.n1.namespace().ip("link add viaduct0 type ifb");
    eventually("not ready", REPAIRED_WITHIN, || {
        let answer = daemon.http_get(10256, "/readyz")?;
        (answer.status == 503 && answer.body.contains("viaduct0") && answer.body.contains("ifb"))
            .then_some(())
    });
    assert!(status(&daemon)["problems"].to_string().contains("ifb"));
    world.n1.namespace().ip("link del viaduct0");
    eventually("ready again", REPAIRED_WITHIN, || is_ready(&daemon));
}

#[test]
fn packets_of_other_pods_pass_while_one_is_repaired() {
    let world = World::new();
    let (daemon, list) = start(&world.n1, "");
    let [damaged, a, b] = ["damaged", "a", "b"]
        .map(|name| world.n1.pod(&Network::of_conflist(&list, &world.n1), name));
    let _server = b.serve_udp(8080);
    let mut flow = a.udp_flow((b.v4(), 8080), 0).unwrap();
    let repairs = || daemon.log().matches("repaired the node's state").count();
    for damage in ["nomaster", "down", "mtu 1300"] {
        let before = repairs();
        world.n1.namespace().ip(&format!("link set {} {damage}", damaged.host_link()));
        let start = Instant::now();
        while repairs() == before {
            assert!(start.elapsed() < REPAIRED_WITHIN, "{damage} is not repaired");
            flow.ask(damage).unwrap_or_else(|error| panic!("{damage}: a packet is lost: {error}"));
        }
        for _ in 0..20 {
            flow.ask(damage).unwrap_or_else(|error| panic!("{damage}: a packet is lost: {error}"));
        }
    }
}
