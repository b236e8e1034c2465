//! Incremental planning against planning from scratch, and the choice of endpoints.

use std::collections::BTreeMap;
use std::sync::Arc;

use netlink::Family;
use proptest::prelude::*;

use super::endpoints::{Place, choose};
use super::plan::{Rules, plan};
use super::table::{Delta, Frontend, FrontendKey, Table};
use crate::cluster::{
    Affinity, Change, Cluster, Conditions, Endpoint, Hints, Protocol, Service, ServiceName,
    ServicePort, ServicePortName, Slice, SliceName, SlicePort, TrafficPolicy,
};

fn name(number: u8) -> ServiceName {
    ServiceName { namespace: "default".into(), name: format!("s{number}").into() }
}

fn rules() -> Rules {
    let place = Place { node: "n1".into(), zone: Some("a".into()) };
    Rules { place, external_ips: true, node_addresses: vec![[192, 168, 0, 1].into()] }
}

fn endpoint(number: u8) -> impl Strategy<Value = Endpoint> {
    let conditions = (any::<bool>(), any::<bool>(), any::<bool>());
    (conditions, 0..3u8, 0..4u8).prop_map(move |((ready, serving, terminating), node, hint)| {
        let names = |name: &str| vec![Arc::<str>::from(name)];
        Endpoint {
            address: [10, 0, 0, number].into(),
            conditions: Conditions { ready: ready && !terminating, serving, terminating },
            node: (node > 0).then(|| format!("n{node}").into()),
            hints: match hint {
                0 => None,
                1 => Some(Box::new(Hints { zones: names("a"), nodes: vec![] })),
                2 => Some(Box::new(Hints { zones: names("b"), nodes: names("n2") })),
                _ => Some(Box::new(Hints { zones: names("a"), nodes: names("n1") })),
            },
        }
    })
}

fn slice() -> impl Strategy<Value = Slice> {
    let endpoints = prop::collection::vec((0..6u8).prop_flat_map(endpoint), 0..5);
    (0..4u8, endpoints, 80..82u16).prop_map(|(service, endpoints, port)| Slice {
        service: name(service),
        family: Family::V4,
        ports: vec![SlicePort { name: "http".into(), protocol: Protocol::Tcp, port }],
        endpoints,
        triggered: None,
    })
}

fn service() -> impl Strategy<Value = Service> {
    // Few addresses and node ports, so that Services get into each other's way.
    (0..4u8, 0..3u8, 0..3u16, any::<[bool; 3]>()).prop_map(|(ip, vip, node_port, [i, e, a])| {
        let policy = |local| if local { TrafficPolicy::Local } else { TrafficPolicy::Cluster };
        Service {
            cluster_ips: vec![[10, 96, 0, ip].into()],
            external_ips: if vip == 0 { vec![] } else { vec![[203, 0, 113, vip].into()] },
            load_balancer_ips: vec![],
            source_ranges: vec![],
            ports: vec![ServicePort {
                name: "http".into(),
                protocol: Protocol::Tcp,
                port: 80,
                node_port: (node_port > 0).then_some(30_000 + node_port),
            }],
            internal_policy: policy(i),
            external_policy: policy(e),
            affinity: a.then_some(Affinity(10)),
            health_check_node_port: None,
        }
    })
}

fn change() -> impl Strategy<Value = Change> {
    let slice_name =
        |n: u8| SliceName { namespace: "default".into(), name: format!("e{n}").into() };
    prop_oneof![
        (0..4u8, prop::option::weighted(0.8, service()))
            .prop_map(|(n, service)| Change::Service(name(n), service)),
        (0..5u8, prop::option::weighted(0.8, slice()))
            .prop_map(move |(n, slice)| Change::Slice(slice_name(n), slice)),
    ]
}

fn frontends(table: &Table) -> BTreeMap<FrontendKey, Frontend> {
    table.frontends().map(|(key, frontend)| (key, frontend.clone())).collect()
}

