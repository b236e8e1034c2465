//! What never changes with Services: sets and base chains, and what their rules are made of.

use netlink::nftables::{
    Chain, Compare, Expression, Hook, Meta, NatKind, Payload, Register, Transaction,
};
use netlink::{Family, fnv1a};

use super::names::{Keys, SetId, Target, table};
use crate::dataplane::{NodePorts, PodTraffic, Settings};

/// A rule: what it says of itself, and what it does.
pub(in crate::dataplane) struct Rule {
    pub(in crate::dataplane) chain: String,
    pub(in crate::dataplane) comment: String,
    pub(in crate::dataplane) expressions: Vec<Expression>,
}

impl Rule {
    pub(in crate::dataplane) fn new(chain: &str, comment: &str, parts: &[&[Expression]]) -> Rule {
        let expressions = parts.concat();
        // With the version of the rule, so that a table of another version is recognised.
        let version = fnv1a(format!("{expressions:?}").as_bytes()) as u16;
        Rule { chain: chain.to_owned(), comment: format!("{comment} [{version:04x}]"), expressions }
    }
}

pub(in crate::dataplane) const R: [Register; 12] = {
    let mut registers = [Register(0); 12];
    let mut at = 0;
    while at < 12 {
        registers[at] = Register(at as u32);
        at += 1;
    }
    registers
};

/// `RTN_LOCAL` (include/uapi/linux/rtnetlink.h).
pub(in crate::dataplane) const RTN_LOCAL: u32 = 2;
pub(in crate::dataplane) const TCP: u8 = 6;
const PRIORITY_SOURCE_RANGES: i32 = -110;
const PRIORITY_DSTNAT: i32 = -100;
const PRIORITY_FILTER: i32 = 0;
const PRIORITY_SRCNAT: i32 = 100;

/// Numbers of endpoints with session affinity: two bits that tell them from other priorities, sixteen
/// of the list, fourteen of the endpoint.
pub(super) const ID_PREFIX: u32 = 0xc000_0000;
pub(super) const ID_LIST_SHIFT: u32 = 14;
pub(super) const ID_PREFIX_MASK: u32 = 0xc000_0000;
pub(super) const ID_LIST_MASK: u32 = !((1 << ID_LIST_SHIFT) - 1);

/// The rules of one family.
pub(in crate::dataplane) struct Layout<'a> {
    pub(in crate::dataplane) family: Family,
    pub(in crate::dataplane) settings: &'a Settings,
}

