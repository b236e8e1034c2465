//! Verbs with input that another verb refuses, and attachments that are not the caller's.

use serde_json::{Value, json};
use testnet::{Cni, Host, Lan, Network, Node};

use super::{MODES, dual_stack};

fn merged(mut config: Value, change: &Value) -> Value {
    fn merge(into: &mut Value, change: &Value) {
        match (into, change) {
            (Value::Object(into), Value::Object(change)) => {
                for (key, value) in change {
                    merge(into.entry(key).or_insert(Value::Null), value);
                }
            }
            (into, change) => *into = change.clone(),
        }
    }
    merge(&mut config, change);
    config
}

fn verb(node: &Node, verb: &str, config: &Value, id: &str, netns: &std::path::Path) -> Cni {
    let _ = node;
    Cni::new(verb, config).container(id, netns)
}

#[test]
fn del_succeeds_with_a_configuration_that_add_refuses() {
    let lan = Lan::new();
    let node = lan.node("n1");
    let good =
        dual_stack("bridge", &node).masquerade(&[]).host_port(8080, 80, "tcp").to_json(&node);
    let changes = [
        json!({"overlay": {"type": "vxlan", "nodeName": "n1", "nodes": [{"name": "n2", "address": "192.168.0.2", "podCIDRs": ["10.244.2.0/24"]}]}}),
        json!({"overlay": {"type": "ipip"}}),
        json!({"ipam": {"ranges": []}}),
        json!({"ipam": {"ranges": [[{"subnet": "10.0.0.1/24"}]]}}),
        json!({"hairpinMode": true, "promiscMode": true}),
        json!({"mtu": -5}),
        json!({"mode": "warp"}),
        json!({"bridge": 5}),
        json!({"onDaemonTimeout": "maybe"}),
        json!({"cniVersion": "0.2.0"}),
        json!({"cniVersion": "9.9.9"}),
        json!({"cniVersion": null}),
        json!({"runtimeConfig": {"portMappings": [{"hostPort": 99999}]}}),
        json!({"runtimeConfig": {"bandwidth": {"ingressRate": 8}}}),
        json!({"runtimeConfig": {"mac": "zz", "ips": ["x"]}}),
        json!({"prevResult": {"cniVersion": "1.1.0", "ips": [{"address": "x"}]}}),
        json!({"dns": 5, "args": 7, "vlan": 9999}),
    ];
    for change in &changes {
        let container = node.container("a");
        verb(&node, "ADD", &good, "a", container.path()).run(node.namespace()).result();
        let refused = merged(good.clone(), change);
        let again = verb(&node, "ADD", &refused, "b", node.container("b").path());
        let valid_for_add = change.get("prevResult").is_some();
        assert!(valid_for_add || !again.run(node.namespace()).status.success(), "{change}");
        let output = verb(&node, "DEL", &refused, "a", container.path()).run(node.namespace());
        assert!(output.status.success(), "{change}: {}", output.stdout);
        assert!(node.leases("bridge").is_empty(), "{change}: {:?}", node.leases("bridge"));
        assert!(container.links().is_empty(), "{change}: the interface is left");
        assert!(!node.namespace().ruleset().contains("bridge/"), "{change}: elements are left");
    }
    for arguments in ["MAC=01:00:5e:00:00:01", "IP=nine", "nonsense"] {
        let container = node.container("a");
        verb(&node, "ADD", &good, "a", container.path()).run(node.namespace()).result();
        let del = verb(&node, "DEL", &good, "a", container.path()).env("CNI_ARGS", arguments);
        del.run(node.namespace()).result();
        assert!(node.leases("bridge").is_empty(), "{arguments}");
    }
}

#[test]
fn gc_frees_with_a_configuration_that_add_refuses() {
    let lan = Lan::new();
    let node = lan.node("n1");
    let good = dual_stack("bridge", &node).to_json(&node);
    for change in [json!({"mtu": -5}), json!({"ipam": {"ranges": []}}), json!({"mode": "warp"})] {
        let container = node.container("a");
        verb(&node, "ADD", &good, "a", container.path()).run(node.namespace()).result();
        let mut refused = merged(good.clone(), &change);
        refused["cni.dev/valid-attachments"] = json!([]);
        Cni::new("GC", &refused).run(node.namespace()).result();
        assert!(node.leases("bridge").is_empty() && container.links().is_empty(), "{change}");
    }
}

#[test]
fn status_reads_addresses_and_daemon_only() {
    let lan = Lan::new();
    let node = lan.node("n1");
    let config =
        merged(dual_stack("bridge", &node).to_json(&node), &json!({"mtu": -5, "vlan": 9999}));
    Cni::new("STATUS", &config).run(node.namespace()).result();
    let broken = merged(config, &json!({"ipam": {"ranges": []}}));
    assert_eq!(Cni::new("STATUS", &broken).run(node.namespace()).error().0, 7);
}

