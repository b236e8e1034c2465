//! Reservations on file systems with and without unnamed files: no duplicate, no leak, also after kills.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use testnet::{Cni, Host, Lan, Node, skip};

use super::gc_of;

/// Moments at which ADD, DEL and GC are killed, on each file system. 200 for a thorough run.
const MOMENTS_VARIABLE: &str = "VIADUCT_KILL_MOMENTS";
const MOMENTS: u64 = 25;

const KINDS: [&str; 5] = ["tmpfs", "ext4", "overlay", "bindfs", "vfat"];

/// A file system that is unmounted when it is dropped.
struct Mounted(PathBuf);

impl Mounted {
    /// Mounts a file system below a folder, or says why that is not possible.
    fn new(kind: &str, folder: &Path) -> Result<Mounted, String> {
        let path = |name: &str| {
            let path = folder.join(format!("{kind}-{name}"));
            std::fs::create_dir_all(&path).unwrap();
            path.display().to_string()
        };
        let at = path("mounted");
        let image = folder.join(format!("{kind}.img")).display().to_string();
        let script = match kind {
            "tmpfs" => format!("mount -t tmpfs tmpfs {at}"),
            "ext4" | "vfat" => format!(
                "truncate -s 32M {image}; mkfs.{kind} {image} >/dev/null 2>&1; mount -o loop {image} {at}"
            ),
            "overlay" => format!(
                "mount -t overlay overlay -o lowerdir={},upperdir={},workdir={} {at}",
                path("lower"),
                path("upper"),
                path("work")
            ),
            _ => format!("bindfs {} {at}", path("back")),
        };
        let output = Command::new("sh")
            .args(["-ec", &script])
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .output()
            .unwrap();
        match output.status.success() {
            true => Ok(Mounted(at.into())),
            false => Err(format!("{kind}: {}", String::from_utf8_lossy(&output.stderr).trim())),
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn config(mounted: &Mounted, subnet: &str) -> Value {
    json!({
        "cniVersion": "1.1.0", "type": "viaduct", "name": "net", "isGateway": true,
        "ipam": {"type": "host-local", "dataDir": mounted.0.join("data"), "ranges": [[{"subnet": subnet}]]},
    })
}

/// Owner by address, as the files say, and the number of files that share an inode with another address.
fn leases(mounted: &Mounted) -> Vec<(String, String)> {
    let folder = mounted.0.join("data/net");
    let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut leases: Vec<(String, String)> = names
        .filter(|name| name.parse::<std::net::IpAddr>().is_ok())
        .map(|name| {
            let content = std::fs::read_to_string(folder.join(&name)).unwrap_or_default();
            (name, content.lines().next().unwrap_or_default().to_owned())
        })
        .collect();
    leases.sort();
    leases
}

fn on_each_file_system(test: impl Fn(&str, &Node, &Mounted)) {
    for kind in KINDS {
        let lan = Lan::new();
        let node = lan.node("n1");
        match Mounted::new(kind, node.folder()) {
            Err(reason) => skip(&reason),
            Ok(mounted) => test(kind, &node, &mounted),
        }
    }
}

#[test]
fn every_lease_is_a_file_with_its_own_content() {
    on_each_file_system(|kind, node, mounted| {
        let config = config(mounted, "10.244.1.0/29");
        let add = |id: &str| {
            let container = node.container(id);
            let cni = Cni::new("ADD", &config).container(id, container.path());
            (cni.run(node.namespace()), container)
        };
        let pods: Vec<_> = ["a", "b", "c"].map(add).into_iter().collect();
        assert!(pods.iter().all(|(output, _)| output.status.success()), "{kind}: ADD failed");
        let owners: Vec<String> = leases(mounted).into_iter().map(|(_, owner)| owner).collect();
        assert_eq!(owners, ["a", "b", "c"], "{kind}");
        let again = Cni::new("ADD", &config).container("b", pods[1].1.path());
        assert_eq!(again.run(node.namespace()).error().0, 111, "{kind}: a second ADD");
        let del = Cni::new("DEL", &config).container("c", pods[2].1.path());
        del.run(node.namespace()).result();
        assert_eq!(leases(mounted).len(), 2, "{kind}: DEL of one freed others");
        let more: Vec<_> = ["d", "e", "f"].map(add).into_iter().collect();
        assert!(
            more.iter().all(|(output, _)| output.status.success()),
            "{kind}: a later ADD failed"
        );
        let (full, _container) = add("g");
        assert_eq!(full.error().0, 110, "{kind}: the range is used up");
        let addresses: BTreeSet<String> = leases(mounted).into_iter().map(|(a, _)| a).collect();
        assert_eq!(addresses.len(), 5, "{kind}");
    });
}

#[test]
fn kills_leave_no_duplicate_and_no_leak() {
    let moments = std::env::var(MOMENTS_VARIABLE).ok().and_then(|text| text.parse().ok());
    let moments = moments.unwrap_or(MOMENTS);
    on_each_file_system(|kind, node, mounted| {
        let config = config(mounted, "10.244.1.0/24");
        let keeper = node.container("keeper");
        Cni::new("ADD", &config).container("keeper", keeper.path()).run(node.namespace()).result();
        let kept = leases(mounted);
        let mut dice = 0x2545_f491_4f6c_dd1d_u64;
        let mut roll = |below: u64| {
            dice ^= dice << 13;
            dice ^= dice >> 7;
            dice ^= dice << 17;
            dice % below
        };
        for moment in 0..moments {
            let id = format!("c{moment}");
            let container = node.container(&id);
            let cni = |verb: &str| Cni::new(verb, &config).container(&id, container.path());
            let verb = ["ADD", "DEL", "GC"][roll(3) as usize];
            let mut child = match verb {
                "ADD" => cni("ADD").start(node.namespace()),
                "DEL" => {
                    cni("ADD").run(node.namespace()).result();
                    cni("DEL").start(node.namespace())
                }
                _ => {
                    cni("ADD").run(node.namespace()).result();
                    gc_of(&config, &["keeper"]).start(node.namespace())
                }
            };
            std::thread::sleep(Duration::from_micros(roll(4000)));
            let _ = child.kill();
            let _ = child.wait();
            // Another pod at once: it must not get an address that another lease holds.
            let next = format!("n{moment}");
            let heir = node.container(&next);
            Cni::new("ADD", &config).container(&next, heir.path()).run(node.namespace()).result();
            let owners: Vec<String> = leases(mounted).into_iter().map(|(_, owner)| owner).collect();
            let unique: BTreeSet<&String> = owners.iter().collect();
            assert_eq!(unique.len(), owners.len(), "{kind} {moment} {verb}: {owners:?}");
            assert!(owners.contains(&next), "{kind} {moment} {verb}: {owners:?}");
            if moment % 2 == 0 {
                gc_of(&config, &["keeper"]).run(node.namespace()).result();
            } else {
                cni("DEL").run(node.namespace()).result();
                let del = Cni::new("DEL", &config).container(&next, heir.path());
                del.run(node.namespace()).result();
            }
            assert_eq!(leases(mounted), kept, "{kind} {moment} {verb}");
        }
    });
}

#[test]
fn a_lease_of_the_reference_plugin_is_a_second_add() {
    on_each_file_system(|kind, node, mounted| {
        let config = config(mounted, "10.244.1.0/24");
        let folder = mounted.0.join("data/net");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("10.244.1.9"), "theirs\r\neth0").unwrap();
        std::fs::write(folder.join("10.244.1.10"), "ancient").unwrap();
        for id in ["theirs", "ancient"] {
            let container = node.container(id);
            let add = Cni::new("ADD", &config).container(id, container.path());
            assert_eq!(add.run(node.namespace()).error().0, 111, "{kind} {id}");
        }
        assert_eq!(leases(mounted).len(), 2, "{kind}");
    });
}

#[test]
fn a_failed_add_keeps_no_lease() {
    on_each_file_system(|kind, node, mounted| {
        let mut config = config(mounted, "10.244.1.0/24");
        config["ipam"]["resolvConf"] = json!("/nonexistent");
        let container = node.container("a");
        let add = Cni::new("ADD", &config).container("a", container.path());
        let (code, message) = add.run(node.namespace()).error();
        assert!(code == 5 && message.contains("/nonexistent"), "{kind}: {message}");
        assert_eq!(leases(mounted), [], "{kind}");
    });
}
