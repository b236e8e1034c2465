//! What happens between the daemon and the API server: nothing of it disturbs the traffic.

use std::time::{Duration, Instant};

use testnet::manifest::{Endpoint, documents};
use testnet::{Family, Host, eventually};

use super::cable::Cable;
use super::prober::Prober;
use super::world::{PORT, World, service, slices, vip};
use super::{FAMILIES, SOON, say};

const CUTS: u32 = 200;
/// Pauses of the daemon between two attempts are at most two seconds; the machine may be busy.
const BACK_WITHIN: Duration = Duration::from_secs(10);

/// One steady service, and one whose endpoint moves to and fro between two pods.
fn steady_and_moving(world: &World, steady: &[Endpoint], moving: &[Endpoint]) {
    world.server.apply(&(documents(&[&service("steady", 40)]) + &slices("steady", steady)));
    world.server.apply(&(documents(&[&service("moving", 41)]) + &slices("moving", moving)));
}

#[test]
fn two_hundred_cuts_while_objects_change_disturb_nobody_and_lose_nothing() {
    let Some(world) = World::with_nodes() else { return };
    let [a, b] = ["a", "b"].map(|name| world.backend(&world.n1, name));
    let client = world.pod(&world.n1, "client");
    steady_and_moving(&world, &[Endpoint::of(&a)], &[Endpoint::of(&a)]);
    let cable = Cable::of(world.server);
    let daemon = world.start_at(cable.port());
    let prober = Prober::start(&client, (vip(Family::V4, 40), PORT).into());
    let mut names: Vec<(String, u8)> = Vec::new();
    for cut in 0..CUTS {
        // Each time the daemon is somewhere else: connecting, listing, watching.
        std::thread::sleep(Duration::from_millis(u64::from(cut * 7 % 40)));
        cable.cut();
        if cut % 20 == 0 {
            let pod = if cut % 40 == 0 { &b } else { &a };
            world.server.apply(&slices("moving", &[Endpoint::of(pod)]));
            let number = 50 + (cut / 20) as u8;
            let name = format!("new-{number}");
            world.apply(&[&service(&name, number)]);
            if let Some((old, number)) = names.last() {
                world.delete(&[&service(old, *number)]);
            }
            names.push((name, number));
        }
    }
    let connections = cable.accepted();
    let (_, last) = names.pop().unwrap();
    for family in FAMILIES {
        eventually("the last state is in force", BACK_WITHIN, || {
            let rules = world.n1.namespace().ruleset();
            let stale: Vec<_> = names
                .iter()
                .filter(|(_, number)| rules.contains(&vip(family, *number).to_string()))
                .collect();
            match (stale.is_empty(), rules.contains(&vip(family, last).to_string())) {
                (true, true) => Ok(()),
                (_, there) => {
                    Err(format!("stale {stale:?}, the last there: {there}\n{}", daemon.log()))
                }
            }
        });
        // Each kind has a stream of its own, and another pause.
        eventually("the last endpoint serves", BACK_WITHIN, || {
            client.tcp((vip(family, 41), PORT)).is_ok_and(|answer| answer.server == "a")
        });
    }
    assert!(connections >= 10, "the cuts met nobody: {connections} connections");
    prober.assert_undisturbed();
}

#[test]
fn a_silent_server_disturbs_nobody_and_what_it_held_back_is_in_force_after() {
    let Some(world) = World::with_nodes() else { return };
    let [a, b] = ["a", "b"].map(|name| world.backend(&world.n1, name));
    let client = world.pod(&world.n1, "client");
    steady_and_moving(&world, &[Endpoint::of(&a)], &[Endpoint::of(&a)]);
    let cable = Cable::of(world.server);
    let daemon = world.start_at(cable.port());
    let prober = Prober::start(&client, (vip(Family::V4, 40), PORT).into());
    cable.stall(true);
    world.server.apply(&slices("moving", &[Endpoint::of(&b)]));
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(client.tcp((vip(Family::V4, 41), PORT)).unwrap().server, "a", "nobody told it");
    assert_eq!(daemon.http_get(10256, "/livez").unwrap().status, 200);
    cable.stall(false);
    let returned = Instant::now();
    eventually("what was held back is in force", BACK_WITHIN, || {
        client.tcp((vip(Family::V4, 41), PORT)).is_ok_and(|answer| answer.server == "b")
    });
    say(&format!("in force {:?} after the server spoke again", returned.elapsed()));
    prober.assert_undisturbed();
}

