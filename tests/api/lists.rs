//! Lists that come late, in pieces, or not at all: nothing is removed that a whole list does not miss.

use testnet::eventually;
use testnet::manifest::Endpoint;

use super::SOON;
use super::fake::{CIDRS, Canned, Fake, SERVICES, SLICES, expired, status_object};
use super::site::{Site, numbered, slice_of};
use super::world::await_ready;

/// A daemon that serves 60 and 62 is told to list anew, when 62 is gone and 61 is new.
fn listed_anew(tell: impl Fn(&Fake)) {
    let site = Site::new();
    let (a, client) = (site.backend("a"), site.pod("client"));
    site.serve(&[60, 62], &a);
    let daemon = site.start();
    site.await_served(&client, 62, "a");
    let prober = site.probe(&client, 60);
    let before = site.fake.asked(SERVICES).0;
    site.serve(&[60, 61], &a);
    tell(&site.fake);
    site.await_served(&client, 61, "a");
    site.await_gone(62);
    let asked = site.fake.asked(SERVICES).0;
    assert!(asked > before, "it was not listed anew: {}", daemon.log());
    prober.assert_undisturbed();
}

#[test]
fn a_watch_that_is_refused_as_too_old_is_followed_by_a_list() {
    listed_anew(|fake| {
        for plural in [SERVICES, SLICES] {
            fake.forget_history(plural);
        }
    });
}

#[test]
fn an_error_in_the_stream_is_followed_by_a_list() {
    listed_anew(|fake| {
        for plural in [SERVICES, SLICES] {
            fake.event(plural, "ERROR", &status_object(410, "Expired", "too old resource version"));
        }
    });
}

#[test]
fn a_server_in_trouble_is_outlasted() {
    listed_anew(|fake| {
        for plural in [SERVICES, SLICES] {
            fake.answer_watch(plural, Canned::status(500, "InternalError", "no leader"));
            let busy = Canned::status(429, "TooManyRequests", "too many requests");
            fake.answer_list(plural, busy.header("Retry-After", "1"));
            fake.answer_list(plural, Canned::status(500, "InternalError", "no leader"));
            fake.answer_list(plural, Canned::text(503, "upstream connect error"));
            fake.answer_list(plural, Canned::text(200, "<html>not for a machine</html>"));
            fake.answer_list(plural, Canned::text(200, "{\"kind\": \"ServiceLi"));
            fake.forget_history(plural);
        }
    });
}

/// An empty list is believed, as every whole list is; but not half of one.
#[test]
fn a_server_in_trouble_at_the_beginning_is_outlasted() {
    let site = Site::new();
    let a = site.backend("a");
    site.serve(&[60], &a);
    for plural in [SERVICES, SLICES, CIDRS] {
        let busy = Canned::status(429, "TooManyRequests", "too many requests");
        site.fake.answer_list(plural, busy.header("Retry-After", "1"));
        site.fake.answer_list(plural, Canned::status(500, "InternalError", "no leader"));
    }
    let daemon = site.start();
    site.await_served(&site.node, 60, "a");
    let log = daemon.log();
    assert!(log.contains("list services: ") && log.contains("no leader"), "{log}");
}

const MANY: u8 = 25;

#[test]
fn all_pages_of_a_list_are_read() {
    let site = Site::new();
    let a = site.backend("a");
    let all: Vec<u8> = (100..100 + MANY).collect();
    site.serve(&all, &a);
    site.fake.pages_of(4);
    let _daemon = site.start();
    for number in &all {
        assert!(site.is_programmed(*number), "s{number}");
    }
    let requests = site.fake.requests();
    let pages =
        requests.iter().filter(|r| r.plural == SERVICES && r.query.contains_key("continue"));
    assert_eq!(pages.count(), usize::from(MANY).div_ceil(4) - 1);
}

#[test]
fn a_page_that_expired_makes_the_list_begin_anew_and_removes_nothing() {
    let site = Site::new();
    let (a, client) = (site.backend("a"), site.pod("client"));
    let all: Vec<u8> = (100..100 + MANY).collect();
    let last = 100 + MANY - 1;
    site.serve(&all, &a);
    site.fake.pages_of(4);
    for plural in [SERVICES, SLICES] {
        site.fake.answer_list(plural, Canned::ordinary());
        site.fake.answer_list(plural, expired());
    }
    let _daemon = site.start();
    site.await_served(&client, last, "a");
    // And again with everything in force: the last one is on no page that was read.
    let prober = site.probe(&client, last);
    for plural in [SERVICES, SLICES] {
        for canned in [Canned::ordinary(), Canned::ordinary(), expired()] {
            site.fake.answer_list(plural, canned);
        }
        let before = site.fake.asked(plural).0;
        site.fake.event(plural, "ERROR", &status_object(410, "Expired", "too old"));
        eventually("it is listed from the beginning, twice", SOON, || {
            site.fake.asked(plural).0 >= before + 2
        });
        site.fake.await_watched(plural);
    }
    for number in all {
        assert!(site.is_programmed(number), "s{number}");
    }
    prober.assert_undisturbed();
}

#[test]
fn a_server_without_service_cidrs_is_not_asked_again() {
    let site = Site::new();
    let a = site.backend("a");
    site.serve(&[60], &a);
    site.fake.answer_list(CIDRS, Canned::text(404, "404 page not found\n"));
    let daemon = site.start();
    site.await_served(&site.node, 60, "a");
    // Time enough to ask again, if it wanted to: other kinds are.
    site.fake.answer_watch(SERVICES, Canned::status(500, "InternalError", "no leader"));
    site.fake.cut(SERVICES);
    site.fake.await_watched(SERVICES);
    site.fake.list(SERVICES, vec![numbered(60), numbered(61)]);
    site.fake.event(SERVICES, "ADDED", &numbered(61));
    site.fake.event(SLICES, "ADDED", &slice_of(61, &[Endpoint::of(&a)]));
    site.await_served(&site.node, 61, "a");
    assert_eq!(site.fake.asked(CIDRS), (1, 0), "{}", daemon.log());
}

/// The same, as an API server answers for a group that it does have.
#[test]
fn a_status_that_says_not_found_is_the_same() {
    let site = Site::new();
    site.fake.answer_list(CIDRS, Canned::status(404, "NotFound", "could not find the resource"));
    let daemon = site.spawn();
    await_ready(&daemon);
    assert_eq!(site.fake.asked(CIDRS), (1, 0));
}
