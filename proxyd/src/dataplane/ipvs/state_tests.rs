use super::super::servers::tests::frontend;
use super::*;
use crate::cluster::Protocol;
use crate::service::{Masquerade, Resolution};

const CLUSTER: Resolution = Resolution::Cluster(Masquerade::Always);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn vip(address: &str, port: u16) -> FrontendKey {
    FrontendKey { address: Address::Ip(ip(address)), protocol: Protocol::Tcp, port }
}

fn node_port(port: u16) -> FrontendKey {
    FrontendKey { address: Address::Node(Family::V4), protocol: Protocol::Tcp, port }
}

fn empty() -> State {
    let own = BTreeSet::from([ip("192.168.0.1"), ip("192.168.1.1")]);
    let serving = own.iter().copied().collect();
    State::new("rr", BTreeMap::new(), BTreeSet::new()).with_addresses(own, serving)
}

fn change(state: &mut State, key: FrontendKey, frontend: Option<&Frontend>) -> Changes {
    let mut touched = Touched::default();
    state.want(key, frontend, &mut touched);
    state.changes(touched)
}

/// The daemon starts again: the kernel has what the other one left.
fn restarted(state: &State) -> State {
    State::new("rr", state.known().clone(), state.bound().clone())
        .with_addresses(state.own().clone(), state.serving.clone())
}

#[test]
fn a_frontend_is_bound_with_its_elements_and_goes_with_them() {
    let mut state = empty();
    let web = frontend(CLUSTER, &["10.244.1.2:80"], &[]);
    let changes = change(&mut state, vip("10.96.0.1", 80), Some(&web));
    assert_eq!((changes.servers.len(), &changes.bound[..]), (2, &[ip("10.96.0.1")][..]));
    let sets: Vec<_> = changes.added.iter().map(|item| item.set.name()).collect();
    assert_eq!(sets, ["service-addresses", "frontends", "masquerade"]);
    // A second port of the address needs no address.
    let changes = change(&mut state, vip("10.96.0.1", 443), Some(&web));
    assert!(changes.bound.is_empty() && changes.added.len() == 2);
    let changes = change(&mut state, vip("10.96.0.1", 443), None);
    assert!(changes.unbound.is_empty() && changes.deleted.len() == 2);
    // What is new is refused from here on.
    assert_eq!(changes.added, [frontend_item(SetId::Rejected, &state.draining()[0])]);
    // The last one is drained first, and keeps the address for that long.
    let changes = change(&mut state, vip("10.96.0.1", 80), None);
    assert!(changes.unbound.is_empty());
    assert_eq!(changes.deleted.len(), 2);
    let place = state.draining();
    assert_eq!(place.len(), 2);
    assert_eq!(state.abandoned(place.clone()), place);
    assert!(state.drain(place[0], &[]).unbound.is_empty());
    let changes = state.drain(place[1], &[]);
    assert_eq!((&changes.unbound[..], changes.deleted.len()), (&[ip("10.96.0.1")][..], 2));
    assert!(state.known().is_empty() && state.items.is_empty() && state.vips.is_empty());
}

#[test]
fn an_address_that_the_node_lost_is_not_bound() {
    let mut state = empty();
    let web = frontend(CLUSTER, &["10.244.1.2:80"], &[]);
    change(&mut state, node_port(30080), Some(&web));
    let kept = BTreeSet::from([ip("192.168.0.1")]);
    let serving = kept.iter().copied().collect();
    let mut state = State::new("rr", state.known().clone(), state.bound().clone())
        .with_addresses(kept, serving);
    let mut touched = Touched::default();
    state.want(node_port(30080), Some(&web), &mut touched);
    state.touch_all(&mut touched);
    let changes = state.changes(touched);
    assert_eq!(state.draining().len(), 1, "what was at the other one");
    assert_eq!((&changes.bound[..], &changes.unbound[..]), (&[][..], &[][..]));

    // A Service has it now: what drains there is not counted with it.
    let changes = change(&mut state, vip("192.168.1.1", 80), Some(&web));
    assert_eq!(changes.bound, [ip("192.168.1.1")]);
    let changes = state.drain(state.draining()[0], &[]);
    assert_eq!((changes.servers.len(), &changes.unbound[..]), (1, &[][..]));
    assert!(state.bound().contains(&ip("192.168.1.1")));
}

#[test]
fn ranges_are_there_before_a_server_and_are_lifted_at_once() {
    let mut state = empty();
    let key = vip("203.0.113.1", 80);
    let open = frontend(CLUSTER, &["10.244.1.2:80"], &[]);
    let restricted = |ranges: &[&str]| {
        let ranges = ranges.iter().map(|range| range.parse().unwrap()).collect();
        Frontend { source_ranges: Some(ranges), ..open.clone() }
    };
    let told = |changes: &Changes| {
        changes.elements().map(|part| {
            let of = part.iter().filter(|(_, item)| item.set.name().starts_with("source"));
            of.map(|(change, item)| format!("{change:?} {}", item.set.name())).collect::<Vec<_>>()
        })
    };
    let none = Vec::<String>::new();
    let changes = change(&mut state, key, Some(&restricted(&["198.51.100.0/24"])));
    assert_eq!(
        told(&changes),
        [vec!["Add source-restricted".into(), "Add source-allowed".into()], none.clone()]
    );
    // A wider range cannot stand beside the old one.
    let changes = change(&mut state, key, Some(&restricted(&["198.51.0.0/16"])));
    let replaced = vec!["Delete source-allowed".to_owned(), "Add source-allowed".to_owned()];
    assert_eq!(told(&changes), [replaced, none.clone()]);
    let changes = change(&mut state, key, Some(&open));
    let lifted = vec!["Delete source-restricted".to_owned(), "Delete source-allowed".to_owned()];
    assert_eq!(told(&changes), [none, lifted]);
}

