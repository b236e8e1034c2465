//! The verbs of IPAM against real folders, alone, in parallel, and beside the reference plugin.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use proptest::prelude::*;
use serde_json::json;

use super::store::Boot;
use super::*;

const NETWORK: &str = "net";

struct Folder {
    dir: tempfile::TempDir,
}

impl Folder {
    fn new() -> Folder {
        Folder { dir: tempfile::tempdir().unwrap() }
    }

    fn config(&self, ranges: serde_json::Value) -> Config {
        let ipam = json!({"ranges": ranges, "dataDir": self.dir.path()});
        Config::parse(&ipam, None).unwrap()
    }

    fn network(&self) -> std::path::PathBuf {
        self.dir.path().join(NETWORK)
    }

    fn put(&self, name: &str, content: &str) {
        fs::create_dir_all(self.network()).unwrap();
        fs::write(self.network().join(name), content).unwrap();
    }

    fn has(&self, name: &str) -> bool {
        self.network().join(name).exists()
    }

    fn addresses(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.network()) else { return Vec::new() };
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(|name| name.parse::<IpAddr>().is_ok()).collect();
        names.sort();
        names
    }
}

fn attachment(id: &str) -> Attachment {
    Attachment { container_id: id.to_owned(), ifname: "eth0".to_owned() }
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn given(allocations: &[Allocation]) -> Vec<String> {
    allocations.iter().map(|a| a.address.address().to_string()).collect()
}

fn small() -> serde_json::Value {
    json!([[{"subnet": "10.1.2.0/29"}]])
}

#[test]
fn addresses_go_round_and_are_reused_last() {
    let folder = Folder::new();
    let config = folder.config(small());
    let add = |id: &str| given(&config.add(NETWORK, &attachment(id), &[], false).unwrap());
    assert_eq!(add("a"), ["10.1.2.2"]);
    assert_eq!(add("b"), ["10.1.2.3"]);
    config.del(NETWORK, &attachment("a")).unwrap();
    assert_eq!(add("c"), ["10.1.2.4"], "a freed address rests until the others were given");
    assert_eq!(add("d"), ["10.1.2.5"]);
    assert_eq!(add("e"), ["10.1.2.6"]);
    assert_eq!(add("f"), ["10.1.2.2"]);
}

#[test]
fn a_reservation_is_what_host_local_writes() {
    let folder = Folder::new();
    folder.config(small()).add(NETWORK, &attachment("abc"), &[], false).unwrap();
    assert_eq!(fs::read(folder.network().join("10.1.2.2")).unwrap(), b"abc\r\neth0");
    assert_eq!(fs::read(folder.network().join("last_reserved_ip.0")).unwrap(), b"10.1.2.2");
}

#[test]
fn an_exhausted_range_is_named_and_status_says_so_before() {
    let folder = Folder::new();
    let config = folder.config(json!([[{"subnet": "fd00::/64"}], [{"subnet": "10.1.2.0/30"}]]));
    config.status(NETWORK).unwrap();
    config.add(NETWORK, &attachment("a"), &[], false).unwrap();
    let error = config.add(NETWORK, &attachment("b"), &[], false).unwrap_err();
    assert_eq!(error.to_string(), "no IP addresses available in range set: 10.1.2.1-10.1.2.2");
    assert_eq!(folder.addresses(), ["10.1.2.2", "fd00::2"], "the IPv6 address was given back");
    assert_eq!(config.status(NETWORK).unwrap_err().code(), 110);
}

#[test]
fn an_attachment_has_one_lease_and_every_interface_its_own() {
    let folder = Folder::new();
    let config = folder.config(small());
    config.add(NETWORK, &attachment("a"), &[], false).unwrap();
    let error = config.add(NETWORK, &attachment("a"), &[], false).unwrap_err();
    assert!(matches!(error, Error::AlreadyAllocated { .. }), "{error}");
    let second = Attachment { ifname: "eth1".to_owned(), ..attachment("a") };
    config.add(NETWORK, &second, &[], false).unwrap();
    assert_eq!(config.del(NETWORK, &attachment("a")).unwrap(), ips(&["10.1.2.2"]));
    assert_eq!(config.check(NETWORK, &second).unwrap(), ips(&["10.1.2.3"]));
    assert_eq!(config.check(NETWORK, &attachment("a")).unwrap_err().code(), 112);
}

#[test]
fn requested_addresses_must_fit_and_be_free() {
    let folder = Folder::new();
    let config = folder.config(json!([[{"subnet": "10.1.2.0/24"}], [{"subnet": "fd00::/64"}]]));
    let add =
        |id: &str, requested: &[&str]| config.add(NETWORK, &attachment(id), &ips(requested), false);
    assert_eq!(given(&add("a", &["fd00::77", "10.1.2.88"]).unwrap()), ["10.1.2.88", "fd00::77"]);
    assert_eq!(given(&add("b", &["fd00::99"]).unwrap()), ["10.1.2.2", "fd00::99"]);
    for (requested, words) in [
        (vec!["10.1.2.88"], "10.1.2.88 is not available: it is reserved"),
        (vec!["10.9.9.9"], "in none of the ranges"),
        (vec!["10.1.2.1"], "gateway"),
        (vec!["10.1.2.5", "10.1.2.6"], "another address of the same range set"),
    ] {
        let error = add("c", &requested).unwrap_err();
        assert!(error.to_string().contains(words), "{error} should say {words}");
        assert_eq!(error.code(), 111);
    }
    assert_eq!(folder.addresses().len(), 4, "nothing was left half-made");
}

#[test]
fn del_is_repeatable_and_makes_nothing() {
    let folder = Folder::new();
    let config = folder.config(small());
    assert!(config.del(NETWORK, &attachment("never")).unwrap().is_empty());
    assert!(!folder.network().exists());
    config.add(NETWORK, &attachment("a"), &[], false).unwrap();
    assert_eq!(config.del(NETWORK, &attachment("a")).unwrap().len(), 1);
    assert!(config.del(NETWORK, &attachment("a")).unwrap().is_empty());
}

#[test]
fn old_files_and_untidy_ones_are_understood() {
    let folder = Folder::new();
    let config = folder.config(small());
    folder.put("10.1.2.2", "old");
    folder.put("10.1.2.3", "  spaced  \r\n eth0 \r\n");
    folder.put("10.1.2.4", "unix\neth0");
    assert_eq!(given(&config.add(NETWORK, &attachment("a"), &[], false).unwrap()), ["10.1.2.5"]);
    for id in ["old", "spaced", "unix"] {
        assert_eq!(config.del(NETWORK, &attachment(id)).unwrap().len(), 1, "{id}");
    }
}

#[test]
fn empty_and_corrupt_files_are_nobodys() {
    let folder = Folder::new();
    let config = folder.config(json!([[{"subnet": "10.1.2.0/29"}]]));
    folder.put("10.1.2.2", "");
    folder.put("10.1.2.3", "\0\0\0\0");
    folder.put("10.1.2.4", " \r\n");
    config.status(NETWORK).unwrap();
    for (id, address) in [("a", "10.1.2.2"), ("b", "10.1.2.3"), ("c", "10.1.2.4")] {
        assert_eq!(given(&config.add(NETWORK, &attachment(id), &[], false).unwrap()), [address]);
    }
    folder.put("10.1.2.6", "");
    assert_eq!(config.gc(NETWORK, &["a", "b", "c"].map(attachment)).unwrap(), ips(&["10.1.2.6"]));
}

#[test]
fn garbage_in_the_hint_means_the_start_of_the_range() {
    let folder = Folder::new();
    folder.put("last_reserved_ip.0", "not an address");
    let config = folder.config(small());
    assert_eq!(given(&config.add(NETWORK, &attachment("a"), &[], false).unwrap()), ["10.1.2.2"]);
}

#[test]
fn gc_keeps_the_valid_and_an_empty_list_keeps_nothing() {
    let folder = Folder::new();
    let config = folder.config(json!([[{"subnet": "10.1.2.0/24"}], [{"subnet": "fd00::/64"}]]));
    for id in ["a", "b", "c"] {
        config.add(NETWORK, &attachment(id), &[], false).unwrap();
    }
    folder.put("10.1.2.99", "old");
    let valid = [attachment("b"), attachment("old")];
    assert_eq!(config.stale(NETWORK, &valid).unwrap().len(), 4);
    assert_eq!(config.gc(NETWORK, &valid).unwrap().len(), 4);
    assert_eq!(folder.addresses(), ["10.1.2.3", "10.1.2.99", "fd00::3"]);
    config.gc(NETWORK, &[]).unwrap();
    assert!(folder.addresses().is_empty());
    assert!(folder.has("lock") && folder.has("last_reserved_ip.0"));
}

#[test]
fn a_reboot_frees_what_was_reserved_before_it() {
    let folder = Folder::new();
    let config = folder.config(small());
    config.add(NETWORK, &attachment("before"), &[], false).unwrap();
    folder.put("10.1.2.6", "theirs\r\neth0");
    let forget = |id: &str, since: fn() -> Option<i64>| {
        let store = config.store(NETWORK).unwrap();
        store.forget_before(&Boot { id: id.to_owned(), since }, 1).unwrap();
    };
    // A clock that starts in 1970 says that both were made after the boot.
    forget("next-boot", || Some(0));
    assert_eq!(
        folder.addresses(),
        ["10.1.2.6"],
        "ours is of another boot, whatever the clock says"
    );
    forget("next-boot", || Some(i64::MAX));
    assert_eq!(folder.addresses().len(), 1, "still the same boot");
    forget("boot-after-that", || Some(i64::MAX));
    assert!(folder.addresses().is_empty());
}

#[test]
fn a_folder_of_the_reference_plugin_survives_the_first_look() {
    let folder = Folder::new();
    folder.put("10.1.2.2", "theirs\r\neth0");
    let config = folder.config(small());
    let store = config.store(NETWORK).unwrap();
    store.forget_before(&Boot { id: "any".to_owned(), since: || Some(i64::MAX) }, 1).unwrap();
    drop(store);
    assert!(folder.has("10.1.2.2") && folder.has("viaduct-boot-id"));
}

#[test]
fn a_folder_that_is_none_is_an_error_that_names_it() {
    let folder = Folder::new();
    fs::write(folder.network(), "a file").unwrap();
    let error = folder.config(small()).add(NETWORK, &attachment("a"), &[], false).unwrap_err();
    assert_eq!(error.code(), 5);
    assert!(error.to_string().contains(folder.network().to_str().unwrap()), "{error}");
}

#[test]
fn many_at_once_never_share_an_address() {
    let folder = Folder::new();
    let config = folder.config(json!([[{"subnet": "10.1.2.0/24"}]]));
    let all: Vec<String> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..8)
            .map(|worker| {
                let config = &config;
                scope.spawn(move || {
                    let add = |n| {
                        let id = format!("w{worker}-{n}");
                        given(&config.add(NETWORK, &attachment(&id), &[], false).unwrap())
                    };
                    (0..20).flat_map(add).collect::<Vec<_>>()
                })
            })
            .collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 160);
}

