//! What does not depend on policies: table `inet viaduct-policy`, its base chain and its sets of local addresses.
//!
//! Connections are judged by their conntrack tuple and not by their packets: original source, reply source
//! (the pod behind a Service) and its port. So the answer is the same in both directions, and whatever was
//! translated. One that was allowed carries the generation in the upper half of its mark; as long as that is
//! the current one, its packets pass. A change that takes something away makes a new generation, and every
//! connection is judged once more, at its next packet.

use netlink::nftables::{
    Chain, Compare, Ct, DataType, Expression, Hook, Meta, Payload, Register, RuleTag, Set, Table,
    TableFamily, Transaction, Verdict,
};

use netlink::Family;
use netpol::Cidr;

use super::unknown;

/// Where everything is.
pub(super) const TABLE: Table<'_> = Table { family: TableFamily::Inet, name: "viaduct-policy" };
/// Bits of the connection mark that hold the generation.
const GENERATION_SHIFT: u32 = 16;
pub(super) const GENERATION_MASK: u32 = 0xffff << GENERATION_SHIFT;
/// What the rule that writes the generation has as its comment, before the number.
const GENERATION: &str = "generation ";
const FORWARD: &str = "forward";
/// What IPVS forwards passes the output hook instead.
const THROUGH_IPVS: &str = "through-ipvs";
pub(super) const JUDGE: &str = "judge";
/// Where connections are judged that were not, or not in this generation.
const NOT_MARKED: &str = "not-marked";
const ALLOWED: &str = "allowed";
const NEIGHBOURS: &str = "neighbour-discovery";
pub(super) const UNTRACKABLE: &str = "untrackable";

const R0: Register = Register(0);
/// The register after an address.
pub(super) fn after_address(family: Family) -> Register {
    match family {
        Family::V4 => Register(1),
        Family::V6 => Register(4),
    }
}

// `NF_CT_STATE_*` bits.
const INVALID: u32 = 1 << 0;
const RELATED: u32 = 1 << 2;
const NEW: u32 = 1 << 3;
const UNTRACKED: u32 = 1 << 6;
/// `RTN_LOCAL` (include/uapi/linux/rtnetlink.h).
const RTN_LOCAL: u32 = 2;
const ICMP: u8 = 1;
pub(super) const ICMPV6: u8 = 58;
/// Router and neighbour solicitations and advertisements, redirects.
const NEIGHBOUR_DISCOVERY: [u8; 5] = [133, 134, 135, 136, 137];

/// A set or map that exists for both families.
pub(super) fn of(name: &str, family: Family) -> String {
    match family {
        Family::V4 => format!("{name}-4"),
        Family::V6 => format!("{name}-6"),
    }
}

/// Local addresses for which anything is judged.
pub(super) const ISOLATED: &str = "isolated";
/// The same, as both ends of a connection: what reaches itself through a Service. And the chain that asks.
pub(super) const SELF: &str = "self";
/// Addresses of pods that are known, if every one must be.
pub(super) const KNOWN: &str = "known";
/// Where connections from, and to, a local address are judged: a chain, and its maps.
pub(super) const EGRESS: &str = "egress";
pub(super) const INGRESS: &str = "ingress";

pub(super) fn address_type(family: Family) -> DataType {
    match family {
        Family::V4 => DataType::Ipv4Addr,
        Family::V6 => DataType::Ipv6Addr,
    }
}

/// The source of the connection.
pub(super) fn source(family: Family, to: Register) -> Expression {
    match family {
        Family::V4 => Expression::LoadCtOriginal(Ct::SourceIp, to),
        Family::V6 => Expression::LoadCtOriginal(Ct::SourceIp6, to),
    }
}

/// Its destination, after translation.
pub(super) fn destination(family: Family, to: Register) -> Expression {
    match family {
        Family::V4 => Expression::LoadCtReply(Ct::SourceIp, to),
        Family::V6 => Expression::LoadCtReply(Ct::SourceIp6, to),
    }
}

fn any_of(bits: u32) -> [Expression; 3] {
    [
        Expression::LoadCt(Ct::State, R0),
        Expression::Bitwise { register: R0, mask: bits.to_ne_bytes().into(), xor: vec![0; 4] },
        Expression::Compare(Compare::NotEqual, R0, vec![0; 4]),
    ]
}

pub(super) fn protocol(number: u8) -> [Expression; 2] {
    [Expression::LoadMeta(Meta::L4Proto, R0), Expression::Compare(Compare::Equal, R0, vec![number])]
}