#[test]
fn lost_packets_disturb_nobody_and_what_was_lost_comes_again() {
    /// What is sent again comes after pauses that grow with the time that it was lost.
    const SENT_AGAIN_WITHIN: Duration = Duration::from_secs(15);
    let Some(world) = World::with_nodes() else { return };
    let [a, b] = ["a", "b"].map(|name| world.backend(&world.n1, name));
    let client = world.pod(&world.n1, "client");
    steady_and_moving(&world, &[Endpoint::of(&a)], &[Endpoint::of(&a)]);
    let _daemon = world.start();
    let prober = Prober::start(&client, (vip(Family::V4, 40), PORT).into());
    world.lose_packets(true);
    world.server.apply(&slices("moving", &[Endpoint::of(&b)]));
    std::thread::sleep(Duration::from_secs(7));
    assert_eq!(client.tcp((vip(Family::V4, 41), PORT)).unwrap().server, "a", "nobody told it");
    world.lose_packets(false);
    let healed = Instant::now();
    eventually("what was lost is in force", SENT_AGAIN_WITHIN, || {
        client.tcp((vip(Family::V4, 41), PORT)).is_ok_and(|answer| answer.server == "b")
    });
    say(&format!("in force {:?} after packets passed again", healed.elapsed()));
    prober.assert_undisturbed();
}

#[test]
fn an_answer_that_comes_a_few_bytes_at_a_time_is_waited_for() {
    let Some(world) = World::with_nodes() else { return };
    let a = world.backend(&world.n1, "a");
    steady_and_moving(&world, &[Endpoint::of(&a)], &[]);
    let cable = Cable::of(world.server);
    cable.slow(true);
    let _daemon = world.start_at(cable.port());
    let before = cable.bytes();
    assert_eq!(world.n1.tcp((vip(Family::V4, 40), PORT)).unwrap().server, "a");
    world.server.apply(&slices("moving", &[Endpoint::of(&a)]));
    eventually("a change that comes slowly", SOON, || world.n1.tcp((vip(Family::V4, 41), PORT)));
    assert!(cable.bytes() > before, "by way of the cable");
}

#[test]
fn an_api_server_that_is_killed_disturbs_nobody_and_is_followed_when_it_is_back() {
    let Some(world) = World::with_nodes() else { return };
    let [a, b] = ["a", "b"].map(|name| world.backend(&world.n1, name));
    let client = world.pod(&world.n1, "client");
    steady_and_moving(&world, &[Endpoint::of(&a)], &[Endpoint::of(&a)]);
    let daemon = world.start();
    let prober = Prober::start(&client, (vip(Family::V4, 40), PORT).into());
    for round in 0..2 {
        let (pod, name) = if round == 0 { (&b, "b") } else { (&a, "a") };
        world.server.kill_apiserver();
        eventually("the daemon says so", SOON, || daemon.log().contains("stays in force"));
        world.server.start_apiserver();
        world.server.await_ready();
        let returned = Instant::now();
        world.server.apply(&slices("moving", &[Endpoint::of(pod)]));
        eventually("a change after the return", BACK_WITHIN, || {
            client.tcp((vip(Family::V4, 41), PORT)).is_ok_and(|answer| answer.server == name)
        });
        say(&format!("a change in force {:?} after the server is ready", returned.elapsed()));
    }
    let told = daemon.log().matches("stays in force").count();
    assert!(told <= 24, "an outage is told once per kind, not {told} times");
    prober.assert_undisturbed();
}
