use std::time::Duration;

use super::*;
use crate::cluster::{Cluster, ServiceName};
use crate::source::Source;

const WEB: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\n\
    spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}\n";

struct Fixture {
    folder: tempfile::TempDir,
    source: Manifests,
    cluster: Cluster,
    problems: Vec<String>,
}

impl Fixture {
    fn new(files: &[(&str, &str)]) -> Fixture {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        let source = Manifests::open(folder.path()).unwrap();
        let cluster = Cluster::new("n1".into());
        let mut fixture = Fixture { folder, source, cluster, problems: Vec::new() };
        let update = fixture.source.read().unwrap();
        fixture.take(update);
        fixture
    }

    fn take(&mut self, update: Update) {
        for change in update.changes {
            self.cluster.apply(change);
        }
        if let Some(problems) = update.problems {
            self.problems = problems.iter().map(ToString::to_string).collect();
        }
    }

    /// Replaces a file at once, and takes in what follows.
    fn replace(&mut self, name: &str, text: &str) {
        let temporary = self.folder.path().join(".new");
        fs::write(&temporary, text).unwrap();
        fs::rename(&temporary, self.folder.path().join(name)).unwrap();
        let update = self.source.wait().unwrap();
        self.take(update);
    }

    fn remove(&mut self, name: &str) {
        fs::remove_file(self.folder.path().join(name)).unwrap();
        let update = self.source.wait().unwrap();
        self.take(update);
    }

    fn ports(&self, service: &str) -> Vec<u16> {
        let name = ServiceName { namespace: "default".into(), name: service.into() };
        let ports = self.cluster.service(&name).map(|service| service.ports.clone());
        ports.unwrap_or_default().iter().map(|port| port.port).collect()
    }
}

#[test]
fn a_broken_document_is_told_with_its_line_and_takes_nothing_away() {
    let other = WEB.replace("web", "other");
    let mut fixture = Fixture::new(&[("a.yaml", &format!("{WEB}---\n{other}"))]);
    assert_eq!((fixture.ports("web"), fixture.ports("other")), (vec![80], vec![80]));
    let changed = other.replace("port: 80", "port: 81");
    fixture.replace("a.yaml", &format!("kind: Service\nmetadata: [\n---\n{changed}"));
    assert_eq!(fixture.problems.len(), 1, "{:?}", fixture.problems);
    assert!(fixture.problems[0].contains("a.yaml:"), "{:?}", fixture.problems);
    assert_eq!((fixture.ports("web"), fixture.ports("other")), (vec![80], vec![81]));
    fixture.replace("a.yaml", &changed);
    assert!(fixture.problems.is_empty());
    assert_eq!((fixture.ports("web"), fixture.ports("other")), (vec![], vec![81]));
}

#[test]
fn faults_name_file_object_and_field_and_the_rest_counts() {
    let text = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec:\n  clusterIP: 10.96.0.1\n  \
                ports: [{name: a, port: 70000}, {name: b, port: 81}]\n---\n\
                apiVersion: v1\nkind: Gadget\nmetadata: {name: x}\n---\n\
                apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: lost}\n\
                addressType: IPv4\nendpoints: []\n";
    let fixture = Fixture::new(&[("a.yaml", text)]);
    assert_eq!(fixture.ports("web"), [81]);
    let told = fixture.problems.join("\n");
    for part in [
        "a.yaml:1: Service default/web: spec.ports[0].port: 70000 is not a port",
        "a.yaml:8: kind: \"Gadget\" is not known here",
        "a.yaml:12: EndpointSlice default/lost: metadata.labels[kubernetes.io/service-name]",
    ] {
        assert!(told.contains(part), "{part:?} is not in\n{told}");
    }
}

#[test]
fn of_two_files_with_an_object_the_first_counts_and_the_second_takes_over() {
    let second = WEB.replace("port: 80", "port: 82");
    let mut fixture = Fixture::new(&[("a.yaml", WEB), ("b.yaml", &second)]);
    assert_eq!(fixture.ports("web"), [80]);
    assert!(fixture.problems[0].contains("b.yaml") && fixture.problems[0].contains("a.yaml"));
    fixture.remove("a.yaml");
    assert_eq!(fixture.ports("web"), [82]);
    assert!(fixture.problems.is_empty(), "{:?}", fixture.problems);
    fixture.replace("a.yaml", WEB);
    assert_eq!(fixture.ports("web"), [80]);
    assert_eq!(fixture.problems.len(), 1, "{:?}", fixture.problems);
    fixture.remove("b.yaml");
    fixture.remove("a.yaml");
    assert!(fixture.ports("web").is_empty() && fixture.problems.is_empty());
}

#[test]
fn a_file_counts_when_its_writer_has_closed_it() {
    let mut fixture = Fixture::new(&[]);
    let path = fixture.folder.path().join("slow.yaml");
    let writer = std::thread::spawn(move || {
        use std::io::Write;
        let mut file = fs::File::create(path).unwrap();
        let (half, rest) = WEB.split_at(WEB.len() - 9);
        file.write_all(half.as_bytes()).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        file.write_all(rest.as_bytes()).unwrap();
    });
    let update = fixture.source.wait().unwrap();
    fixture.take(update);
    writer.join().unwrap();
    assert!(fixture.problems.is_empty(), "{:?}", fixture.problems);
    assert_eq!(fixture.ports("web"), [80]);
}

#[test]
fn the_links_of_a_configmap_are_followed() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for (version, port) in [("..1", "80"), ("..2", "83")] {
        fs::create_dir(at(version)).unwrap();
        let text = WEB.replace("port: 80", &format!("port: {port}"));
        fs::write(at(version).join("a.yaml"), text).unwrap();
    }
    std::os::unix::fs::symlink("..1", at("..data")).unwrap();
    std::os::unix::fs::symlink("..data/a.yaml", at("a.yaml")).unwrap();
    let source = Manifests::open(folder.path()).unwrap();
    let cluster = Cluster::new("n1".into());
    let mut fixture = Fixture { folder, source, cluster, problems: Vec::new() };
    let update = fixture.source.read().unwrap();
    fixture.take(update);
    assert_eq!(fixture.ports("web"), [80]);
    let at = |name: &str| fixture.folder.path().join(name);
    std::os::unix::fs::symlink("..2", at("..new")).unwrap();
    fs::rename(at("..new"), at("..data")).unwrap();
    let update = fixture.source.wait().unwrap();
    fixture.take(update);
    assert_eq!(fixture.ports("web"), [83]);
}

#[test]
fn many_faults_of_one_object_are_counted() {
    let ports: String =
        (0..10_000).map(|n| format!("{{name: p{n}, port: {}}},", 70_000 + n)).collect();
    let text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\nspec: {{clusterIP: 10.96.0.1, ports: [{ports}]}}\n"
    );
    let fixture = Fixture::new(&[("a.yaml", &text)]);
    assert_eq!(fixture.problems.len(), 11);
    assert!(fixture.problems.iter().any(|p| p.contains("and 9990 more problems")));
}
