//! [`diff()`]: what to change so that an observed state becomes the desired one. Pure.

use netlink::PortFlags;

use crate::state::{AddressOwner, RouteKind};
use crate::{Change, State};

/// The changes, in the order in which they are applied: a link comes before its settings, IPv6 before its
/// addresses, ports and addresses before routes.
///
/// Links that only an attachment can make (the node's ends of pods) are left out where they are missing.
/// Of what other programs own, only what contradicts the desired state is changed.
pub fn diff(desired: &State, observed: &State) -> Vec<Change> {
    let mut changes = Vec::new();
    diff_bridges(desired, observed, &mut changes);
    let exists =
        |device: &str| desired.bridges.contains_key(device) || observed.ends.contains_key(device);
    for (name, value) in &desired.sysctls {
        let device = name.split('/').nth(3).filter(|_| name.contains("/conf/"));
        let is_there = device.is_none_or(|device| {
            exists(device) || device == "all" || observed.sysctls.contains_key(name)
        });
        if is_there && observed.sysctls.get(name) != Some(value) {
            changes.push(Change::SetSysctl(name.clone(), value.clone()));
        }
    }
    diff_ends(desired, observed, &mut changes);
    for ((device, address), owner) in &desired.addresses {
        let key = (device.clone(), *address);
        if exists(device) && !observed.addresses.contains_key(&key) {
            changes.push(Change::AddAddress {
                device: device.clone(),
                address: *address,
                owner: *owner,
                detect_duplicates: desired.detecting.contains(device),
            });
        }
    }
    for ((destination, device), kind) in &desired.routes {
        let key = (*destination, device.clone());
        // With an address that is added now, the kernel adds its route.
        let follows = match kind {
            RouteKind::Pod => false,
            RouteKind::Connected(address) => !observed
                .addresses
                .keys()
                .any(|(name, present)| name == device && present.address() == *address),
        };
        if exists(device) && !follows && !observed.routes.contains_key(&key) {
            changes.push(Change::AddRoute(*destination, device.clone(), *kind));
        }
    }
    changes
}

fn diff_bridges(desired: &State, observed: &State, changes: &mut Vec<Change>) {
    for (name, wanted) in &desired.bridges {
        let Some(found) = observed.bridges.get(name) else {
            changes.push(Change::CreateBridge(name.clone(), wanted.clone()));
            if wanted.promiscuous {
                changes.push(Change::SetPromiscuous(name.clone()));
            }
            continue;
        };
        if wanted.owns_mac && found.mac != wanted.mac {
            changes.extend(wanted.mac.map(|mac| Change::SetMac(name.clone(), mac)));
        }
        if !found.up {
            changes.push(Change::SetUp(name.clone()));
        }
        if wanted.promiscuous && !found.promiscuous {
            changes.push(Change::SetPromiscuous(name.clone()));
        }
        if wanted.vlan_filtering && !found.vlan_filtering {
            changes.push(Change::EnableVlanFiltering(name.clone()));
        }
    }
}

fn diff_ends(desired: &State, observed: &State, changes: &mut Vec<Change>) {
    for (name, found) in &observed.ends {
        let Some(wanted) = desired.ends.get(name) else { continue };
        if found.mtu != wanted.mtu {
            changes.push(Change::SetMtu(name.clone(), wanted.mtu));
        }
        if let Some(bridge) = wanted.bridge.as_ref().filter(|_| found.bridge != wanted.bridge) {
            changes.push(Change::AddPort(name.clone(), bridge.clone()));
        }
        if !found.up {
            changes.push(Change::SetUp(name.clone()));
        }
        let moved = found.bridge != wanted.bridge;
        let lacks = |wanted: bool, found: bool| wanted && (moved || !found);
        let flags = PortFlags {
            hairpin: lacks(wanted.hairpin, found.hairpin).then_some(true),
            isolated: lacks(wanted.isolated, found.isolated).then_some(true),
        };
        if flags != PortFlags::default() {
            changes.push(Change::SetPort(name.clone(), flags));
        }
        let mut vlans = found.vlans.clone();
        vlans.sort_unstable();
        let mut wanted_vlans = wanted.vlans.clone();
        wanted_vlans.sort_unstable();
        if !wanted.vlans.is_empty() && (moved || vlans != wanted_vlans) {
            changes.push(Change::SetVlans(name.clone(), wanted.vlans.clone()));
        }
    }
}

