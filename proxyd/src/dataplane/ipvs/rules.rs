//! The rules of a family's table: constant, whatever Services there are.
//!
//! A packet to a Service address or a node port comes to the node itself, since the address is on our device or
//! one of the node's. There the filter sees it before IPVS does, which is at priority 98 and later; the node's own
//! packets are seen by IPVS at priority -99 of the output hook. What IPVS has translated goes through the output and
//! postrouting hooks, and its connection still knows where the client went.

use std::collections::BTreeSet;

use netlink::nftables::{
    Chain, Compare, Ct, ElementChange, ElementRef, Expression, Hook, Meta, NftSocket, Register,
    RuleTag, Transaction, Verdict,
};
use netlink::{Family, Prefix, Result};

use super::items::{Item, SetId, range_items};
use crate::dataplane::nftables::{
    CT_INVALID, CT_NEW, Layout, R, RTN_LOCAL, Rule, TCP, ct_state, equal, table,
};
use crate::dataplane::{Node, PodTraffic};

const PRIORITY_SOURCE_RANGES: i32 = -110;
const PRIORITY_FILTER: i32 = 0;
const PRIORITY_SRCNAT: i32 = 100;

/// Replaces the table of a family by one with these elements, or makes it.
pub(super) fn replace(
    family: Family,
    node: &Node,
    items: Vec<&Item>,
    transaction: &mut Transaction,
) {
    let table = table(family);
    // It may be another mode's: what is added first is there to be deleted.
    transaction.add_table(table);
    transaction.delete_table(table);
    transaction.add_table_with_comment(table, &version(family));
    for set in SetId::ALL {
        transaction.add_set(table, &set.spec(family));
    }
    for (name, hook) in chains() {
        transaction.add_chain(table, &Chain { name, hook });
    }
    for rule in rules(&Layout { family, settings: &node.settings }) {
        transaction.add_rule(table, &rule.chain, &rule.comment, &rule.expressions);
    }
    let of_node = node_items(family, node);
    let mut all: Vec<&Item> = items;
    all.extend(&of_node);
    all.sort();
    for item in all {
        transaction.change_element(ElementChange::Add, table, item.set.name(), item.element());
    }
}

/// How the comment of a table of this mode begins.
const COMMENT: &str = "Viaduct services, ipvs";

/// What a table with the same sets and chains has as comment.
fn version(family: Family) -> String {
    let sets: Vec<_> = SetId::ALL.iter().map(|set| set.spec(family)).collect();
    let all = format!("{sets:?} {:?}", chains());
    format!("{COMMENT}, layout {:08x}", netlink::fnv1a(all.as_bytes()) as u32)
}

/// What of a family's table is not as it should be.
pub(super) enum Difference {
    /// All is as it should be.
    None,
    /// Elements that frontends need, and others that none needs any more.
    Elements { missing: Vec<Item>, surplus: Vec<Item> },
    /// The table is another mode's, which serves.
    OtherMode,
    /// This, and so the table has to be replaced.
    Whole(String),
}

/// Compares a family's table.
pub(super) fn difference(
    socket: &mut NftSocket,
    family: Family,
    node: &Node,
    items: Vec<&Item>,
) -> Result<Difference> {
    let table = table(family);
    let comment = socket.table_comment(table)?;
    if comment.as_deref() != Some(&version(family)) {
        let other = comment.is_some_and(|comment| !comment.starts_with(COMMENT));
        let whole = Difference::Whole("the table".to_owned());
        return Ok(if other { Difference::OtherMode } else { whole });
    }
    let mut there = socket.rules(table)?.unwrap_or_default();
    let rules = rules(&Layout { family, settings: &node.settings });
    let tag = |rule: Rule| RuleTag { chain: rule.chain, comment: rule.comment };
    let mut wanted: Vec<RuleTag> = rules.into_iter().map(tag).collect();
    there.sort();
    wanted.sort();
    if there != wanted {
        return Ok(Difference::Whole("rules".to_owned()));
    }
    let of_node = node_items(family, node);
    let (mut missing, mut surplus) = (Vec::new(), Vec::new());
    for set in SetId::ALL {
        let wanted = items.iter().copied().chain(&of_node).filter(|item| item.set == set);
        let wanted: BTreeSet<Item> = wanted.cloned().collect();
        let read = |element: ElementRef<'_>| Some(Item::read(family, set, element));
        let there = socket.parse_elements(table, set.name(), true, read)?.unwrap_or_default();
        let there: BTreeSet<Item> = there.into_iter().collect();
        if there != wanted && matches!(set, SetId::PodCidrs | SetId::ServiceCidrs) {
            return Ok(Difference::Whole(format!("elements of set {}", set.name())));
        }
        surplus.extend(there.difference(&wanted).cloned());
        missing.extend(wanted.difference(&there).cloned());
    }
    let same = missing.is_empty() && surplus.is_empty();
    Ok(if same { Difference::None } else { Difference::Elements { missing, surplus } })
}