pub(super) fn family_is(family: Family) -> [Expression; 2] {
    let number = match family {
        Family::V4 => 2,
        Family::V6 => 10,
    };
    [Expression::LoadMeta(Meta::NfProto, R0), Expression::Compare(Compare::Equal, R0, vec![number])]
}

/// What judges, without anything that depends on pods, into an empty table.
///
/// Of `networks` every address must be known.
pub(super) fn write(transaction: &mut Transaction, generation: u16, ipvs: bool, networks: &[Cidr]) {
    for family in [Family::V4, Family::V6] {
        let address = address_type(family);
        transaction.add_set(TABLE, &Set::new(&of(ISOLATED, family), &[address]));
        transaction.add_set(TABLE, &Set::new(&of(SELF, family), &[address, address]));
        for map in [EGRESS, INGRESS] {
            transaction.add_set(TABLE, &Set::new(&of(map, family), &[address]).verdict_map());
        }
    }
    for (name, number) in entrances(ipvs) {
        let hook = Hook { kind: "filter", number, priority: 0 };
        transaction.add_chain(TABLE, &Chain { name, hook: Some(hook) });
    }
    for name in [NOT_MARKED, JUDGE, EGRESS, INGRESS, ALLOWED, SELF, NEIGHBOURS, UNTRACKABLE] {
        transaction.add_chain(TABLE, &Chain { name, hook: None });
    }
    for (comment, rule) in not_marked() {
        transaction.add_rule(TABLE, NOT_MARKED, comment, &rule);
    }
    write_untrackable(transaction);
    write_judgement(transaction);
    if !networks.is_empty() {
        unknown::write(transaction, networks);
    }
    transaction.add_rule(TABLE, UNTRACKABLE, "", &[Expression::Verdict(Verdict::Accept)]);
    write_self(transaction);
    write_generation(transaction, generation, ipvs);
}

/// Where packets come from that may be judged: base chains, with the numbers of their hooks.
fn entrances(ipvs: bool) -> impl Iterator<Item = (&'static str, u32)> {
    let through_ipvs = ipvs.then_some((THROUGH_IPVS, Hook::OUTPUT));
    [(FORWARD, Hook::FORWARD)].into_iter().chain(through_ipvs)
}

pub(super) fn goto(chain: &str) -> Expression {
    Expression::Verdict(Verdict::Goto(chain.to_owned()))
}

