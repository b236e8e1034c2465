//! The compiler against itself: whatever happened in between, the state is that of the world as it is.

use proptest::prelude::*;

use super::*;
use crate::labels::{Labels, Requirement, Selector};
use crate::model::{Action, ClusterPeer, ClusterRule, Peer, Port, Rule};
use crate::world::ContainerPort;

const NODE: &str = "n1";

fn name(pool: &'static [&'static str]) -> impl Strategy<Value = Arc<str>> {
    prop::sample::select(pool).prop_map(Arc::from)
}

fn labels() -> impl Strategy<Value = Labels> {
    let label = (name(&["a", "b"]), name(&["1", "2"]));
    prop::collection::vec(label, 0..3).prop_map(Labels::from_iter)
}

fn selector() -> impl Strategy<Value = Selector> {
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

fn port() -> impl Strategy<Value = Port> {
    let protocol = prop::sample::select(&Protocol::ALL[..]);
    let numbers = prop_oneof![
        (0u16..100, 0u16..100).prop_map(|(first, more)| Numbers::Range(first, first + more)),
        Just(Numbers::Range(0, u16::MAX)),
        name(&["web", "dns"]).prop_map(Numbers::Named),
    ];
    (protocol, numbers).prop_map(|(protocol, numbers)| Port { protocol, numbers })
}

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (0u8..8).prop_map(|n| IpAddr::from([10, 0, 0, n])),
        (0u16..4).prop_map(|n| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, n])),
    ]
}

fn cidr() -> impl Strategy<Value = crate::Cidr> {
    (address(), 24u8..=32).prop_map(|(ip, length)| crate::Cidr::new(ip, length).unwrap())
}

fn peer() -> impl Strategy<Value = Peer> {
    prop_oneof![
        selector().prop_map(Peer::Pods),
        (selector(), selector()).prop_map(|(namespaces, pods)| Peer::PodsOf { namespaces, pods }),
        (cidr(), prop::collection::vec(cidr(), 0..2))
            .prop_map(|(cidr, except)| Peer::Block { cidr, except }),
    ]
}

fn rules() -> impl Strategy<Value = Vec<Rule>> {
    let rule = (
        prop::option::of(prop::collection::vec(peer(), 1..3)),
        prop::option::of(prop::collection::vec(port(), 1..3)),
    );
    prop::collection::vec(rule.prop_map(|(peers, ports)| Rule { peers, ports }), 0..3)
}

fn policy() -> impl Strategy<Value = Policy> {
    let all = (
        selector(),
        prop::option::of(rules()),
        prop::option::of(rules()),
        prop::bool::weighted(0.1),
    );
    all.prop_map(|(subject, ingress, egress, audit)| Policy { subject, ingress, egress, audit })
}

