//! Rules in words, and whole tables.

use std::sync::Arc;

use netlink::Family;
use netlink::nftables::{Compare, Ct, Expression, Meta, Payload, RejectWith, Verdict};

use super::super::Node;
use super::super::layout::{Layout, R};
use super::super::names::{Keys, List, Pick, SetId, Target};
use super::render;
use super::rule::statements;
use crate::cluster::{Affinity, Protocol, ServiceName, ServicePortName};
use crate::dataplane::{NodePorts, PodTraffic, Settings};
use crate::service::{Address, Backend, Frontend, FrontendKey, Lists, Masquerade, Resolution};

fn number(number: u32) -> Vec<u8> {
    number.to_ne_bytes().to_vec()
}

fn masked(load: Expression, mask: u32, xor: u32) -> Vec<Expression> {
    let bitwise = Expression::Bitwise { register: R[0], mask: number(mask), xor: number(xor) };
    vec![load, bitwise]
}

fn not_zero() -> Expression {
    Expression::Compare(Compare::NotEqual, R[0], number(0))
}

fn text(parts: &[&[Expression]]) -> String {
    statements(Family::V4, &parts.concat())
}

#[test]
fn bits_of_connections_have_names() {
    let state = Expression::LoadCt(Ct::State, R[0]);
    let status = Expression::LoadCt(Ct::Status, R[0]);
    for (load, bits, expected) in [
        (&state, 8, "ct state new"),
        (&state, 1, "ct state invalid"),
        (&state, 6, "ct state established,related"),
        (&state, 1 << 20, "ct state 0x100000"),
        (&status, 32, "ct status dnat"),
    ] {
        let load = masked(load.clone(), bits, 0);
        assert_eq!(text(&[&load, &[not_zero()]]), expected);
    }
}

#[test]
fn marks_are_tested_set_and_cleared() {
    let mark = || Expression::LoadMeta(Meta::Mark, R[0]);
    let store = [Expression::StoreMeta(Meta::Mark, R[0])];
    let tested = masked(mark(), 0x4000, 0);
    assert_eq!(text(&[&tested, &[not_zero()]]), "meta mark & 0x00004000 != 0x00000000");
    let set = masked(mark(), !0x4000, 0x4000);
    assert_eq!(text(&[&set, &store]), "meta mark set meta mark | 0x00004000");
    let flipped = masked(mark(), !0, 0x4000);
    assert_eq!(text(&[&flipped, &store]), "meta mark set meta mark ^ 0x00004000");
    let none = [Expression::LoadValue(number(0), R[0])];
    let priority = [Expression::StoreMeta(Meta::Priority, R[0])];
    assert_eq!(text(&[&none, &priority]), "meta priority set none");
    let handle = masked(Expression::LoadMeta(Meta::Priority, R[0]), 0xc000_0000, 0);
    let equal = [Expression::Compare(Compare::Equal, R[0], number(0xc000_0000))];
    assert_eq!(text(&[&handle, &equal]), "meta priority & c000:0 == c000:0");
}

#[test]
fn fields_are_compared_with_what_they_can_be() {
    let equal = |value: &[u8]| [Expression::Compare(Compare::Equal, R[0], value.to_vec())];
    let protocol = [Expression::LoadMeta(Meta::L4Proto, R[0])];
    assert_eq!(text(&[&protocol, &equal(&[6])]), "meta l4proto tcp");
    let local = [Expression::LoadDestinationType(R[0])];
    assert_eq!(text(&[&local, &equal(&number(2))]), "fib daddr type local");
    let name = [Expression::LoadMeta(Meta::IifName, R[0])];
    assert_eq!(text(&[&name, &equal(b"veth")]), "iifname \"veth*\"");
    let whole = *b"cni0\0\0\0\0\0\0\0\0\0\0\0\0";
    assert_eq!(text(&[&name, &equal(&whole)]), "iifname \"cni0\"");
    let whole = *b"x*\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    assert_eq!(text(&[&name, &equal(&whole)]), "iifname \"x\\*\"");
    let daddr = Expression::LoadPayload(Payload::IP_DADDR, R[0]);
    let network = masked(daddr, u32::from_ne_bytes([255, 0, 0, 0]), 0);
    let not = [Expression::Compare(Compare::NotEqual, R[0], vec![127, 0, 0, 0])];
    assert_eq!(text(&[&network, &not]), "ip daddr != 127.0.0.0/8");
}

