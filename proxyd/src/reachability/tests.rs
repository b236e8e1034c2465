use netpol::api;
use netpol::{ContainerPort, Labels, Namespace, Pod, PodName, PolicyName, Protocol};
use serde_json::{Value, json};

use super::*;

/// Pods a/x, a/y and b/z; y names ports 80 and 8080 of TCP. x has no address yet.
fn world(policies: &[(&str, Value)]) -> World {
    let mut world = World::default();
    for namespace in ["a", "b"] {
        let labels = Labels::from_iter([("ns", namespace)]);
        world.namespaces.insert(namespace.into(), Namespace { labels, ..Namespace::default() });
    }
    for (at, (namespace, name)) in [("a", "x"), ("a", "y"), ("b", "z")].into_iter().enumerate() {
        let port = |name: &str, number| ContainerPort {
            name: name.into(),
            protocol: Protocol::Tcp,
            number,
        };
        let pod = Pod {
            labels: Labels::from_iter([("pod", name)]),
            addresses: if at == 0 {
                [].into()
            } else {
                [IpAddr::from([10, 0, 0, at as u8])].into()
            },
            ports: if at == 1 { [port("web", 80), port("alt", 8080)].into() } else { [].into() },
            ..Pod::default()
        };
        world.pods.insert(PodName { namespace: namespace.into(), name: name.into() }, pod);
    }
    for (name, spec) in policies {
        let spec: api::PolicySpec = serde_json::from_value(spec.clone()).unwrap();
        let name = PolicyName { namespace: "a".into(), name: (*name).into() };
        world.policies.insert(name, api::policy(&spec, false).0);
    }
    world
}

fn only_80_from_b() -> Value {
    json!({"podSelector": {}, "ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"ns": "b"}}}],
        "ports": [{"port": 80}]}]})
}

#[test]
fn the_matrix_tells_of_every_pair() {
    let matrix = matrix(&world(&[("p", only_80_from_b())]), None);
    let rows: Vec<Vec<Outcome>> =
        matrix.cells.iter().map(|row| row.iter().map(Cell::outcome).collect()).collect();
    let nothing = Outcome::Nothing;
    assert_eq!(
        rows,
        [
            [nothing, Outcome::Denied, nothing],
            [nothing, Outcome::Allowed, nothing],
            [nothing, Outcome::Partly, nothing],
        ]
    );
    assert_eq!(
        matrix.to_text(),
        "from the row to the column: + allowed, - denied, ~ in part, ? unknown, blank: names no port\n\n\
         \x20     1 2 3\n\
         1 a/x   -\n\
         2 a/y   +\n\
         3 b/z   ~\n\n\
         b/z to a/y:\n\
         \x20 80/TCP over IPv4: allowed: egress is allowed, as no policy isolates pod b/z; ingress is allowed \
         by NetworkPolicy a/p, ingress[0] (from[0], ports[0])\n\
         \x20 8080/TCP over IPv4: denied: ingress is denied, as NetworkPolicy a/p isolates pod a/y and no rule \
         matches\n\n\
         note: pod a/x has no address yet: of networks only /0 is taken to hold it\n"
    );
    let flows = matrix.to_json()["flows"].as_array().unwrap().len();
    assert_eq!(flows, 6);
}

#[test]
fn a_port_can_be_given() {
    let port: Port = "81/udp".parse().unwrap();
    let open = matrix(&world(&[]), Some(port));
    assert!(open.cells.iter().flatten().all(|cell| cell.outcome() == Outcome::Allowed));
    let icmp = matrix(&world(&[("p", only_80_from_b())]), Some("icmp".parse().unwrap()));
    assert_eq!(icmp.cells[2][1].outcome(), Outcome::Denied);
    for text in ["", "80/", "0/TCP", "70000", "80/GRE", "http"] {
        assert!(text.parse::<Port>().is_err(), "{text}");
    }
}

#[test]
fn the_page_escapes_what_it_shows_and_needs_nothing_else() {
    let mut world = world(&[]);
    let odd = PodName { namespace: "a".into(), name: "<i>\"&'".into() };
    let pod = world.pods.values().nth(1).unwrap().clone();
    world.pods.insert(odd, Pod { addresses: [IpAddr::from([10, 0, 0, 9])].into(), ..pod });
    let page = page(&matrix(&world, None));
    assert!(page.contains("a/&lt;i&gt;&quot;&amp;&#39;") && !page.contains("<i>"), "{page}");
    assert!(!page.contains("http://") && !page.contains("https://") && !page.contains(" src="));
}

#[test]
fn the_difference_is_told_by_ranges_of_ports() {
    let old = world(&[("p", only_80_from_b())]);
    assert!(diff(&old, &old).is_empty());
    let new = world(&[(
        "p",
        json!({"podSelector": {}, "ingress": [
            {"from": [{"namespaceSelector": {"matchLabels": {"ns": "b"}}}],
             "ports": [{"port": 100, "endPort": 199}]},
            {"from": [{"ipBlock": {"cidr": "203.0.113.0/24"}}], "ports": [{"port": 443}]}]}),
    )]);
    let found = diff(&old, &new);
    let mut lines: Vec<String> = found.changes.iter().map(ToString::to_string).collect();
    lines.iter_mut().for_each(|line| line.truncate(line.find(": e").or(line.find(": i")).unwrap()));
    assert_eq!(
        lines,
        [
            "pod b/z to pod a/x, 80/TCP over IPv4: closes",
            "pod b/z to pod a/x, 100-199/TCP over IPv4: opens",
            "pod b/z to pod a/y, 80/TCP over IPv4: closes",
            "pod b/z to pod a/y, 100-199/TCP over IPv4: opens",
            "203.0.113.255 to pod a/x, 443/TCP over IPv4: opens",
            "203.0.113.255 to pod a/y, 443/TCP over IPv4: opens",
        ]
    );
    assert_eq!(found.to_json()["changes"][1]["after"], "allowed");
    assert!(found.to_text().contains("now allowed: 4\nnow denied: 2\n"), "{}", found.to_text());
}

#[test]
fn what_changes_alike_is_one_line() {
    let new = world(&[("p", json!({"podSelector": {"matchLabels": {"pod": "x"}}}))]);
    let text = diff(&world(&[]), &new).to_text();
    let line = "pod a/y to pod a/x, everything over IPv4: closes: ingress is denied, as NetworkPolicy a/p \
                isolates pod a/x and no rule matches\n";
    assert!(text.starts_with(line), "{text}");
}

#[test]
fn a_pod_of_one_state_alone_is_told() {
    let (old, mut new) = (world(&[]), world(&[]));
    new.pods.pop_last();
    let found = diff(&old, &new);
    assert!(found.is_empty());
    assert!(found.notes.contains(&"pod b/z is there no more".to_owned()), "{:?}", found.notes);
}
