//! Random parts of worlds, small enough that they meet.

use std::net::IpAddr;
use std::sync::Arc;

use proptest::prelude::*;

use crate::labels::{Labels, Requirement, Selector};
use crate::model::{
    Action, ClusterPeer, ClusterPolicy, ClusterRule, Numbers, Peer, Policy, PolicyName, Port,
    Protocol, Rule, Tier,
};
use crate::world::{ContainerPort, Namespace, Node, Pod, PodName, World};

pub(crate) fn name(pool: &'static [&'static str]) -> impl Strategy<Value = Arc<str>> {
    prop::sample::select(pool).prop_map(Arc::from)
}

pub(crate) fn labels() -> impl Strategy<Value = Labels> {
    let label = (name(&["a", "b"]), name(&["1", "2"]));
    prop::collection::vec(label, 0..3).prop_map(Labels::from_iter)
}

pub(crate) fn selector() -> impl Strategy<Value = Selector> {
    let values = || prop::collection::vec(name(&["1", "2"]), 1..3);
    let key = || name(&["a", "b"]);
    let requirement = prop_oneof![
        (key(), values()).prop_map(|(key, values)| Requirement::In(key, values)),
        (key(), values()).prop_map(|(key, values)| Requirement::NotIn(key, values)),
        key().prop_map(Requirement::Exists),
        key().prop_map(Requirement::DoesNotExist),
    ];
    prop::collection::vec(requirement, 0..2).prop_map(Selector)
}

pub(crate) fn port() -> impl Strategy<Value = Port> {
    let protocol = prop::sample::select(&Protocol::ALL[..]);
    let numbers = prop_oneof![
        (0u16..100, 0u16..100).prop_map(|(first, more)| Numbers::Range(first, first + more)),
        Just(Numbers::Range(0, u16::MAX)),
        name(&["web", "dns"]).prop_map(Numbers::Named),
    ];
    (protocol, numbers).prop_map(|(protocol, numbers)| Port { protocol, numbers })
}

pub(crate) fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (0u8..8).prop_map(|n| IpAddr::from([10, 0, 0, n])),
        (0u16..4).prop_map(|n| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, n])),
    ]
}

pub(crate) fn cidr() -> impl Strategy<Value = crate::Cidr> {
    (address(), 24u8..=32).prop_map(|(ip, length)| crate::Cidr::new(ip, length).unwrap())
}

pub(crate) fn peer() -> impl Strategy<Value = Peer> {
    prop_oneof![
        selector().prop_map(Peer::Pods),
        (selector(), selector()).prop_map(|(namespaces, pods)| Peer::PodsOf { namespaces, pods }),
        (cidr(), prop::collection::vec(cidr(), 0..2))
            .prop_map(|(cidr, except)| Peer::Block { cidr, except }),
    ]
}

pub(crate) fn rules() -> impl Strategy<Value = Vec<Rule>> {
    let rule = (
        prop::option::of(prop::collection::vec(peer(), 1..3)),
        prop::option::of(prop::collection::vec(port(), 1..3)),
    );
    prop::collection::vec(rule.prop_map(|(peers, ports)| Rule { peers, ports }), 0..3)
}

pub(crate) fn policy() -> impl Strategy<Value = Policy> {
    let all = (
        selector(),
        prop::option::of(rules()),
        prop::option::of(rules()),
        prop::bool::weighted(0.1),
    );
    all.prop_map(|(subject, ingress, egress, audit)| Policy { subject, ingress, egress, audit })
}

pub(crate) fn cluster_rules() -> impl Strategy<Value = Vec<ClusterRule>> {
    let peer = prop_oneof![
        (selector(), selector())
            .prop_map(|(namespaces, pods)| ClusterPeer::PodsOf { namespaces, pods }),
        prop::collection::vec(cidr(), 1..3).prop_map(ClusterPeer::Networks),
        selector().prop_map(ClusterPeer::Nodes),
        Just(ClusterPeer::Unknown),
    ];
    let action = prop::sample::select(&[Action::Accept, Action::Deny, Action::Pass][..]);
    let ports = prop::option::of(prop::collection::vec(port(), 1..3));
    let rule = (action, prop::collection::vec(peer, 1..3), ports)
        .prop_map(|(action, peers, ports)| ClusterRule { name: "".into(), action, peers, ports });
    prop::collection::vec(rule, 0..3)
}

