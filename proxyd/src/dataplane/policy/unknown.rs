//! Addresses of this node's pods that no pod is known to have: they are denied everything, in both directions.

use std::slice;

use netlink::Family;
use netlink::nftables::{
    Chain, Compare, Expression, Key, Payload, Register, Set, Transaction, Verdict,
};
use netpol::Cidr;
use netpol::model::Direction;

use super::chain::log;
use super::layout::{
    EGRESS, HEADER_ENDS, INGRESS, KNOWN, TABLE, UNTRACKABLE, address_type, destination, family_is,
    goto, of, source,
};

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

/// The address that is loaded into the register is of this network, but is not known. (A node has a network or two:
/// to look into a set of ranges would take longer.)
fn asks(network: &Cidr, load: &Expression) -> Vec<Expression> {
    let (first, last) = network.range();
    let bytes = |address| Key::new().ip(address).0;
    let mask = bytes(first).iter().zip(bytes(last)).map(|(first, last)| !(first ^ last)).collect();
    let set = of(KNOWN, Family::of(first));
    vec![
        load.clone(),
        Expression::Bitwise { register: R0, mask, xor: vec![0; bytes(first).len()] },
        Expression::Compare(Compare::Equal, R0, bytes(first)),
        load.clone(),
        Expression::LookupSet { set, key: R0, inverted: true },
    ]
}

/// Writes sets, chains and rules: after the maps of both ends, so that addresses that are judged do not come so far, and
/// before the end of what cannot be tracked. [`KNOWN`] is left empty.
pub(super) fn write(transaction: &mut Transaction, networks: &[Cidr]) {
    for family in [Family::V4, Family::V6] {
        transaction.add_set(TABLE, &Set::new(&of(KNOWN, family), &[address_type(family)]));
    }
    for direction in [Direction::Egress, Direction::Ingress] {
        let name = name(direction);
        let chain = format!("{name}.deny");
        transaction.add_chain(TABLE, &Chain { name: &chain, hook: None });
        transaction.add_rule(TABLE, &chain, "", &log(name));
        let drop = [Expression::Counter, Expression::Verdict(Verdict::Drop)];
        transaction.add_rule(TABLE, &chain, WHY, &drop);
        for network in networks {
            let family = Family::of(network.range().0);
            let (end, address) = match direction {
                Direction::Egress => (EGRESS, source(family, R0)),
                Direction::Ingress => (INGRESS, destination(family, R0)),
            };
            let rule = [asks(network, &address), vec![goto(&chain)]].concat();
            transaction.add_rule(TABLE, end, "", &rule);
        }
    }
    for (family, end) in HEADER_ENDS {
        let sends = [Payload::IP_SADDR, Payload::IP6_SADDR].contains(&end);
        let direction = if sends { Direction::Egress } else { Direction::Ingress };
        let (load, deny) =
            (Expression::LoadPayload(end, R0), goto(&format!("{}.deny", name(direction))));
        for network in networks.iter().filter(|network| Family::of(network.range().0) == family) {
            let rule =
                [&family_is(family)[..], &asks(network, &load), slice::from_ref(&deny)].concat();
            transaction.add_rule(TABLE, UNTRACKABLE, "", &rule);
        }
    }
}
