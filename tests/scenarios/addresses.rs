//! Addresses: requests, exhaustion, delegates, GC and STATUS, a full disk.

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime};

use serde_json::json;
use testnet::{Cni, Host, Lan, Network, Node, programs, skip};

use super::{gc, status};

fn network(node: &Node) -> Network {
    Network::bridge("net").subnet(&node.pod_cidr()).subnet(&node.pod_cidr_v6())
}

#[test]
fn addresses_are_requested_by_three_channels_in_order() {
    let lan = Lan::new();
    let node = lan.node("n1");
    let args =
        network(&node).set("args", json!({"cni": {"ips": ["10.244.1.20/24", "fd00:10:1::20"]}}));
    let runtime = args.clone().runtime("ips", json!(["10.244.1.10/24"]));
    for (network, v4, v6) in [
        (&runtime, "10.244.1.10", None),
        (&args, "10.244.1.20", Some("fd00:10:1::20")),
        (&network(&node), "10.244.1.30", Some("fd00:10:1::30")),
    ] {
        let config = network.to_json(&node);
        let container = node.container("a");
        let cni = |verb| Cni::new(verb, &config).container("a", container.path());
        let add = cni("ADD").env("CNI_ARGS", "IP=10.244.1.30,fd00:10:1::30");
        let result = add.run(node.namespace()).result();
        assert_eq!(result["ips"][0]["address"], format!("{v4}/24"));
        if let Some(v6) = v6 {
            assert_eq!(result["ips"][1]["address"], format!("{v6}/64"));
        }
        cni("DEL").run(node.namespace()).result();
    }
    let elsewhere = network(&node).runtime("ips", json!(["10.9.9.9"]));
    let (code, message) = node.try_pod(&elsewhere, "b").err().expect("a failure").error();
    assert!(code == 111 && message.contains("10.9.9.9"), "{message}");
    assert!(node.leases("net").is_empty());
    assert!(!node.namespace().links().iter().any(|link| link.starts_with("vd")));
}

#[test]
fn ranges_of_the_runtime_come_first() {
    let lan = Lan::new();
    let node = lan.node("n1");
    let network = Network::bridge("net")
        .subnet(&node.pod_cidr())
        .set("forceAddress", true)
        .runtime("ipRanges", json!([[{"subnet": "10.77.0.0/24", "rangeStart": "10.77.0.50"}]]));
    let pod = node.pod(&network, "a");
    assert_eq!(pod.result()["ips"][0]["address"], "10.77.0.50/24");
    assert_eq!(pod.result()["ips"][1]["address"], "10.244.1.2/24");
    pod.delete();
    assert!(node.leases("net").is_empty());
}

#[test]
fn an_exhausted_range_fails_add_and_status_and_a_free_address_mends_both() {
    let lan = Lan::new();
    let node = lan.node("n1");
    let network = Network::bridge("net").subnet("10.1.0.0/30");
    status(&node, &network).result();
    let pod = node.pod(&network, "a");
    let (code, message) = node.try_pod(&network, "b").err().expect("exhaustion").error();
    assert_eq!(code, 110);
    assert!(
        message.contains("no IP addresses available in range set: 10.1.0.1-10.1.0.2"),
        "{message}"
    );
    let (code, message) = status(&node, &network).error();
    assert!(code == 50 && message.contains("10.1.0.1-10.1.0.2"), "{message}");
    pod.delete();
    status(&node, &network).result();
    node.pod(&network, "b").delete();
}

#[test]
fn a_full_range_takes_back_what_dead_attachments_hold() {
    let lan = Lan::new();
    let node = lan.node("n1");
    let network = Network::bridge("net").subnet("10.1.0.0/30");
    let pod = node.pod(&network, "a");
    let link = pod.result()["interfaces"][1]["name"].as_str().unwrap().to_owned();
    let lease = node.lease_file("net", "10.1.0.2");
    let old = SystemTime::now() - Duration::from_secs(600);
    let age = || File::open(&lease).unwrap().set_modified(old).unwrap();

    // An old lease whose link is there is nobody else's.
    age();
    assert_eq!(node.try_pod(&network, "b").err().expect("exhaustion").error().0, 110);
    assert_eq!(status(&node, &network).error().0, 50);
    // Nor is a new one whose link is not there yet.
    node.namespace().command("ip", &["link", "del", &link]);
    File::open(&lease).unwrap().set_modified(SystemTime::now()).unwrap();
    assert_eq!(node.try_pod(&network, "b").err().expect("exhaustion").error().0, 110);
    age();
    status(&node, &network).result();
    let other = node.pod(&network, "b");
    assert_eq!(other.result()["ips"][0]["address"], "10.1.0.2/30");
    // The dead one's late DEL does not take it.
    pod.delete();
    assert_eq!(node.leases("net").len(), 1);

    // The reference plugin's leases have other links: they stay.
    other.delete();
    std::fs::write(&lease, "somebody\r\neth0").unwrap();
    age();
    assert_eq!(node.try_pod(&network, "c").err().expect("exhaustion").error().0, 110);
}

