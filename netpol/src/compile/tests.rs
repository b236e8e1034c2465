//! The compiler against itself: whatever happened in between, the state is that of the world as it is.

use proptest::prelude::*;

use super::*;
use crate::generate::{
    address, cluster_policy, name, namespace, node, pod, pod_name, policy, policy_name,
};

const NODE: &str = "n1";

#[derive(Clone, Debug)]
enum Event {
    Change(Change),
    Attach(Arc<str>, Attachment),
    Detach(Arc<str>),
}

fn event() -> impl Strategy<Value = Event> {
    let (uid, link) = (name(&["", "1"]), name(&["", "v1", "v2"]));
    let attachment = (pod_name(), uid, prop::collection::vec(address(), 1..3), link)
        .prop_map(|(pod, uid, addresses, interface)| Attachment { pod, uid, addresses, interface });
    prop_oneof![
        4 => (pod_name(), prop::option::weighted(0.8, pod())).prop_map(|(n, p)| Event::Change(Change::Pod(n, p))),
        2 => (name(&["x", "y"]), prop::option::weighted(0.9, namespace()))
            .prop_map(|(n, v)| Event::Change(Change::Namespace(n, v))),
        1 => (name(&["n1", "n2"]), prop::option::weighted(0.8, node()))
            .prop_map(|(n, v)| Event::Change(Change::Node(n, v))),
        3 => (policy_name(), prop::option::weighted(0.8, policy()))
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
        let mut sources = Sources::new();
        for batch in batches {
            batch.into_iter().for_each(|event| apply(&mut compiler, event));
            let update = compiler.update();
            for key in update.gone {
                prop_assert!(chains.remove(&key).is_some(), "{key:?} was not there");
            }
            for (key, touched) in update.chains {
                let new = compiler.chain(&key).unwrap();
                match touched {
                    Touched::Whole => drop(chains.insert(key, Arc::clone(new))),
                    Touched::Addresses(addresses) => {
                        let known = Arc::make_mut(chains.get_mut(&key).unwrap());
                        known.put(Chain::clone(new), &addresses);
                    }
                }
            }
            for address in update.addresses {
                match compiler.addresses().get(&address) {
                    Some(verdicts) => addresses.insert(address, verdicts.clone()),
                    None => addresses.remove(&address),
                };
            }
            for link in update.links {
                match compiler.sources().get(&link) {
                    Some(from) => sources.insert(link, from.clone()),
                    None => sources.remove(&link),
                };
            }
            let fresh = from_scratch(&compiler);
            prop_assert_eq!(&sources, fresh.sources());
            prop_assert_eq!(&addresses, fresh.addresses());
            prop_assert_eq!(&chains, &fresh.chains);
            prop_assert!(compiler.update().is_empty());
        }
    }
}

#[test]
fn where_others_are_denied_every_known_address_is_told() {
    let mut compiler = Compiler::new(NODE);
    compiler.deny_unknown_pods();
    let pod = |node: &str, address: &str| {
        let addresses = [address.parse().unwrap()].into();
        Some(Pod { node: node.into(), addresses, ..Pod::default() })
    };
    let name = |name: &str| PodName { namespace: "x".into(), name: name.into() };
    compiler.apply(Change::Pod(name("a"), pod(NODE, "10.0.0.1")));
    compiler.apply(Change::Pod(name("b"), pod("elsewhere", "10.0.1.1")));
    compiler.update();
    assert!(compiler.addresses().is_empty(), "the node has no pods yet");
    let network = crate::Cidr::new("10.0.0.0".parse().unwrap(), 24).unwrap();
    let node = Node { pod_networks: vec![network], ..Node::default() };
    compiler.apply(Change::Node(NODE.into(), Some(node)));
    assert!(compiler.update().networks);
    assert_eq!(compiler.denied_networks(), [network]);
    let attached = Attachment {
        pod: name("c"),
        uid: "1".into(),
        addresses: vec!["10.0.0.3".parse().unwrap()],
        interface: "".into(),
    };
    compiler.attach("1".into(), attached);
    assert!(!compiler.update().networks);
    let known: Vec<String> = compiler.addresses().keys().map(ToString::to_string).collect();
    assert_eq!(known, ["10.0.0.1", "10.0.0.3"]);
    assert!(compiler.addresses().values().all(|verdicts| *verdicts == [None, None]));
    compiler.apply(Change::Pod(name("a"), None));
    assert_eq!(compiler.update().addresses, BTreeSet::from(["10.0.0.1".parse().unwrap()]));
}
