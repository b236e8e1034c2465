//! [`Record`]: what one attachment needs on the node, and the folder that holds the records.
//!
//! ADD writes the record last and DEL removes it first. So a record exists only while the attachment is
//! complete, and a comparison that runs beside ADD or DEL repairs nothing that these are about to change.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use netlink::{Family, MacAddress, Namespace, Prefix};
use serde::{Deserialize, Serialize};

use crate::limits::Limits;
use crate::{Error, HostPort, Owner, Result};

/// Runtime state of all parts of Viaduct. It does not survive a reboot, as attachments do not.
const RUN_FOLDER: &str = "/run/viaduct";
const SUFFIX: &str = ".json";
const IPV6_NOTE: &str = "ipv6-forwarding";
const OVERLAY_SUFFIX: &str = ".overlay";

/// How the node reaches a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "mode")]
pub enum LinkRecord {
    /// By a port of a bridge.
    #[serde(rename_all = "camelCase")]
    Bridge {
        /// The bridge's name.
        bridge: String,
        /// The bridge's MAC address, which pods remember as their gateway's.
        bridge_mac: Option<MacAddress>,
        /// Frames may leave through the port that they came in by.
        hairpin: bool,
        /// Frames do not pass between isolated ports.
        isolated: bool,
        /// The bridge is promiscuous.
        promiscuous: bool,
        /// VLANs of the port, each with whether it is the port's own.
        vlans: Vec<(u16, bool)>,
        /// Whether contradicting addresses of the bridge are replaced.
        force_address: bool,
    },
    /// By a link and host routes.
    Routed,
    /// By a link that another plugin made.
    #[serde(rename_all = "camelCase")]
    Chained {
        /// The device by which the node reaches the pod. Empty if the pod has no address.
        device: String,
        /// Name and number of the node's end of the pod's link, if it is a veth.
        peer: Option<(String, u32)>,
        /// The path of the pod's network namespace.
        netns: PathBuf,
    },
}

/// Which forwarding sysctls an attachment needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Forwarding {
    /// None: the node is not the pod's gateway.
    Off,
    /// Those of the device that leads to the pod. The daemon owns those of the node.
    Device,
    /// Those of the whole node.
    Node,
}

/// What an attachment needs on the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The attachment.
    #[serde(flatten)]
    pub owner: Owner,
    /// How the node reaches the pod.
    pub link: LinkRecord,
    /// MTU of the pod's link in bytes.
    pub mtu: u32,
    /// Whether IPv6 addresses wait for duplicate address detection.
    pub detect_duplicates: bool,
    /// The pod's addresses, each with the length of its subnet.
    pub addresses: Vec<Prefix>,
    /// The node's addresses towards the pod, each with the length of its subnet.
    pub gateways: Vec<Prefix>,
    /// Destinations that are not masqueraded. `None` if the pod is not masqueraded at all.
    pub masquerade_exclusions: Option<Vec<Prefix>>,
    /// Ports of the node that lead to the pod.
    pub host_ports: Vec<HostPort>,
    /// The only source MAC address that the bridge port accepts.
    pub allowed_mac: Option<MacAddress>,
    /// Bandwidth limits.
    pub limits: Limits,
    /// Which forwarding sysctls it needs.
    pub forwarding: Forwarding,
}

impl Record {
    /// The pod's addresses without prefix lengths.
    pub fn ips(&self) -> Vec<IpAddr> {
        self.addresses.iter().map(|address| address.address()).collect()
    }

    /// Whether the pod has an address of a family.
    pub fn has_family(&self, family: Family) -> bool {
        self.addresses.iter().any(|address| address.family() == family)
    }

    /// The device that leads from the node to the pod. Empty if there is none.
    pub fn device(&self) -> String {
        match &self.link {
            LinkRecord::Bridge { bridge, .. } => bridge.clone(),
            LinkRecord::Routed => self.owner.host_link(),
            LinkRecord::Chained { device, .. } => device.clone(),
        }
    }