#[test]
fn del_of_a_refused_add_leaves_the_first_attachment() {
    for mode in MODES {
        let lan = Lan::new();
        let node = lan.node("n1");
        let first = dual_stack(mode, &node).to_json(&node);
        let second = merged(first.clone(), &json!({"name": "other", "bridge": "other0"}));
        let container = node.container("f");
        verb(&node, "ADD", &first, "first", container.path()).run(node.namespace()).result();
        for (config, id) in [(&first, "second"), (&second, "first"), (&second, "second")] {
            let add = verb(&node, "ADD", config, id, container.path());
            assert_eq!(add.run(node.namespace()).error().0, 113, "{mode} {id}");
            let del = verb(&node, "DEL", config, id, container.path());
            del.run(node.namespace()).result();
            assert_eq!(
                container.links(),
                ["eth0"],
                "{mode} {id}: the first one's interface is gone"
            );
            container.try_command("ping", &["-c1", "-W2", "10.244.1.1"]).unwrap();
        }
        // A late DEL whose namespace path leads to another container by now.
        let late = node.container("late");
        let moved = merged(first.clone(), &json!({"ipam": {"dataDir": node.data_dir()}}));
        verb(&node, "ADD", &moved, "late", late.path()).run(node.namespace()).result();
        verb(&node, "DEL", &moved, "late", container.path()).run(node.namespace()).result();
        assert_eq!(container.links(), ["eth0"], "{mode}: a late DEL cut off another pod");
        assert_eq!(node.leases(mode).len(), 2, "{mode}: the first one's leases");
    }
}

#[test]
fn host_ips_that_cannot_be_served_are_refused() {
    let lan = Lan::new();
    let node = lan.node("n1");
    for mode in MODES {
        let of = |ip: &str| {
            let mapping = json!({"hostPort": 8080, "containerPort": 80, "hostIP": ip});
            dual_stack(mode, &node).port_mapping(mapping)
        };
        for ip in ["::1", "0:0:0:0:0:0:0:1"] {
            let (code, message) = node.try_pod(&of(ip), "a").err().expect("a refusal").error();
            assert!(code == 7 && message.contains("hostIP"), "{message}");
        }
        let _own = node.serve_tcp("[::1]:8080");
        for ip in ["::ffff:192.168.0.1", "::ffff:0.0.0.0"] {
            let pod = node.pod(&of(ip), "a");
            let _server = pod.serve_tcp(80);
            assert_eq!(lan.tcp((node.v4(), 8080)).unwrap().server, "a", "{mode} {ip}");
            assert_eq!(node.tcp("[::1]:8080").unwrap().server, "n1", "{mode} {ip}");
            pod.delete();
        }
        let mapped = dual_stack(mode, &node).runtime("ips", json!(["::ffff:10.244.1.77"]));
        let pod = node.pod(&mapped, "b");
        assert_eq!(pod.v4().to_string(), "10.244.1.77");
        pod.delete();
    }
}

#[test]
fn a_configuration_with_ipam_attaches_behind_others() {
    for mode in MODES {
        let lan = Lan::new();
        let node = lan.node("n1");
        let container = node.container("a");
        let previous = json!({"cniVersion": "1.1.0",
            "interfaces": [{"name": "lo", "mac": "00:00:00:00:00:00", "sandbox": container.path()}],
            "ips": [{"address": "127.0.0.1/8", "interface": 0}, {"address": "::1/128", "interface": 0}]});
        let mut config = dual_stack(mode, &node).masquerade(&[]).to_json(&node);
        config["prevResult"] = previous;
        let result =
            verb(&node, "ADD", &config, "a", container.path()).run(node.namespace()).result();
        assert_eq!(result["interfaces"][0]["name"], "lo");
        assert_eq!(result["ips"][0]["address"], "127.0.0.1/8");
        let last = result["interfaces"].as_array().unwrap().len() - 1;
        assert_eq!(result["interfaces"][last]["name"], "eth0");
        let length = if mode == "routed" { "/32" } else { "/24" };
        let address = result["ips"][2]["address"].as_str().unwrap();
        assert!(address.ends_with(length), "{mode}: {address}");
        assert_eq!(result["ips"][2]["interface"], last);
        container.try_command("ping", &["-c1", "-W2", "10.244.1.1"]).unwrap();
        config["prevResult"] = result.clone();
        verb(&node, "CHECK", &config, "a", container.path()).run(node.namespace()).result();
        let other = node.container("b");
        let check = verb(&node, "CHECK", &config, "b", other.path()).run(node.namespace());
        assert!(!check.status.success(), "{mode}: CHECK with another container's result");
        verb(&node, "DEL", &config, "a", container.path()).run(node.namespace()).result();
        assert!(node.leases(mode).is_empty() && container.links().is_empty(), "{mode}");
    }
}

#[test]
fn check_refuses_the_result_of_another_container() {
    let lan = Lan::new();
    let node = lan.node("n1");
    for mode in MODES {
        let network = dual_stack(mode, &node);
        let (a, b) = (node.pod(&network, "a"), node.pod(&network, "b"));
        let mut config = network.to_json(&node);
        config["prevResult"] = b.result().clone();
        let check = verb(&node, "CHECK", &config, a.id(), a.namespace().path());
        let (code, message) = check.run(node.namespace()).error();
        assert!(code == 7 && message.contains("prevResult"), "{mode}: {message}");
        a.check().result();
        a.delete();
        b.delete();
    }
}

#[test]
fn a_network_without_addresses_needs_no_ipam_to_go() {
    let lan = Lan::new();
    let node = lan.node("n1");
    let network = Network::bridge("l2").set("isGateway", false).set("isDefaultGateway", false);
    let pod = node.pod(&network, "a");
    let bad = merged(network.to_json(&node), &json!({"ipam": {"type": "a/b"}}));
    verb(&node, "DEL", &bad, pod.id(), pod.namespace().path()).run(node.namespace()).result();
    assert!(pod.namespace().links().is_empty());
}
