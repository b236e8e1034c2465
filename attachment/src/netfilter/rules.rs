//! The constant rules. They never change with pods; only the elements of their sets do.
//!
//! `nft list table inet viaduct-host` shows them; docs/cni.md explains them.

use super::plan::TablePlace;
use netlink::nftables::{
    Chain, Compare, DataType, Expression, Hook, Meta, NatKind, Payload, Register, RuleTag, Set,
    SetData, Table, TableFamily, Transaction, Verdict,
};

/// Masquerade and host ports.
pub(crate) const HOST_TABLE: Table<'static> =
    Table { family: TableFamily::Inet, name: "viaduct-host" };
/// The check of source MAC addresses, which only the bridge family sees.
pub(crate) const BRIDGE_TABLE: Table<'static> =
    Table { family: TableFamily::Bridge, name: "viaduct-host" };

/// Names of the sets of [`HOST_TABLE`]; those with a family come as (IPv4, IPv6).
pub(crate) const MASQUERADE: [&str; 2] = ["masquerade-4", "masquerade-6"];
pub(crate) const MASQUERADE_EXCLUDE: [&str; 2] = ["masquerade-exclude-4", "masquerade-exclude-6"];
pub(crate) const HOSTPORTS: [&str; 2] = ["hostports-4", "hostports-6"];
pub(crate) const HOSTPORTS_ANY: [&str; 2] = ["hostports-any-4", "hostports-any-6"];
/// Addresses of the node itself, on which ports on any address answer from everywhere.
pub(crate) const NODE_ADDRESSES: [&str; 2] = ["node-addresses-4", "node-addresses-6"];
pub(crate) const HAIRPIN: [&str; 2] = ["hairpin-4", "hairpin-6"];
pub(crate) const DEVICES: &str = "devices";
pub(crate) const LOOPS: &str = "loops";
/// Names of the sets of [`BRIDGE_TABLE`].
pub(crate) const CHECKED: &str = "mac-checked";
pub(crate) const ALLOWED: &str = "mac-allowed";

/// The bit of the packet mark between our destination NAT and our postrouting chain, which clears it:
/// the one that the reference portmap plugin uses. kube-proxy's is 0x4000.
const HOSTPORT_MARK: u32 = 0x2000;
/// `RTN_LOCAL`.
const LOCAL_ADDRESS: u32 = 2;
const NFPROTO: [u8; 2] = [2, 10];
/// `NF_IP_PRI_RAW`, before everything else.
const PRIORITY_RAW: i32 = -300;
const PRIORITY_DSTNAT: i32 = -100;
const PRIORITY_SRCNAT: i32 = 100;

/// The table at a place.
pub(super) fn table(place: TablePlace) -> Table<'static> {
    match place {
        TablePlace::Host => HOST_TABLE,
        TablePlace::Bridge => BRIDGE_TABLE,
    }
}

/// The rules of the table at a place.
pub(super) fn ruleset(place: TablePlace) -> Ruleset {
    match place {
        TablePlace::Host => host(),
        TablePlace::Bridge => bridge(),
    }
}

/// Every set whose elements have owners.
pub(super) fn owned_sets() -> impl Iterator<Item = (TablePlace, &'static str)> {
    let host = [MASQUERADE, HAIRPIN, HOSTPORTS, HOSTPORTS_ANY]
        .into_iter()
        .flatten()
        .chain([DEVICES, LOOPS]);
    host.map(|set| (TablePlace::Host, set))
        .chain([CHECKED, ALLOWED].map(|set| (TablePlace::Bridge, set)))
}

/// A table with its sets, chains and rules.
pub(crate) struct Ruleset {
    pub(crate) table: Table<'static>,
    pub(crate) sets: Vec<Set<'static>>,
    chains: Vec<Chain<'static>>,
    rules: Vec<Rule>,
}

struct Rule {
    chain: &'static str,
    /// What it does; with the chain it is also how the rule is recognised.
    comment: &'static str,
    expressions: Vec<Expression>,
}

impl Ruleset {
    /// What a table that is complete and of this version shows.
    pub(crate) fn tags(&self) -> Vec<RuleTag> {
        let tag = |rule: &Rule| RuleTag { chain: rule.chain.into(), comment: rule.comment.into() };
        self.rules.iter().map(tag).collect()
    }

    /// Makes the table, or repairs it, without touching elements.
    pub(crate) fn write(&self, transaction: &mut Transaction) {
        transaction.add_table(self.table);
        for set in &self.sets {
            transaction.add_set(self.table, set);
        }
        for chain in &self.chains {
            transaction.add_chain(self.table, chain);
            transaction.flush_chain(self.table, chain.name);
        }
        for rule in &self.rules {
            transaction.add_rule(self.table, rule.chain, rule.comment, &rule.expressions);
        }
    }
}

