//! The protocol: environment, versions, shapes of results and errors.

use serde_json::{Value, json};
use testnet::{Cni, Host, Lan, Network, Node};

const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

fn network(node: &Node) -> Network {
    Network::bridge("net").subnet(&node.pod_cidr())
}

#[test]
fn every_version_has_its_own_result_shape_and_its_own_verbs() {
    let lan = Lan::new();
    let node = lan.node("n1");
    for version in VERSIONS {
        let network = network(&node).set("cniVersion", version);
        let pod = node.pod(&network, "a");
        let result = pod.result();
        assert_eq!(result["cniVersion"], version);
        assert_eq!(result["ips"][0].get("version").is_some(), version < "1.0.0", "{result}");
        assert_eq!(result.get("dns").is_some(), version < "1.0.0", "{result}");
        assert_eq!(result["interfaces"][0].get("mtu").is_some(), version == "1.1.0", "{result}");
        assert_eq!(result["interfaces"][2]["sandbox"], pod.namespace().path().to_str().unwrap());
        assert_eq!(result["ips"][0]["interface"], 2);
        if version >= "0.4.0" {
            pod.check().result();
        } else {
            assert_eq!(pod.check().error().0, 1);
        }
        for verb in ["GC", "STATUS"] {
            let output = Cni::new(verb, &network.to_json(&node)).run(node.namespace());
            assert_eq!(output.status.success(), version == "1.1.0", "{verb} in {version}");
        }
        pod.delete();
    }
}

#[test]
fn other_versions_are_refused_with_a_list_of_what_is_supported() {
    let lan = Lan::new();
    let node = lan.node("n1");
    for version in
        [json!("0.1.0"), json!("0.2.0"), json!("9.9.9"), json!("1.1"), json!("x"), Value::Null]
    {
        let config = network(&node).set("cniVersion", &version).to_json(&node);
        let container = node.container("a");
        let output =
            Cni::new("ADD", &config).container("a", container.path()).run(node.namespace());
        let (code, message) = output.error();
        assert_eq!(code, 1, "{version}");
        assert!(VERSIONS.iter().all(|v| message.contains(v)), "{message}");
        assert!(container.links().is_empty(), "{version}");
    }
    let missing = network(&node).without("cniVersion").to_json(&node);
    for verb in ["ADD", "CHECK", "GC", "STATUS"] {
        let cni = Cni::new(verb, &missing).container("a", node.container("a").path());
        assert_eq!(cni.run(node.namespace()).error().0, 1, "{verb} without cniVersion");
    }
}

#[test]
fn version_needs_no_input() {
    let node = testnet::Namespace::new("n1");
    let answer = Cni::new("VERSION", &Value::Null).input(b"").run(&node).result();
    assert_eq!(answer["supportedVersions"], json!(VERSIONS));
    assert_eq!(answer["cniVersion"], "1.1.0");
}

#[test]
fn faults_of_the_environment_are_code_4_and_come_together() {
    let node = testnet::Namespace::new("n1");
    let config = json!({"cniVersion": "1.1.0", "name": "net", "type": "viaduct"});
    let (code, message) = Cni::new("ADD", &config).run(&node).error();
    assert_eq!(code, 4);
    for name in ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"] {
        assert!(message.contains(name), "{message}");
    }
    // Those that are missing are named, and no others; an empty one is a missing one.
    let all = ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"];
    let add = Cni::new("ADD", &config).container("a", node.path());
    for missing in all {
        for cni in [add.clone().without(missing), add.clone().env(missing, "")] {
            let (code, message) = cni.run(&node).error();
            assert_eq!(code, 4, "{message}");
            let named: Vec<_> = all.iter().filter(|name| message.contains(**name)).collect();
            assert_eq!(named, [&missing], "{message}");
        }
    }
    let valid = Cni::new("DEL", &config).container("a", node.path());
    for (name, value) in [
        ("CNI_COMMAND", "FROBNICATE"),
        ("CNI_IFNAME", "a/b"),
        ("CNI_IFNAME", "a:b"),
        ("CNI_IFNAME", "a b"),
        ("CNI_IFNAME", "a\tb"),
        ("CNI_IFNAME", "."),
        ("CNI_IFNAME", ".."),
        ("CNI_IFNAME", "0123456789abcdef"),
        ("CNI_CONTAINERID", "-a"),
        ("CNI_CONTAINERID", ".a"),
        ("CNI_CONTAINERID", "_a"),
        ("CNI_CONTAINERID", "a b"),
        ("CNI_CONTAINERID", "a/b"),
        ("CNI_CONTAINERID", "ä"),
        ("CNI_CONTAINERID", "../../etc"),
    ] {
        let (code, message) = valid.clone().env(name, value).run(&node).error();
        assert_eq!(code, 4, "{name}={value}: {message}");
    }
    let container = testnet::Namespace::new("a");
    let add = Cni::new("ADD", &config).container("a", container.path());
    for value in ["nonsense", "IP=nine", "MAC=01:00:5e:00:00:01"] {
        let (code, message) = add.clone().env("CNI_ARGS", value).run(&node).error();
        assert_eq!(code, 4, "CNI_ARGS={value}: {message}");
    }
    valid.env("TRACEPARENT", "00-0-0-00").env("CNI_UNKNOWN", "1").run(&node).result();
}

