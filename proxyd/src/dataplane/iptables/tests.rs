//! Plans of a few frontends, and what changes of them write.

use std::collections::BTreeMap;
use std::sync::Arc;

use netlink::Family;

use super::fixed::jumps;
use super::names::{Own, Table, clients};
use super::saved::Held;
use super::script::Script;
use super::services::{Plan, Services};
use crate::cluster::{Affinity, Protocol, ServiceName, ServicePortName};
use crate::dataplane::{Node, NodePorts, PodTraffic, Settings};
use crate::service::{Address, Backend, Frontend, FrontendKey, Lists, Masquerade, Resolution};

fn node(pod_traffic: PodTraffic) -> Node {
    Node {
        settings: Settings {
            masquerade_mark: 0x4000,
            masquerade_all: false,
            pod_traffic,
            nodeports: NodePorts::Everywhere,
            drop_invalid: true,
        },
        pod_cidrs: vec!["10.244.0.0/16".parse().unwrap(), "fd00:10::/32".parse().unwrap()],
        nodeport_addresses: Vec::new(),
        service_cidrs: vec!["10.96.0.0/16".parse().unwrap()],
        health_check_ports: vec![31_000],
    }
}

fn owner() -> ServicePortName {
    let service = ServiceName { namespace: "default".into(), name: "web".into() };
    ServicePortName { service, port: "http".into(), protocol: Protocol::Tcp }
}

fn lists(cluster: u8, local: u8, affinity: Option<Affinity>) -> Arc<Lists> {
    let backends = |count| (1..=count).map(|n| Backend { ip: [10, 244, 0, n].into(), port: 8080 });
    Arc::new(Lists {
        owner: owner(),
        cluster: backends(cluster).collect(),
        local: backends(local).collect(),
        hairpin: vec![[10, 244, 0, 1].into()],
        affinity,
    })
}

fn key(address: Address, port: u16) -> FrontendKey {
    FrontendKey { address, protocol: Protocol::Tcp, port }
}

fn cluster_ip() -> FrontendKey {
    key(Address::Ip([10, 96, 0, 10].into()), 80)
}

fn frontend(resolution: Resolution, lists: &Arc<Lists>) -> Frontend {
    let cluster_ip = resolution == Resolution::Cluster(Masquerade::OffCluster);
    Frontend { resolution, cluster_ip, source_ranges: None, lists: Arc::clone(lists) }
}

/// A ClusterIP and a node port; a load balancer with ranges and the Local policy.
fn three(cluster: u8, local: u8, affinity: Option<Affinity>) -> Vec<(FrontendKey, Frontend)> {
    let lists = lists(cluster, local, affinity);
    let mut balancer = frontend(Resolution::ByOrigin, &lists);
    balancer.source_ranges = Some(["192.168.0.0/16".parse().unwrap()].into());
    let cluster = |masquerade| frontend(Resolution::Cluster(masquerade), &lists);
    vec![
        (cluster_ip(), cluster(Masquerade::OffCluster)),
        (key(Address::Node(Family::V4), 30_080), cluster(Masquerade::Always)),
        (key(Address::Ip([203, 0, 113, 1].into()), 80), balancer),
    ]
}

fn services(frontends: &[(FrontendKey, Frontend)], traffic: PodTraffic) -> Services {
    let mut services = Services::new(Family::V4, node(traffic));
    services.change(frontends.iter().map(|(key, frontend)| (*key, Some(frontend))));
    services
}

#[track_caller]
fn rules<'p>(plan: &'p Plan, table: Table, chain: &str) -> &'p [String] {
    plan.get(&(table, chain.to_owned())).and_then(Option::as_deref).unwrap_or_else(|| {
        panic!("no {chain} in {:?}", plan.keys());
    })
}