#[test]
fn gc_frees_what_is_not_valid_and_tells_absent_from_empty() {
    let lan = Lan::new();
    let node = lan.node("n1");
    let network = network(&node)
        .masquerade(&[])
        .runtime("bandwidth", json!({"egressRate": 8_000_000, "egressBurst": 800_000}));
    let with_port = |port| network.clone().host_port(port, 80, "tcp");
    let (a, b) = (node.pod(&with_port(8001), "a"), node.pod(&with_port(8002), "b"));
    let other = node.pod(
        &Network::bridge("other").set("bridge", "other0").subnet("10.9.0.0/24").masquerade(&[]),
        "x",
    );
    let links = node.namespace().links();

    gc(&node, &network, None).result();
    assert_eq!(node.namespace().links(), links, "no list: nothing goes");
    gc(&node, &network, Some(&[a.id(), b.id()])).result();
    assert_eq!(node.namespace().links(), links, "all are valid: nothing goes");

    gc(&node, &network, Some(&[b.id()])).result();
    assert!(!node.namespace().links().contains(&a.host_link()));
    assert_eq!(node.leases("net").len(), 2);
    let rules = node.namespace().ruleset();
    assert!(!rules.contains(a.id()) && rules.contains(b.id()), "{rules}");
    b.check().result();
    b.ping("10.244.1.1".parse().unwrap()).unwrap();
    a.delete();

    gc(&node, &network, Some(&[])).result();
    assert!(node.leases("net").is_empty());
    let left: Vec<String> = node.namespace().links();
    assert_eq!(left.iter().filter(|link| link.starts_with("vd")).count(), 1, "{left:?}");
    other.check().result();
    gc(&node, &network, Some(&[])).result();
}

#[test]
fn gc_of_a_network_without_addresses_removes_its_links() {
    let lan = Lan::new();
    let node = lan.node("n1");
    let network = Network::bridge("l2").set("isGateway", false).set("isDefaultGateway", false);
    let (a, b) = (node.pod(&network, "a"), node.pod(&network, "b"));
    gc(&node, &network, Some(&[b.id()])).result();
    let links = node.namespace().links();
    assert!(!links.contains(&a.host_link()) && links.contains(&b.host_link()));
}

#[test]
fn reservations_that_make_no_sense_hurt_nobody() {
    let lan = Lan::new();
    let node = lan.node("n1");
    let folder = node.data_dir().join("net");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("10.244.1.2"), "").unwrap();
    std::fs::write(folder.join("10.244.1.3"), [0xff, 0, 1]).unwrap();
    std::fs::write(folder.join("last_reserved_ip.0"), "garbage").unwrap();
    std::fs::write(folder.join("README"), "not an address").unwrap();
    let network = Network::bridge("net").subnet(&node.pod_cidr());
    let (a, b) = (node.pod(&network, "a"), node.pod(&network, "b"));
    assert_eq!(
        (a.v4().to_string(), b.v4().to_string()),
        ("10.244.1.2".into(), "10.244.1.3".into())
    );
    gc(&node, &network, Some(&[a.id()])).result();
    assert_eq!(node.leases("net"), ["10.244.1.2"]);
    assert!(folder.join("README").exists());
}

#[test]
fn a_full_disk_fails_add_with_nothing_left() {
    let lan = Lan::new();
    let node = lan.node("n1");
    let folder = node.data_dir();
    std::fs::create_dir_all(&folder).unwrap();
    // Four pages and a handful of files: full soon.
    let mount = ["-t", "tmpfs", "-o", "size=16k,nr_inodes=9", "tmpfs", folder.to_str().unwrap()];
    // The namespaces of the test share the machine's mounts, so the mount is undone whatever happens.
    struct Unmount(std::path::PathBuf);
    impl Drop for Unmount {
        fn drop(&mut self) {
            let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
        }
    }
    node.namespace().command("mount", &mount);
    let _unmount = Unmount(folder.clone());
    let network = Network::bridge("net").subnet(&node.pod_cidr());
    let mut pods = Vec::new();
    let output = loop {
        match node.try_pod(&network, "a") {
            Ok(pod) => pods.push(pod),
            Err(output) => break output,
        }
        assert!(pods.len() < 20, "the disk does not fill");
    };
    let (code, message) = output.error();
    assert!(code == 5 && message.contains("No space left"), "{message}");
    assert!(message.contains(folder.to_str().unwrap()), "{message}");
    assert_eq!(node.leases("net").len(), pods.len());
    let links = node.namespace().links();
    assert_eq!(links.iter().filter(|link| link.starts_with("vd")).count(), pods.len());
    for pod in &pods {
        pod.delete();
    }
    node.pod(&network, "again").delete();
}