/// Which packets are judged, of those without the mark of the current generation. What is asked most often comes first.
fn not_marked() -> [(&'static str, Vec<Expression>); 5] {
    let accept = Expression::Verdict(Verdict::Accept);
    let error =
        |number| [&any_of(RELATED)[..], &protocol(number), std::slice::from_ref(&accept)].concat();
    let new = [
        Expression::LoadCt(Ct::State, R0),
        Expression::Compare(Compare::Equal, R0, NEW.to_ne_bytes().into()),
        goto(JUDGE),
    ];
    let unknown = "no connection is known that could be judged";
    [
        ("", new.into()),
        (unknown, [&any_of(INVALID | UNTRACKED)[..], &[goto(UNTRACKABLE)]].concat()),
        ("errors about a connection", error(ICMP)),
        ("errors about a connection", error(ICMPV6)),
        ("", vec![goto(JUDGE)]),
    ]
}

/// What comes back from the chains of both ends is allowed. An address that is judged leads to its pods' chain, and
/// that back to here: what the chain of an end has after its maps is for other addresses.
fn write_judgement(transaction: &mut Transaction) {
    for (end, load) in
        [(EGRESS, source as fn(Family, Register) -> Expression), (INGRESS, destination)]
    {
        let jump = Expression::Verdict(Verdict::Jump(end.to_owned()));
        transaction.add_rule(TABLE, JUDGE, "", &[jump]);
        for family in [Family::V4, Family::V6] {
            let chain = Expression::LookupVerdict { map: of(end, family), key: R0 };
            transaction.add_rule(TABLE, end, "", &[load(family, R0), chain]);
        }
    }
    transaction.add_rule(TABLE, JUDGE, "", &[goto(ALLOWED)]);
}

/// What would be denied passes if it is a pod with itself.
fn write_self(transaction: &mut Transaction) {
    for family in [Family::V4, Family::V6] {
        let rule = [
            source(family, R0),
            destination(family, after_address(family)),
            Expression::LookupSet { set: of(SELF, family), key: R0, inverted: false },
            Expression::Verdict(Verdict::Accept),
        ];
        transaction.add_rule(TABLE, SELF, "", &rule);
    }
}

/// Where headers have the addresses of both ends.
pub(super) const HEADER_ENDS: [(Family, Payload); 4] = [
    (Family::V4, Payload::IP_SADDR),
    (Family::V4, Payload::IP_DADDR),
    (Family::V6, Payload::IP6_SADDR),
    (Family::V6, Payload::IP6_DADDR),
];

/// Packets without a connection to judge: those of isolated pods go no further.
fn write_untrackable(transaction: &mut Transaction) {
    for kind in NEIGHBOUR_DISCOVERY {
        let rule = [
            Expression::LoadPayload(Payload::ICMP_TYPE, R0),
            Expression::Compare(Compare::Equal, R0, vec![kind]),
            Expression::Verdict(Verdict::Accept),
        ];
        transaction.add_rule(TABLE, NEIGHBOURS, "", &rule);
    }
    // The kernel tracks none of these.
    let neighbours =
        [&protocol(ICMPV6)[..], &[Expression::Verdict(Verdict::Jump(NEIGHBOURS.into()))]].concat();
    transaction.add_rule(TABLE, UNTRACKABLE, "", &neighbours);
    for (family, end) in HEADER_ENDS {
        let rule = [
            &family_is(family)[..],
            &[
                Expression::LoadPayload(end, R0),
                Expression::LookupSet { set: of(ISOLATED, family), key: R0, inverted: false },
                Expression::Counter,
                Expression::Verdict(Verdict::Drop),
            ],
        ]
        .concat();
        transaction.add_rule(TABLE, UNTRACKABLE, "", &rule);
    }
}

/// Loads the connection's mark, keeps these of its bits and flips those.
fn masked(mask: u32, xor: u32) -> [Expression; 2] {
    let (mask, xor) = (mask.to_ne_bytes().into(), xor.to_ne_bytes().into());
    [Expression::LoadCt(Ct::Mark, R0), Expression::Bitwise { register: R0, mask, xor }]
}

/// All rules that have the number. It is compared and not looked up: every packet of every connection is asked.
fn write_generation(transaction: &mut Transaction, generation: u16, ipvs: bool) {
    let accept = Expression::Verdict(Verdict::Accept);
    let number = u32::from(generation) << GENERATION_SHIFT;
    for (chain, _) in entrances(ipvs) {
        if chain == THROUGH_IPVS {
            let own = [
                Expression::LoadSourceType(R0),
                Expression::Compare(Compare::Equal, R0, RTN_LOCAL.to_ne_bytes().into()),
                accept.clone(),
            ];
            transaction.add_rule(TABLE, chain, "the node's own", &own);
        }
        // A packet without a connection has no mark. A flow that nobody answers, such as a stream of logs, is new for
        // ever, and judged once like any other.
        let same = Expression::Compare(Compare::Equal, R0, number.to_ne_bytes().into());
        let rule = [&masked(GENERATION_MASK, 0)[..], &[same, accept.clone()]].concat();
        transaction.add_rule(TABLE, chain, "allowed in this generation", &rule);
        transaction.add_rule(TABLE, chain, "", &[goto(NOT_MARKED)]);
    }
    let store = Expression::StoreCt(Ct::Mark, R0);
    let rule = [&masked(!GENERATION_MASK, number)[..], &[store, accept]].concat();
    transaction.add_rule(TABLE, ALLOWED, &format!("{GENERATION}{generation}"), &rule);
}

/// From here on every connection is judged once more.
pub(super) fn change_generation(transaction: &mut Transaction, to: u16, ipvs: bool) {
    for chain in entrances(ipvs).map(|(chain, _)| chain).chain([ALLOWED]) {
        transaction.flush_chain(TABLE, chain);
    }
    write_generation(transaction, to, ipvs);
}

/// The generation that a rule tells.
pub(super) fn generation_of(rule: &RuleTag) -> Option<u16> {
    let number = rule.comment.strip_prefix(GENERATION)?;
    number.parse().ok().filter(|_| rule.chain == ALLOWED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generation_is_told_by_one_rule() {
        let told = |chain: &str, comment: &str| {
            generation_of(&RuleTag { chain: chain.into(), comment: comment.into() })
        };
        assert_eq!(told(ALLOWED, &format!("{GENERATION}65535")), Some(u16::MAX));
        assert_eq!(told(ALLOWED, &format!("{GENERATION}65536")), None);
        assert_eq!(told(FORWARD, &format!("{GENERATION}7")), None);
        assert_eq!(told(ALLOWED, "7"), None);
    }
}
