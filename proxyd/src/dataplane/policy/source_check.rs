//! What comes in by a pod's link must be from that pod: its source address must be one of the pod's own.
//!
//! Two tables have the same sets and, nearly, the same rules. On its way in, a bridge's port is seen by the bridge
//! family alone (`inet` sees the bridge), a routed link by `inet` alone; so nobody needs to know which is which.
//! Links that are in no set are not looked at further. The number of rules does not depend on pods.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use netlink::nftables::{
    Chain, Compare, DataType, Element, Expression, Hook, Key, Meta, NftSocket, Payload, Register,
    RuleTag, Set, Table, TableFamily, Transaction, Verdict,
};
use netlink::{Family, Result};
use netpol::compile::Sources;

use super::chain::log;
use super::layout::{self, ICMPV6, address_type, family_is, of, protocol};

/// The table that sees the ports of bridges.
pub(super) const BRIDGE: Table<'_> = Table { family: TableFamily::Bridge, name: "viaduct-policy" };
/// Both tables.
const TABLES: [Table<'_>; 2] = [layout::TABLE, BRIDGE];
/// What the log says of packets that are dropped here.
pub const LOG_PREFIX: &str = "source-address";

/// Before connections are tracked, and before a bridge hands packets on to `inet`: in both families.
const PRIORITY_RAW: i32 = -300;
const FAMILIES: [Family; 2] = [Family::V4, Family::V6];
/// Links of pods.
const LINKS: &str = "pod-links";
/// Pairs of a link and an address of its pod.
const SOURCES: &str = "pod-sources";
const PREROUTING: &str = "prerouting";
const VETH: &str = "source-veth";
const CHECK: &str = "source-check";
const ADVERTISED: &str = "source-advertised";
const LINK_LOCAL: &str = "source-link-local";
const DENIED: &str = "source-denied";

const R0: Register = Register(0);
/// The register after an interface's name.
const R4: Register = Register(4);
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
/// What an IPv6 host says before it has an address, or beside it: listener reports, solicitations, advertisements.
const WITHOUT_ADDRESS: [u8; 6] = [131, 132, 133, 135, 136, 143];

/// An element of a set that both tables have.
type Item = (String, Vec<u8>);

/// The elements of a link, of which this is known.
fn items(link: &str, addresses: Option<&BTreeSet<IpAddr>>) -> BTreeSet<Item> {
    let Some(addresses) = addresses else { return BTreeSet::new() };
    let source = |address: &IpAddr| {
        (of(SOURCES, Family::of(*address)), Key::new().ifname(link).ip(*address).0)
    };
    let itself = (LINKS.to_owned(), Key::new().ifname(link).0);
    addresses.iter().map(source).chain([itself]).collect()
}

fn write_items<'a>(
    transaction: &mut Transaction,
    items: impl Iterator<Item = &'a Item>,
    write: impl Fn(&mut Transaction, Table<'_>, &str, &Element),
) -> usize {
    let mut elements = 0;
    for (set, key) in items {
        let element = Element::new(Key(key.clone()));
        for table in TABLES {
            write(transaction, table, set, &element);
            elements += 1;
        }
    }
    elements
}

/// Writes what is different of one link; tells how many elements that took.
pub(super) fn change(
    transaction: &mut Transaction,
    link: &Arc<str>,
    before: &Sources,
    now: &Sources,
) -> usize {
    let (before, now) = (items(link, before.get(link)), items(link, now.get(link)));
    let gone = write_items(transaction, before.difference(&now), |transaction, table, set, one| {
        transaction.delete_elements(table, set, [one]);
    });
    let added =
        write_items(transaction, now.difference(&before), |transaction, table, set, one| {
            transaction.add_elements(table, set, false, [one]);
        });
    gone + added
}

/// Writes all of it into both tables, of which that of the policies is there; tells how many elements there are.
pub(super) fn write(transaction: &mut Transaction, sources: &Sources) -> usize {
    transaction.add_table(BRIDGE);
    for table in TABLES {
        transaction.add_set(table, &Set::new(LINKS, &[DataType::IfName]));
        for family in FAMILIES {
            let pair = [DataType::IfName, address_type(family)];
            transaction.add_set(table, &Set::new(&of(SOURCES, family), &pair));
        }
        write_rules(transaction, table);
    }
    let links = sources.keys();
    links.map(|link| change(transaction, link, &BTreeMap::new(), sources)).sum()
}

/// Removes what only the check needs.
pub(super) fn remove(socket: &mut NftSocket) -> Result<bool> {
    if socket.table_comment(BRIDGE)?.is_none() {
        return Ok(false);
    }
    let mut transaction = Transaction::default();
    transaction.delete_table(BRIDGE);
    socket.commit(transaction)?;
    Ok(true)
}

/// Packets that the rules of a table dropped.
pub(super) fn denied(rules: &[(RuleTag, u64)]) -> u64 {
    rules.iter().filter(|(tag, _)| tag.chain == DENIED).map(|(_, packets)| packets).sum()
}

fn write_rules(transaction: &mut Transaction, table: Table<'_>) {
    let hook = Hook { kind: "filter", number: Hook::PREROUTING, priority: PRIORITY_RAW };
    transaction.add_chain(table, &Chain { name: PREROUTING, hook: Some(hook) });
    let rules = rules(table.family);
    let others: BTreeSet<&str> = rules.iter().map(|(chain, ..)| *chain).collect();
    for name in others.into_iter().filter(|name| *name != PREROUTING) {
        transaction.add_chain(table, &Chain { name, hook: None });
    }
    for (chain, comment, expressions) in rules {
        transaction.add_rule(table, chain, comment, &expressions);
    }
}

/// All rules: chain, comment, and what each does. What a rule cannot read it does not match, so each accepts, and
/// what is left is denied.
fn rules(table: TableFamily) -> Vec<(&'static str, &'static str, Vec<Expression>)> {
    let accept = || vec![Expression::Verdict(Verdict::Accept)];
    let goto = |chain: &str| vec![Expression::Verdict(Verdict::Goto(chain.to_owned()))];
    let bridge = table == TableFamily::Bridge;
    let is = |family| if bridge { is_frame_of(family) } else { family_is(family).to_vec() };
    let neighbour = || [is(Family::V6), protocol(ICMPV6).to_vec()].concat();
    let mut rules = Vec::new();
    let mut rule = |chain, comment, parts: &[Vec<Expression>]| {
        rules.push((chain, comment, parts.concat()));
    };
    let entrance = if bridge {
        PREROUTING
    } else {
        // Bridged pods come by their bridge, others by devices of the node: rarely is that a veth, and looked up.
        rule(PREROUTING, "", &[is_veth(), goto(VETH)]);
        VETH
    };
    let address = pair_is_known(Payload::IP_SADDR, Family::V4);
    rule(entrance, "from an IPv4 address of its own", &[is(Family::V4), address, accept()]);
    let of_pod = vec![
        Expression::LoadMeta(Meta::IifName, R0),
        Expression::LookupSet { set: LINKS.into(), key: R0, inverted: false },
    ];
    rule(entrance, "from a pod", &[of_pod, goto(CHECK)]);
    if bridge {
        // A routed link has no other neighbours than the node, which asks for this pod's addresses alone.
        let jump = vec![Expression::Verdict(Verdict::Jump(ADVERTISED.into()))];
        let advertisement = icmp_type(NEIGHBOUR_ADVERTISEMENT);
        rule(CHECK, "tells where an address is", &[neighbour(), advertisement, jump]);
        let back = || vec![Expression::Verdict(Verdict::Return)];
        let own = pair_is_known(Payload::ND_TARGET, Family::V6);
        rule(ADVERTISED, "its own", &[own, back()]);
        rule(ADVERTISED, "of the link", &[is_link_local(Payload::ND_TARGET), back()]);
        rule(ADVERTISED, "", &[goto(DENIED)]);
    }
    let address = pair_is_known(Payload::IP6_SADDR, Family::V6);
    rule(CHECK, "from an IPv6 address of its own", &[is(Family::V6), address, accept()]);
    if bridge {
        let (frame, address) = (is_ethertype(ETHERTYPE_ARP), Payload::ARP_SADDR);
        let address = pair_is_known(address, Family::V4);
        rule(CHECK, "tells where an address of its own is", &[frame, address, accept()]);
    }
    for (comment, source) in [
        ("from a link-local address", is_link_local(Payload::IP6_SADDR)),
        ("from no address", is_unspecified(Payload::IP6_SADDR)),
    ] {
        rule(CHECK, comment, &[neighbour(), source, goto(LINK_LOCAL)]);
    }
    rule(CHECK, "", &[goto(DENIED)]);
    for kind in WITHOUT_ADDRESS {
        rule(LINK_LOCAL, "", &[icmp_type(kind), accept()]);
    }
    rule(LINK_LOCAL, "", &[goto(DENIED)]);
    rule(DENIED, "", &[log(LOG_PREFIX).to_vec()]);
    let drop = Expression::Verdict(Verdict::Drop);
    rule(DENIED, "not from an address of the pod", &[vec![Expression::Counter, drop]]);
    rules
}

/// By its Ethernet type and not by what the kernel knows of it, which looks behind a VLAN tag.
fn is_ethertype(number: u16) -> Vec<Expression> {
    vec![
        Expression::LoadPayload(Payload::ETHER_TYPE, R0),
        Expression::Compare(Compare::Equal, R0, number.to_be_bytes().to_vec()),
    ]
}

fn is_veth() -> Vec<Expression> {
    vec![
        Expression::LoadMeta(Meta::IifKind, R0),
        Expression::Compare(Compare::Equal, R0, Key::new().ifname("veth").0),
    ]
}

fn is_frame_of(family: Family) -> Vec<Expression> {
    is_ethertype(match family {
        Family::V4 => ETHERTYPE_IPV4,
        Family::V6 => ETHERTYPE_IPV6,
    })
}

fn icmp_type(number: u8) -> Vec<Expression> {
    vec![
        Expression::LoadPayload(Payload::ICMP_TYPE, R0),
        Expression::Compare(Compare::Equal, R0, vec![number]),
    ]
}

fn pair_is_known(address: Payload, family: Family) -> Vec<Expression> {
    vec![
        Expression::LoadMeta(Meta::IifName, R0),
        Expression::LoadPayload(address, R4),
        Expression::LookupSet { set: of(SOURCES, family), key: R0, inverted: false },
    ]
}

/// fe80::/10.
fn is_link_local(address: Payload) -> Vec<Expression> {
    let mut mask = vec![0; 16];
    mask[..2].copy_from_slice(&[0xff, 0xc0]);
    let mut prefix = vec![0; 16];
    prefix[..2].copy_from_slice(&[0xfe, 0x80]);
    vec![
        Expression::LoadPayload(address, R0),
        Expression::Bitwise { register: R0, mask, xor: vec![0; 16] },
        Expression::Compare(Compare::Equal, R0, prefix),
    ]
}

fn is_unspecified(address: Payload) -> Vec<Expression> {
    vec![Expression::LoadPayload(address, R0), Expression::Compare(Compare::Equal, R0, vec![0; 16])]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_without_addresses_is_checked_and_one_that_is_not_known_has_no_elements() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let both = BTreeSet::from([address("10.0.0.1"), address("fd00::1")]);
        let link = || Key::new().ifname("vd1");
        let expected = BTreeSet::from([
            ("pod-links".to_owned(), link().0),
            ("pod-sources-4".to_owned(), link().ip(address("10.0.0.1")).0),
            ("pod-sources-6".to_owned(), link().ip(address("fd00::1")).0),
        ]);
        assert_eq!(items("vd1", Some(&both)), expected);
        let checked = BTreeSet::from([("pod-links".to_owned(), link().0)]);
        assert_eq!(items("vd1", Some(&BTreeSet::new())), checked);
        assert!(items("vd1", None).is_empty());
    }

    #[test]
    fn what_stays_is_not_written_again() {
        let sources = |addresses: &[&str]| {
            let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
            Sources::from([("vd1".into(), addresses)])
        };
        let written = |before: &Sources, now: &Sources| {
            change(&mut Transaction::default(), &"vd1".into(), before, now)
        };
        let (one, two) = (sources(&["10.0.0.1"]), sources(&["10.0.0.1", "fd00::1"]));
        // In two tables each.
        assert_eq!(written(&Sources::new(), &one), 2 * 2);
        assert_eq!(written(&one, &two), 2);
        assert_eq!(written(&two, &two), 0);
        assert_eq!(written(&two, &Sources::new()), 2 * 3);
    }

    #[test]
    fn whatever_no_rule_accepts_is_denied() {
        let denied = Expression::Verdict(Verdict::Goto(DENIED.into()));
        for family in [TableFamily::Inet, TableFamily::Bridge] {
            let rules = rules(family);
            for chain in [CHECK, ADVERTISED, LINK_LOCAL] {
                let last = rules.iter().rfind(|(of, ..)| *of == chain);
                let last = last.map(|(_, _, expressions)| expressions.as_slice());
                let routed = family == TableFamily::Inet && chain == ADVERTISED;
                let expected = if routed { None } else { Some(std::slice::from_ref(&denied)) };
                assert_eq!(last, expected, "{family:?} {chain}");
            }
            let (_, _, last) = rules.last().unwrap();
            assert_eq!(last.last(), Some(&Expression::Verdict(Verdict::Drop)));
        }
    }
}