/// Whether the rules of a table are these, whatever the order of its chains.
pub(crate) fn same_rules(found: &[RuleTag], wanted: &[RuleTag]) -> bool {
    let mut chains: Vec<&str> = wanted.iter().map(|tag| tag.chain.as_str()).collect();
    chains.dedup();
    found.len() == wanted.len()
        && chains.iter().all(|chain| {
            let of = |tags: &'_ [RuleTag]| -> Vec<String> {
                tags.iter().filter(|t| t.chain == *chain).map(|t| t.comment.clone()).collect()
            };
            of(found) == of(wanted)
        })
}

const ADDRESS: [DataType; 2] = [DataType::Ipv4Addr, DataType::Ipv6Addr];
const PAIR: [&[DataType]; 2] =
    [&[DataType::Ipv4Addr, DataType::Ipv4Addr], &[DataType::Ipv6Addr, DataType::Ipv6Addr]];
const FRONTEND: [&[DataType]; 2] = [
    &[DataType::Ipv4Addr, DataType::InetProto, DataType::InetService],
    &[DataType::Ipv6Addr, DataType::InetProto, DataType::InetService],
];
const BACKEND: [&[DataType]; 2] =
    [&[DataType::Ipv4Addr, DataType::InetService], &[DataType::Ipv6Addr, DataType::InetService]];
const SINGLE: [&[DataType]; 2] = [&[DataType::Ipv4Addr], &[DataType::Ipv6Addr]];
const SADDR: [Payload; 2] = [Payload::IP_SADDR, Payload::IP6_SADDR];
const DADDR: [Payload; 2] = [Payload::IP_DADDR, Payload::IP6_DADDR];

/// Masquerade and host ports.
pub(crate) fn host() -> Ruleset {
    let set = |name, key| Set::new(name, key);
    let mut sets =
        vec![set(DEVICES, &[DataType::IfName]), set(LOOPS, &[DataType::IfName, DataType::IfName])];
    for family in [0, 1] {
        let backend = Some(SetData::Value(BACKEND[family]));
        sets.push(set(MASQUERADE[family], SINGLE[family]));
        sets.push(Set { interval: true, ..set(MASQUERADE_EXCLUDE[family], PAIR[family]) });
        sets.push(set(HAIRPIN[family], PAIR[family]));
        sets.push(Set { data: backend, ..set(HOSTPORTS[family], FRONTEND[family]) });
        let any: &[DataType] = &[DataType::InetProto, DataType::InetService];
        sets.push(Set { data: backend, ..set(HOSTPORTS_ANY[family], any) });
        sets.push(set(NODE_ADDRESSES[family], SINGLE[family]));
    }
    let base =
        |name, kind, number, priority| Chain { name, hook: Some(Hook { kind, number, priority }) };
    let chains = vec![
        base("loopback-guard", "filter", Hook::PREROUTING, PRIORITY_RAW),
        base("prerouting", "nat", Hook::PREROUTING, PRIORITY_DSTNAT),
        base("output", "nat", Hook::OUTPUT, PRIORITY_DSTNAT),
        base("postrouting", "nat", Hook::POSTROUTING, PRIORITY_SRCNAT),
        Chain { name: "hostports", hook: None },
        Chain { name: ANY_ADDRESS, hook: None },
        Chain { name: "hostport-source", hook: None },
    ];
    let mut rules = loopback_guard();
    rules.extend(["prerouting", "output"].map(|chain| Rule {
        chain,
        comment: "to an address of this node: perhaps a host port",
        expressions: vec![
            Expression::LoadDestinationType(R0),
            equal(R0, &LOCAL_ADDRESS.to_ne_bytes()),
            Expression::Verdict(Verdict::Jump("hostports".into())),
        ],
    }));
    rules.push(Rule {
        chain: "prerouting",
        comment: "to an address of the device it came in by: perhaps a host port on any address",
        expressions: vec![
            Expression::LoadDestinationTypeOnDevice(R0),
            equal(R0, &LOCAL_ADDRESS.to_ne_bytes()),
            Expression::Verdict(Verdict::Jump(ANY_ADDRESS.into())),
        ],
    });
    rules.extend(hostports());
    rules.extend(hostports_on_any_address());
    rules.push(Rule {
        chain: "postrouting",
        comment: "through a host port: perhaps a new source",
        expressions: [
            mark_is_set(),
            vec![Expression::Verdict(Verdict::Jump("hostport-source".into()))],
        ]
        .concat(),
    });
    rules.extend([0, 1].map(masquerade));
    rules.extend(hostport_source());
    Ruleset { table: HOST_TABLE, sets, chains, rules }
}