fn node_items(family: Family, node: &Node) -> Vec<Item> {
    let ranges = |set, prefixes: &[Prefix]| range_items(family, set, prefixes);
    let mut items = ranges(SetId::PodCidrs, &node.pod_cidrs);
    items.extend(ranges(SetId::ServiceCidrs, &node.service_cidrs));
    items
}

const REJECT: &str = "reject-chain";
const SOURCE: &str = "service-source";

fn chains() -> Vec<(&'static str, Option<Hook>)> {
    let hook = |kind, number, priority| Some(Hook { kind, number, priority });
    vec![
        (REJECT, None),
        (SOURCE, None),
        ("services-prerouting", hook("filter", Hook::PREROUTING, PRIORITY_SOURCE_RANGES)),
        ("services-output", hook("filter", Hook::OUTPUT, PRIORITY_SOURCE_RANGES)),
        ("filter-input", hook("filter", Hook::INPUT, PRIORITY_FILTER)),
        ("filter-forward", hook("filter", Hook::FORWARD, PRIORITY_FILTER)),
        ("filter-output", hook("filter", Hook::OUTPUT, PRIORITY_FILTER)),
        ("nat-postrouting", hook("nat", Hook::POSTROUTING, PRIORITY_SRCNAT)),
    ]
}

fn lookup(set: SetId, inverted: bool) -> Expression {
    Expression::LookupSet { set: set.name().into(), key: R[0], inverted }
}

fn counted(verdict: Verdict) -> [Expression; 2] {
    [Expression::Counter, Expression::Verdict(verdict)]
}

/// A frontend's key of where the packet goes; the next free register too.
fn destination(layout: &Layout<'_>) -> (Vec<Expression>, Register) {
    let at = layout.words();
    let load = vec![
        Expression::LoadPayload(layout.daddr(), R[0]),
        Expression::LoadMeta(Meta::L4Proto, R[at]),
        Expression::LoadPayload(netlink::nftables::Payload::TH_DPORT, R[at + 1]),
    ];
    (load, R[at + 2])
}

/// A frontend's key of where the client went, before anything was translated.
fn original(layout: &Layout<'_>) -> Vec<Expression> {
    let at = layout.words();
    let address = match layout.family {
        Family::V4 => Ct::DestinationIp,
        Family::V6 => Ct::DestinationIp6,
    };
    vec![
        Expression::LoadCtOriginal(address, R[0]),
        Expression::LoadMeta(Meta::L4Proto, R[at]),
        Expression::LoadCtOriginal(Ct::DestinationPort, R[at + 1]),
    ]
}

fn from_node() -> [Expression; 2] {
    [Expression::LoadSourceType(R[0]), equal(R[0], &RTN_LOCAL.to_ne_bytes())]
}

fn rules(layout: &Layout<'_>) -> Vec<Rule> {
    let new = ct_state(CT_NEW);
    let (key, next) = destination(layout);
    let daddr = [Expression::LoadPayload(layout.daddr(), R[0])];
    let mut rules = Vec::new();
    for chain in ["services-prerouting", "services-output"] {
        let restricted = [lookup(SetId::SourceRestricted, false)];
        let outside =
            [Expression::LoadPayload(layout.saddr(), next), lookup(SetId::SourceAllowed, true)];
        let drop = counted(Verdict::Drop);
        let rule = [&new[..], &key, &restricted, &key, &outside, &drop];
        rules.push(Rule::new(chain, "from outside the source ranges", &rule));
        rules.extend(mark_by_interface(layout, chain));
    }
    let reject = counted(Verdict::Goto(REJECT.into()));
    let rejected = [lookup(SetId::Rejected, false)];
    let rule = [&new[..], &key, &rejected, &reject];
    rules.push(Rule::new("filter-input", "to a Service without endpoints", &rule));
    // While endpoints drain, IPVS would answer the node itself, and in its own way. UDP has none that drain.
    let tcp = [Expression::LoadMeta(Meta::L4Proto, R[0]), equal(R[0], &[TCP])];
    let rule = [&new[..], &tcp, &key, &rejected, &reject];
    rules.push(Rule::new("services-output", "to a Service without endpoints", &rule));
    for chain in ["services-output", "filter-input"] {
        let dropped = [lookup(SetId::Dropped, false)];
        let rule = [&new[..], &key, &dropped, &counted(Verdict::Drop)];
        rules.push(Rule::new(chain, "no endpoint on this node", &rule));
    }
    rules.push(inside_only(layout, &new, &key));
    let to_vip = [lookup(SetId::Vips, false)];
    let no_frontend = [lookup(SetId::Frontends, true)];
    let rule = [&new[..], &daddr, &to_vip, &key, &no_frontend, &reject];
    rules.push(Rule::new("filter-input", "to a port that a Service does not have", &rule));
    if layout.settings.drop_invalid {
        let tcp = [Expression::LoadMeta(Meta::L4Proto, R[0]), equal(R[0], &[TCP])];
        let rule = [&ct_state(CT_INVALID)[..], &tcp, &counted(Verdict::Drop)];
        rules.push(Rule::new("filter-forward", "out of every connection", &rule));
    }
    for chain in ["filter-forward", "filter-output"] {
        // Service addresses are the node's own: what is forwarded to one has no Service.
        let unallocated = [
            Expression::LookupSet { set: SetId::Vips.name().into(), key: R[0], inverted: true },
            lookup(SetId::ServiceCidrs, false),
        ];
        let rule = [&new[..], &daddr, &unallocated, &counted(Verdict::Drop)];
        rules.push(Rule::new(chain, "to no Service", &rule));
    }
    rules.extend(layout.reject(REJECT));
    let to_service =
        [lookup(SetId::Frontends, false), Expression::Verdict(Verdict::Jump(SOURCE.into()))];
    let rule = [&original(layout)[..], &to_service];
    rules.push(Rule::new("nat-postrouting", "to a Service: perhaps a new source", &rule));
    rules.extend(source(layout));
    rules
}

