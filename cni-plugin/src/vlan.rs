//! The VLANs of a container's bridge port.

use netlink::{IfIndex, RouteSocket};

use crate::error::{Result, code};
use crate::section::Section;

/// The VLAN that every bridge port is in by itself.
const DEFAULT_VLAN: u16 = 1;

/// `vlan` and `vlanTrunk` of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Vlans {
    /// The VLAN of untagged frames.
    pub(crate) access: Option<u16>,
    /// VLANs that pass tagged.
    pub(crate) trunk: Vec<u16>,
    /// Whether the port stays in VLAN 1 besides.
    pub(crate) preserve_default: bool,
}

impl Vlans {
    pub(crate) fn parse(root: &Section<'_>) -> Result<Vlans> {
        let vid = |section: &Section<'_>, key: &str| -> Result<Option<u16>> {
            Ok(section.number(key, 0, 4094)?.filter(|vid| *vid != 0).map(|vid| vid as u16))
        };
        let mut trunk = Vec::new();
        for entry in root.sections("vlanTrunk")? {
            match (vid(&entry, "id")?, vid(&entry, "minID")?, vid(&entry, "maxID")?) {
                (id, Some(min), Some(max)) => {
                    if min > max {
                        return Err(entry.error("minID", format!("is larger than maxID {max}")));
                    }
                    trunk.extend((min..=max).chain(id));
                }
                (Some(id), None, None) => trunk.push(id),
                (_, None, Some(_)) => return Err(entry.error("minID", "goes with maxID")),
                (_, Some(_), None) => return Err(entry.error("maxID", "goes with minID")),
                (None, None, None) => {
                    return Err(entry.error("id", "or minID and maxID are needed"));
                }
            }
        }
        trunk.sort_unstable();
        trunk.dedup();
        Ok(Vlans {
            access: vid(root, "vlan")?,
            trunk,
            preserve_default: root.optional_bool("preserveDefaultVlan")?.unwrap_or(true),
        })
    }

    pub(crate) fn any(&self) -> bool {
        self.access.is_some() || !self.trunk.is_empty()
    }

    /// The VLANs that a port is in, each with whether it is the port's own. Empty if none is configured.
    pub(crate) fn planned(&self) -> Vec<(u16, bool)> {
        if !self.any() {
            return Vec::new();
        }
        let default = (self.preserve_default || self.access.is_none()).then_some(DEFAULT_VLAN);
        let mut planned: Vec<u16> =
            self.trunk.iter().copied().chain(self.access).chain(default).collect();
        planned.sort_unstable();
        planned.dedup();
        let own = self.access.unwrap_or(DEFAULT_VLAN);
        planned.into_iter().map(|vid| (vid, vid == own)).collect()
    }

    /// Whether a bridge port is in its VLANs.
    pub(crate) fn check(&self, socket: &mut RouteSocket, port: IfIndex) -> Result<()> {
        let present = socket.port_vlans(port)?;
        match self.planned().iter().find(|vlan| !present.contains(vlan)) {
            None => Ok(()),
            Some((vid, _)) => {
                let message = format!("the container's bridge port is not in VLAN {vid}");
                Err(crate::error::CniError::new(code::CHECK_FAILED, message))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(value: serde_json::Value) -> Result<Vlans> {
        Vlans::parse(&Section::root(&value).unwrap())
    }

    #[test]
    fn trunks_are_ids_and_ranges() {
        let vlans = parse(
            json!({"vlan": 10, "vlanTrunk": [{"id": 5}, {"minID": 100, "maxID": 102, "id": 7}]}),
        );
        let vlans = vlans.unwrap();
        assert_eq!((vlans.access, vlans.trunk), (Some(10), vec![5, 7, 100, 101, 102]));
    }

    #[test]
    fn a_trunk_keeps_the_access_vlan_the_ports_own() {
        for (value, planned) in [
            (json!({}), vec![]),
            (
                json!({"vlan": 10, "vlanTrunk": [{"minID": 9, "maxID": 11}]}),
                vec![(1, false), (9, false), (10, true), (11, false)],
            ),
            (json!({"vlan": 10, "preserveDefaultVlan": false}), vec![(10, true)]),
            (json!({"vlan": 1, "preserveDefaultVlan": false}), vec![(1, true)]),
            (json!({"vlanTrunk": [{"id": 5}]}), vec![(1, true), (5, false)]),
        ] {
            assert_eq!(parse(value.clone()).unwrap().planned(), planned, "{value}");
        }
    }

    #[test]
    fn bad_vlans_are_named() {
        for (value, word) in [
            (json!({"vlan": 4095}), "vlan 4095"),
            (json!({"vlanTrunk": [{"minID": 5, "maxID": 4}]}), "vlanTrunk[0].minID"),
            (json!({"vlanTrunk": [{"minID": 5}]}), "vlanTrunk[0].maxID"),
            (json!({"vlanTrunk": [{"maxID": 5}]}), "vlanTrunk[0].minID"),
            (json!({"vlanTrunk": [{}]}), "vlanTrunk[0].id"),
            (json!({"vlanTrunk": [{"id": 9999}]}), "vlanTrunk[0].id"),
        ] {
            let error = parse(value).unwrap_err();
            assert!(error.message.contains(word), "{error} should name {word}");
        }
    }
}