#[test]
fn every_frontend_leads_to_the_chain_of_its_service_port() {
    let plan = services(&three(3, 1, None), PodTraffic::Source).everything();
    let [cluster, local, external] = Own::ALL.map(|own| own.of(&owner()));
    assert_eq!(
        rules(&plan, Table::Nat, "VIADUCT-ADDRESSES"),
        [
            format!("-d 203.0.113.1/32 -p tcp -m tcp --dport 80 -g {external}"),
            format!("-d 10.96.0.10/32 -p tcp -m tcp --dport 80 -g {cluster}"),
        ]
    );
    assert_eq!(
        rules(&plan, Table::Nat, "VIADUCT-NODEPORTS"),
        [
            "-p tcp -m tcp --dport 30080 -j MARK --set-xmark 0x4000/0x4000".to_owned(),
            format!("-p tcp -m tcp --dport 30080 -g {cluster}"),
        ]
    );
    assert_eq!(
        rules(&plan, Table::Nat, &cluster),
        [
            "-d 10.96.0.10/32 -m comment --comment \"default/web:http/tcp\" -j VIADUCT-ELSEWHERE",
            "-p tcp -m statistic --mode random --probability 0.33333333349 -j DNAT --to-destination 10.244.0.1:8080",
            "-p tcp -m statistic --mode random --probability 0.50000000000 -j DNAT --to-destination 10.244.0.2:8080",
            "-p tcp -j DNAT --to-destination 10.244.0.3:8080",
        ]
    );
    assert_eq!(
        rules(&plan, Table::Nat, &external),
        [
            format!("-s 10.244.0.0/16 -g {cluster}"),
            "-m addrtype --src-type LOCAL -j MARK --set-xmark 0x4000/0x4000".to_owned(),
            format!("-m addrtype --src-type LOCAL -g {cluster}"),
            format!("-g {local}"),
        ]
    );
    let balancer = key(Address::Ip([203, 0, 113, 1].into()), 80);
    assert_eq!(
        rules(&plan, Table::Mangle, &clients(&balancer)),
        ["-s 192.168.0.0/16 -j RETURN", "-j DROP"]
    );
    assert_eq!(
        rules(&plan, Table::Filter, "VIADUCT-CLUSTER-IPS"),
        ["-d 10.96.0.10/32 -j VIADUCT-REJECT"]
    );
    assert_eq!(
        rules(&plan, Table::Nat, "VIADUCT-HAIRPIN"),
        ["-s 10.244.0.1/32 -d 10.244.0.1/32 -j MASQUERADE --random-fully"]
    );
}

#[test]
fn without_local_endpoints_outside_traffic_is_dropped_and_pods_are_served() {
    let plan = services(&three(2, 0, None), PodTraffic::Source).everything();
    let external = rules(&plan, Table::Nat, &Own::External.of(&owner()));
    assert_eq!(external.len(), 3, "{external:?}");
    let [refused] = rules(&plan, Table::Filter, "VIADUCT-NO-ENDPOINTS") else { panic!("one rule") };
    assert!(refused.starts_with("-d 203.0.113.1/32 -p tcp") && refused.ends_with("-j DROP"));
}

#[test]
fn affinity_asks_every_list_before_the_dice() {
    let plan = services(&three(2, 0, Some(Affinity(60))), PodTraffic::Source).everything();
    let rules = rules(&plan, Table::Nat, &Own::Cluster.of(&owner()));
    let seen = "-p tcp -m recent --update --seconds 60 --reap --name VIADUCT-";
    let chosen = "-p tcp -m statistic --mode random --probability 0.50000000000 -m recent --set --name VIADUCT-";
    assert!(rules[1].starts_with(seen) && rules[2].starts_with(seen), "{rules:?}");
    assert!(rules[3].starts_with(chosen), "{rules:?}");
    assert!(rules[4].starts_with("-p tcp -m recent --set --name VIADUCT-"), "{rules:?}");
}

#[test]
fn chances_are_those_that_the_kernel_makes_of_them() {
    // 31 bits: what the kernel draws is below this.
    for count in [2u32, 3, 7, 319, 1000] {
        let mut backends = Vec::new();
        for number in 0..count {
            let [high, low] = (number as u16).to_be_bytes();
            backends.push(Backend { ip: [10, 244, high, low].into(), port: 80 });
        }
        let lists = Arc::new(Lists { cluster: backends, ..Lists::clone(&lists(0, 0, None)) });
        let frontend = frontend(Resolution::Cluster(Masquerade::OffCluster), &lists);
        let plan = services(&[(cluster_ip(), frontend)], PodTraffic::Source).everything();
        let (mut left, mut least, mut most) = (1.0, f64::MAX, 0.0f64);
        for rule in rules(&plan, Table::Nat, &Own::Cluster.of(&owner())).iter().skip(1) {
            let chance = rule.split_once("--probability ").map_or(1.0, |(_, rest)| {
                let printed: f64 = rest.split(' ').next().unwrap().parse().unwrap();
                let kernel = (printed * f64::from(1u32 << 31)).round() / f64::from(1u32 << 31);
                assert_eq!(format!("{kernel:.11}"), rest.split(' ').next().unwrap());
                kernel
            });
            (least, most) = (least.min(left * chance), most.max(left * chance));
            left *= 1.0 - chance;
        }
        assert!((most - least) * f64::from(count) < 1e-6, "{count}: {least} to {most}");
    }
}

#[test]
fn pods_are_told_by_their_interface() {
    let plan =
        services(&three(2, 1, None), PodTraffic::InterfacePrefix("veth".into())).everything();
    assert_eq!(
        rules(&plan, Table::Nat, "VIADUCT-ELSEWHERE"),
        ["! -i veth+ -j MARK --set-xmark 0x4000/0x4000"]
    );
    assert!(rules(&plan, Table::Nat, &Own::External.of(&owner()))[0].starts_with("-i veth+ -g "));
}

