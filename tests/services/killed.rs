//! The daemon is killed in the middle of its work, again and again.
//!
//! The truth is what an undisturbed daemon makes of the same objects in a namespace where there is nothing.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use testnet::manifest::{Endpoint, EndpointSlice, Service, documents};
use testnet::{Family, Host, Namespace, Proxyd, programs};

use super::dice::Dice;
use super::programmed::Programmed;
use super::world::{Addressed, Backend, PORT, TARGET, World, external, vip};
use super::{FAMILIES, SILENCE, not_in_mode};

const SERVICES: u64 = 10;
const KILLS: u64 = 200;
/// After every so many kills all is compared.
const COMPARED: u64 = 10;
/// The kill comes so many microseconds after the change, at most.
const MOMENT: u64 = 15_000;

/// The seed of a run that shall be like another: what a failure shows.
fn seed() -> u64 {
    std::env::var("VIADUCT_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Condition {
    Absent,
    Ready,
    Terminating,
    NotReady,
}

/// What a service shall be.
#[derive(Clone, Debug)]
struct Wish {
    families: &'static [Family],
    kind: u64,
    affinity: Option<u32>,
    internal_local: bool,
    external_local: bool,
    ranges: bool,
    more_ports: u64,
    endpoints: Vec<Condition>,
}

impl Wish {
    fn new(dice: &mut Dice, pods: usize) -> Wish {
        let mut wish = Wish {
            families: &FAMILIES,
            kind: dice.below(4),
            affinity: None,
            internal_local: false,
            external_local: false,
            ranges: false,
            more_ports: dice.below(3),
            endpoints: vec![Condition::Absent; pods],
        };
        wish.endpoints.iter_mut().for_each(|condition| *condition = roll(dice));
        for _ in 0..dice.below(3) {
            wish.alter(dice);
        }
        wish
    }

    /// Another in one respect, most often an endpoint.
    fn alter(&mut self, dice: &mut Dice) {
        match dice.below(14) {
            0 => {
                self.families =
                    [&FAMILIES as &[Family], &[Family::V4], &[Family::V6]][dice.below(3) as usize]
            }
            1 => self.kind = dice.below(4),
            2 => self.affinity = [None, Some(60), Some(10_800)][dice.below(3) as usize],
            3 => self.internal_local ^= true,
            4 => self.external_local ^= true,
            5 => self.ranges ^= true,
            6 => self.more_ports = dice.below(3),
            7 => self.endpoints.iter_mut().for_each(|condition| *condition = roll(dice)),
            _ => {
                let at = dice.below(self.endpoints.len() as u64) as usize;
                self.endpoints[at] = roll(dice);
            }
        }
    }

    fn service(&self, number: u8) -> Service {
        let addresses = |of: fn(Family, u8) -> IpAddr| -> Vec<IpAddr> {
            self.families.iter().map(|family| of(*family, number)).collect()
        };
        let policy = |local| if local { "Local" } else { "Cluster" };
        let mut service = Service::new(&name(number)).cluster_ips(&addresses(vip));
        for (at, (name, protocol, port)) in (0..).zip(self.ports()) {
            service = service.port(name, protocol, port.into());
            if self.has_node_ports() {
                service = service.node_port(node_port(number) + at);
            }
        }
        service = match self.kind {
            2 => service.load_balancer(&addresses(external)),
            3 => service.spec("externalIPs", addresses(external)),
            _ => service,
        };
        if self.ranges {
            service = service.spec("loadBalancerSourceRanges", ["192.168.0.0/16", "fd00:192::/32"]);
        }
        if let Some(seconds) = self.affinity {
            service = service.affinity(seconds);
        }
        service
            .spec("internalTrafficPolicy", policy(self.internal_local))
            .spec("externalTrafficPolicy", policy(self.external_local))
    }

    fn has_node_ports(&self) -> bool {
        matches!(self.kind, 1 | 2)
    }

    fn ports(&self) -> Vec<(&'static str, &'static str, u16)> {
        let all = [("tcp", "TCP", PORT), ("udp", "UDP", PORT), ("second", "TCP", PORT + 1)];
        all[..=self.more_ports as usize].to_vec()
    }

    fn manifest(&self, number: u8, pods: &[Backend<'_>]) -> String {
        let endpoints = pods.iter().zip(&self.endpoints).filter_map(|(pod, condition)| {
            let endpoint = Endpoint::of(pod);
            match condition {
                Condition::Absent => None,
                Condition::Ready => Some(endpoint),
                Condition::Terminating => Some(endpoint.terminating()),
                Condition::NotReady => Some(endpoint.not_ready()),
            }
        });
        let endpoints: Vec<Endpoint> = endpoints.collect();
        let slices = FAMILIES.map(|family| {
            let slice = EndpointSlice::new(&name(number), family, &endpoints);
            self.ports()
                .iter()
                .fold(slice, |slice, (name, protocol, _)| slice.port(name, protocol, TARGET.into()))
        });
        documents(&[&self.service(number), &slices[0], &slices[1]])
    }

    /// Who answers: the ready, or else those that still serve.
    fn servers(&self, pods: &[Backend<'_>], local: bool) -> BTreeSet<String> {
        let are = |wanted: Condition| -> BTreeSet<String> {
            let all = pods.iter().zip(&self.endpoints).filter(|(pod, condition)| {
                **condition == wanted && (!local || pod.node().name() == "n1")
            });
            all.map(|(pod, _)| pod.namespace().name().to_owned()).collect()
        };
        let ready = are(Condition::Ready);
        if ready.is_empty() { are(Condition::Terminating) } else { ready }
    }
}

fn roll(dice: &mut Dice) -> Condition {
    [
        Condition::Ready,
        Condition::Ready,
        Condition::Absent,
        Condition::Terminating,
        Condition::NotReady,
    ][dice.below(5) as usize]
}

fn name(number: u8) -> String {
    format!("service-{number}")
}

/// That of the first port; the others' follow.
fn node_port(number: u8) -> u16 {
    30_000 + 10 * u16::from(number)
}

/// What a daemon that nobody disturbs makes of the objects of the first node.
fn truth(world: &World) -> Vec<Programmed> {
    let line = Proxyd::command_line(&world.n1, "run", &["--oneshot"]);
    let line: Vec<&str> = line.iter().map(String::as_str).collect();
    let empty = Namespace::new("truth");
    empty.command(&programs::proxyd().display().to_string(), &line);
    Programmed::of(&empty)
}

/// One service is added, changed or removed.
fn change(
    proxyd: &Proxyd<'_>,
    wishes: &mut [Option<Wish>],
    pods: &[Backend<'_>],
    dice: &mut Dice,
) -> String {
    let at = dice.below(SERVICES) as usize;
    let number = at as u8 + 10;
    let wish = match wishes[at].take() {
        Some(_) if dice.one_in(6) => None,
        Some(mut wish) => {
            wish.alter(dice);
            Some(wish)
        }
        None => Some(Wish::new(dice, pods.len())),
    };
    match &wish {
        Some(wish) => proxyd.write(&name(number), &wish.manifest(number, pods)),
        None => proxyd.remove(&name(number)),
    }
    let told = format!("{}: {wish:?}", name(number));
    wishes[at] = wish;
    told
}

/// The servers of a service that is chosen at random answer, and no others.
fn assert_served_as_wished(
    world: &World,
    wishes: &[Option<Wish>],
    pods: &[Backend<'_>],
    dice: &mut Dice,
    when: &str,
) {
    let at = dice.below(SERVICES) as usize;
    let Some(wish) = &wishes[at] else { return };
    let number = at as u8 + 10;
    for family in wish.families {
        let what = format!("{when}: {family:?} of {}, {wish:?}", name(number));
        let inside = wish.servers(pods, wish.internal_local);
        assert_served_by(&world.n1, (vip(*family, number), PORT), &inside, &what);
        if wish.has_node_ports() {
            let outside = wish.servers(pods, wish.external_local);
            let to = (world.n1.ip(*family), node_port(number));
            assert_served_by(&world.lan, to, &outside, &what);
        }
    }
}

#[track_caller]
fn assert_served_by(from: &impl Host, to: (IpAddr, u16), by: &BTreeSet<String>, what: &str) {
    if by.is_empty() {
        assert!(from.tcp_within(to, SILENCE).is_err(), "{to:?}, {what}");
        return;
    }
    let ask = |_| from.tcp(to).unwrap_or_else(|error| panic!("{to:?}, {what}: {error}")).server;
    let seen: BTreeSet<String> = (0..10).map(ask).collect();
    assert!(seen.is_subset(by), "{to:?}, {what}: {seen:?} instead of {by:?}");
}

#[test]
fn killed_at_any_moment_it_leaves_no_half_service_and_comes_back_to_the_whole_truth() {
    if not_in_mode(
        "ipvs",
        "in IPVS, node ports are at the addresses of a node: no two nodes have the same tables",
    ) {
        return;
    }
    let seed = seed();
    let mut dice = Dice(seed);
    let world = World::new();
    let pods = [("a", &world.n1), ("b", &world.n1), ("c", &world.n2), ("d", &world.n2)]
        .map(|(name, node)| world.backend(node, name));
    let mut proxyd = world.start(&[]);
    let mut wishes: Vec<Option<Wish>> = vec![None; SERVICES as usize];
    let mut known: Option<Vec<Programmed>> = None;
    for number in 1..=KILLS {
        let changes = if known.is_some() { 1 } else { 1 + dice.below(3) };
        let told: Vec<String> =
            (0..changes).map(|_| change(&proxyd, &mut wishes, &pods, &mut dice)).collect();
        let moment = Duration::from_micros(dice.below(MOMENT));
        std::thread::sleep(moment);
        proxyd.kill();
        let when = format!("seed {seed}, kill {number} after {moment:?} of {told:?}");
        let left = Programmed::at_rest(world.n1.namespace());
        for left in &left {
            assert!(left.flaws().is_empty(), "{when}: {:#?}", left.flaws());
        }
        if let Some(before) = known.take() {
            assert_before_or_after(&left, &before, &truth(&world), &when);
        }
        // Some of the next kills come while it begins.
        if number % COMPARED != 0 && dice.one_in(4) {
            proxyd.spawn_again();
            continue;
        }
        proxyd.start_again();
        if number % COMPARED == 0 {
            let now = Programmed::of(world.n1.namespace());
            for (is, should_be) in now.iter().zip(&truth(&world)) {
                assert_eq!(
                    (is.differences(should_be), is.flaws()),
                    (vec![], &[] as &[_]),
                    "{when}"
                );
            }
            assert_served_as_wished(&world, &wishes, &pods, &mut dice, &when);
            known = Some(now);
        }
    }
}

/// A change is in force as a whole or not at all.
#[track_caller]
fn assert_before_or_after(
    left: &[Programmed],
    before: &[Programmed],
    after: &[Programmed],
    when: &str,
) {
    for (at, left) in left.iter().enumerate() {
        let (old, new) = (left.differences(&before[at]), left.differences(&after[at]));
        assert!(old.is_empty() || new.is_empty(), "{when}: neither {old:#?} nor {new:#?}");
    }
}