#[test]
fn the_second_name_of_a_reservation_counts_only_beside_the_first() {
    let folder = Folder::new();
    let config = folder.config(small());
    config.add(NETWORK, &attachment("a"), &[], false).unwrap();
    let marks = || {
        let names = fs::read_dir(folder.network()).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("viaduct-owner-")).count()
    };
    assert_eq!(marks(), 1);
    // Somebody who knows nothing of second names frees the address and gives it to another.
    fs::remove_file(folder.network().join("10.1.2.2")).unwrap();
    folder.put("10.1.2.2", "theirs\r\neth0");
    assert_eq!(given(&config.add(NETWORK, &attachment("a"), &[], false).unwrap()), ["10.1.2.3"]);
    assert!(config.add(NETWORK, &attachment("a"), &[], false).is_err());
    config.del(NETWORK, &attachment("a")).unwrap();
    assert_eq!(marks(), 0);
    config.add(NETWORK, &attachment("b"), &[], false).unwrap();
    fs::remove_file(folder.network().join("10.1.2.4")).unwrap();
    config.gc(NETWORK, &[attachment("theirs")]).unwrap();
    assert_eq!((marks(), folder.addresses()), (0, vec!["10.1.2.2".to_owned()]));
}

#[test]
fn an_address_remembers_one_owners_choice_of_mac_address() {
    let folder = Folder::new();
    let config = folder.config(small());
    let wish = ips(&["10.1.2.5"]);
    for (chosen, stale) in
        [(false, false), (true, true), (true, true), (false, true), (false, false)]
    {
        let added = config.add(NETWORK, &attachment("a"), &wish, chosen).unwrap();
        assert_eq!(added[0].stale_neighbours, stale, "chosen: {chosen}");
        config.del(NETWORK, &attachment("a")).unwrap();
    }
}

