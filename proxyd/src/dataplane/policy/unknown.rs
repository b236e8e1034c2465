//! Addresses of this node's pods that no pod is known to have: they are denied everything, in both directions.

use netlink::Family;
use netlink::nftables::{
    Chain, ElementChange, Expression, Payload, Register, Set, Transaction, Verdict,
};
use netpol::Cidr;
use netpol::compile::merge_ranges;
use netpol::model::Direction;

use super::chain::log;
use super::layout::{
    HEADER_ENDS, JUDGE, KNOWN, TABLE, UNTRACKABLE, address_type, destination, family_is, goto, of,
    source,
};
use super::sets::Item;

/// Networks of which every address must be known.
const NETWORKS: &str = "pod-networks";
/// Why, as the rule that denies says.
const WHY: &str = "no pod is known to have this address";
const R0: Register = Register(0);

/// The chain that denies, as the log names it.
fn name(direction: Direction) -> &'static str {
    match direction {
        Direction::Egress => "from-unknown",
        Direction::Ingress => "to-unknown",
    }
}

/// Of a packet that was logged with this prefix: which way it was denied, and why.
pub fn unknown_pod(prefix: &str) -> Option<(Direction, &'static str)> {
    let direction = Direction::ALL.into_iter().find(|direction| name(*direction) == prefix)?;
    Some((direction, WHY))
}

/// The address in the register is of a pod, but is not known.
fn asks(family: Family) -> [Expression; 2] {
    let ask =
        |set: &str, inverted| Expression::LookupSet { set: of(set, family), key: R0, inverted };
    [ask(NETWORKS, false), ask(KNOWN, true)]
}

/// Writes sets, chains and rules, before those that judge. [`KNOWN`] is left empty.
pub(super) fn write(transaction: &mut Transaction, networks: &[Cidr]) {
    // Ranges of a set may not overlap.
    let ranges = merge_ranges(&networks.iter().map(Cidr::range).collect::<Vec<_>>());
    for family in [Family::V4, Family::V6] {
        let address = [address_type(family)];
        transaction.add_set(TABLE, &Set::new(&of(KNOWN, family), &address));
        let name = of(NETWORKS, family);
        transaction.add_set(TABLE, &Set::new(&name, &address).ranges());
        for (first, last) in ranges.iter().filter(|(first, _)| Family::of(*first) == family) {
            for item in Item::span(*first, *last) {
                transaction.change_element(ElementChange::Add, TABLE, &name, item.element());
            }
        }
    }
    for direction in [Direction::Egress, Direction::Ingress] {
        let name = name(direction);
        let chain = format!("{name}.deny");
        transaction.add_chain(TABLE, &Chain { name: &chain, hook: None });
        transaction.add_rule(TABLE, &chain, "", &log(name));
        let drop = [Expression::Counter, Expression::Verdict(Verdict::Drop)];
        transaction.add_rule(TABLE, &chain, WHY, &drop);
        for family in [Family::V4, Family::V6] {
            let end = match direction {
                Direction::Egress => source(family, R0),
                Direction::Ingress => destination(family, R0),
            };
            let rule = [&[end][..], &asks(family), &[goto(&chain)]].concat();
            transaction.add_rule(TABLE, JUDGE, "", &rule);
        }
    }
    for (family, end) in HEADER_ENDS {
        let sends = [Payload::IP_SADDR, Payload::IP6_SADDR].contains(&end);
        let direction = if sends { Direction::Egress } else { Direction::Ingress };
        let load = [Expression::LoadPayload(end, R0)];
        let deny = [goto(&format!("{}.deny", name(direction)))];
        let rule = [&family_is(family)[..], &load, &asks(family), &deny].concat();
        transaction.add_rule(TABLE, UNTRACKABLE, "", &rule);
    }
}
