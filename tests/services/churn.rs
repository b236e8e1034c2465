//! Changes while traffic flows, and many of them.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use testnet::manifest::{Endpoint, documents};
use testnet::{Family, Host};

use super::dice::Dice;
use super::world::{
    Addressed, Backend, PORT, World, both, external, node_port_service, service, slices, vip,
    with_slices,
};
use super::{FAMILIES, SILENCE, servers};

/// Connects to a TCP port again and again while `work` is done; returns how many attempts there were,
/// and what went wrong. Lost packets are counted as what the client's kernel had to send again, so that
/// a machine that is merely slow fails nobody.
pub(crate) fn meanwhile(
    client: &impl Host,
    to: (std::net::IpAddr, u16),
    work: impl FnOnce(),
) -> (usize, Vec<String>) {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let probing = client.namespace().spawn(move || {
        let (mut attempts, mut failures) = (0, Vec::new());
        let before = syns_sent_again();
        let end = Instant::now() + Duration::from_secs(200);
        while !stopped.load(Ordering::Relaxed) && Instant::now() < end {
            attempts += 1;
            let (limit, began) = (Duration::from_secs(10), Instant::now());
            if let Err(error) = std::net::TcpStream::connect_timeout(&to.into(), limit) {
                failures.push(error.kind().to_string());
            }
            // The others need their time too, where everything is slow.
            std::thread::sleep(began.elapsed().max(Duration::from_millis(1)));
        }
        if !stopped.load(Ordering::Relaxed) {
            failures.push("it took longer than it was looked at".to_owned());
        }
        let again = syns_sent_again() - before;
        if again > 0 {
            failures.push(format!("{again} SYNs sent again"));
        }
        (attempts, failures)
    });
    work();
    stop.store(true, Ordering::Relaxed);
    probing.join().unwrap()
}

/// How many SYNs the calling thread's namespace has sent more than once.
fn syns_sent_again() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/net/netstat").unwrap();
    let [names, values] = [0, 1].map(|line| text.lines().nth(line).unwrap().split(' '));
    let count = names.zip(values).find(|(name, _)| *name == "TCPSynRetrans").unwrap().1;
    count.parse().unwrap()
}

#[test]
fn no_connection_fails_while_endpoints_change() {
    let world = World::new();
    let [a, b, c] = ["a", "b", "c"].map(|name| world.backend(&world.n1, name));
    let client = world.pod(&world.n1, "client");
    let proxyd = world.start(&[]);
    let (a, b, c) = (Endpoint::of(&a), Endpoint::of(&b), Endpoint::of(&c));
    let states = [
        vec![a.clone()],
        vec![a.clone(), b.clone(), c.clone()],
        vec![c.clone()],
        vec![b.clone(), c.clone()],
        vec![b.clone().terminating(), a.clone().terminating()],
        vec![a, b],
    ];
    for affinity in [false, true] {
        let web = node_port_service("web", 10, 30080);
        let web = if affinity { web.affinity(1) } else { web };
        proxyd.write("web", &documents(&[&web]));
        proxyd.apply("slices", &slices("web", &states[0]));
        for family in FAMILIES {
            let change = || {
                for endpoints in states.iter().chain(&states) {
                    proxyd.apply("slices", &slices("web", endpoints));
                }
            };
            let to = (vip(family, 10), PORT);
            let (attempts, failures) = meanwhile(&client, to, change);
            assert!(attempts > 50 && failures.is_empty(), "{attempts} attempts: {failures:?}");
        }
    }
}

#[test]
fn no_connection_fails_while_the_daemon_restarts() {
    let world = World::new();
    let [a, b] = ["a", "b"].map(|name| world.backend(&world.n1, name));
    let mut proxyd = world.start(&[]);
    let web = node_port_service("web", 10, 30080);
    proxyd.apply("web", &with_slices(&web, "web", &[Endpoint::of(&a), Endpoint::of(&b)]));
    let to = (world.n1.v4(), 30080);
    let (attempts, failures) = meanwhile(&world.lan, to, || {
        for _ in 0..3 {
            proxyd.stop();
            proxyd.start_again();
            proxyd.kill();
            proxyd.start_again();
        }
    });
    assert!(attempts > 100 && failures.is_empty(), "{attempts} attempts: {failures:?}");
}

