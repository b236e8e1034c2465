//! What the kernel has counted: connections and refused packets of each frontend, and verdicts.

use std::collections::BTreeMap;

use netlink::nftables::NftSocket;
use netlink::{Family, Result};

use super::FAMILIES;
use super::element::read_frontend;
use super::names::{Keys, SetId, Target, table};
use super::rules::{OUT_OF_CONNECTION, OUTSIDE_SOURCE_RANGES, UNALLOCATED, UNKNOWN_PORT};
use crate::service::FrontendKey;

/// What became of the packets that a frontend's counter has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Counted {
    /// Each was the first of a connection, which got an endpoint.
    Connections,
    /// Each was refused, since there is no endpoint.
    Refused,
}

/// Why a packet was refused or dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// Rejected: the Service has no endpoint.
    NoEndpoints,
    /// Dropped: none on this node, with the Local policy.
    NoLocalEndpoints,
    /// Rejected: the ClusterIP has no such port.
    UnknownPort,
    /// Dropped: an address of the Services' range that no Service has.
    UnallocatedAddress,
    /// Dropped: the client is not within loadBalancerSourceRanges.
    SourceRanges,
    /// Dropped: a segment that belongs to no connection.
    Invalid,
}

/// Counters at one moment. Those of an element begin anew whenever its frontend changes.
#[derive(Debug, Default)]
pub struct Counters {
    /// Frontends whose counter is not zero.
    pub frontends: Vec<(FrontendKey, Counted, u64)>,
    /// Packets by family and reason.
    pub verdicts: BTreeMap<(Family, Reason), u64>,
}

impl Counters {
    /// Reads them in the calling thread's network namespace; none if there are no tables.
    pub fn read() -> Result<Counters> {
        let mut socket = NftSocket::open()?;
        let mut counters = Counters::default();
        for family in FAMILIES {
            counters.read_frontends(&mut socket, family)?;
            counters.read_verdicts(&mut socket, family)?;
        }
        Ok(counters)
    }

    fn read_frontends(&mut self, socket: &mut NftSocket, family: Family) -> Result<()> {
        for keys in [Keys::Ip, Keys::NodePort] {
            let maps = [
                (SetId::Services(keys), Counted::Connections),
                (SetId::NoEndpoints(keys), Counted::Refused),
            ];
            for (set, counted) in maps {
                let used = socket.parse_elements(table(family), set.name(), false, |element| {
                    let packets = Some(element.packets).filter(|packets| *packets > 0)?;
                    Some((read_frontend(keys, family, element.key)?, counted, packets))
                })?;
                self.frontends.extend(used.unwrap_or_default());
            }
        }
        Ok(())
    }

    fn read_verdicts(&mut self, socket: &mut NftSocket, family: Family) -> Result<()> {
        let rules = socket.rule_packets(table(family))?.unwrap_or_default();
        let packets = |is: &dyn Fn(&str, &str) -> bool| -> u64 {
            let own = rules.iter().filter(|(tag, _)| is(&tag.chain, &tag.comment));
            own.map(|(_, packets)| packets).sum()
        };
        let of_rule = |text: &str| packets(&|_, comment| comment.starts_with(text));
        let in_chain = |target: Target| {
            let name = target.to_string();
            packets(&|chain, _| chain == name)
        };
        let unknown_port = of_rule(UNKNOWN_PORT);
        // Both are refused by the same chain.
        let no_endpoints = in_chain(Target::Reject).saturating_sub(unknown_port);
        for (reason, packets) in [
            (Reason::NoEndpoints, no_endpoints),
            (Reason::NoLocalEndpoints, in_chain(Target::Drop)),
            (Reason::UnknownPort, unknown_port),
            (Reason::UnallocatedAddress, of_rule(UNALLOCATED)),
            (Reason::SourceRanges, of_rule(OUTSIDE_SOURCE_RANGES)),
            (Reason::Invalid, of_rule(OUT_OF_CONNECTION)),
        ] {
            self.verdicts.insert((family, reason), packets);
        }
        Ok(())
    }
}
