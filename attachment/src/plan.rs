//! [`plan()`]: the links, addresses, routes and sysctls that attachments need. Pure.

use netlink::{Family, MacAddress, Prefix};

use crate::state::{AddressOwner, RouteKind};
use crate::sysctls::of_device;
use crate::{EndState, Forwarding, LinkRecord, Record, State};

/// The state that these attachments need. Of two records with one bridge the later one decides its settings.
pub fn plan<'a>(records: impl IntoIterator<Item = &'a Record>) -> State {
    let mut state = State::default();
    for record in records {
        match &record.link {
            LinkRecord::Bridge { .. } => plan_port(&mut state, record),
            LinkRecord::Routed => plan_routed_link(&mut state, record),
            LinkRecord::Chained { .. } => {}
        }
        plan_sysctls(&mut state, record);
    }
    state
}

/// The MAC address of a new bridge. Pods remember their gateway's, so it follows from the gateway's address
/// and survives the bridge.
pub(crate) fn bridge_mac(gateways: &[Prefix]) -> Option<MacAddress> {
    gateways.first().map(|gateway| MacAddress::for_address([0x0a, 0x58], gateway.address()))
}

/// Whether a MAC address has the form of those that we give to bridges. Other bridges are adopted.
pub(crate) fn is_own_mac(mac: MacAddress) -> bool {
    matches!(mac.0, [0x0a, 0x58 | 0xd8, ..])
}

fn plan_port(state: &mut State, record: &Record) {
    let LinkRecord::Bridge {
        bridge, bridge_mac: mac, hairpin, isolated, promiscuous, vlans, ..
    } = &record.link
    else {
        return;
    };
    let planned = state.bridges.entry(bridge.clone()).or_default();
    planned.mac = mac.or(planned.mac).or_else(|| bridge_mac(&record.gateways));
    planned.owns_mac = planned.mac.is_some_and(is_own_mac);
    planned.mtu = record.mtu;
    planned.up = true;
    planned.promiscuous |= promiscuous;
    planned.vlan_filtering |= !vlans.is_empty();
    let mac = planned.mac;
    plan_gateways(state, record, bridge, mac, |gateway| gateway);
    let end = EndState {
        up: true,
        mtu: record.mtu,
        bridge: Some(bridge.clone()),
        hairpin: *hairpin,
        isolated: *isolated,
        vlans: vlans.clone(),
    };
    state.ends.insert(record.owner.host_link(), end);
}

fn plan_routed_link(state: &mut State, record: &Record) {
    let link = record.owner.host_link();
    let mac = record.owner.mac("host");
    plan_gateways(state, record, &link, Some(mac), |gateway| Prefix::host(gateway.address()));
    for ip in record.ips() {
        state.routes.insert((Prefix::host(ip), link.clone()), RouteKind::Pod);
    }
    let end = EndState { up: true, mtu: record.mtu, ..EndState::default() };
    state.ends.insert(link, end);
}

/// The gateway addresses of a device, and the link-local address from which the node asks for pods.
fn plan_gateways(
    state: &mut State,
    record: &Record,
    device: &str,
    mac: Option<MacAddress>,
    form: impl Fn(Prefix) -> Prefix,
) {
    for gateway in &record.gateways {
        plan_address(state, device, form(*gateway), AddressOwner::Viaduct);
    }
    if record.detect_duplicates {
        state.detecting.insert(device.to_owned());
    } else if let (true, Some(mac)) = (has_ipv6(&record.gateways), mac) {
        plan_address(state, device, mac.link_local(), AddressOwner::Unknown);
    }
}

/// An address, and the route that the kernel adds with it: another process may delete either.
fn plan_address(state: &mut State, device: &str, address: Prefix, owner: AddressOwner) {
    state.addresses.insert((device.to_owned(), address), owner);
    if address.family() == Family::V6 || address != Prefix::host(address.address()) {
        let key = (address.network(), device.to_owned());
        state.routes.insert(key, RouteKind::Connected(address.address()));
    }
}

fn has_ipv6(addresses: &[Prefix]) -> bool {
    addresses.iter().any(|address| address.family() == Family::V6)
}

fn plan_sysctls(state: &mut State, record: &Record) {
    let device = record.device();
    if device.is_empty() {
        return;
    }
    let mut set = |name: String, value: &str| drop(state.sysctls.insert(name, value.to_owned()));
    let (is_linked, is_ours) = match &record.link {
        LinkRecord::Bridge { bridge_mac, .. } => (true, bridge_mac.is_none_or(is_own_mac)),
        LinkRecord::Routed => (true, true),
        LinkRecord::Chained { .. } => (false, false),
    };
    if is_linked && has_ipv6(&record.gateways) {
        set(of_device(6, &device, "disable_ipv6"), "0");
    }
    if is_ours && has_ipv6(&record.gateways) {
        set(of_device(6, &device, "accept_ra"), "0");
        if !record.detect_duplicates {
            set(of_device(6, &device, "accept_dad"), "0");
        }
    }
    for (number, family) in [(4, Family::V4), (6, Family::V6)] {
        match record.forwarding {
            _ if !record.has_family(family) => {}
            Forwarding::Off => {}
            Forwarding::Device => set(of_device(number, &device, "forwarding"), "1"),
            Forwarding::Node if family == Family::V4 => set("net/ipv4/ip_forward".to_owned(), "1"),
            Forwarding::Node => set("net/ipv6/conf/all/forwarding".to_owned(), "1"),
        }
    }
    if record.host_ports.iter().any(|port| port.pod_ip.is_ipv4()) {
        set(of_device(4, &device, "route_localnet"), "1");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::record;

    fn bridged(id: &str, address: &str, gateway: &str) -> Record {
        let link = LinkRecord::Bridge {
            bridge: "br0".into(),
            bridge_mac: None,
            hairpin: true,
            isolated: false,
            promiscuous: false,
            vlans: vec![],
            force_address: false,
        };
        let gateways = vec![gateway.parse().unwrap()];
        Record { link, gateways, forwarding: Forwarding::Device, ..record(id, address) }
    }

    #[test]
    fn pods_of_a_bridge_share_its_gateway() {
        let a = bridged("a", "10.244.1.2/24", "10.244.1.1/24");
        let b = bridged("b", "10.244.1.3/24", "10.244.1.1/24");
        let state = plan([&a, &b]);
        assert_eq!((state.bridges.len(), state.ends.len(), state.addresses.len()), (1, 2, 1));
        assert_eq!(state.sysctls["net/ipv4/conf/br0/forwarding"], "1");
        assert_eq!(state.bridges["br0"].mac, bridge_mac(&a.gateways));
    }

    #[test]
    fn a_routed_pod_has_its_own_gateway_and_route() {
        let mut pod = record("a", "fd00:1::2/64");
        pod.gateways = vec!["fd00:1::1/64".parse().unwrap()];
        let state = plan([&pod]);
        let link = pod.owner.host_link();
        let local = pod.owner.mac("host").link_local();
        let addresses: Vec<_> = state.addresses.keys().map(|(_, address)| *address).collect();
        assert_eq!(addresses, ["fd00:1::1/128".parse().unwrap(), local]);
        let route = ("fd00:1::2/128".parse().unwrap(), link.clone());
        assert_eq!(state.routes[&route], RouteKind::Pod);
        assert_eq!(state.sysctls[&format!("net/ipv6/conf/{link}/accept_ra")], "0");
    }
}