impl Layout<'_> {
    /// Makes the table and its sets; the comment tells the version.
    pub(super) fn create(&self, transaction: &mut Transaction) {
        let table = table(self.family);
        transaction.add_table_with_comment(table, &version(self.family));
        for set in SetId::ALL {
            transaction.add_set(table, &set.spec(self.family));
        }
    }

    /// Makes the base chains with their rules, or makes their rules anew.
    pub(super) fn write_rules(&self, transaction: &mut Transaction) {
        let table = table(self.family);
        for (name, hook) in base_chains() {
            transaction.add_chain(table, &Chain { name, hook });
            transaction.flush_chain(table, name);
        }
        for rule in self.rules() {
            transaction.add_rule(table, &rule.chain, &rule.comment, &rule.expressions);
        }
    }

    /// Makes a chain that elements lead to, or makes its rules anew.
    pub(super) fn write_target(&self, target: Target, transaction: &mut Transaction) {
        let (table, name) = (table(self.family), target.to_string());
        transaction.add_chain(table, &Chain { name: &name, hook: None });
        transaction.flush_chain(table, &name);
        for rule in self.target(target) {
            transaction.add_rule(table, &rule.chain, &rule.comment, &rule.expressions);
        }
    }

    pub(in crate::dataplane) fn saddr(&self) -> Payload {
        match self.family {
            Family::V4 => Payload::IP_SADDR,
            Family::V6 => Payload::IP6_SADDR,
        }
    }

    pub(in crate::dataplane) fn daddr(&self) -> Payload {
        match self.family {
            Family::V4 => Payload::IP_DADDR,
            Family::V6 => Payload::IP6_DADDR,
        }
    }

    /// Registers of an address.
    pub(in crate::dataplane) fn words(&self) -> usize {
        match self.family {
            Family::V4 => 1,
            Family::V6 => 4,
        }
    }

    /// Loads a frontend's key; returns the next free register too.
    pub(super) fn frontend(&self, keys: Keys) -> (Vec<Expression>, Register) {
        let mut load = Vec::new();
        let mut at = 0;
        if keys == Keys::Ip {
            load.push(Expression::LoadPayload(self.daddr(), R[0]));
            at = self.words();
        }
        load.push(Expression::LoadMeta(Meta::L4Proto, R[at]));
        load.push(Expression::LoadPayload(Payload::TH_DPORT, R[at + 1]));
        (load, R[at + 2])
    }

    /// Goes where map `services` or `nodeports` leads. The number is kept in the packet's priority, since
    /// `nft` cannot read a look-up in a look-up.
    pub(super) fn serve(&self, keys: Keys) -> Vec<Expression> {
        let (mut rule, _) = self.frontend(keys);
        let map = SetId::Services(keys).name().into();
        rule.extend([
            Expression::LookupMap { map, key: R[0], value: R[0] },
            Expression::StoreMeta(Meta::Priority, R[0]),
            Expression::LoadMeta(Meta::Priority, R[0]),
            Expression::LookupVerdict { map: SetId::Targets.name().into(), key: R[0] },
        ]);
        rule
    }

    /// Goes where a verdict map of frontends leads.
    pub(super) fn dispatch(&self, keys: Keys, map: SetId) -> Vec<Expression> {
        let mut rule = self.frontend(keys).0;
        rule.push(Expression::LookupVerdict { map: map.name().into(), key: R[0] });
        rule
    }

    /// Whether the destination is an address on which node ports answer.
    pub(super) fn to_nodeport_address(&self) -> Vec<Expression> {
        let listed =
            [Expression::LoadPayload(self.daddr(), R[0]), in_set(SetId::NodePortAddresses, R[0])];
        let own = [Expression::LoadDestinationType(R[0]), equal(R[0], &RTN_LOCAL.to_ne_bytes())];
        match self.settings.nodeports {
            NodePorts::Listed => listed.to_vec(),
            NodePorts::InNetworks => [listed, own].concat(),
            NodePorts::Everywhere => [&own[..], &self.not_to_loopback()].concat(),
        }
    }

    fn not_to_loopback(&self) -> Vec<Expression> {
        let mut rule = vec![Expression::LoadPayload(self.daddr(), R[0])];
        match self.family {
            Family::V4 => {
                let (mask, xor) = (vec![255, 0, 0, 0], vec![0; 4]);
                rule.push(Expression::Bitwise { register: R[0], mask, xor });
                rule.push(Expression::Compare(Compare::NotEqual, R[0], vec![127, 0, 0, 0]));
            }
            Family::V6 => {
                let loopback = std::net::Ipv6Addr::LOCALHOST.octets().to_vec();
                rule.push(Expression::Compare(Compare::NotEqual, R[0], loopback));
            }
        }
        rule
    }

    /// Whether the packet comes from a pod of the cluster, or (`inverted`) from elsewhere.
    pub(in crate::dataplane) fn pod_source(&self, inverted: bool) -> Option<Vec<Expression>> {
        let compare = if inverted { Compare::NotEqual } else { Compare::Equal };
        let interface = |bytes: Vec<u8>| {
            vec![
                Expression::LoadMeta(Meta::IifName, R[0]),
                Expression::Compare(compare, R[0], bytes),
            ]
        };
        Some(match &self.settings.pod_traffic {
            PodTraffic::Source => vec![
                Expression::LoadPayload(self.saddr(), R[0]),
                Expression::LookupSet { set: SetId::PodCidrs.name().into(), key: R[0], inverted },
            ],
            PodTraffic::Interface(name) => {
                let mut bytes = name.clone().into_bytes();
                bytes.resize(16, 0);
                interface(bytes)
            }
            PodTraffic::InterfacePrefix(prefix) => interface(prefix.clone().into_bytes()),
            PodTraffic::Unknown => return None,
        })
    }

    pub(in crate::dataplane) fn set_masquerade_mark(&self) -> Vec<Expression> {
        let bit = self.settings.masquerade_mark;
        vec![
            Expression::LoadMeta(Meta::Mark, R[0]),
            Expression::Bitwise {
                register: R[0],
                mask: (!bit).to_ne_bytes().to_vec(),
                xor: bit.to_ne_bytes().to_vec(),
            },
            Expression::StoreMeta(Meta::Mark, R[0]),
        ]
    }

    pub(super) fn nat(&self, address: Register) -> Expression {
        let Register(at) = address;
        Expression::Nat {
            kind: NatKind::Destination,
            family: match self.family {
                Family::V4 => 2,
                Family::V6 => 10,
            },
            address,
            port: Register(at + self.words() as u32),
        }
    }
}

/// What a table with the same sets and base chains has as comment.
pub(super) fn version(family: Family) -> String {
    let sets: Vec<_> = SetId::ALL.iter().map(|set| set.spec(family)).collect();
    let all = format!("{sets:?} {:?}", base_chains());
    format!("Viaduct services, layout {:08x}", fnv1a(all.as_bytes()) as u32)
}

/// Who gets a new source.
pub(super) const SOURCE: &str = "service-source";

/// Chains that are there whatever Services there are.
pub(super) fn base_chains() -> Vec<(&'static str, Option<Hook>)> {
    let hook = |kind, number, priority| Some(Hook { kind, number, priority });
    vec![
        (SOURCE, None),
        ("source-ranges-prerouting", hook("filter", Hook::PREROUTING, PRIORITY_SOURCE_RANGES)),
        ("source-ranges-output", hook("filter", Hook::OUTPUT, PRIORITY_SOURCE_RANGES)),
        ("nat-prerouting", hook("nat", Hook::PREROUTING, PRIORITY_DSTNAT)),
        ("nat-output", hook("nat", Hook::OUTPUT, PRIORITY_DSTNAT)),
        ("filter-input", hook("filter", Hook::INPUT, PRIORITY_FILTER)),
        ("filter-forward", hook("filter", Hook::FORWARD, PRIORITY_FILTER)),
        ("filter-output", hook("filter", Hook::OUTPUT, PRIORITY_FILTER)),
        ("nat-postrouting", hook("nat", Hook::POSTROUTING, PRIORITY_SRCNAT)),
    ]
}

pub(in crate::dataplane) fn equal(register: Register, value: &[u8]) -> Expression {
    Expression::Compare(Compare::Equal, register, value.to_vec())
}

pub(super) fn in_set(set: SetId, key: Register) -> Expression {
    Expression::LookupSet { set: set.name().into(), key, inverted: false }
}