#[test]
fn a_huge_range_costs_no_more_than_what_is_taken() {
    let folder = Folder::new();
    let config = folder.config(json!([[{"subnet": "fd00::/64", "rangeEnd": "fd00::fffe"}]]));
    for n in 0..50 {
        config.add(NETWORK, &attachment(&format!("c{n}")), &[], false).unwrap();
    }
    folder.put("last_reserved_ip.0", "fd00::1");
    assert_eq!(given(&config.add(NETWORK, &attachment("next"), &[], false).unwrap()), ["fd00::34"]);
    config.status(NETWORK).unwrap();
}

/// Runs the reference plugin on the same folder; `None` if it is not installed.
fn host_local(dir: &Path, verb: &str, id: &str) -> Option<serde_json::Value> {
    let binary = ["/usr/lib/cni/host-local", "/opt/cni/bin/host-local"]
        .into_iter()
        .find(|path| Path::new(path).exists());
    let Some(binary) = binary else {
        let _ = writeln!(std::io::stderr(), "SKIPPED: host-local is not installed");
        return None;
    };
    let config = json!({"cniVersion": "1.0.0", "name": NETWORK, "ipam":
        {"type": "host-local", "dataDir": dir, "ranges": [[{"subnet": "10.1.2.0/29"}]]}});
    let mut child = Command::new(binary)
        .envs([("CNI_COMMAND", verb), ("CNI_CONTAINERID", id), ("CNI_IFNAME", "eth0")])
        .envs([("CNI_NETNS", "/proc/self/ns/net"), ("CNI_PATH", "/usr/lib/cni")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(config.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    Some(serde_json::from_slice(&output.stdout).unwrap_or_default())
}

#[test]
fn the_reference_plugin_and_we_share_a_folder() {
    let folder = Folder::new();
    let config = folder.config(small());
    let Some(theirs) = host_local(folder.dir.path(), "ADD", "theirs") else { return };
    assert_eq!(theirs["ips"][0]["address"], "10.1.2.2/29");
    assert_eq!(given(&config.add(NETWORK, &attachment("ours"), &[], false).unwrap()), ["10.1.2.3"]);
    let next = host_local(folder.dir.path(), "ADD", "theirs2").unwrap();
    assert_eq!(next["ips"][0]["address"], "10.1.2.4/29", "they go on where we stopped");
    host_local(folder.dir.path(), "DEL", "ours");
    assert!(!folder.has("10.1.2.3"), "they release ours");
    assert_eq!(config.del(NETWORK, &attachment("theirs")).unwrap(), ips(&["10.1.2.2"]));
    assert_eq!(config.gc(NETWORK, &[]).unwrap(), ips(&["10.1.2.4"]));
}

#[derive(Clone, Debug)]
enum Step {
    Add(u8),
    Del(u8),
    Gc(Vec<u8>),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u8..8).prop_map(Step::Add),
        3 => (0u8..8).prop_map(Step::Del),
        1 => proptest::collection::vec(0u8..8, 0..8).prop_map(Step::Gc),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_sequence_keeps_one_address_per_attachment(steps in proptest::collection::vec(step(), 1..40)) {
        let folder = Folder::new();
        let config = folder.config(small());
        let mut model = std::collections::BTreeMap::<u8, String>::new();
        for step in steps {
            match step {
                Step::Add(id) => {
                    let result = config.add(NETWORK, &attachment(&format!("c{id}")), &[], false);
                    if model.contains_key(&id) || model.len() == 5 {
                        prop_assert!(result.is_err());
                    } else {
                        let address = given(&result.unwrap()).remove(0);
                        prop_assert!(!model.values().any(|other| *other == address));
                        model.insert(id, address);
                    }
                }
                Step::Del(id) => {
                    let freed = config.del(NETWORK, &attachment(&format!("c{id}"))).unwrap();
                    prop_assert_eq!(freed.len(), usize::from(model.remove(&id).is_some()));
                }
                Step::Gc(valid) => {
                    let list: Vec<_> = valid.iter().map(|id| attachment(&format!("c{id}"))).collect();
                    config.gc(NETWORK, &list).unwrap();
                    model.retain(|id, _| valid.contains(id));
                }
            }
            let mut expected: Vec<String> = model.values().cloned().collect();
            expected.sort();
            prop_assert_eq!(folder.addresses(), expected);
        }
    }
}