#[test]
fn a_changed_endpoint_rewrites_one_chain_and_all_changes_lead_to_what_a_new_plan_would_be() {
    let mut all = Services::new(Family::V4, node(PodTraffic::Source));
    let mut held: Plan = all.everything();
    let mut apply = |all: &mut Services, entries: &[(FrontendKey, Option<Frontend>)]| {
        let mut plan = all.change(entries.iter().map(|(key, frontend)| (*key, frontend.as_ref())));
        plan.extend(all.open());
        let changed: Vec<_> = plan
            .into_iter()
            .filter(|(chain, rules)| held.get(chain).unwrap_or(&None) != rules)
            .collect();
        for (chain, rules) in &changed {
            match rules {
                Some(_) => held.insert(chain.clone(), rules.clone()),
                None => held.remove(chain),
            };
        }
        let fresh: BTreeMap<_, _> = all.frontends().iter().map(|(k, f)| (*k, f.clone())).collect();
        let fresh: Vec<_> = fresh.into_iter().collect();
        assert_eq!(held, services(&fresh, PodTraffic::Source).everything());
        changed
    };
    let some = |frontends: Vec<(FrontendKey, Frontend)>| -> Vec<(FrontendKey, Option<Frontend>)> {
        frontends.into_iter().map(|(key, frontend)| (key, Some(frontend))).collect()
    };
    apply(&mut all, &some(three(2, 1, None)));
    let changed = apply(&mut all, &some(three(3, 1, None)));
    assert_eq!(changed.len(), 1, "{changed:?}");
    apply(&mut all, &some(three(3, 0, Some(Affinity(5)))));
    let gone: Vec<_> = three(3, 0, None).into_iter().map(|(key, _)| (key, None)).collect();
    apply(&mut all, &gone[..1]);
    apply(&mut all, &gone);
}

/// How the kernel holds what is planned.
fn held(services: &Services) -> Held {
    let mut held = Held::default();
    let jumps = jumps(services.restricted());
    Script::new(&held, &services.everything(), jumps, true).committed(&mut held);
    held
}

#[test]
fn a_service_that_goes_is_open_to_nobody_while_it_is_served() {
    let mut frontends = three(2, 1, None);
    let mut other = frontends[2].clone();
    other.0 = key(Address::Ip([203, 0, 113, 2].into()), 80);
    frontends.push(other);
    let mut all = services(&frontends, PodTraffic::Source);
    let mut held = held(&all);
    let mut write = |plan: &Plan, all: &Services| {
        let script = Script::new(&held, plan, jumps(all.restricted()), false);
        let text = script.text.clone();
        script.committed(&mut held);
        text
    };
    let chain = clients(&key(Address::Ip([203, 0, 113, 1].into()), 80));
    // It leaves the load balancer, and then all of it goes.
    let plan = all.change([(frontends[2].0, None)].into_iter());
    let text = write(&plan, &all);
    assert!(text.starts_with("*nat\n") && !text.contains("*mangle"), "{text}");
    let plan = all.open();
    let text = write(&plan, &all);
    assert!(text.starts_with("*mangle\n") && text.contains(&format!("-X {chain}\n")), "{text}");
    assert!(!text.contains("-D PREROUTING") && !text.contains("*nat"), "{text}");
    let gone = [0, 1, 3].map(|at| (frontends[at].0, None));
    let plan = all.change(gone.into_iter());
    let text = write(&plan, &all);
    assert!(!text.contains("*mangle"), "{text}");
    let plan = all.open();
    let text = write(&plan, &all);
    assert!(text.contains("-D PREROUTING") && text.contains("-X VIADUCT-RANGES\n"), "{text}");
    assert!(all.open().is_empty());
    assert_eq!(held, self::held(&all));
}

#[test]
fn who_was_kept_out_is_read_back() {
    let saved = "*mangle\n:VIADUCT-RANGES - [0:0]\n-A VIADUCT-RANGES ";
    let balancer = key(Address::Ip([203, 0, 113, 1].into()), 80);
    let rule = format!("-d 203.0.113.1/32 -p tcp -m tcp --dport 80 -g {}", clients(&balancer));
    let held = Held::parse(&format!("{saved}{rule}\nCOMMIT\n"));
    assert_eq!(held.restricted, [balancer]);
    for strange in ["-d", "-j DROP", &format!("-s 10.0.0.0/8 {rule}")] {
        assert!(Held::parse(&format!("{saved}{strange}\nCOMMIT\n")).restricted.is_empty());
    }
    // Until everything else is as it should be, these stay restricted.
    let mut services = services(&three(2, 1, None)[..2], PodTraffic::Source);
    services.were_restricted(held.restricted.iter().copied());
    let plan = services.everything();
    assert_eq!(rules(&plan, Table::Mangle, "VIADUCT-RANGES"), [rule]);
    assert_eq!(plan.get(&(Table::Mangle, clients(&balancer))), None);
    services.open();
    assert!(!services.restricted());
}
