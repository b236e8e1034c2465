//! Random policies: the evaluator says who may reach whom, and packets must agree.
//!
//! `VIADUCT_SEED` replays a run (it is printed), `VIADUCT_WORLDS` says how many worlds there are.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use netpol::evaluate::{End, Family, Flow, Verdict, evaluate};
use netpol::{Labels, Namespace, PodName, PolicyName, Protocol, World as Model};
use serde_json::{Value, json};
use testnet::manifest::documents;
use testnet::{Host, Pod};

use super::world::World;

const NAMESPACES: [&str; 2] = ["x", "y"];
const PODS: [&str; 3] = ["a", "b", "c"];
const PORTS: [u16; 2] = [8080, 8081];
/// A connection that is not there after this time is denied; one that is denied wrongly is asked again.
const PATIENCE: Duration = Duration::from_millis(400);
const SOON: Duration = Duration::from_secs(10);

/// Small, and the same for a seed everywhere.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % sides
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.roll(of.len())]
    }

    fn list(&mut self, most: usize, mut one: impl FnMut(&mut Dice) -> Value) -> Value {
        (0..self.roll(most + 1)).map(|_| one(self)).collect()
    }

    fn labels(&mut self) -> BTreeMap<&'static str, &'static str> {
        (0..self.roll(3)).map(|_| (self.pick(&["k", "l"]), self.pick(&["1", "2"]))).collect()
    }

    fn selector(&mut self) -> Value {
        let key = self.pick(&["k", "l"]);
        match self.roll(6) {
            0 | 1 => json!({}),
            2 => json!({"matchLabels": {key: self.pick(&["1", "2"])}}),
            3 => {
                json!({"matchExpressions": [{"key": key, "operator": "NotIn", "values": [self.pick(&["1", "2"])]}]})
            }
            4 => json!({"matchExpressions": [{"key": key, "operator": "Exists"}]}),
            _ => json!({"matchExpressions": [{"key": key, "operator": "DoesNotExist"}]}),
        }
    }

    fn network(&mut self, addresses: &[IpAddr]) -> String {
        let address = self.pick(addresses);
        let lengths = if address.is_ipv4() { [0, 24, 32] } else { [0, 64, 128] };
        netpol::Cidr::new(address, self.pick(&lengths)).expect("a length that fits").to_string()
    }

    fn peer(&mut self, addresses: &[IpAddr]) -> Value {
        match self.roll(5) {
            0 => json!({"podSelector": self.selector()}),
            1 => json!({"namespaceSelector": self.selector()}),
            2 => json!({"namespaceSelector": self.selector(), "podSelector": self.selector()}),
            3 => json!({"ipBlock": {"cidr": self.network(addresses)}}),
            _ => {
                json!({"ipBlock": {"cidr": self.network(addresses), "except": [self.network(addresses)]}})
            }
        }
    }

    fn port(&mut self) -> Value {
        match self.roll(6) {
            0 => json!({"protocol": "TCP"}),
            1 => json!({"protocol": "UDP"}),
            2 => json!({"port": "web"}),
            3 => json!({"port": 8000, "endPort": self.pick(&[8079u16, 8080, 8090])}),
            _ => json!({"port": self.pick(&PORTS)}),
        }
    }

    fn policy(&mut self, addresses: &[IpAddr]) -> Value {
        let rules = |dice: &mut Dice, side: &str| {
            dice.list(2, |dice| {
                let peers = dice.list(2, |dice| dice.peer(addresses));
                let ports = dice.list(2, Dice::port);
                json!({side: peers, "ports": ports})
            })
        };
        let types = self.pick(&[&["Ingress"][..], &["Egress"], &["Ingress", "Egress"]]);
        json!({
            "podSelector": self.selector(), "policyTypes": types,
            "ingress": rules(self, "from"), "egress": rules(self, "to"),
        })
    }

    fn cluster_policy(&mut self, addresses: &[IpAddr]) -> Value {
        let rules = |dice: &mut Dice, egress: bool| {
            dice.list(2, |dice| {
                let peer = match dice.roll(if egress { 3 } else { 2 }) {
                    0 => json!({"namespaces": dice.selector()}),
                    1 => json!({"pods": {"namespaceSelector": dice.selector(), "podSelector": dice.selector()}}),
                    _ => json!({"networks": [dice.network(addresses)]}),
                };
                let mut rule = json!({
                    "action": dice.pick(&["Accept", "Deny", "Pass"]),
                    if egress { "to" } else { "from" }: [peer],
                });
                if dice.roll(2) == 0 {
                    rule["protocols"] = json!([{"tcp": {"destinationPort": {"number": dice.pick(&PORTS)}}}]);
                }
                rule
            })
        };
        json!({
            "tier": self.pick(&["Admin", "Baseline"]), "priority": self.roll(3),
            "subject": {"namespaces": self.selector()},
            "ingress": rules(self, false), "egress": rules(self, true),
        })
    }
}

type Pods<'a> = BTreeMap<(&'static str, &'static str), Pod<'a>>;