/// External traffic with the Local policy, and all endpoints elsewhere.
fn inside_only(layout: &Layout<'_>, new: &[Expression], key: &[Expression]) -> Rule {
    let mut from_outside = vec![
        Expression::LoadSourceType(R[0]),
        Expression::Compare(Compare::NotEqual, R[0], RTN_LOCAL.to_ne_bytes().to_vec()),
    ];
    from_outside.extend(layout.pod_source(true).unwrap_or_default());
    let known = [lookup(SetId::InsideOnly, false)];
    let rule = [new, key, &known, &from_outside, &counted(Verdict::Drop)];
    Rule::new("filter-input", "no endpoint on this node for others than pods", &rule)
}

/// Where pods are told by their interface: what comes to a ClusterIP from elsewhere is marked while the
/// interface is known.
fn mark_by_interface(layout: &Layout<'_>, chain: &str) -> Option<Rule> {
    if layout.settings.masquerade_all
        || !layout.settings.pod_traffic.is_interface()
        || chain != "services-prerouting"
    {
        return None;
    }
    let (key, _) = destination(layout);
    let to_cluster_ip = [lookup(SetId::ClusterIps, false)];
    let mark = layout.set_masquerade_mark();
    let from_elsewhere = layout.pod_source(true)?;
    let rule = [&ct_state(CT_NEW)[..], &from_elsewhere, &key, &to_cluster_ip, &mark];
    Some(Rule::new(chain, "to a ClusterIP from elsewhere", &rule))
}

/// Which connections to Services get another source.
fn source(layout: &Layout<'_>) -> Vec<Rule> {
    let masquerade = [Expression::Masquerade];
    let original = original(layout);
    let mut rules = Vec::new();
    let mut rule = |comment: &str, parts: &[&[Expression]]| {
        let all = [&parts.concat()[..], &masquerade].concat();
        rules.push(Rule::new(SOURCE, comment, &[&all]));
    };
    let hairpin = [
        Expression::LoadPayload(layout.saddr(), R[0]),
        Expression::LoadPayload(layout.daddr(), R[layout.words()]),
        lookup(SetId::Hairpin, false),
    ];
    rule("to itself", &[&hairpin]);
    // The node's own packets come from the Service address, to which nobody answers from elsewhere.
    rule("from this node", &[&from_node()]);
    rule("external", &[&original, &[lookup(SetId::Masquerade, false)]]);
    let to_cluster_ip = [lookup(SetId::ClusterIps, false)];
    match &layout.settings.pod_traffic {
        _ if layout.settings.masquerade_all => {
            rule("to a ClusterIP", &[&original, &to_cluster_ip]);
        }
        PodTraffic::Source => {
            let elsewhere = layout.pod_source(true).unwrap_or_default();
            rule("to a ClusterIP from elsewhere", &[&elsewhere, &original, &to_cluster_ip]);
        }
        PodTraffic::Interface(_) | PodTraffic::InterfacePrefix(_) => {
            let bit = layout.settings.masquerade_mark.to_ne_bytes().to_vec();
            let marked = [
                Expression::LoadMeta(Meta::Mark, R[0]),
                Expression::Bitwise { register: R[0], mask: bit.clone(), xor: vec![0; 4] },
                Expression::Compare(Compare::NotEqual, R[0], vec![0; 4]),
                Expression::LoadMeta(Meta::Mark, R[0]),
                Expression::Bitwise { register: R[0], mask: vec![255; 4], xor: bit },
                Expression::StoreMeta(Meta::Mark, R[0]),
            ];
            rule("to a ClusterIP from elsewhere, as it was marked", &[&marked]);
        }
        PodTraffic::Unknown => {}
    }
    rules
}