const R0: Register = Register(0);

fn equal(register: Register, value: &[u8]) -> Expression {
    Expression::Compare(Compare::Equal, register, value.to_vec())
}

fn of_family(family: usize) -> [Expression; 2] {
    [Expression::LoadMeta(Meta::NfProto, R0), equal(R0, &[NFPROTO[family]])]
}

/// Registers that an address of the family takes.
fn words(family: usize) -> u32 {
    ADDRESS[family].length() / 4
}

fn lookup(set: &str, key: Register) -> Expression {
    Expression::LookupSet { set: set.into(), key, inverted: false }
}

fn in_loopback(field: Payload) -> [Expression; 2] {
    // The first byte alone: nft shows it as 127.0.0.0/8.
    [Expression::LoadPayload(Payload { length: 1, ..field }, R0), equal(R0, &[127])]
}

fn loopback_guard() -> Vec<Rule> {
    let rule = |comment, field| Rule {
        chain: "loopback-guard",
        comment,
        expressions: [Expression::LoadMeta(Meta::IifName, R0), lookup(DEVICES, R0)]
            .into_iter()
            .chain(of_family(0))
            .chain(in_loopback(field))
            .chain([Expression::Verdict(Verdict::Drop)])
            .collect(),
    };
    vec![
        rule("pods do not reach the node's own loopback", Payload::IP_DADDR),
        rule("pods do not pretend to be the node's own loopback", Payload::IP_SADDR),
    ]
}

/// Not to ::1: IPv6 has no `route_localnet`, so a translated packet would lead nowhere.
fn not_to_loopback() -> Vec<Expression> {
    let loopback = std::net::Ipv6Addr::LOCALHOST.octets().to_vec();
    vec![
        Expression::LoadPayload(DADDR[1], R0),
        Expression::Compare(Compare::NotEqual, R0, loopback),
    ]
}

fn set_mark(on: bool) -> Vec<Expression> {
    vec![
        Expression::LoadMeta(Meta::Mark, R0),
        Expression::Bitwise {
            register: R0,
            mask: (!HOSTPORT_MARK).to_ne_bytes().to_vec(),
            xor: if on { HOSTPORT_MARK } else { 0 }.to_ne_bytes().to_vec(),
        },
        Expression::StoreMeta(Meta::Mark, R0),
    ]
}

fn mark_is_set() -> Vec<Expression> {
    vec![
        Expression::LoadMeta(Meta::Mark, R0),
        Expression::Bitwise {
            register: R0,
            mask: HOSTPORT_MARK.to_ne_bytes().to_vec(),
            xor: vec![0; 4],
        },
        equal(R0, &HOSTPORT_MARK.to_ne_bytes()),
    ]
}

const ANY_ADDRESS: &str = "hostports-any-address";

/// Translates a packet to what `map` holds for the key in front of it, its protocol and port.
fn translate(family: usize, map: &str, first: u32) -> [Expression; 4] {
    [
        Expression::LoadMeta(Meta::L4Proto, Register(first)),
        Expression::LoadPayload(Payload::TH_DPORT, Register(first + 1)),
        Expression::LookupMap { map: map.into(), key: R0, value: R0 },
        Expression::Nat {
            kind: NatKind::Destination,
            family: NFPROTO[family],
            address: R0,
            port: Register(words(family)),
        },
    ]
}

