//! Permissions that somebody took away: they are named, and everything else goes on.

use std::time::Duration;

use serde_json::{Value, json};
use testnet::manifest::{Endpoint, documents};
use testnet::{Host, Proxyd, eventually};

use super::cable::Cable;
use super::rbac::texts;
use super::server::Server;
use super::world::{PORT, World, await_ready, service, slices, vip};
use super::{FAMILIES, SOON, say};

/// A pause of the daemon between two attempts is at most a few seconds.
const NOTICED_WITHIN: Duration = Duration::from_secs(15);

/// Takes verbs on a resource out of the daemon's role; they come back when this is dropped.
struct Without<'a> {
    server: &'a Server,
    role: Value,
}

impl<'a> Without<'a> {
    fn new(server: &'a Server, verbs: &[&str], resource: &str) -> Without<'a> {
        let role = server.kubectl(&["get", "clusterrole", "viaduct", "-o", "json"]);
        let mut role: Value = serde_json::from_str(&role).unwrap();
        // Else it could not be written over what is there by then.
        role["metadata"].as_object_mut().unwrap().remove("resourceVersion");
        let mut less = role.clone();
        let mut rules = Vec::new();
        for rule in role["rules"].as_array().unwrap() {
            let with = |resources: Vec<&str>, verbs: Vec<&str>| json!({"apiGroups": rule["apiGroups"], "resources": resources, "verbs": verbs});
            let (this, others): (Vec<&str>, Vec<&str>) =
                texts(&rule["resources"]).into_iter().partition(|name| *name == resource);
            let left: Vec<&str> =
                texts(&rule["verbs"]).into_iter().filter(|verb| !verbs.contains(verb)).collect();
            if !others.is_empty() {
                rules.push(with(others, texts(&rule["verbs"])));
            }
            if !this.is_empty() && !left.is_empty() {
                rules.push(with(this, left));
            }
        }
        less["rules"] = json!(rules);
        assert_ne!(role, less, "{resource}");
        let without = Without { server, role };
        without.replace(&less).unwrap();
        without
    }

    fn replace(&self, role: &Value) -> Result<String, String> {
        self.server.write("role.json", &role.to_string());
        self.server.try_kubectl(&["replace", "-f", &self.server.path("role.json")])
    }
}

impl Drop for Without<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.replace(&self.role) {
            say(&format!("the role is not what it was: {error}"));
        }
    }
}

/// With streaming lists a server is only watched, else it is listed first: the log names what was tried.
const BEGINS: [&str; 2] = ["list", "watch"];

#[track_caller]
fn await_told(daemon: &Proxyd<'_>, verbs: &[&str], resource: &str) {
    eventually("the log names verb and resource", NOTICED_WITHIN, || {
        let log = daemon.log();
        let told = |line: &str| {
            let names = |verb| line.contains(&format!("\"{verb}\" on {resource}"));
            line.contains("forbidden") && verbs.iter().any(names)
        };
        if log.lines().any(told) { Ok(()) } else { Err(log) }
    });
}

#[test]
fn without_service_cidrs_everything_else_works() {
    let Some(world) = World::with_nodes() else { return };
    let a = world.backend(&world.n1, "a");
    world.server.apply(&(documents(&[&service("web", 30)]) + &slices("web", &[Endpoint::of(&a)])));
    let less = Without::new(world.server, &BEGINS, "servicecidrs");
    let daemon = world.start();
    await_told(&daemon, &BEGINS, "servicecidrs.networking.k8s.io");
    for family in FAMILIES {
        assert_eq!(world.n1.tcp((vip(family, 30), PORT)).unwrap().server, "a", "{family:?}");
    }
    world
        .server
        .apply(&(documents(&[&service("more", 31)]) + &slices("more", &[Endpoint::of(&a)])));
    for family in FAMILIES {
        eventually("a new Service works", SOON, || world.n1.tcp((vip(family, 31), PORT)));
    }
    drop(less);
    // With the ranges known, addresses in them that are no Service's are rejected.
    eventually("the ranges are known once they may be listed", NOTICED_WITHIN, || {
        let rules = world.n1.namespace().ruleset();
        if rules.contains("10.96.0.0/16") { Ok(()) } else { Err(daemon.log()) }
    });
}

#[test]
fn without_services_what_is_known_stays_and_everything_else_works() {
    let Some(world) = World::with_nodes() else { return };
    let [a, b] = ["a", "b"].map(|name| world.backend(&world.n1, name));
    world.server.apply(&(documents(&[&service("web", 32)]) + &slices("web", &[Endpoint::of(&a)])));
    let cable = Cable::of(world.server);
    let mut daemon = world.start_at(cable.port());
    let served_by = |name: &str| {
        for family in FAMILIES {
            eventually(name, SOON, || {
                world.n1.tcp((vip(family, 32), PORT)).is_ok_and(|answer| answer.server == name)
            });
        }
    };
    served_by("a");

    // A daemon that runs, and has to watch anew.
    let less = Without::new(world.server, &BEGINS, "services");
    cable.cut();
    await_told(&daemon, &["watch"], "services");
    served_by("a");
    world.server.apply(&slices("web", &[Endpoint::of(&b)]));
    served_by("b");
    drop(less);
    world
        .server
        .apply(&(documents(&[&service("more", 33)]) + &slices("more", &[Endpoint::of(&a)])));
    for family in FAMILIES {
        eventually("it goes on", SOON, || world.n1.tcp((vip(family, 33), PORT)));
    }

    // A daemon that begins.
    daemon.kill();
    let less = Without::new(world.server, &BEGINS, "services");
    daemon.spawn_again();
    await_told(&daemon, &BEGINS, "services");
    served_by("b");
    assert_ne!(daemon.http_get(10256, "/readyz").map(|answer| answer.status), Some(200));
    drop(less);
    await_ready(&daemon);
    served_by("b");
}
