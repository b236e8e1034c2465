//! Reads what the kernel holds of a desired [`State`].

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;

use netlink::{Family, IfIndex, Link, RouteFilter, RouteSocket, sysctl};

use crate::state::AddressOwner;
use crate::{BridgeState, EndState, PROTOCOL, Record, Result, State};

/// The device that holds the addresses of virtual servers, in IPVS mode.
const IPVS_DEVICE: &str = "kube-ipvs0";

/// Names and numbers of the links that are there.
pub(crate) struct LinkNames(HashMap<String, u32>);

impl LinkNames {
    /// The links of the calling thread's network namespace.
    pub(crate) fn read() -> Result<LinkNames> {
        Ok(LinkNames::of(&RouteSocket::open()?.links()?))
    }

    pub(crate) fn of(links: &[Link]) -> LinkNames {
        LinkNames(links.iter().map(|link| (link.name.clone(), link.index.0)).collect())
    }

    /// Whether the link of an attachment is there.
    pub(crate) fn has_link_of(&self, record: &Record) -> bool {
        record.is_alive(|name, index| {
            self.0.get(name).is_some_and(|found| index.is_none_or(|index| index == *found))
        })
    }
}

/// Whether addresses of a device belong to the node itself. Those of IPVS's device and of dummies belong to
/// Services and to agents, those of the loopback device are anycast addresses or 127.0.0.1.
fn holds_node_addresses(link: &Link) -> bool {
    link.name != "lo" && link.name != IPVS_DEVICE && link.kind.as_deref() != Some("dummy")
}

/// The addresses that belong to the node itself.
pub(crate) fn node_addresses(socket: &mut RouteSocket) -> Result<HashSet<IpAddr>> {
    let links = socket.links()?;
    let own: HashSet<IfIndex> =
        links.iter().filter(|link| holds_node_addresses(link)).map(|link| link.index).collect();
    // Link-local addresses are reached by their own device only, and every pod's link has one.
    let addresses = socket.addresses(None)?.into_iter().filter(|address| address.global);
    Ok(addresses.filter(|a| own.contains(&a.link)).map(|a| a.prefix.address()).collect())
}

/// What is there of a desired state, on the whole node.
pub fn observe(socket: &mut RouteSocket, links: &[Link], desired: &State) -> Result<State> {
    let mut state = State::default();
    let names: BTreeMap<IfIndex, &str> =
        links.iter().map(|link| (link.index, link.name.as_str())).collect();
    for link in links {
        if desired.bridges.contains_key(&link.name) && link.kind.as_deref() == Some("bridge") {
            state.bridges.insert(link.name.clone(), bridge_state(link));
        }
        if let Some(wanted) = desired.ends.get(&link.name) {
            let mut end = end_state(link, |index| names.get(&index).map(|name| (*name).to_owned()));
            if !wanted.vlans.is_empty() && end.bridge.is_some() {
                end.vlans = socket.port_vlans(link.index)?;
            }
            state.ends.insert(link.name.clone(), end);
        }
    }
    if !desired.addresses.is_empty() {
        for address in socket.addresses(None)? {
            let Some(name) = names.get(&address.link) else { continue };
            if desired.bridges.contains_key(*name) || desired.ends.contains_key(*name) {
                let key = ((*name).to_owned(), address.prefix);
                state.addresses.insert(key, owner_of(address.protocol));
            }
        }
    }
    if !desired.routes.is_empty() {
        for family in [Family::V4, Family::V6] {
            for route in socket.routes(RouteFilter { family, link: None, protocol: None })? {
                let name = route.link.and_then(|index| names.get(&index));
                let Some(name) = name.filter(|_| route.gateway.is_none()) else { continue };
                let key = (route.destination, (*name).to_owned());
                if let Some(kind) = desired.routes.get(&key) {
                    state.routes.insert(key, *kind);
                }
            }
        }
    }
    read_sysctls(&mut state, desired);
    Ok(state)
}

/// What is there of a bridge, its addresses, and the sysctls of a desired state. For one attachment among many.
pub fn observe_bridge(
    socket: &mut RouteSocket,
    bridge: Option<&Link>,
    desired: &State,
) -> Result<State> {
    let mut state = State::default();
    if let Some(link) = bridge {
        state.bridges.insert(link.name.clone(), bridge_state(link));
        if !desired.addresses.is_empty() {
            for address in socket.addresses(Some(link.index))? {
                let key = (link.name.clone(), address.prefix);
                state.addresses.insert(key, owner_of(address.protocol));
            }
        }
    }
    read_sysctls(&mut state, desired);
    // Routes are compared by the comparison of the whole node.
    state.routes = desired.routes.clone();
    Ok(state)
}

/// The state of a routed link or a bridge port that was just created, up and without any setting.
pub fn new_end(record: &Record, desired: &State) -> State {
    let name = record.owner.host_link();
    let mut state = State::default();
    let bridge = desired.ends.get(&name).and_then(|end| end.bridge.clone());
    let end = EndState { up: true, mtu: record.mtu, bridge, ..EndState::default() };
    state.ends.insert(name, end);
    // What the bridge needs is there already.
    state.bridges = desired.bridges.clone();
    state.addresses = desired.addresses.clone();
    state.addresses.retain(|(device, _), _| desired.bridges.contains_key(device));
    state.routes = desired.routes.clone();
    state.routes.retain(|(_, device), _| desired.bridges.contains_key(device));
    read_sysctls(&mut state, desired);
    state
}

/// Reads the sysctls of a desired state.
pub fn read_sysctls(state: &mut State, desired: &State) {
    for name in desired.sysctls.keys() {
        // A device or a family that is missing has no sysctl.
        if let Ok(value) = sysctl::read(name) {
            state.sysctls.insert(name.clone(), value);
        }
    }
}

fn owner_of(protocol: u8) -> AddressOwner {
    if protocol == PROTOCOL { AddressOwner::Viaduct } else { AddressOwner::Unknown }
}

fn bridge_state(link: &Link) -> BridgeState {
    BridgeState {
        mac: link.mac,
        mtu: link.mtu,
        up: link.up,
        promiscuous: link.promiscuous,
        vlan_filtering: link.vlan_filtering,
        owns_mac: false,
    }
}

/// The state of the node's end of a pod's link.
pub fn end_state(link: &Link, name_of: impl Fn(IfIndex) -> Option<String>) -> EndState {
    let port = link.port.unwrap_or_default();
    EndState {
        up: link.up,
        mtu: link.mtu,
        bridge: link.master.and_then(name_of),
        hairpin: port.hairpin,
        isolated: port.isolated,
        vlans: Vec::new(),
    }
}