#[test]
fn faults_of_the_configuration_name_key_and_value() {
    let node = testnet::Namespace::new("n1");
    let base = json!({"cniVersion": "1.1.0", "name": "net", "type": "viaduct"});
    let container = testnet::Namespace::new("a");
    for (key, value, words) in [
        ("name", Value::Null, "name"),
        ("name", json!("../x"), "name \"../x\""),
        ("name", json!(""), "name"),
        ("name", json!("-x"), "name \"-x\""),
        ("name", json!("a b"), "name \"a b\""),
        ("name", json!(".."), "name \"..\""),
        ("name", json!(5), "name"),
        ("mode", json!("warp"), "mode \"warp\""),
        ("bridge", json!("0123456789abcdef"), "bridge \"0123456789abcdef\""),
        ("bridge", json!(5), "bridge 5"),
        ("mtu", json!(-1), "mtu -1"),
        ("mtu", json!(70000), "mtu 70000"),
        ("isGateway", json!("yes"), "isGateway \"yes\""),
        ("vlan", json!(4095), "vlan 4095"),
        ("ipMasqExclude", json!(["10.0.0.1/8"]), "ipMasqExclude[0] \"10.0.0.1/8\""),
        ("ipam", json!({"type": "host-local"}), "ipam.ranges"),
        ("ipam", json!({"type": "a/b"}), "ipam.type \"a/b\""),
        ("overlay", json!({"type": "ipip"}), "overlay.type \"ipip\""),
        ("overlay", json!({"type": "vxlan", "vni": 16777216}), "overlay.vni 16777216"),
        (
            "overlay",
            json!({"type": "vxlan", "nodeName": "x", "nodes": []}),
            "overlay.nodeName \"x\"",
        ),
        (
            "overlay",
            json!({"type": "vxlan", "nodeName": "x", "nodes": [{"name": "x"}]}),
            "overlay.nodes[0].address",
        ),
        ("onDaemonTimeout", json!("maybe"), "onDaemonTimeout \"maybe\""),
        (
            "runtimeConfig",
            json!({"portMappings": [{"hostPort": 1}]}),
            "runtimeConfig.portMappings[0].containerPort",
        ),
        ("runtimeConfig", json!({"mac": "zz"}), "runtimeConfig.mac \"zz\""),
        ("args", json!({"cni": {"ips": ["x"]}}), "args.cni.ips[0]"),
    ] {
        let mut config = base.clone();
        config[key] = value;
        let output = Cni::new("ADD", &config).container("a", container.path()).run(&node);
        let (code, message) = output.error();
        assert_eq!(code, 7, "{message}");
        assert!(message.contains(words), "{message} should say {words}");
    }
    let mut both = base;
    both["hairpinMode"] = true.into();
    both["promiscMode"] = true.into();
    let output = Cni::new("ADD", &both).container("a", container.path()).run(&node);
    assert_eq!(output.error().0, 7);
    assert!(node.links().is_empty() && container.links().is_empty());
}

#[test]
fn input_that_is_no_json_is_code_6() {
    let node = testnet::Namespace::new("n1");
    let container = testnet::Namespace::new("a");
    for input in [&b""[..], b"{", b"\xff\xfe", b"[1,2"] {
        let output =
            Cni::new("ADD", &Value::Null).input(input).container("a", container.path()).run(&node);
        assert_eq!(output.error().0, 6);
    }
    let list = Cni::new("ADD", &Value::Null).input(b"[]").container("a", container.path());
    assert_eq!(list.run(&node).error().0, 7);
}

#[test]
fn a_start_by_hand_says_what_this_is() {
    let node = testnet::Namespace::new("n1");
    let output = Cni::new("ADD", &Value::Null).without("CNI_COMMAND").run(&node);
    assert!(output.status.success());
    assert!(output.stdout.is_empty() && output.stderr.contains("CNI plugin"), "{output:?}");
}

