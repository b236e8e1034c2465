//! The VLANs of bridge ports.

use super::link::{IFINFO_LEN, RTM_DELLINK, RTM_GETLINK, ifinfo};
use super::{IfIndex, RouteSocket};
use crate::error::Result;
use crate::message::{NLM_F_DUMP, Writer, attributes_after, read_u16, read_u32};

const RTM_SETLINK: u16 = 19;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_EXT_MASK: u16 = 29;
// include/uapi/linux/if_bridge.h
const IFLA_BRIDGE_VLAN_INFO: u16 = 2;
const BRIDGE_VLAN_INFO_PVID: u16 = 1 << 1;
const BRIDGE_VLAN_INFO_UNTAGGED: u16 = 1 << 2;
const RTEXT_FILTER_BRVLAN: u32 = 1 << 1;

impl RouteSocket {
    /// Lets a bridge port take part in a VLAN. `untagged` makes it the port's own (`pvid`).
    pub fn add_port_vlan(&mut self, port: IfIndex, vid: u16, untagged: bool) -> Result<()> {
        let flags = if untagged { BRIDGE_VLAN_INFO_PVID | BRIDGE_VLAN_INFO_UNTAGGED } else { 0 };
        self.execute(vlan_request(RTM_SETLINK, port, vid, flags), || {
            format!("add VLAN {vid} to bridge port {port}")
        })
    }

    /// Takes a bridge port out of a VLAN.
    pub fn delete_port_vlan(&mut self, port: IfIndex, vid: u16) -> Result<()> {
        self.execute(vlan_request(RTM_DELLINK, port, vid, 0), || {
            format!("remove VLAN {vid} from bridge port {port}")
        })
    }

    /// The VLANs of a bridge port: (vid, whether it is the port's own).
    pub fn port_vlans(&mut self, port: IfIndex) -> Result<Vec<(u16, bool)>> {
        let mut request = Writer::default();
        request.message(RTM_GETLINK, NLM_F_DUMP, |m| {
            ifinfo(m, libc::AF_BRIDGE, 0, 0, 0);
            m.u32(IFLA_EXT_MASK, RTEXT_FILTER_BRVLAN);
        });
        let ports = self
            .socket
            .dump(request, |payload| {
                (read_u32(payload, 4)? == port.0).then(|| parse_vlans(payload))
            })
            .map_err(|error| error.during(format!("list the VLANs of bridge port {port}")))?;
        Ok(ports.into_iter().flatten().collect())
    }
}

fn vlan_request(kind: u16, port: IfIndex, vid: u16, flags: u16) -> Writer {
    let mut info = [0u8; 4]; // struct bridge_vlan_info
    info[..2].copy_from_slice(&flags.to_ne_bytes());
    info[2..].copy_from_slice(&vid.to_ne_bytes());
    let mut request = Writer::default();
    request.message(kind, 0, |m| {
        ifinfo(m, libc::AF_BRIDGE, port.0, 0, 0);
        m.nest(IFLA_AF_SPEC, |m| {
            m.attr(IFLA_BRIDGE_VLAN_INFO, &info);
        });
    });
    request
}

fn parse_vlans(payload: &[u8]) -> Vec<(u16, bool)> {
    attributes_after(payload, IFINFO_LEN)
        .filter(|(kind, _)| *kind == IFLA_AF_SPEC)
        .flat_map(|(_, spec)| crate::message::attributes(spec))
        .filter(|(kind, _)| *kind == IFLA_BRIDGE_VLAN_INFO)
        .filter_map(|(_, info)| {
            Some((read_u16(info, 2)?, read_u16(info, 0)? & BRIDGE_VLAN_INFO_PVID != 0))
        })
        .collect()
}