    /// Whether the pod's link is still there, given whether a link with a name, and a number if it
    /// matters, exists.
    pub fn is_alive(&self, link_exists: impl Fn(&str, Option<u32>) -> bool) -> bool {
        match &self.link {
            LinkRecord::Chained { peer: Some((name, index)), .. } => {
                link_exists(name, Some(*index))
            }
            LinkRecord::Chained { peer: None, netns, .. } => netns.exists(),
            LinkRecord::Bridge { .. } | LinkRecord::Routed => {
                link_exists(&self.owner.host_link(), None)
            }
        }
    }
}

/// The folder with the records of one network namespace.
#[derive(Clone, Debug)]
pub struct Records(PathBuf);

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Record { operation, path, source }
}

impl Records {
    /// The records of the calling thread's network namespace. Makes nothing.
    pub fn of_current_namespace() -> Result<Records> {
        let cookie = Namespace::current_cookie()?;
        Ok(Records(Path::new(RUN_FOLDER).join(format!("netns-{cookie}"))))
    }

    /// The records in a folder.
    pub fn in_folder(folder: impl Into<PathBuf>) -> Records {
        Records(folder.into())
    }

    fn path(&self, owner: &Owner) -> PathBuf {
        self.0.join(owner.host_link() + SUFFIX)
    }

    /// Writes the record of an attachment as a whole.
    pub fn write(&self, record: &Record) -> Result<()> {
        let path = self.path(&record.owner);
        let text = serde_json::to_vec(record).unwrap_or_default();
        let temporary = path.with_extension("new");
        let write = || fs::write(&temporary, &text).and_then(|()| fs::rename(&temporary, &path));
        let outcome = match write() {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                fs::create_dir_all(&self.0).and_then(|()| write())
            }
            outcome => outcome,
        };
        outcome.map_err(failed("write record", &path))
    }

    /// The record of an attachment.
    pub fn read(&self, owner: &Owner) -> Result<Option<Record>> {
        read(&self.path(owner))
    }

    /// Removes the record of an attachment. Succeeds if there is none.
    pub fn remove(&self, owner: &Owner) -> Result<()> {
        let path = self.path(owner);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(failed("remove record", &path)(error))
            }
            _ => Ok(()),
        }
    }

    /// Every record, oldest first, and a sentence for each file that cannot be read.
    pub fn list(&self) -> Result<(Vec<Record>, Vec<String>)> {
        let entries = match fs::read_dir(&self.0) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok((vec![], vec![])),
            Err(error) => return Err(failed("list records in", &self.0)(error)),
        };
        let (mut dated, mut problems) = (Vec::new(), Vec::new());
        for entry in entries {
            let entry = entry.map_err(failed("list records in", &self.0))?;
            let path = entry.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let written = entry.metadata().and_then(|metadata| metadata.modified());
            match read(&path) {
                Ok(Some(record)) if self.path(&record.owner) == path => {
                    dated.push((written.unwrap_or(SystemTime::UNIX_EPOCH), record));
                }
                Ok(Some(_)) => {
                    problems.push(format!("{} is of another attachment", path.display()))
                }
                Ok(None) => {}
                Err(error) => problems.push(error.to_string()),
            }
        }
        dated.sort_by(|(a, first), (b, second)| (a, &first.owner).cmp(&(b, &second.owner)));
        Ok((dated.into_iter().map(|(_, record)| record).collect(), problems))
    }
}

/// Networks whose overlay the plugin keeps by itself, each with its tunnel device. A network without a tunnel
/// has plain routes.
impl Records {
    /// Notes that a network keeps an overlay. Writes only what differs.
    pub fn note_overlay(&self, network: &str, device: Option<&str>) -> Result<()> {
        let path = self.overlay_path(network);
        let device = device.unwrap_or_default();
        if fs::read_to_string(&path).is_ok_and(|known| known == device) {
            return Ok(());
        }
        let written = fs::create_dir_all(&self.0).and_then(|()| fs::write(&path, device));
        written.map_err(failed("note the overlay in", &path))
    }

