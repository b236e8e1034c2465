//! What never changes: table `inet viaduct-policy`, its base chain and its sets of local addresses.
//!
//! Connections are judged by their conntrack tuple and not by their packets: original source, reply source
//! (the pod behind a Service) and its port. So the answer is the same in both directions, and whatever was
//! translated. One that was allowed carries the generation in the upper half of its mark; as long as that is
//! the current one, its packets pass. A change that takes something away makes a new generation, and every
//! connection is judged once more, at its next packet.

use netlink::nftables::{
    Chain, Compare, Ct, DataType, Element, Expression, Hook, Key, Meta, Payload, Register, Set,
    Table, TableFamily, Transaction, Verdict,
};

use netlink::Family;
use netpol::Cidr;

use super::unknown;

/// Where everything is.
pub(super) const TABLE: Table<'_> = Table { family: TableFamily::Inet, name: "viaduct-policy" };
/// Bits of the connection mark that hold the generation.
const GENERATION_SHIFT: u32 = 16;
pub(super) const GENERATION_MASK: u32 = 0xffff << GENERATION_SHIFT;
pub(super) const GENERATION: &str = "generation";
const FORWARD: &str = "forward";
/// What IPVS forwards passes the output hook instead.
const THROUGH_IPVS: &str = "through-ipvs";
pub(super) const JUDGE: &str = "judge";
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
const ESTABLISHED: u32 = 1 << 1;
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
/// Where connections from, and to, a local address are judged.
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
    transaction.add_set(TABLE, &Set::new(GENERATION, &[DataType::Mark]));
    for family in [Family::V4, Family::V6] {
        let address = address_type(family);
        transaction.add_set(TABLE, &Set::new(&of(ISOLATED, family), &[address]));
        transaction.add_set(TABLE, &Set::new(&of(SELF, family), &[address, address]));
        for map in [EGRESS, INGRESS] {
            transaction.add_set(TABLE, &Set::new(&of(map, family), &[address]).verdict_map());
        }
    }
    let mut judging = vec![(FORWARD, Hook::FORWARD)];
    if ipvs {
        judging.push((THROUGH_IPVS, Hook::OUTPUT));
    }
    for (name, number) in &judging {
        let hook = Hook { kind: "filter", number: *number, priority: 0 };
        transaction.add_chain(TABLE, &Chain { name, hook: Some(hook) });
    }
    for name in [JUDGE, ALLOWED, SELF, NEIGHBOURS, UNTRACKABLE] {
        transaction.add_chain(TABLE, &Chain { name, hook: None });
    }
    if ipvs {
        let own = [
            Expression::LoadSourceType(R0),
            Expression::Compare(Compare::Equal, R0, RTN_LOCAL.to_ne_bytes().into()),
            Expression::Verdict(Verdict::Accept),
        ];
        transaction.add_rule(TABLE, THROUGH_IPVS, "the node's own", &own);
    }
    for (chain, _) in judging {
        for (comment, rule) in entrance() {
            transaction.add_rule(TABLE, chain, comment, &rule);
        }
    }
    write_untrackable(transaction);
    if !networks.is_empty() {
        unknown::write(transaction, networks);
    }
    for rule in judgement() {
        transaction.add_rule(TABLE, JUDGE, "", &rule);
    }
    transaction.add_rule(TABLE, UNTRACKABLE, "", &[Expression::Verdict(Verdict::Accept)]);
    write_self(transaction);
    write_generation(transaction, generation);
}

pub(super) fn goto(chain: &str) -> Expression {
    Expression::Verdict(Verdict::Goto(chain.to_owned()))
}

/// Which packets are judged. What is asked most often comes first.
fn entrance() -> [(&'static str, Vec<Expression>); 6] {
    let accept = Expression::Verdict(Verdict::Accept);
    let error =
        |number| [&any_of(RELATED)[..], &protocol(number), std::slice::from_ref(&accept)].concat();
    let new = [
        Expression::LoadCt(Ct::State, R0),
        Expression::Compare(Compare::Equal, R0, NEW.to_ne_bytes().into()),
        goto(JUDGE),
    ];
    let generation = [
        Expression::LoadCt(Ct::Mark, R0),
        Expression::Bitwise {
            register: R0,
            mask: GENERATION_MASK.to_ne_bytes().into(),
            xor: vec![0; 4],
        },
        Expression::LookupSet { set: GENERATION.into(), key: R0, inverted: false },
        accept.clone(),
    ];
    let unknown = "no connection is known that could be judged";
    [
        ("", new.into()),
        ("allowed in this generation", [&any_of(ESTABLISHED | RELATED)[..], &generation].concat()),
        (unknown, [&any_of(INVALID | UNTRACKED)[..], &[goto(UNTRACKABLE)]].concat()),
        ("errors about a connection", error(ICMP)),
        ("errors about a connection", error(ICMPV6)),
        ("", vec![goto(JUDGE)]),
    ]
}

/// The chains of both ends, egress first; what comes back from both is allowed.
fn judgement() -> [Vec<Expression>; 5] {
    let end = |map: &str, family, load: fn(Family, Register) -> Expression| {
        vec![load(family, R0), Expression::LookupVerdict { map: of(map, family), key: R0 }]
    };
    [
        end(EGRESS, Family::V4, source),
        end(EGRESS, Family::V6, source),
        end(INGRESS, Family::V4, destination),
        end(INGRESS, Family::V6, destination),
        vec![goto(ALLOWED)],
    ]
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

fn generation_element(generation: u16) -> Element {
    Element::new(Key::new().mark(u32::from(generation) << GENERATION_SHIFT))
}

fn write_generation(transaction: &mut Transaction, generation: u16) {
    transaction.add_elements(TABLE, GENERATION, false, &[generation_element(generation)]);
    let rule = [
        Expression::LoadCt(Ct::Mark, R0),
        Expression::Bitwise {
            register: R0,
            mask: (!GENERATION_MASK).to_ne_bytes().into(),
            xor: (u32::from(generation) << GENERATION_SHIFT).to_ne_bytes().into(),
        },
        Expression::StoreCt(Ct::Mark, R0),
        Expression::Verdict(Verdict::Accept),
    ];
    transaction.add_rule(TABLE, ALLOWED, "", &rule);
}

/// From here on every connection is judged once more.
pub(super) fn change_generation(transaction: &mut Transaction, from: u16, to: u16) {
    transaction.delete_elements(TABLE, GENERATION, &[generation_element(from)]);
    transaction.flush_chain(TABLE, ALLOWED);
    write_generation(transaction, to);
}

/// The generation that an element of the set tells.
pub(super) fn generation_of(element: &Element) -> Option<u16> {
    let bytes: [u8; 4] = element.key.as_slice().try_into().ok()?;
    u16::try_from(u32::from_ne_bytes(bytes) >> GENERATION_SHIFT).ok()
}
