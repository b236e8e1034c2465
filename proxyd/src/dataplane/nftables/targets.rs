//! The rules of the chains that elements lead to.

use netlink::Family;
use netlink::nftables::{DynsetOperation, Expression, Meta, Register, RejectWith, Verdict};

use super::layout::{ID_LIST_MASK, Layout, R, RTN_LOCAL, Rule, TCP, equal};
use super::names::{Keys, Pick, SetId, Target};

impl Layout<'_> {
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
            Target::Reject => self.reject(&chain),
        }
    }

    /// Refuses a connection, as a host does on whose port nobody listens.
    pub(in crate::dataplane) fn reject(&self, chain: &str) -> Vec<Rule> {
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
        let other = [Expression::Counter, Expression::Reject(RejectWith::IcmpUnreachable(code))];
        vec![
            Rule::new(chain, "nobody is there", &[&tcp]),
            Rule::new(chain, "nobody is there", &[&other]),
        ]
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