/// The addresses of a bridge that carry our protocol number and are not desired.
pub(crate) fn owned_but_undesired<'a>(
    desired: &'a State,
    observed: &'a State,
) -> impl Iterator<Item = &'a (String, netlink::Prefix)> {
    observed.addresses.iter().filter_map(move |(key, owner)| {
        let is_stale = *owner == AddressOwner::Viaduct
            && desired.bridges.contains_key(&key.0)
            && !desired.addresses.contains_key(key);
        is_stale.then_some(key)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BridgeState, EndState};

    fn desired() -> State {
        let mut state = State::default();
        let bridge = BridgeState { up: true, mtu: 1500, ..BridgeState::default() };
        state.bridges.insert("br0".into(), bridge);
        let port = EndState {
            up: true,
            mtu: 1500,
            bridge: Some("br0".into()),
            hairpin: true,
            ..EndState::default()
        };
        state.ends.insert("vd0".into(), port);
        state.ends.insert("vd1".into(), EndState { up: true, mtu: 1500, ..EndState::default() });
        let gateway = "10.0.0.1/24".parse().unwrap();
        state.addresses.insert(("br0".into(), gateway), AddressOwner::Viaduct);
        state.routes.insert(("10.0.0.2/32".parse().unwrap(), "vd1".into()), RouteKind::Pod);
        state.sysctls.insert("net/ipv4/conf/br0/forwarding".into(), "1".into());
        state.sysctls.insert("net/ipv4/ip_forward".into(), "1".into());
        state
    }

    #[test]
    fn what_is_desired_needs_no_change() {
        assert_eq!(diff(&desired(), &desired()), []);
    }

    #[test]
    fn a_deleted_bridge_takes_its_ports_back() {
        let mut observed = desired();
        observed.bridges.clear();
        observed.addresses.clear();
        observed.sysctls.remove("net/ipv4/conf/br0/forwarding");
        let port = observed.ends.get_mut("vd0").unwrap();
        (port.bridge, port.hairpin) = (None, false);
        let kinds: Vec<String> =
            diff(&desired(), &observed).iter().map(ToString::to_string).collect();
        assert_eq!(
            kinds,
            [
                "bridge br0 was missing",
                "sysctl net/ipv4/conf/br0/forwarding was not 1",
                "link vd0 was not a port of br0",
                "bridge port vd0 had other settings",
                "link br0 lacked its address 10.0.0.1/24",
            ]
        );
    }

    #[test]
    fn a_missing_pod_link_is_left_to_the_runtime() {
        let mut observed = desired();
        observed.ends.remove("vd1");
        observed.routes.clear();
        assert_eq!(diff(&desired(), &observed), []);
    }

    #[test]
    fn each_damage_is_one_change() {
        type Damage = fn(&mut State);
        let damages: [(Damage, &str); 6] = [
            (|s| s.bridges.get_mut("br0").unwrap().up = false, "link br0 was down"),
            (|s| s.ends.get_mut("vd1").unwrap().up = false, "link vd1 was down"),
            (|s| s.ends.get_mut("vd1").unwrap().mtu = 9, "the MTU of link vd1 was not 1500"),
            (|s| s.addresses.clear(), "link br0 lacked its address 10.0.0.1/24"),
            (|s| s.routes.clear(), "the route to 10.0.0.2/32 by link vd1 was missing"),
            (
                |s| drop(s.sysctls.insert("net/ipv4/ip_forward".into(), "0".into())),
                "sysctl net/ipv4/ip_forward was not 1",
            ),
        ];
        for (damage, text) in damages {
            let mut observed = desired();
            damage(&mut observed);
            let found: Vec<String> =
                diff(&desired(), &observed).iter().map(ToString::to_string).collect();
            assert_eq!(found, [text]);
        }
    }
}