#[test]
fn a_service_whose_endpoints_are_drained_keeps_its_address_and_elements() {
    let mut state = empty();
    let key = vip("10.96.0.1", 80);
    change(
        &mut state,
        key,
        Some(&frontend(Resolution::Local, &["10.244.1.2:80"], &["10.244.1.2:80"])),
    );
    let elsewhere = frontend(Resolution::Drop, &["10.244.2.2:80"], &[]);
    let changes = change(&mut state, key, Some(&elsewhere));
    assert_eq!(changes.added[0].set, SetId::Dropped);
    let drained = state.drain(state.draining()[0], &[]);
    assert_eq!(drained.servers.len(), 1);
    assert!(drained.deleted.is_empty() && drained.unbound.is_empty(), "{drained:?}");
    assert!(state.known().is_empty());
}

#[test]
fn one_endpoint_more_or_less_is_a_constant_number_of_messages() {
    for services in [1, 500] {
        let mut state = empty();
        let name = |n: u32| vip(&IpAddr::from((0x0a60_0000 + n).to_be_bytes()).to_string(), 80);
        let many: Vec<String> =
            (0..200).map(|n| format!("10.244.1.{n}:80")).chain(["10.244.2.1:80".into()]).collect();
        let mut all: Vec<&str> = many.iter().map(String::as_str).collect();
        all.sort_by_key(|text| text.parse::<std::net::SocketAddr>().unwrap());
        for n in 1..=services {
            change(&mut state, name(n), Some(&frontend(CLUSTER, &all, &[])));
        }
        let less = frontend(CLUSTER, &all[1..], &[]);
        let changes = change(&mut state, name(1), Some(&less));
        assert_eq!(changes.len(), 1, "{changes:?}");
        assert_eq!(state.drain(state.draining()[0], &[]).len(), 1);
        let changes = change(&mut state, name(1), Some(&frontend(CLUSTER, &all, &[])));
        assert_eq!(changes.len(), 1, "{changes:?}");
    }
}

#[test]
fn a_node_port_binds_nothing_and_is_at_all_addresses() {
    let mut state = empty();
    let web = frontend(CLUSTER, &["10.244.1.2:80"], &[]);
    let changes = change(&mut state, node_port(30_080), Some(&web));
    assert_eq!((changes.servers.len(), changes.bound.len()), (4, 0));
    // An external IP that is the node's own, at the same port: the address counts.
    let other = frontend(CLUSTER, &["10.244.9.9:80"], &[]);
    let changes = change(&mut state, vip("192.168.0.1", 30_080), Some(&other));
    assert_eq!(changes.servers.len(), 2, "{changes:?}");
    assert!(changes.bound.is_empty() && changes.added.is_empty());
}

#[test]
fn a_restart_sends_nothing_that_is_there() {
    let mut state = empty();
    let web = frontend(CLUSTER, &["10.244.1.2:80", "10.244.1.3:80"], &[]);
    change(&mut state, vip("10.96.0.1", 80), Some(&web));
    change(&mut state, node_port(30_080), Some(&web));
    let mut again = restarted(&state);
    let mut touched = Touched::default();
    for key in [vip("10.96.0.1", 80), node_port(30_080)] {
        again.want(key, Some(&web), &mut touched);
    }
    again.touch_all(&mut touched);
    let changes = again.changes(touched);
    assert!(changes.servers.is_empty() && changes.bound.is_empty() && changes.unbound.is_empty());
    assert_eq!(again.items, state.items);
    assert!(again.unbind_unused(|_| false).is_empty());
    // What nobody wants any more is drained, and unbound afterwards.
    let mut again = restarted(&state);
    let mut touched = Touched::default();
    again.touch_all(&mut touched);
    assert_eq!(again.changes(touched).servers.len(), 6);
    assert!(again.unbind_unused(|_| false).is_empty());
    let unbound: Vec<_> =
        again.draining().into_iter().flat_map(|place| again.drain(place, &[]).unbound).collect();
    assert_eq!(unbound, [ip("10.96.0.1")]);
}

#[test]
fn others_virtual_servers_and_addresses_stay_where_they_are_excluded() {
    let mut state = empty();
    let web = frontend(CLUSTER, &["10.244.1.2:80"], &[]);
    change(&mut state, vip("10.96.0.1", 80), Some(&web));
    change(&mut state, vip("172.16.0.1", 80), Some(&web));
    let mut again = restarted(&state);
    let is_others = |address: IpAddr| address == ip("172.16.0.1");
    again.forget(is_others);
    let mut touched = Touched::default();
    again.touch_all(&mut touched);
    let changes = again.changes(touched);
    assert_eq!(changes.servers.len(), 1, "{changes:?}");
    assert!(again.unbind_unused(is_others).is_empty());
}
