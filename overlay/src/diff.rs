//! [`diff()`]: what to change so that one state becomes another. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use netlink::{IfIndex, MacAddress, Prefix};

use crate::state::{Device, PeerRoute, State, Through};

/// What to do with the tunnel device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DeviceChange {
    /// It is right, or there should be none.
    Keep,
    /// It is not there.
    Create(Device),
    /// It differs in what a device cannot change.
    Recreate(Device),
    /// It differs in what it can change.
    Adjust(Device),
}

/// What to change, in the order in which it is applied: device, removals, additions.
///
/// Additions go neighbour, forwarding, route: a route that comes first would let the kernel ask the
/// network for a neighbour that never answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changes {
    pub(crate) device: DeviceChange,
    pub(crate) removed_routes: Vec<(Prefix, PeerRoute)>,
    pub(crate) removed_forwarding: Vec<(MacAddress, IpAddr)>,
    pub(crate) removed_neighbours: Vec<(IpAddr, MacAddress)>,
    pub(crate) neighbours: Vec<(IpAddr, MacAddress)>,
    pub(crate) forwarding: Vec<(MacAddress, IpAddr)>,
    pub(crate) routes: Vec<(Prefix, PeerRoute)>,
    /// Tunnel devices of an earlier configuration, whose routes the new ones replace.
    pub(crate) former_devices: Vec<IfIndex>,
}

impl Changes {
    /// Whether nothing is to be done.
    pub fn is_empty(&self) -> bool {
        self.device == DeviceChange::Keep && self.entries() == 0 && self.former_devices.is_empty()
    }

    /// How many kernel entries change, the device aside.
    pub fn entries(&self) -> usize {
        self.removed_routes.len()
            + self.removed_forwarding.len()
            + self.removed_neighbours.len()
            + self.neighbours.len()
            + self.forwarding.len()
            + self.routes.len()
    }
}

/// Compares what is with what should be.
pub fn diff(current: &State, desired: &State) -> Changes {
    let device = device_change(current.device.as_ref(), desired.device.as_ref());
    // A device that goes takes its neighbours, its forwarding entries and its routes along.
    let fresh = matches!(device, DeviceChange::Create(_) | DeviceChange::Recreate(_));
    let emptied;
    let current = if fresh {
        emptied = State {
            device: None,
            neighbours: BTreeMap::new(),
            forwarding: BTreeMap::new(),
            routes: current
                .routes
                .iter()
                .filter(|(_, route)| route.through != Through::Tunnel)
                .map(|(prefix, route)| (*prefix, *route))
                .collect(),
        };
        &emptied
    } else {
        current
    };
    let mut former_devices: Vec<IfIndex> = current
        .routes
        .values()
        .filter_map(|route| match route.through {
            Through::Former(link) => Some(link),
            _ => None,
        })
        .collect();
    former_devices.sort();
    former_devices.dedup();
    Changes {
        device,
        removed_routes: removed_routes(&current.routes, &desired.routes),
        removed_forwarding: gone(&current.forwarding, &desired.forwarding),
        removed_neighbours: gone(&current.neighbours, &desired.neighbours),
        neighbours: changed(&current.neighbours, &desired.neighbours),
        forwarding: changed(&current.forwarding, &desired.forwarding),
        routes: changed(&current.routes, &desired.routes),
        former_devices,
    }
}

fn device_change(current: Option<&Device>, desired: Option<&Device>) -> DeviceChange {
    match (current, desired) {
        (_, None) => DeviceChange::Keep,
        (None, Some(desired)) => DeviceChange::Create(desired.clone()),
        (Some(current), Some(desired)) if current == desired => DeviceChange::Keep,
        (Some(current), Some(desired)) => {
            let fixed = |d: &Device| (d.vni, d.port, d.lower, d.local);
            if fixed(current) == fixed(desired) {
                DeviceChange::Adjust(desired.clone())
            } else {
                DeviceChange::Recreate(desired.clone())
            }
        }
    }
}

/// Routes that are not wanted, or not by this device: for IPv6 the kernel takes no new device for a
/// gateway that it reaches by another one, so the old route goes first.
fn removed_routes(
    current: &BTreeMap<Prefix, PeerRoute>,
    desired: &BTreeMap<Prefix, PeerRoute>,
) -> Vec<(Prefix, PeerRoute)> {
    let stays = |prefix: &Prefix, route: &PeerRoute| {
        desired.get(prefix).is_some_and(|wanted| wanted.through == route.through)
    };
    let removed = current.iter().filter(|(prefix, route)| !stays(prefix, route));
    removed.map(|(prefix, route)| (*prefix, *route)).collect()
}

fn gone<K: Ord + Copy, V: Copy>(current: &BTreeMap<K, V>, desired: &BTreeMap<K, V>) -> Vec<(K, V)> {
    let absent = current.iter().filter(|(key, _)| !desired.contains_key(key));
    absent.map(|(key, value)| (*key, *value)).collect()
}

fn changed<K: Ord + Copy, V: Copy + PartialEq>(
    current: &BTreeMap<K, V>,
    desired: &BTreeMap<K, V>,
) -> Vec<(K, V)> {
    let different = desired.iter().filter(|(key, value)| current.get(key) != Some(value));
    different.map(|(key, value)| (*key, *value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(peers: &[u8]) -> State {
        let mut state = State::default();
        for peer in peers {
            let mac = MacAddress([0x0e, 0x56, 0, 0, 0, *peer]);
            let gateway: IpAddr = format!("10.244.{peer}.0").parse().unwrap();
            state.neighbours.insert(gateway, mac);
            state.forwarding.insert(mac, format!("192.168.0.{peer}").parse().unwrap());
            let route = PeerRoute { gateway, through: Through::Tunnel };
            state.routes.insert(format!("10.244.{peer}.0/24").parse().unwrap(), route);
        }
        state
    }

    #[test]
    fn equal_states_need_nothing() {
        assert!(diff(&state(&[2, 3]), &state(&[2, 3])).is_empty());
    }

    #[test]
    fn one_peer_more_or_less_is_three_entries() {
        assert_eq!(diff(&state(&[2]), &state(&[2, 3])).entries(), 3);
        let less = diff(&state(&[2, 3]), &state(&[2]));
        assert_eq!((less.entries(), less.removed_routes.len()), (3, 1));
    }

    #[test]
    fn a_subnet_that_moves_to_another_node_is_replaced_not_removed() {
        let mut moved = state(&[2, 3]);
        let gateway = "10.244.2.0".parse().unwrap();
        moved.neighbours.insert(gateway, MacAddress([0x0e, 0x56, 0, 0, 0, 3]));
        let changes = diff(&state(&[2, 3]), &moved);
        assert_eq!(changes.neighbours.len(), 1);
        assert!(changes.removed_neighbours.is_empty() && changes.removed_routes.is_empty());
    }
}
