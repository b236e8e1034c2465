//! A server that takes a request and says nothing: it hung. (A silent watch is nobody's fault; whether its
//! server is there, TCP's keepalive tells.)

use std::time::{Duration, Instant};

use testnet::eventually;

use super::fake::SERVICES;
use super::site::Site;
use super::{SOON, say};

/// A list is given up after 60 seconds of silence.
const GIVEN_UP_WITHIN: Duration = Duration::from_secs(100);

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
