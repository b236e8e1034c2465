//! A server that takes a request, or holds a stream, and says nothing any more: behind a balancer that
//! forgot the connection, or hung.

use std::time::{Duration, Instant};

use testnet::eventually;
use testnet::manifest::Endpoint;

use super::fake::{SERVICES, SLICES};
use super::site::{Site, slice_of};
use super::{SOON, say};

/// Kubernetes' own client gives a silent connection up after 45 seconds; a real server sends a bookmark
/// every minute, so one that says nothing for longer is not there.
const GIVEN_UP_WITHIN: Duration = Duration::from_secs(100);

#[test]
fn streams_that_fell_silent_are_given_up() {
    let site = Site::new();
    let [a, b] = ["a", "b"].map(|name| site.backend(name));
    let client = site.pod("client");
    site.serve(&[60], &a);
    let _daemon = site.start();
    site.await_served(&client, 60, "a");
    let silent = Instant::now();
    for plural in [SERVICES, SLICES] {
        site.fake.silence(plural);
    }
    site.fake.list(SLICES, vec![slice_of(60, &[Endpoint::of(&b)])]);
    eventually("it watches anew", GIVEN_UP_WITHIN, || {
        // Whether it then lists or not, it hears of the change.
        site.fake.event(SLICES, "MODIFIED", &slice_of(60, &[Endpoint::of(&b)]));
        testnet::Host::tcp(&client, (super::world::vip(testnet::Family::V4, 60), 80))
            .is_ok_and(|answer| answer.server == "b")
    });
    say(&format!("a silent stream was given up after {:?}", silent.elapsed()));
}

#[test]
fn a_list_without_an_answer_is_asked_for_again() {
    let site = Site::new();
    let a = site.backend("a");
    site.serve(&[60], &a);
    site.fake.mute(true);
    let daemon = site.spawn();
    eventually("the first attempt", SOON, || site.fake.asked(SERVICES).0 > 0);
    let asked = Instant::now();
    site.fake.mute(false);
    eventually("another attempt is answered", GIVEN_UP_WITHIN, || {
        daemon.http_get(10256, "/readyz").filter(|answer| answer.status == 200)
    });
    site.await_served(&site.node, 60, "a");
    say(&format!("a list without an answer was given up after {:?}", asked.elapsed()));
}