#[test]
fn a_key_is_what_its_registers_hold_when_it_is_looked_up() {
    let name = |set: SetId| set.name().to_owned();
    let load = |field, at| Expression::LoadPayload(field, R[at]);
    let pair = [load(Payload::IP_SADDR, 0), load(Payload::IP_DADDR, 1)];
    let inverted = |set| [Expression::LookupSet { set: name(set), key: R[0], inverted: true }];
    assert_eq!(text(&[&pair, &inverted(SetId::Hairpin)]), "ip saddr . ip daddr != @hairpin");
    // An address of the other family takes four registers, and so the second place.
    let long = [load(Payload::IP_DADDR, 1), load(Payload::IP6_SADDR, 0)];
    let lost = text(&[&long, &inverted(SetId::Hairpin)]);
    assert_eq!(lost, "ip6 saddr . <register 1> != @hairpin");
}

#[test]
fn refusals_and_verdicts() {
    let reject = |code| [Expression::Reject(RejectWith::IcmpUnreachable(code))];
    assert_eq!(text(&[&reject(3)]), "reject");
    assert_eq!(text(&[&reject(1)]), "reject with icmp 1");
    assert_eq!(statements(Family::V6, &reject(4)), "reject");
    let counted = [Expression::Counter, Expression::Reject(RejectWith::TcpReset)];
    assert_eq!(text(&[&counted]), "counter reject with tcp reset");
    let jump = [Expression::Verdict(Verdict::Jump("c".into()))];
    assert_eq!(text(&[&jump]), "jump c");
}

#[test]
fn endpoints_are_chosen_and_remembered() {
    let pick = |sticky, count| {
        let (keys, list) = (Keys::Ip, List::Primary);
        Target::Pick(Pick { keys, list, masquerade: false, sticky, count })
    };
    let settings = Settings {
        masquerade_mark: 0x4000,
        masquerade_all: false,
        pod_traffic: PodTraffic::Unknown,
        nodeports: NodePorts::Listed,
        drop_invalid: false,
    };
    let layout = Layout { family: Family::V6, settings: &settings };
    let rules = |target| {
        let rules = layout.target(target).into_iter();
        rules.map(|rule| statements(Family::V6, &rule.expressions)).collect::<Vec<_>>()
    };
    let slot = "ip6 daddr . meta l4proto . th dport . numgen random mod 3";
    assert_eq!(rules(pick(None, 3)), [format!("dnat ip6 to {slot} map @endpoints")]);
    let client = "ip6 saddr . meta priority & ffff:c000";
    let choose = format!("meta priority set {slot} map @endpoint-ids");
    let remember = format!("update @affinity {{ {client} timeout 1m30s : meta priority }}");
    let recall = format!("meta priority set {client} map @affinity");
    let forget = format!("delete @affinity {{ {client} : meta priority }}");
    let go = "dnat ip6 to meta priority map @backends".to_owned();
    let expected =
        [&choose, &remember, &recall, &go, &forget, &choose, &remember, &go].map(String::clone);
    assert_eq!(rules(pick(Some(90), 3)), expected);
}

