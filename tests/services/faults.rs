//! Bad input: told once with file, object and field; everything else goes on.

use testnet::{Family, Host, IN_FORCE, Proxyd, eventually};

use super::manifests::{service, slice};
use super::{World, serve, vip};

#[test]
fn bad_objects_are_told_and_the_rest_works() {
    let world = World::new();
    let (client, server) = (world.pod(0, "client"), world.pod(1, "a"));
    let _server = serve(&server, 8080);
    let proxyd = Proxyd::start(world.node(), &[]);
    let to = (vip(Family::V4, 96, 10), 80);
    let good = world.objects()
        + &service("web", to.0).port(80).text()
        + &slice("web", 8080)
            .ready(server.v4(), "n2")
            .ready("fd00::1".parse().unwrap(), "n2")
            .text();
    // The slice above says IPv6 because of its last endpoint; the first is of the wrong family.
    proxyd.apply("web.yaml", &good.replace("\"addressType\":\"IPv6\"", "\"addressType\":\"IPv4\""));
    assert!(client.can_reach(to));
    let bad = "kind: Service\nmetadata: [\n---\napiVersion: v1\nkind: Gadget\nmetadata: {name: x}\n---\n\
        apiVersion: v1\nkind: Service\nmetadata: {name: port}\nspec: {clusterIP: 10.96.0.77, ports: [{port: 70000}]}\n---\n\
        apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: lost}\naddressType: IPv4\n";
    proxyd.apply("bad.yaml", bad);
    let log = proxyd.log();
    for part in [
        "bad.yaml:2: ",
        "bad.yaml:4: kind: \"Gadget\" is not known",
        "bad.yaml:8: Service default/port: spec.ports[0].port: 70000",
        "bad.yaml:13: EndpointSlice default/lost: metadata.labels",
        "EndpointSlice default/web-1: endpoints[1].addresses[0]: fd00::1 is not an IPv4 address",
    ] {
        assert_eq!(log.matches(part).count(), 1, "{part:?} in {log}");
    }
    eventually("the metric", IN_FORCE, || proxyd.metric("viaduct_source_errors") == Some(5.0));
    assert!(proxyd.get(10249, "/status").body.contains("70000"));
    assert!(client.can_reach(to));
    // The good file breaks: its last good state stays.
    proxyd.apply("web.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: web\n");
    assert!(client.can_reach(to));
    proxyd.remove("web.yaml");
    assert!(!client.can_reach(to));
    proxyd.remove("bad.yaml");
    eventually("no errors", IN_FORCE, || proxyd.metric("viaduct_source_errors") == Some(0.0));
}