/// An IPAM plugin of the test's own: it writes down how it was called.
fn fake_delegate(node: &Node, answer: &str, exit: u8) -> String {
    let dir = node.folder().join("plugins");
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join("fake-ipam");
    let log = node.folder().join("calls");
    let script = format!(
        "#!/bin/sh\ncat >{0}/stdin.$CNI_COMMAND\necho $CNI_COMMAND $CNI_CONTAINERID >>{1}\n\
         echo noise >&2\n[ $CNI_COMMAND = ADD ] && echo '{answer}'\nexit {exit}\n",
        node.folder().display(),
        log.display()
    );
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    format!("/nowhere:{}", dir.display())
}

fn calls(node: &Node) -> Vec<String> {
    let text = std::fs::read_to_string(node.folder().join("calls")).unwrap_or_default();
    text.lines().map(|line| line.split(' ').next().unwrap_or_default().to_owned()).collect()
}

#[test]
fn a_delegate_is_told_every_verb_and_its_addresses_are_used() {
    let lan = Lan::new();
    let node = lan.node("n1");
    let path = fake_delegate(
        &node,
        r#"{"cniVersion":"1.1.0","ips":[{"address":"10.66.0.7/24"},{"address":"fd00:66::7/64","gateway":"fd00:66::fe"}],"routes":[{"dst":"10.50.0.0/16"}],"dns":{"nameservers":["10.0.0.10"]}}"#,
        0,
    );
    let network =
        Network::bridge("net").set("ipam", json!({"type": "fake-ipam", "own": {"key": 1}}));
    let config = network.to_json(&node);
    let container = node.container("a");
    let mut config = config;
    let call = |verb: &str, config: &serde_json::Value| {
        let cni = Cni::new(verb, config).container("a", container.path()).env("CNI_PATH", &path);
        cni.run(node.namespace()).result()
    };
    let result = call("ADD", &config);
    assert_eq!(result["ips"][0]["gateway"], "10.66.0.1", "the gateway is ours to name");
    assert_eq!(result["ips"][1]["gateway"], "fd00:66::fe");
    assert_eq!(result["dns"]["nameservers"][0], "10.0.0.10");
    let shown = container.ip("addr show dev eth0");
    assert!(shown.contains("10.66.0.7/24") && shown.contains("fd00:66::7/64"), "{shown}");
    config["prevResult"] = result;
    call("CHECK", &config);
    call("STATUS", &config);
    config["cni.dev/valid-attachments"] = json!([]);
    call("GC", &config);
    call("DEL", &config);
    assert_eq!(calls(&node), ["ADD", "CHECK", "STATUS", "GC", "DEL"]);
    let stdin = std::fs::read_to_string(node.folder().join("stdin.DEL")).unwrap();
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&stdin).unwrap(),
        config,
        "the same input"
    );
}

#[test]
fn a_delegate_that_fails_is_told_to_clean_up_and_its_words_are_handed_on() {
    let lan = Lan::new();
    let node = lan.node("n1");
    let network = Network::bridge("net").set("ipam", json!({"type": "fake-ipam"}));
    for (answer, exit, code, words) in [
        (r#"{"code":77,"msg":"the moon is full","details":"wait"}"#, 1, 77, "the moon is full"),
        ("null", 0, 7, "no address"),
        ("", 0, 6, "no result"),
        ("not json", 0, 6, "not JSON"),
        (r#"{"ips":[{"address":"x"}]}"#, 0, 6, "fake-ipam"),
    ] {
        let path = fake_delegate(&node, answer, exit);
        let container = node.container("a");
        let add = Cni::new("ADD", &network.to_json(&node)).container("a", container.path());
        let (found, message) = add.env("CNI_PATH", &path).run(node.namespace()).error();
        assert!(found == code && message.contains(words), "{found} {message}");
        assert!(container.links().is_empty());
        assert_eq!(calls(&node).last().unwrap(), "DEL", "{answer}");
        std::fs::remove_file(node.folder().join("calls")).unwrap();
    }
}

#[test]
fn a_missing_delegate_is_named_with_the_folders_searched() {
    let lan = Lan::new();
    let node = lan.node("n1");
    let network = Network::bridge("net").set("ipam", json!({"type": "no-such-ipam"}));
    let (code, message) = node.try_pod(&network, "a").err().expect("a failure").error();
    assert!(
        code == 7 && message.contains("no-such-ipam") && message.contains("/opt/cni/bin"),
        "{message}"
    );
    assert!(!node.namespace().links().iter().any(|link| link.starts_with("vd")));
}

#[test]
fn the_reference_ipam_works_as_delegate_beside_ours() {
    if programs::installed_plugin("static").is_none() {
        skip("the plugin `static` is not installed (package containernetworking-plugins)");
        return;
    }
    let lan = Lan::new();
    let node = lan.node("n1");
    let addresses = json!([{"address": "10.66.0.7/24", "gateway": "10.66.0.1"}]);
    // Debian's reference plugins know no version above 1.0.0.
    let network = Network::bridge("net")
        .set("cniVersion", "1.0.0")
        .set("ipam", json!({"type": "static", "addresses": addresses}));
    let pod = node.pod(&network, "a");
    pod.ping("10.66.0.1".parse().unwrap()).unwrap();
    pod.check().result();
    pod.delete();
}