fn node(pod_traffic: PodTraffic, nodeports: NodePorts) -> Node {
    let settings = Settings {
        masquerade_mark: 0x4000,
        masquerade_all: false,
        pod_traffic,
        nodeports,
        drop_invalid: true,
    };
    let prefixes = |list: &[&str]| list.iter().map(|prefix| prefix.parse().unwrap()).collect();
    Node {
        settings,
        pod_cidrs: prefixes(&["10.244.0.0/16", "fd00:10::/32"]),
        nodeport_addresses: Vec::new(),
        service_cidrs: prefixes(&["10.0.0.0/24", "10.0.1.0/24", "10.0.2.0/24", "::/0"]),
        health_check_ports: Vec::new(),
    }
}

fn nodes() -> [Node; 2] {
    [0, 1].map(|_| node(PodTraffic::Source, NodePorts::Listed))
}

fn frontend(number: u8, affinity: Option<Affinity>) -> (FrontendKey, Frontend) {
    let address = Address::Ip([10, 96, 0, number].into());
    let key = FrontendKey { address, protocol: Protocol::Tcp, port: 80 };
    let service = ServiceName {
        namespace: "default".into(),
        name: format!("service-{}", 255 - number).into(),
    };
    let backend = |n| Backend { ip: [10, 244, 0, n].into(), port: 8080 };
    let lists = Lists {
        owner: ServicePortName { service, port: "".into(), protocol: Protocol::Tcp },
        cluster: vec![backend(1), backend(2)],
        local: Vec::new(),
        hairpin: Vec::new(),
        affinity,
    };
    let frontend = Frontend {
        resolution: Resolution::Cluster(Masquerade::OffCluster),
        cluster_ip: true,
        source_ranges: Some(Arc::from(["10.0.0.0/8".parse().unwrap()])),
        lists: Arc::new(lists),
    };
    (key, frontend)
}

#[test]
fn elements_are_written_in_the_words_of_their_sets() {
    let (key, frontend) = frontend(1, None);
    let text = render([(key, &frontend)], &nodes());
    assert!(text.starts_with("add table ip viaduct\ndelete table ip viaduct\nadd table ip6"));
    for expected in [
        "\t\telements = { 10.96.0.1 . tcp . 80 . 0x00000000 : 10.244.0.1 . 8080,\n\
         \t\t\t     10.96.0.1 . tcp . 80 . 0x00000001 : 10.244.0.2 . 8080 }\n",
        "elements = { 10.96.0.1 . tcp . 80 : c000:0 }",
        "elements = { c000:0 : goto pick-2 }",
        "elements = { 10.96.0.1 . tcp . 80 . 10.0.0.0/8 }",
        "elements = { 10.96.0.1 }",
        "elements = { 10.244.0.0/16 }",
        "elements = { fd00:10::/32 }",
        "elements = { 10.0.0.0-10.0.2.255 }",
        "elements = { ::/0 }",
        "\tchain pick-2 {\n",
        "\tchain reject-chain {\n",
    ] {
        assert!(text.contains(expected), "{expected} in {text}");
    }
}

#[test]
fn the_order_does_not_depend_on_the_callers() {
    let frontends: Vec<_> = (1..20).map(|n| frontend(n, Some(Affinity(60)))).collect();
    let given = || frontends.iter().map(|(key, frontend)| (*key, frontend));
    let text = render(given(), &nodes());
    assert!(text.contains("c000:1 : 10.244.0.2 . 8080"), "{text}");
    assert_eq!(text, render(given().rev(), &nodes()));
}

#[test]
fn every_rule_reads_what_it_loaded() {
    for traffic in [
        PodTraffic::Source,
        PodTraffic::Interface("cni0".into()),
        PodTraffic::InterfacePrefix("veth".into()),
        PodTraffic::Unknown,
    ] {
        for nodeports in [NodePorts::Listed, NodePorts::InNetworks, NodePorts::Everywhere] {
            let nodes = [0, 1].map(|_| node(traffic.clone(), nodeports));
            let (key, frontend) = frontend(1, Some(Affinity(60)));
            let text = render([(key, &frontend)], &nodes);
            assert!(!text.contains("<register"), "{text}");
        }
    }
}