fn cluster_rules() -> impl Strategy<Value = Vec<ClusterRule>> {
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

fn cluster_policy() -> impl Strategy<Value = ClusterPolicy> {
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

fn pod() -> impl Strategy<Value = Pod> {
    let port = (name(&["web", "dns"]), prop::sample::select(&Protocol::ALL[..]), 0u16..100);
    let port = port.prop_map(|(name, protocol, number)| ContainerPort { name, protocol, number });
    let parts = (
        name(&["", "1", "2"]),
        labels(),
        prop::collection::btree_set(address(), 0..3),
        name(&[NODE, "n2"]),
        prop::bool::weighted(0.1),
        prop::collection::vec(port, 0..2),
    );
    parts.prop_map(|(uid, labels, addresses, node, host_network, ports)| Pod {
        uid,
        labels,
        addresses: addresses.into_iter().collect(),
        node,
        host_network,
        ports,
    })
}

#[derive(Clone, Debug)]
enum Event {
    Change(Change),
    Attach(Arc<str>, Attachment),
    Detach(Arc<str>),
}

fn pod_name() -> impl Strategy<Value = PodName> {
    (name(&["x", "y"]), name(&["a", "b", "c"]))
        .prop_map(|(namespace, name)| PodName { namespace, name })
}

fn event() -> impl Strategy<Value = Event> {
    let policy_name = (name(&["x", "y"]), name(&["p", "q"]))
        .prop_map(|(namespace, name)| PolicyName { namespace, name });
    let namespace = (labels(), prop::bool::weighted(0.1))
        .prop_map(|(labels, audit)| Namespace { labels, audit });
    let node = (labels(), prop::collection::vec(address(), 0..2))
        .prop_map(|(labels, addresses)| Node { labels, addresses });
    let attachment = (pod_name(), name(&["", "1"]), prop::collection::vec(address(), 1..3))
        .prop_map(|(pod, uid, addresses)| Attachment { pod, uid, addresses });
    prop_oneof![
        4 => (pod_name(), prop::option::weighted(0.8, pod())).prop_map(|(n, p)| Event::Change(Change::Pod(n, p))),
        2 => (name(&["x", "y"]), prop::option::weighted(0.9, namespace))
            .prop_map(|(n, v)| Event::Change(Change::Namespace(n, v))),
        1 => (name(&["n1", "n2"]), prop::option::weighted(0.8, node))
            .prop_map(|(n, v)| Event::Change(Change::Node(n, v))),
        3 => (policy_name, prop::option::weighted(0.8, policy()))
            .prop_map(|(n, v)| Event::Change(Change::Policy(n, v))),
        2 => (name(&["c", "d"]), prop::option::weighted(0.8, cluster_policy()))
            .prop_map(|(n, v)| Event::Change(Change::ClusterPolicy(n, v))),
        1 => (name(&["1", "2", "3"]), attachment).prop_map(|(id, a)| Event::Attach(id, a)),
        1 => name(&["1", "2", "3"]).prop_map(Event::Detach),
    ]
}

fn apply(compiler: &mut Compiler, event: Event) {
    match event {
        Event::Change(change) => compiler.apply(change),
        Event::Attach(id, attachment) => drop(compiler.attach(id, attachment)),
        Event::Detach(id) => compiler.detach(&id),
    }
}

/// The same world, compiled at once.
fn from_scratch(compiler: &Compiler) -> Compiler {
    let mut fresh = Compiler::new(NODE);
    let world = compiler.world().clone();
    for (id, attachment) in &compiler.attachments {
        fresh.attach(Arc::clone(id), attachment.clone());
    }
    world.policies.into_iter().for_each(|(n, v)| fresh.apply(Change::Policy(n, Some(v))));
    world
        .cluster_policies
        .into_iter()
        .for_each(|(n, v)| fresh.apply(Change::ClusterPolicy(n, Some(v))));
    world.pods.into_iter().for_each(|(n, v)| fresh.apply(Change::Pod(n, Some(v))));
    world.namespaces.into_iter().for_each(|(n, v)| fresh.apply(Change::Namespace(n, Some(v))));
    world.nodes.into_iter().for_each(|(n, v)| fresh.apply(Change::Node(n, Some(v))));
    fresh.update();
    fresh
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn what_was_told_bit_by_bit_is_what_is(
        batches in prop::collection::vec(prop::collection::vec(event(), 1..5), 1..12),
    ) {
        let mut compiler = Compiler::new(NODE);
        // What somebody has who takes in the updates alone.
        let mut chains: BTreeMap<ChainKey, Arc<Chain>> = BTreeMap::new();
        let mut addresses: BTreeMap<IpAddr, Verdicts> = BTreeMap::new();
        for batch in batches {
            batch.into_iter().for_each(|event| apply(&mut compiler, event));
            let update = compiler.update();
            for key in update.gone {
                prop_assert!(chains.remove(&key).is_some(), "{key:?} was not there");
            }
            for key in update.chains {
                chains.insert(key.clone(), Arc::clone(compiler.chain(&key).unwrap()));
            }
            for address in update.addresses {
                match compiler.addresses().get(&address) {
                    Some(verdicts) => addresses.insert(address, verdicts.clone()),
                    None => addresses.remove(&address),
                };
            }
            let fresh = from_scratch(&compiler);
            prop_assert_eq!(&addresses, fresh.addresses());
            prop_assert_eq!(&chains, &fresh.chains);
            prop_assert!(compiler.update().is_empty());
        }
    }
}