proptest! {
    #[test]
    fn incremental_equals_from_scratch(changes in prop::collection::vec(change(), 0..40)) {
        let mut cluster = Cluster::new("n1".into());
        let mut table = Table::default();
        let mut applied: BTreeMap<FrontendKey, Frontend> = BTreeMap::new();
        for batch in changes.chunks(3) {
            batch.iter().for_each(|change| cluster.apply(change.clone()));
            let mut delta = Delta::new();
            for name in cluster.take_dirty().services {
                let new = cluster
                    .service(&name)
                    .map(|service| plan(&name, service, cluster.slices(&name), &rules()));
                table.replace(&name, new, &mut delta);
            }
            for (key, frontend) in delta {
                match frontend {
                    Some(frontend) => applied.insert(key, frontend),
                    None => applied.remove(&key),
                };
            }
        }
        let mut scratch = Table::default();
        for (name, service) in cluster.services() {
            let new = plan(name, service, cluster.slices(name), &rules());
            scratch.replace(name, Some(new), &mut Delta::new());
        }
        prop_assert_eq!(&frontends(&table), &frontends(&scratch));
        // What the dataplane was told adds up to the same.
        prop_assert_eq!(&applied, &frontends(&scratch));
    }
}

fn slices(endpoints: Vec<Endpoint>) -> Vec<Slice> {
    vec![Slice {
        service: name(0),
        family: Family::V4,
        ports: vec![SlicePort { name: "http".into(), protocol: Protocol::Tcp, port: 80 }],
        endpoints,
        triggered: None,
    }]
}

/// The last bytes of the addresses in the Cluster and in the Local list.
fn chosen(slices: &[Slice]) -> (Vec<u8>, Vec<u8>) {
    let port = ServicePortName { service: name(0), port: "http".into(), protocol: Protocol::Tcp };
    let choice = choose(slices.iter(), &port, Family::V4, &rules().place);
    let last = |list: Vec<super::Backend>| -> Vec<u8> {
        list.iter().map(|b| netlink::to_number(b.ip) as u8).collect()
    };
    (last(choice.cluster), last(choice.local))
}

fn at(number: u8, node: &str, conditions: Conditions) -> Endpoint {
    let address = [10, 0, 0, number].into();
    Endpoint { address, conditions, node: Some(node.into()), hints: None }
}

const READY: Conditions = Conditions { ready: true, serving: true, terminating: false };
const LEAVING: Conditions = Conditions { ready: false, serving: true, terminating: true };
const DEAD: Conditions = Conditions { ready: false, serving: false, terminating: true };

#[test]
fn terminating_endpoints_are_used_only_if_none_is_ready_for_each_list_by_itself() {
    let both = slices(vec![at(1, "n2", READY), at(2, "n1", LEAVING), at(3, "n1", DEAD)]);
    assert_eq!(chosen(&both), (vec![1], vec![2]));
    let none_ready = slices(vec![at(1, "n2", LEAVING), at(2, "n1", LEAVING), at(3, "n1", DEAD)]);
    assert_eq!(chosen(&none_ready), (vec![1, 2], vec![2]));
    assert_eq!(chosen(&slices(vec![at(3, "n1", DEAD)])), (vec![], vec![]));
}

#[test]
fn of_duplicates_the_one_that_stays_counts_and_local_wins() {
    let mut twice = slices(vec![at(1, "n1", LEAVING)]);
    twice.extend(slices(vec![at(1, "n2", READY)]));
    assert_eq!(chosen(&twice), (vec![1], vec![1]));
}

#[test]
fn hints_count_only_if_all_have_them_and_one_is_for_here() {
    let hint = |number, nodes: &[&str], zones: &[&str]| {
        let names = |list: &[&str]| list.iter().map(|n| Arc::<str>::from(*n)).collect();
        let hints = Some(Box::new(Hints { nodes: names(nodes), zones: names(zones) }));
        Endpoint { hints, ..at(number, "n1", READY) }
    };
    let all = vec![hint(1, &["n1"], &["a"]), hint(2, &["n2"], &["a"]), hint(3, &["n3"], &["b"])];
    assert_eq!(chosen(&slices(all.clone())).0, [1]);
    let zones = vec![hint(1, &[], &["a"]), hint(2, &["n1"], &["a"]), hint(3, &["n3"], &["b"])];
    assert_eq!(chosen(&slices(zones)).0, [1, 2]);
    let elsewhere = vec![hint(1, &["n2"], &["b"]), hint(2, &["n2"], &["c"])];
    assert_eq!(chosen(&slices(elsewhere)).0, [1, 2]);
    let mut one_without = all;
    one_without.push(at(4, "n2", READY));
    assert_eq!(chosen(&slices(one_without)), (vec![1, 2, 3, 4], vec![1, 2, 3]));
}