/// What a service is at some moment.
#[derive(Clone, Debug)]
struct State {
    kind: u64,
    endpoints: Vec<usize>,
}

const SERVICES: usize = 8;

fn write(proxyd: &testnet::Proxyd<'_>, number: usize, state: Option<&State>, pods: &[Backend<'_>]) {
    let name = format!("service-{number}");
    let own = number as u8 + 10;
    let Some(state) = state else { return proxyd.remove(&name) };
    let node_port = node_port_service(&name, own, 30_100 + u16::from(own));
    let object = match state.kind {
        0 => service(&name, own),
        1 => node_port,
        2 => node_port.load_balancer(&both(external, own)),
        _ => service(&name, own).spec("externalIPs", both(external, own)),
    };
    let endpoints: Vec<Endpoint> =
        state.endpoints.iter().map(|at| Endpoint::of(&pods[*at])).collect();
    proxyd.write(&name, &with_slices(&object, &name, &endpoints));
}

#[track_caller]
fn verify(world: &World, number: usize, state: Option<&State>, family: Family, seed: u64) {
    let own = number as u8 + 10;
    let what = format!("service {number} with seed {seed}: {state:?}");
    let has = |kinds: &[u64]| state.is_some_and(|state| kinds.contains(&state.kind));
    for (there, to) in [
        (state.is_some(), (vip(family, own), PORT)),
        (has(&[1, 2]), (world.n1.ip(family), 30_100 + u16::from(own))),
        (has(&[2, 3]), (external(family, own), PORT)),
    ] {
        let expected: Vec<String> = match state {
            Some(state) if there => state.endpoints.iter().map(|at| format!("pod{at}")).collect(),
            _ => Vec::new(),
        };
        if expected.is_empty() {
            let seen = world.n1.tcp_within(to, SILENCE / 2).map_err(|error| error.kind());
            assert!(seen.is_err(), "{what}: {seen:?} at {to:?}");
            if there {
                assert_eq!(seen, Err(ErrorKind::ConnectionRefused), "{what} at {to:?}");
            }
        } else {
            assert_eq!(servers(&world.n1, to), expected, "{what} at {to:?}");
        }
    }
}

#[test]
fn after_many_changes_all_is_as_the_objects_say() {
    let world = World::new();
    let pods = [0, 1, 2].map(|number| world.backend(&world.n1, &format!("pod{number}")));
    let mut proxyd = world.start(&[]);
    let mut states: [Option<State>; SERVICES] = Default::default();
    for seed in 0..6 {
        let mut dice = Dice(seed);
        for _ in 0..40 {
            let number = dice.below(SERVICES as u64) as usize;
            let state = (dice.below(5) > 0).then(|| State {
                kind: dice.below(4),
                endpoints: (0..pods.len()).filter(|_| dice.below(2) == 0).collect(),
            });
            if state.is_some() || states[number].is_some() {
                write(&proxyd, number, state.as_ref(), &pods);
                states[number] = state;
            }
            // Some changes come together, some do not.
            std::thread::sleep(Duration::from_millis(dice.below(4) * 5));
        }
        if seed == 3 {
            proxyd.kill();
            proxyd.start_again();
        }
        proxyd.await_sync();
        // A SYN that nobody answered is remembered untranslated for two minutes, and the kernel gives its
        // source port away again within seconds.
        world.n1.namespace().command("conntrack", &["--flush"]);
        for (number, state) in states.iter().enumerate() {
            let family = FAMILIES[number % 2];
            verify(&world, number, state.as_ref(), family, seed);
        }
    }
}
