//! What never changes with Services: sets, base chains, and the rules of every chain.

use netlink::nftables::{
    Chain, Compare, Ct, DynsetOperation, Expression, Hook, Meta, NatKind, Payload, Register,
    RejectWith, Transaction, Verdict,
};
use netlink::{Family, fnv1a};

use super::names::{Keys, Pick, SetId, Target, table};

/// How traffic of the cluster's own pods is told from other traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodTraffic {
    /// By its source address: set `pod-cidrs`.
    Source,
    /// By the interface it comes in by.
    Interface(String),
    /// By the beginning of the interface's name.
    InterfacePrefix(String),
    /// It cannot be told: no short circuits, no masquerade of what comes from elsewhere.
    Unknown,
}

impl PodTraffic {
    fn is_interface(&self) -> bool {
        matches!(self, PodTraffic::Interface(_) | PodTraffic::InterfacePrefix(_))
    }
}

/// On which addresses node ports answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodePorts {
    /// On every address of the node, but loopback.
    Everywhere,
    /// On those in the set `nodeport-addresses`.
    Listed,
    /// On the node's addresses that are in the networks of that set.
    InNetworks,
}

/// What the rules of a family depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The bit of the packet mark that asks for masquerade, between our chains only.
    pub masquerade_mark: u32,
    /// Whether every connection to a ClusterIP is masqueraded.
    pub masquerade_all: bool,
    /// How pods' traffic is told.
    pub pod_traffic: PodTraffic,
    /// Where node ports answer.
    pub nodeports: NodePorts,
    /// Whether TCP segments that conntrack cannot place are dropped where they would be forwarded: the
    /// receiver would answer an untranslated one with a reset.
    pub drop_invalid: bool,
}

/// A rule: what it says of itself, and what it does.
pub(super) struct Rule {
    pub(super) chain: String,
    pub(super) comment: String,
    pub(super) expressions: Vec<Expression>,
}

impl Rule {
    fn new(chain: &str, comment: &str, parts: &[&[Expression]]) -> Rule {
        let expressions = parts.concat();
        // With the version of the rule, so that a table of another version is recognised.
        let version = fnv1a(format!("{expressions:?}").as_bytes()) as u16;
        Rule { chain: chain.to_owned(), comment: format!("{comment} [{version:04x}]"), expressions }
    }
}

const R: [Register; 12] = {
    let mut registers = [Register(0); 12];
    let mut at = 0;
    while at < 12 {
        registers[at] = Register(at as u32);
        at += 1;
    }
    registers
};

/// `RTN_LOCAL` (include/uapi/linux/rtnetlink.h).
const RTN_LOCAL: u32 = 2;
/// `NF_CT_STATE_BIT(IP_CT_NEW)`, `NF_CT_STATE_INVALID_BIT` (include/uapi/linux/netfilter/nf_conntrack_common.h).
const CT_NEW: u32 = 1 << 3;
const CT_INVALID: u32 = 1 << 0;
/// `IPS_DST_NAT`.
const IPS_DST_NAT: u32 = 1 << 5;
const TCP: u8 = 6;
const PRIORITY_SOURCE_RANGES: i32 = -110;
const PRIORITY_DSTNAT: i32 = -100;
const PRIORITY_FILTER: i32 = 0;
const PRIORITY_SRCNAT: i32 = 100;

/// Numbers of endpoints with session affinity: two bits that tell them from other priorities, sixteen
/// of the list, fourteen of the endpoint.
pub(super) const ID_PREFIX: u32 = 0xc000_0000;
pub(super) const ID_LIST_SHIFT: u32 = 14;
const ID_PREFIX_MASK: u32 = 0xc000_0000;
const ID_LIST_MASK: u32 = !((1 << ID_LIST_SHIFT) - 1);

/// The rules of one family.
pub(super) struct Layout<'a> {
    pub(super) family: Family,
    pub(super) settings: &'a Settings,
}