/// Writes one random world for the daemons, and tells what the evaluator needs of it.
fn write(world: &World, pods: &Pods<'_>, dice: &mut Dice) -> (Model, String) {
    let addresses: Vec<IpAddr> = pods.values().flat_map(Pod::ips).collect();
    let mut model = Model::default();
    let mut objects: Vec<Value> = Vec::new();
    for name in NAMESPACES {
        let labels = dice.labels();
        objects.push(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}));
        let own = [("kubernetes.io/metadata.name", name)];
        let labels: Labels = labels.into_iter().chain(own).collect();
        model.namespaces.insert(name.into(), Namespace { labels, ..Namespace::default() });
    }
    for ((namespace, name), pod) in pods {
        let labels = dice.labels();
        let ips: Vec<Value> = pod.ips().iter().map(|ip| json!({"ip": ip})).collect();
        objects.push(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace, "labels": labels},
            "spec": {"nodeName": pod.node().name(), "containers": [{"ports": [{"name": "web", "containerPort": PORTS[0]}]}]},
            "status": {"phase": "Running", "podIPs": ips},
        }));
        let port =
            netpol::ContainerPort { name: "web".into(), protocol: Protocol::Tcp, number: PORTS[0] };
        model.pods.insert(
            PodName { namespace: (*namespace).into(), name: (*name).into() },
            netpol::Pod {
                labels: labels.into_iter().collect(),
                addresses: pod.ips().into(),
                node: pod.node().name().into(),
                ports: [port].into(),
                ..netpol::Pod::default()
            },
        );
    }
    for number in 0..dice.roll(5) {
        let (namespace, name) = (dice.pick(&NAMESPACES), format!("p{number}"));
        let spec = dice.policy(&addresses);
        let parsed = serde_json::from_value(spec.clone()).expect("a spec");
        let audit = dice.roll(4) == 0;
        let (policy, _) = netpol::api::policy(&parsed, audit);
        let annotations =
            if audit { json!({"viaduct.io/policy-mode": "audit"}) } else { json!({}) };
        let key = PolicyName { namespace: namespace.into(), name: name.as_str().into() };
        model.policies.insert(key, policy);
        objects.push(json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": name, "namespace": namespace, "annotations": annotations}, "spec": spec,
        }));
    }
    for number in 0..dice.roll(3) {
        let name = format!("c{number}");
        let spec = dice.cluster_policy(&addresses);
        let parsed = serde_json::from_value(spec.clone()).expect("a spec");
        let (policy, faults) = netpol::api::cluster_policy(&parsed);
        model
            .cluster_policies
            .insert(Arc::from(name.as_str()), policy.unwrap_or_else(|| panic!("{faults:?}")));
        objects.push(json!({
            "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
            "metadata": {"name": name}, "spec": spec,
        }));
    }
    let text: String = objects.iter().map(|object| documents(&[object])).collect();
    world.write("world", &text);
    (model, text)
}

/// A connection, and whether it is to be there.
type Probe<'p, 'a> = (&'p Pod<'a>, IpAddr, u16, bool, String);

fn wrong<'p, 'a>(probes: Vec<Probe<'p, 'a>>) -> Vec<Probe<'p, 'a>> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = probes
            .into_iter()
            .map(|probe| {
                scope.spawn(move || {
                    let (from, to, port, expected, _) = &probe;
                    let found = from.tcp_within((*to, *port), PATIENCE).is_ok();
                    (found != *expected).then_some(probe)
                })
            })
            .collect();
        threads.into_iter().filter_map(|thread| thread.join().expect("a probe")).collect()
    })
}

#[test]
fn packets_do_what_the_evaluator_says() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
    let seed = number("VIADUCT_SEED").unwrap_or(now | 1);
    let worlds = number("VIADUCT_WORLDS").unwrap_or(8);
    eprintln!("VIADUCT_SEED={seed}");
    let mut dice = Dice(seed);
    let world = World::new();
    let _daemons = world.daemons("backend: host-gw\n");
    let networks = [world.network(&world.n1), world.network(&world.n2)];
    let mut pods = Pods::new();
    for namespace in NAMESPACES {
        for (at, name) in PODS.into_iter().enumerate() {
            let node = [&world.n1, &world.n2][at % 2];
            let pod = node.try_pod_of(&networks[at % 2], namespace, name);
            pods.insert(
                (namespace, name),
                pod.unwrap_or_else(|output| panic!("{}", output.stdout)),
            );
        }
    }
    let _servers: Vec<_> =
        pods.values().flat_map(|pod| PORTS.map(|port| pod.serve_tcp(port))).collect();
    for round in 0..worlds {
        let (model, text) = write(&world, &pods, &mut dice);
        let mut probes: Vec<Probe<'_, '_>> = Vec::new();
        for (from_name, from) in &pods {
            for to_name in pods.keys().filter(|name| *name != from_name) {
                let end = |(namespace, name): &(&str, &str)| {
                    End::Pod(PodName { namespace: (*namespace).into(), name: (*name).into() })
                };
                for family in Family::ALL {
                    for port in PORTS {
                        let protocol = Some(Protocol::Tcp);
                        let flow = Flow::between(
                            &model,
                            &end(from_name),
                            &end(to_name),
                            family,
                            protocol,
                            port,
                        );
                        let flow = flow.expect("ends that are there");
                        let answer = evaluate(&model, &flow);
                        let expected = match answer.verdict {
                            Verdict::Allowed => true,
                            Verdict::Denied => false,
                            Verdict::Unspecified => continue,
                        };
                        let why = format!(
                            "{from_name:?} to {to_name:?} {}:{port}: {}; {}",
                            flow.to_address, answer.egress, answer.ingress
                        );
                        probes.push((from, flow.to_address, port, expected, why));
                    }
                }
            }
        }
        let until = Instant::now() + SOON;
        let all = probes.len();
        let mut left = wrong(probes);
        while !left.is_empty() && Instant::now() < until {
            left = wrong(left);
        }
        let told: Vec<String> =
            left.iter().map(|(.., expected, why)| format!("not {expected}: {why}")).collect();
        assert!(
            told.is_empty(),
            "VIADUCT_SEED={seed}, world {round}: {} of {all} are wrong:\n{}\n{text}",
            told.len(),
            told.join("\n")
        );
    }
}
