//! The manifests in deploy/: the API server takes them without a complaint.

use std::fs;

use super::server::repository;
use super::world::World;

/// The base and every overlay, by the folder below deploy/.
fn folders() -> Vec<String> {
    let overlays = fs::read_dir(repository("deploy/overlays")).expect("the overlays");
    let mut names: Vec<String> = overlays
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .map(|name| format!("overlays/{name}"))
        .collect();
    assert!(names.len() >= 4, "{names:?}");
    names.sort();
    // The base comes last and stays.
    names.push("base".to_owned());
    names
}

#[test]
fn every_manifest_is_applied_strictly_and_without_a_warning() {
    let Some(world) = World::new() else { return };
    for name in folders() {
        let folder = repository("deploy").join(&name).display().to_string();
        let rendered = world.server.kubectl(&["kustomize", &folder]);
        world.server.write("rendered.yaml", &rendered);
        let file = world.server.path("rendered.yaml");
        let strictly = ["apply", "--validate=strict", "--warnings-as-errors", "-f", &file];
        let trial = world.server.kubectl(&[&strictly[..], &["--dry-run=server"]].concat());
        let kinds =
            ["serviceaccount", "clusterrole", "clusterrolebinding", "configmap", "daemonset"];
        for kind in kinds {
            assert!(trial.contains(kind), "{name}: no {kind}: {trial}");
        }
        world.server.kubectl(&strictly);
        // What the server made of it is what was written: a second time changes nothing.
        let again = world.server.kubectl(&strictly);
        let changed: Vec<&str> =
            again.lines().filter(|line| !line.ends_with(" unchanged")).collect();
        assert!(changed.is_empty(), "{name}: {changed:?}");
    }
}