/// Rules that translate packets of each family, and mark those that they do translate.
fn marked(
    chain: &'static str,
    comments: [&'static str; 2],
    translation: impl Fn(usize) -> Vec<Expression>,
) -> Vec<Rule> {
    let rule = |comment, expressions| Rule { chain, comment, expressions };
    let translate = |family: usize| {
        rule(comments[family], of_family(family).into_iter().chain(translation(family)).collect())
    };
    vec![
        rule("mark what a host port translates", set_mark(true)),
        translate(0),
        translate(1),
        rule("no host port", set_mark(false)),
    ]
}

/// Host ports on one address. Other packets go on to the ports on any address if they are for an address
/// of the node itself: virtual addresses of Services (`kube-ipvs0`) and anycast addresses (`lo`) are local
/// too, but other programs answer there.
fn hostports() -> Vec<Rule> {
    let chain = "hostports";
    let comments = ["host ports on one IPv4 address", "host ports on one IPv6 address"];
    let mut rules = marked(chain, comments, |family| {
        let address = Expression::LoadPayload(DADDR[family], R0);
        let translated = translate(family, HOSTPORTS[family], words(family));
        [address].into_iter().chain(translated).collect()
    });
    let jump = || Expression::Verdict(Verdict::Jump(ANY_ADDRESS.into()));
    rules.push(Rule {
        chain,
        comment: "to the node's loopback",
        expressions: of_family(0)
            .into_iter()
            .chain(in_loopback(Payload::IP_DADDR))
            .chain([jump()])
            .collect(),
    });
    rules.extend([0, 1].map(|family| {
        let comment = ["to the node's own IPv4 address", "to the node's own IPv6 address"][family];
        let expressions = of_family(family)
            .into_iter()
            .chain([
                Expression::LoadPayload(DADDR[family], R0),
                lookup(NODE_ADDRESSES[family], R0),
                jump(),
            ])
            .collect();
        Rule { chain, comment, expressions }
    }));
    rules
}

fn hostports_on_any_address() -> Vec<Rule> {
    let comments = ["host ports on any IPv4 address", "host ports on any IPv6 address"];
    marked(ANY_ADDRESS, comments, |family| {
        let guard = if family == 1 { not_to_loopback() } else { Vec::new() };
        guard.into_iter().chain(translate(family, HOSTPORTS_ANY[family], 0)).collect()
    })
}

/// What a host port translated needs a new source where the answer would not come back through the
/// node: from the node's loopback, from the pod itself, and from behind the same bridge. With
/// br_netfilter a bridge translates by itself, and then nobody knows where the packet came in.
fn hostport_source() -> Vec<Rule> {
    let chain = "hostport-source";
    let from_loopback = of_family(0).into_iter().chain(in_loopback(Payload::IP_SADDR));
    let mut rules = vec![
        Rule { chain, comment: "the mark has served", expressions: set_mark(false) },
        Rule {
            chain,
            comment: "from the node's loopback",
            expressions: from_loopback.chain([Expression::Masquerade]).collect(),
        },
    ];
    rules.extend([0, 1].map(|family| {
        Rule {
            chain,
            comment: ["from the pod itself, by IPv4", "from the pod itself, by IPv6"][family],
            expressions: of_family(family)
                .into_iter()
                .chain([
                    Expression::LoadPayload(SADDR[family], R0),
                    Expression::LoadPayload(DADDR[family], Register(words(family))),
                    lookup(HAIRPIN[family], R0),
                    Expression::Masquerade,
                ])
                .collect(),
        }
    }));
    rules.push(Rule {
        chain,
        comment: "out by the device it came in by",
        expressions: vec![
            Expression::LoadMeta(Meta::IifName, R0),
            Expression::LoadMeta(Meta::OifName, Register(4)),
            lookup(LOOPS, R0),
            Expression::Masquerade,
        ],
    });
    rules
}

fn masquerade(family: usize) -> Rule {
    let expressions = of_family(family)
        .into_iter()
        .chain([
            Expression::LoadPayload(SADDR[family], R0),
            lookup(MASQUERADE[family], R0),
            Expression::LoadPayload(SADDR[family], R0),
            Expression::LoadPayload(DADDR[family], Register(words(family))),
            Expression::LookupSet {
                set: MASQUERADE_EXCLUDE[family].into(),
                key: R0,
                inverted: true,
            },
            Expression::Masquerade,
        ])
        .collect();
    let comment = ["IPv4 pods to beyond the cluster", "IPv6 pods to beyond the cluster"][family];
    Rule { chain: "postrouting", comment, expressions }
}

/// The check of source MAC addresses.
pub(crate) fn bridge() -> Ruleset {
    let pair: &[DataType] = &[DataType::IfName, DataType::EtherAddr];
    let set = |name, key| Set::new(name, key);
    Ruleset {
        table: BRIDGE_TABLE,
        sets: vec![set(CHECKED, &[DataType::IfName]), set(ALLOWED, pair)],
        chains: vec![Chain {
            name: "mac-check",
            hook: Some(Hook { kind: "filter", number: Hook::PREROUTING, priority: PRIORITY_RAW }),
        }],
        rules: vec![Rule {
            chain: "mac-check",
            comment: "pods send with their own MAC address only",
            expressions: vec![
                Expression::LoadMeta(Meta::IifName, R0),
                lookup(CHECKED, R0),
                Expression::LoadMeta(Meta::IifName, R0),
                Expression::LoadPayload(Payload::ETHER_SADDR, Register(4)),
                Expression::LookupSet { set: ALLOWED.into(), key: R0, inverted: true },
                Expression::Verdict(Verdict::Drop),
            ],
        }],
    }
}