pub(crate) fn cluster_policy() -> impl Strategy<Value = ClusterPolicy> {
    let tier = prop::sample::select(&[Tier::Admin, Tier::Baseline][..]);
    let all = (tier, 0u16..3, selector(), selector(), cluster_rules(), cluster_rules());
    all.prop_map(|(tier, priority, namespaces, pods, ingress, egress)| ClusterPolicy {
        tier,
        priority,
        namespaces,
        pods,
        ingress,
        egress,
    })
}

pub(crate) fn pod() -> impl Strategy<Value = Pod> {
    let port = (name(&["web", "dns"]), prop::sample::select(&Protocol::ALL[..]), 0u16..100);
    let port = port.prop_map(|(name, protocol, number)| ContainerPort { name, protocol, number });
    let parts = (
        name(&["", "1", "2"]),
        labels(),
        prop::collection::btree_set(address(), 0..3),
        name(&["n1", "n2"]),
        prop::bool::weighted(0.1),
        prop::collection::vec(port, 0..2),
    );
    parts.prop_map(|(uid, labels, addresses, node, host_network, ports)| Pod {
        uid: (&*uid).into(),
        labels,
        addresses: addresses.into_iter().collect(),
        node,
        host_network,
        ports: ports.into(),
    })
}

pub(crate) fn pod_name() -> impl Strategy<Value = PodName> {
    (name(&["x", "y"]), name(&["a", "b", "c"]))
        .prop_map(|(namespace, name)| PodName { namespace, name })
}

pub(crate) fn policy_name() -> impl Strategy<Value = PolicyName> {
    (name(&["x", "y"]), name(&["p", "q"]))
        .prop_map(|(namespace, name)| PolicyName { namespace, name })
}

pub(crate) fn namespace() -> impl Strategy<Value = Namespace> {
    (labels(), prop::bool::weighted(0.1), prop::bool::weighted(0.1))
        .prop_map(|(labels, audit, any_source)| Namespace { labels, audit, any_source })
}

pub(crate) fn node() -> impl Strategy<Value = Node> {
    (labels(), prop::collection::vec(address(), 0..2)).prop_map(|(labels, addresses)| Node {
        labels,
        addresses,
        ..Node::default()
    })
}

/// A world in which most pods have addresses of their own.
pub(crate) fn world() -> impl Strategy<Value = World> {
    use prop::collection::btree_map;
    let namespaces =
        (prop::option::weighted(0.9, namespace()), prop::option::weighted(0.9, namespace()));
    let parts = (
        namespaces,
        btree_map(pod_name(), (pod(), prop::bool::weighted(0.9)), 1..6),
        btree_map(name(&["n1", "n2"]), node(), 0..3),
        btree_map(policy_name(), policy(), 0..4),
        btree_map(name(&["c", "d", "e"]), cluster_policy(), 0..3),
    );
    parts.prop_map(|((x, y), pods, nodes, policies, cluster_policies)| {
        let names: [Arc<str>; 2] = ["x".into(), "y".into()];
        let namespaces = names.into_iter().zip([x, y]);
        let namespaces = namespaces.filter_map(|(name, of)| of.map(|of| (name, of))).collect();
        let own = |(at, (name, (mut pod, alone))): (u8, (PodName, (Pod, bool)))| {
            if alone && !pod.host_network {
                let address =
                    [IpAddr::from([10, 0, 0, at]), [0xfd00, 0, 0, 0, 0, 0, 0, at.into()].into()];
                pod.addresses = address.into();
            }
            (name, pod)
        };
        let pods = (0..).zip(pods).map(own).collect();
        let deny_unknown_pods = false;
        World { namespaces, pods, nodes, policies, cluster_policies, deny_unknown_pods }
    })
}