impl Layout<'_> {
    /// Makes the table and its sets; the comment tells the version.
    pub(super) fn create(&self, transaction: &mut Transaction) {
        let table = table(self.family);
        transaction.add_table_with_comment(table, &self.version());
        for set in SetId::ALL {
            transaction.add_set(table, &set.spec(self.family));
        }
    }

    /// What a table with the same sets and base chains has as comment.
    pub(super) fn version(&self) -> String {
        let sets: Vec<_> = SetId::ALL.iter().map(|set| set.spec(self.family)).collect();
        let all = format!("{sets:?} {:?}", base_chains());
        format!("Viaduct services, layout {:08x}", fnv1a(all.as_bytes()) as u32)
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

    fn saddr(&self) -> Payload {
        match self.family {
            Family::V4 => Payload::IP_SADDR,
            Family::V6 => Payload::IP6_SADDR,
        }
    }

    fn daddr(&self) -> Payload {
        match self.family {
            Family::V4 => Payload::IP_DADDR,
            Family::V6 => Payload::IP6_DADDR,
        }
    }

    /// Registers of an address.
    fn words(&self) -> usize {
        match self.family {
            Family::V4 => 1,
            Family::V6 => 4,
        }
    }

    /// Loads a frontend's key; returns the next free register too.
    fn frontend(&self, keys: Keys) -> (Vec<Expression>, Register) {
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

    /// Goes where a map of frontends leads.
    fn dispatch(&self, keys: Keys, map: SetId) -> Vec<Expression> {
        let mut rule = self.frontend(keys).0;
        rule.push(Expression::LookupVerdict { map: map.name().into(), key: R[0] });
        rule
    }

    /// Whether the destination is an address on which node ports answer.
    fn to_nodeport_address(&self) -> Vec<Expression> {
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
    fn pod_source(&self, inverted: bool) -> Option<Vec<Expression>> {
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

    fn set_masquerade_mark(&self) -> Vec<Expression> {
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

    fn nat(&self, address: Register) -> Expression {
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

    /// The rules of the base chains and of what they jump to.
    pub(super) fn rules(&self) -> Vec<Rule> {
        let mut rules = Vec::new();
        let new = state(CT_NEW);
        for chain in ["source-ranges-prerouting", "source-ranges-output"] {
            rules.push(self.source_ranges(chain));
        }
        for chain in ["nat-prerouting", "nat-output"] {
            rules.extend(self.mark_by_interface(chain));
            let services = self.dispatch(Keys::Ip, SetId::Services(Keys::Ip));
            rules.push(Rule::new(chain, "to a Service's address", &[&services]));
            let ports = self.dispatch(Keys::NodePort, SetId::Services(Keys::NodePort));
            let to_node = self.to_nodeport_address();
            rules.push(Rule::new(chain, "to a node port", &[&to_node, &ports]));
        }
        let ports = self.dispatch(Keys::NodePort, SetId::NoEndpoints(Keys::NodePort));
        let rule = [&new[..], &self.to_nodeport_address(), &ports];
        rules.push(Rule::new("filter-input", "to a node port without endpoints", &rule));
        if self.settings.drop_invalid {
            let tcp = [Expression::LoadMeta(Meta::L4Proto, R[0]), equal(R[0], &[TCP])];
            let drop = [Expression::Counter, Expression::Verdict(Verdict::Drop)];
            let rule = [&state(CT_INVALID)[..], &tcp, &drop];
            rules.push(Rule::new("filter-forward", "out of every connection", &rule));
        }
        for chain in ["filter-input", "filter-forward", "filter-output"] {
            let rule = self.dispatch(Keys::Ip, SetId::NoEndpoints(Keys::Ip));
            rules.push(Rule::new(chain, "to a Service without endpoints", &[&new, &rule]));
        }
        for chain in ["filter-forward", "filter-output"] {
            let daddr = [Expression::LoadPayload(self.daddr(), R[0])];
            let known = [
                in_set(SetId::ClusterIps, R[0]),
                Expression::Verdict(Verdict::Goto(Target::Reject.to_string())),
            ];
            rules.push(Rule::new(
                chain,
                "to a port that a Service does not have",
                &[&new, &daddr, &known],
            ));
            let unknown = [
                in_set(SetId::ServiceCidrs, R[0]),
                Expression::Counter,
                Expression::Verdict(Verdict::Drop),
            ];
            rules.push(Rule::new(chain, "to no Service", &[&new, &daddr, &unknown]));
        }
        let translated = [
            Expression::LoadCt(Ct::Status, R[0]),
            Expression::Bitwise {
                register: R[0],
                mask: IPS_DST_NAT.to_ne_bytes().to_vec(),
                xor: vec![0; 4],
            },
            Expression::Compare(Compare::NotEqual, R[0], vec![0; 4]),
            Expression::Verdict(Verdict::Jump(SOURCE.into())),
        ];
        rules.push(Rule::new(
            "nat-postrouting",
            "translated: perhaps a new source",
            &[&translated],
        ));
        rules.extend(self.source());
        rules
    }

    /// Where pods are told by their interface: what comes to a ClusterIP from elsewhere is marked while
    /// the interface is known.
    fn mark_by_interface(&self, chain: &str) -> Option<Rule> {
        if self.settings.masquerade_all || !self.settings.pod_traffic.is_interface() {
            return None;
        }
        let from_elsewhere = match chain {
            "nat-prerouting" => self.pod_source(true)?,
            _ => Vec::new(), // from the node itself
        };
        let to_cluster_ip =
            [Expression::LoadPayload(self.daddr(), R[0]), in_set(SetId::ClusterIps, R[0])];
        let parts = [&from_elsewhere[..], &to_cluster_ip, &self.set_masquerade_mark()];
        Some(Rule::new(chain, "to a ClusterIP from elsewhere", &parts))
    }

    fn source_ranges(&self, chain: &str) -> Rule {
        let (frontend, next) = self.frontend(Keys::Ip);
        let restricted = [in_set(SetId::SourceRestricted, R[0])];
        let allowed = [
            Expression::LoadPayload(self.saddr(), next),
            Expression::LookupSet {
                set: SetId::SourceAllowed.name().into(),
                key: R[0],
                inverted: true,
            },
            Expression::Counter,
            Expression::Verdict(Verdict::Drop),
        ];
        let parts = [&state(CT_NEW)[..], &frontend, &restricted, &frontend, &allowed];
        Rule::new(chain, "from outside the source ranges", &parts)
    }

    /// Which translated connections get another source as well.
    fn source(&self) -> Vec<Rule> {
        let clear_priority = [
            Expression::LoadMeta(Meta::Priority, R[0]),
            Expression::Bitwise {
                register: R[0],
                mask: ID_PREFIX_MASK.to_ne_bytes().to_vec(),
                xor: vec![0; 4],
            },
            equal(R[0], &ID_PREFIX.to_ne_bytes()),
            Expression::LoadValue(vec![0; 4], R[0]),
            Expression::StoreMeta(Meta::Priority, R[0]),
        ];
        let bit = self.settings.masquerade_mark.to_ne_bytes().to_vec();
        let marked = [
            Expression::LoadMeta(Meta::Mark, R[0]),
            Expression::Bitwise { register: R[0], mask: bit.clone(), xor: vec![0; 4] },
            Expression::Compare(Compare::NotEqual, R[0], vec![0; 4]),
            Expression::LoadMeta(Meta::Mark, R[0]),
            Expression::Bitwise { register: R[0], mask: vec![255; 4], xor: bit },
            Expression::StoreMeta(Meta::Mark, R[0]),
            Expression::Masquerade,
        ];
        let hairpin = [
            Expression::LoadPayload(self.saddr(), R[0]),
            Expression::LoadPayload(self.daddr(), R[self.words()]),
            in_set(SetId::Hairpin, R[0]),
            Expression::Masquerade,
        ];
        let mut rules = vec![
            Rule::new(SOURCE, "the priority was scratch space", &[&clear_priority]),
            Rule::new(SOURCE, "marked", &[&marked]),
            Rule::new(SOURCE, "to itself", &[&hairpin]),
        ];
        let from_elsewhere = match &self.settings.pod_traffic {
            _ if self.settings.masquerade_all => Some(Vec::new()),
            traffic if traffic.is_interface() => None, // marked already
            _ => self.pod_source(true),
        };
        if let Some(from_elsewhere) = from_elsewhere {
            let key = match self.family {
                Family::V4 => Ct::DestinationIp,
                Family::V6 => Ct::DestinationIp6,
            };
            let by_cluster_ip = [
                Expression::LoadCtOriginal(key, R[0]),
                in_set(SetId::ClusterIps, R[0]),
                Expression::Masquerade,
            ];
            let rule = [&from_elsewhere[..], &by_cluster_ip];
            rules.push(Rule::new(SOURCE, "to a ClusterIP from elsewhere", &rule));
        }
        rules
    }

    /// The rules of a chain that elements lead to.
    pub(super) fn target(&self, target: Target) -> Vec<Rule> {
        let chain = target.to_string();
        match target {
            Target::Pick(pick) => self.pick(&chain, pick),
            Target::External(keys) => self.external(&chain, keys),
            Target::Drop => {
                let drop = [Expression::Counter, Expression::Verdict(Verdict::Drop)];
                vec![Rule::new(&chain, "no endpoint on this node", &[&drop])]
            }
            Target::Reject => {
                let code = match self.family {
                    Family::V4 => 3, // ICMP_PORT_UNREACH
                    Family::V6 => 4, // ICMPV6_PORT_UNREACH
                };
                let tcp = [
                    Expression::LoadMeta(Meta::L4Proto, R[0]),
                    equal(R[0], &[TCP]),
                    Expression::Counter,
                    Expression::Reject(RejectWith::TcpReset),
                ];
                let other =
                    [Expression::Counter, Expression::Reject(RejectWith::IcmpUnreachable(code))];
                vec![
                    Rule::new(&chain, "nobody is there", &[&tcp]),
                    Rule::new(&chain, "nobody is there", &[&other]),
                ]
            }
        }
    }

    fn external(&self, chain: &str, keys: Keys) -> Vec<Rule> {
        let short = self.dispatch(keys, SetId::ShortCircuits(keys));
        let mut rules = Vec::new();
        if let Some(from_pod) = self.pod_source(false) {
            rules.push(Rule::new(chain, "from a pod", &[&from_pod, &short]));
        }
        let from_node = [Expression::LoadSourceType(R[0]), equal(R[0], &RTN_LOCAL.to_ne_bytes())];
        let mark = self.set_masquerade_mark();
        rules.push(Rule::new(chain, "from this node", &[&from_node, &mark, &short]));
        let local = self.dispatch(keys, SetId::LocalServices(keys));
        rules.push(Rule::new(chain, "from outside", &[&local]));
        rules
    }

    fn pick(&self, chain: &str, pick: Pick) -> Vec<Rule> {
        if pick.masquerade {
            let plain = Target::Pick(Pick { masquerade: false, ..pick });
            let go = [Expression::Verdict(Verdict::Goto(plain.to_string()))];
            return vec![Rule::new(chain, "from the node", &[&self.set_masquerade_mark(), &go])];
        }
        let (mut slot, next) = self.frontend(pick.keys);
        slot.push(Expression::LoadRandom { modulus: pick.count, to: next });
        let Some(timeout) = pick.sticky else {
            let set = SetId::Endpoints(pick.keys, pick.list);
            let choose = [
                Expression::LookupMap { map: set.name().into(), key: R[0], value: R[0] },
                self.nat(R[0]),
            ];
            return vec![Rule::new(chain, "one of them", &[&slot, &choose])];
        };
        let set = SetId::EndpointIds(pick.keys, pick.list);
        let choose = [
            Expression::LookupMap { map: set.name().into(), key: R[0], value: R[0] },
            Expression::StoreMeta(Meta::Priority, R[0]),
        ];
        let (client, data) = self.client();
        let change = |operation, timeout_ms| {
            let load = Expression::LoadMeta(Meta::Priority, data);
            let set = SetId::Affinity.name().into();
            let dynset =
                Expression::Dynset { set, operation, key: R[0], data: Some(data), timeout_ms };
            [&client[..], &[load, dynset]].concat()
        };
        let remember = change(DynsetOperation::Update, u64::from(timeout) * 1000);
        let forget = change(DynsetOperation::Delete, 0);
        let map = SetId::Affinity.name().into();
        let recall = [
            &client[..],
            &[
                Expression::LookupMap { map, key: R[0], value: R[0] },
                Expression::StoreMeta(Meta::Priority, R[0]),
            ],
        ]
        .concat();
        let map = SetId::Backends.name().into();
        let go = [
            Expression::LoadMeta(Meta::Priority, R[0]),
            Expression::LookupMap { map, key: R[0], value: R[0] },
            self.nat(R[0]),
        ];
        vec![
            Rule::new(chain, "choose one", &[&slot, &choose]),
            Rule::new(chain, "unless the client has one: keep it, or remember this", &[&remember]),
            Rule::new(chain, "the one that is remembered", &[&recall]),
            Rule::new(chain, "if it is still there", &[&go]),
            Rule::new(chain, "else forget it", &[&forget]),
            Rule::new(chain, "choose another", &[&slot, &choose]),
            Rule::new(chain, "remember it", &[&remember]),
            Rule::new(chain, "the new one", &[&go]),
        ]
    }

    /// Loads the key of a client's affinity: its address, and the list that the endpoint is of.
    fn client(&self) -> (Vec<Expression>, Register) {
        let at = self.words();
        let load = vec![
            Expression::LoadPayload(self.saddr(), R[0]),
            Expression::LoadMeta(Meta::Priority, R[at]),
            Expression::Bitwise {
                register: R[at],
                mask: ID_LIST_MASK.to_ne_bytes().to_vec(),
                xor: vec![0; 4],
            },
        ];
        (load, R[at + 1])
    }
}

/// Who gets a new source.
const SOURCE: &str = "service-source";

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

fn equal(register: Register, value: &[u8]) -> Expression {
    Expression::Compare(Compare::Equal, register, value.to_vec())
}

fn in_set(set: SetId, key: Register) -> Expression {
    Expression::LookupSet { set: set.name().into(), key, inverted: false }
}

fn state(bit: u32) -> [Expression; 3] {
    [
        Expression::LoadCt(Ct::State, R[0]),
        Expression::Bitwise { register: R[0], mask: bit.to_ne_bytes().to_vec(), xor: vec![0; 4] },
        Expression::Compare(Compare::NotEqual, R[0], vec![0; 4]),
    ]
}