#[test]
fn del_succeeds_whatever_is_left() {
    let lan = Lan::new();
    let node = lan.node("n1");
    let network = network(&node);
    let config = network.to_json(&node);
    let del = |id: &str, netns: &str| {
        let del = Cni::new("DEL", &config).container(id, netns.as_ref());
        del.run(node.namespace()).result();
    };
    del("never-added", "/run/netns/never-was");
    del("no-namespace", "/etc/hostname");
    let pod = node.pod(&network, "a");
    pod.delete();
    pod.delete();
    // A previous result that says nothing, as a runtime may have kept it.
    let pod = node.pod(&network, "c");
    let mut poor = config.clone();
    poor["prevResult"] = json!({"cniVersion": "1.1.0", "ips": pod.result()["ips"]});
    let del = Cni::new("DEL", &poor).container(pod.id(), pod.namespace().path());
    del.run(node.namespace()).result();
    assert!(node.leases("net").is_empty() && pod.namespace().links().is_empty());
    for how in ["without CNI_NETNS", "with a vanished namespace"] {
        let pod = node.pod(&network, "b");
        let mut del = pod.cni("DEL");
        let link = pod.host_link();
        if how.starts_with("without") {
            del = del.without("CNI_NETNS");
        } else {
            drop(pod);
        }
        del.run(node.namespace()).result();
        assert!(node.leases("net").is_empty(), "{how}");
        assert!(!node.namespace().links().contains(&link), "{how}");
    }
}

#[test]
fn add_fails_cleanly_where_the_interface_is_taken_or_the_namespace_is_wrong() {
    let lan = Lan::new();
    let node = lan.node("n1");
    let network = network(&node);
    let config = network.to_json(&node);
    let add = |netns: &std::path::Path| {
        Cni::new("ADD", &config).container("a", netns).run(node.namespace()).error()
    };
    let taken = node.container("taken");
    taken.ip("link add eth0 type bridge");
    let (code, message) = add(taken.path());
    assert!(code == 113 && message.contains("\"eth0\" already exists"), "{message}");
    assert_eq!(add(node.namespace().path()).0, 8, "the plugin's own namespace");
    assert_eq!(add("/etc/hostname".as_ref()).0, 8, "no namespace");
    assert_eq!(add("/run/netns/vanished".as_ref()).0, 8, "a vanished namespace");
    assert!(node.leases("net").is_empty(), "leases of failed ADDs");
    // A reservation that the reference plugin made for the same attachment is a first ADD, and stays.
    let theirs = node.data_dir().join("net").join("10.244.1.99");
    std::fs::write(&theirs, "a\r\neth0").unwrap();
    assert_eq!(add(taken.path()).0, 111);
    assert!(theirs.exists());
    let left: Vec<String> =
        node.namespace().links().into_iter().filter(|link| link.starts_with("vd")).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn del_after_a_failed_add_succeeds_and_leaves_nothing() {
    let lan = Lan::new();
    let node = lan.node("n1");
    let network = network(&node);
    let taken = node.container("taken");
    taken.ip("link add eth0 type bridge");
    let before = node.namespace().links();
    let cni = |verb| Cni::new(verb, &network.to_json(&node)).container("a", taken.path());
    cni("ADD").run(node.namespace()).error();
    cni("DEL").run(node.namespace()).result();
    assert!(node.leases("net").is_empty());
    let mut after = node.namespace().links();
    after.retain(|link| link != "viaduct0");
    assert_eq!(after, before);
    assert_eq!(taken.links(), ["eth0"], "what was there before is not ours to remove");
    // The same container can be attached once the name is free.
    taken.ip("link del eth0");
    cni("ADD").run(node.namespace()).result();
    cni("DEL").run(node.namespace()).result();
    assert!(node.leases("net").is_empty() && taken.links().is_empty());
}

#[test]
fn standard_output_is_json_or_empty_whatever_is_asked() {
    let node = testnet::Namespace::new("n1");
    let config = json!({"cniVersion": "1.1.0", "name": "net", "type": "viaduct"});
    let inputs =
        [config.to_string().into_bytes(), b"".to_vec(), b"\0\xff{".to_vec(), b"7".to_vec()];
    for verb in ["ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION", "add", " ", "\u{1f980}"] {
        for input in &inputs {
            let cni = Cni::new(verb, &config).container("a", "/run/netns/never-was".as_ref());
            let output = cni.input(input).run(&node);
            let json = serde_json::from_str::<Value>(&output.stdout);
            assert!(output.stdout.is_empty() || json.is_ok(), "{verb}: {output:?}");
            if !output.status.success() {
                output.error();
            }
        }
    }
}

#[test]
fn a_second_add_is_refused_and_harms_nothing() {
    let lan = Lan::new();
    let node = lan.node("n1");
    let pod = node.pod(&network(&node), "a");
    let (code, message) = pod.cni("ADD").run(node.namespace()).error();
    assert_ne!(code, 0, "{message}");
    pod.check().result();
    // The same as the runtime repeats it: without a previous result.
    let again =
        Cni::new("ADD", &network(&node).to_json(&node)).container(pod.id(), pod.namespace().path());
    let (code, message) = again.run(node.namespace()).error();
    assert_eq!(code, 111, "{message}");
    pod.check().result();
    pod.delete();
}