    /// The overlay that was noted for a network.
    pub fn overlay(&self, network: &str) -> Option<Option<String>> {
        let device = fs::read_to_string(self.overlay_path(network)).ok()?;
        Some(Some(device).filter(|device| !device.is_empty()))
    }

    /// Forgets the overlay of a network.
    pub fn forget_overlay(&self, network: &str) {
        let _ = fs::remove_file(self.overlay_path(network));
    }

    /// The tunnel devices of all noted overlays but one network's, and whether one has plain routes.
    pub fn overlays_except(&self, network: &str) -> (BTreeSet<String>, bool) {
        let (mut devices, mut direct) = (BTreeSet::new(), false);
        for entry in fs::read_dir(&self.0).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some(other) = name.to_str().and_then(|name| name.strip_suffix(OVERLAY_SUFFIX))
            else {
                continue;
            };
            match self.overlay(other).filter(|_| other != network) {
                Some(Some(device)) => drop(devices.insert(device)),
                Some(None) => direct = true,
                None => {}
            }
        }
        (devices, direct)
    }

    /// Notes that IPv6 forwarding was off before we switched it on.
    pub(crate) fn note_ipv6_forwarding(&self) {
        // Without the note, uplinks that appear later are left alone.
        let _ = fs::create_dir_all(&self.0).and_then(|()| fs::write(self.0.join(IPV6_NOTE), ""));
    }

    /// Whether IPv6 forwarding was off before we switched it on.
    pub(crate) fn has_ipv6_forwarding_note(&self) -> bool {
        self.0.join(IPV6_NOTE).exists()
    }

    fn overlay_path(&self, network: &str) -> PathBuf {
        self.0.join(format!("{network}{OVERLAY_SUFFIX}"))
    }
}

fn read(path: &Path) -> Result<Option<Record>> {
    match fs::read(path) {
        Ok(text) => match serde_json::from_slice(&text) {
            Ok(record) => Ok(Some(record)),
            Err(error) => Err(failed("parse record", path)(error.into())),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read record", path)(error)),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::Attachment;

    pub(crate) fn record(id: &str, address: &str) -> Record {
        let attachment = Attachment { container_id: id.into(), ifname: "eth0".into() };
        Record {
            owner: Owner { network: "net".into(), attachment },
            link: LinkRecord::Routed,
            mtu: 1500,
            detect_duplicates: false,
            addresses: vec![address.parse().unwrap()],
            gateways: vec![],
            masquerade_exclusions: None,
            host_ports: vec![],
            allowed_mac: None,
            limits: Limits::default(),
            forwarding: Forwarding::Off,
        }
    }

    #[test]
    fn records_are_written_listed_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let records = Records::in_folder(folder.path().join("new"));
        assert_eq!(records.list().unwrap().0, []);
        let (a, b) = (record("a", "10.0.0.2/24"), record("b", "fd00::2/64"));
        records.write(&a).unwrap();
        records.write(&b).unwrap();
        records.write(&a).unwrap();
        assert_eq!(records.read(&a.owner).unwrap(), Some(a.clone()));
        fs::write(folder.path().join("new/vdbroken.json"), "{").unwrap();
        fs::write(folder.path().join("new/vdhalf.new"), "{").unwrap();
        let (found, problems) = records.list().unwrap();
        assert!(found.len() == 2 && found.contains(&a) && found.contains(&b));
        assert!(problems.len() == 1 && problems[0].contains("vdbroken.json"), "{problems:?}");
        records.remove(&a.owner).unwrap();
        records.remove(&a.owner).unwrap();
        assert_eq!(records.list().unwrap().0, [b]);
    }
}
