//! The rules of the base chains, and of what they jump to.

use netlink::Family;
use netlink::nftables::{Compare, Ct, Expression, Meta, Verdict};

use super::layout::{ID_PREFIX, ID_PREFIX_MASK, Layout, R, Rule, SOURCE, TCP, equal, in_set};
use super::names::{Keys, SetId, Target};

/// `NF_CT_STATE_BIT(IP_CT_NEW)`, `NF_CT_STATE_INVALID_BIT` (include/uapi/linux/netfilter/nf_conntrack_common.h).
pub(in crate::dataplane) const CT_NEW: u32 = 1 << 3;
pub(in crate::dataplane) const CT_INVALID: u32 = 1 << 0;
/// `IPS_DST_NAT`.
const IPS_DST_NAT: u32 = 1 << 5;

/// What rules with a counter say of themselves; the metrics tell them apart by it.
pub(super) const OUTSIDE_SOURCE_RANGES: &str = "from outside the source ranges";
pub(super) const OUT_OF_CONNECTION: &str = "out of every connection";
pub(super) const UNKNOWN_PORT: &str = "to a port that a Service does not have";
pub(super) const UNALLOCATED: &str = "to no Service";

impl Layout<'_> {
    /// The rules of the base chains and of what they jump to.
    pub(super) fn rules(&self) -> Vec<Rule> {
        let mut rules = Vec::new();
        let new = state(CT_NEW);
        for chain in ["source-ranges-prerouting", "source-ranges-output"] {
            rules.push(self.source_ranges(chain));
        }
        for chain in ["nat-prerouting", "nat-output"] {
            rules.extend(self.mark_by_interface(chain));
            let services = self.serve(Keys::Ip);
            rules.push(Rule::new(chain, "to a Service's address", &[&services]));
            let ports = self.serve(Keys::NodePort);
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
            rules.push(Rule::new("filter-forward", OUT_OF_CONNECTION, &rule));
        }
        for chain in ["filter-input", "filter-forward", "filter-output"] {
            let rule = self.dispatch(Keys::Ip, SetId::NoEndpoints(Keys::Ip));
            rules.push(Rule::new(chain, "to a Service without endpoints", &[&new, &rule]));
        }
        for chain in ["filter-forward", "filter-output"] {
            let daddr = [Expression::LoadPayload(self.daddr(), R[0])];
            let known = [
                in_set(SetId::ClusterIps, R[0]),
                Expression::Counter,
                Expression::Verdict(Verdict::Goto(Target::Reject.to_string())),
            ];
            rules.push(Rule::new(chain, UNKNOWN_PORT, &[&new, &daddr, &known]));
            let unknown = [
                in_set(SetId::ServiceCidrs, R[0]),
                Expression::Counter,
                Expression::Verdict(Verdict::Drop),
            ];
            rules.push(Rule::new(chain, UNALLOCATED, &[&new, &daddr, &unknown]));
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
        Rule::new(chain, OUTSIDE_SOURCE_RANGES, &parts)
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
}

/// Whether the connection is in this state.
pub(in crate::dataplane) fn state(bit: u32) -> [Expression; 3] {
    [
        Expression::LoadCt(Ct::State, R[0]),
        Expression::Bitwise { register: R[0], mask: bit.to_ne_bytes().to_vec(), xor: vec![0; 4] },
        Expression::Compare(Compare::NotEqual, R[0], vec![0; 4]),
    ]
}
