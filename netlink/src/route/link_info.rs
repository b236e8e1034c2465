//! What is particular to one kind of link: bridge ports, VXLAN devices, operational state.

use std::net::IpAddr;

use super::{IfIndex, Vxlan};
use crate::message::{Writer, attributes, read_ip, read_u32};

// include/uapi/linux/if_link.h
const IFLA_BRPORT_STATE: u16 = 1;
const IFLA_BRPORT_MODE: u16 = 4; // hairpin
const IFLA_BRPORT_ISOLATED: u16 = 33;
const IFLA_VXLAN_ID: u16 = 1;
const IFLA_VXLAN_LINK: u16 = 3;
const IFLA_VXLAN_LOCAL: u16 = 4;
const IFLA_VXLAN_LEARNING: u16 = 7;
const IFLA_VXLAN_PORT: u16 = 15;
const IFLA_VXLAN_LOCAL6: u16 = 17;
/// `BR_STATE_FORWARDING` (`include/uapi/linux/if_bridge.h`).
const BR_STATE_FORWARDING: u8 = 3;

/// Operational state (RFC 2863), as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperState {
    /// The driver does not say; taken as usable.
    Unknown,
    /// It passes packets.
    Up,
    /// Any state in which it passes none.
    Down,
}

impl OperState {
    pub(super) fn from_number(number: u8) -> OperState {
        match number {
            0 => OperState::Unknown,
            6 => OperState::Up,
            _ => OperState::Down,
        }
    }
}

/// Settings of a bridge port to change; `None` leaves one as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortFlags {
    /// Frames may leave through the port they came in by.
    pub hairpin: Option<bool>,
    /// Frames do not pass between isolated ports.
    pub isolated: Option<bool>,
}

/// A bridge port as the kernel describes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BridgePort {
    /// Frames may leave through the port they came in by.
    pub hairpin: bool,
    /// Frames do not pass between isolated ports.
    pub isolated: bool,
    /// Whether the port forwards (spanning tree state).
    pub forwarding: bool,
}

/// A VXLAN device as the kernel describes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VxlanState {
    /// VXLAN network identifier.
    pub vni: u32,
    /// UDP port.
    pub port: u16,
    /// Underlay device.
    pub lower: Option<IfIndex>,
    /// Outer source address.
    pub local: Option<IpAddr>,
    /// Whether it learns addresses from traffic.
    pub learning: bool,
}

pub(super) fn write_vxlan(m: &mut Writer, vxlan: &Vxlan<'_>) {
    m.u32(IFLA_VXLAN_ID, vxlan.vni);
    m.u32(IFLA_VXLAN_LINK, vxlan.lower.0);
    match vxlan.local {
        IpAddr::V4(_) => m.ip(IFLA_VXLAN_LOCAL, vxlan.local),
        IpAddr::V6(_) => m.ip(IFLA_VXLAN_LOCAL6, vxlan.local),
    }
    m.u8(IFLA_VXLAN_LEARNING, 0);
    m.be16(IFLA_VXLAN_PORT, vxlan.port);
}

pub(super) fn write_port(m: &mut Writer, flags: PortFlags) {
    if let Some(hairpin) = flags.hairpin {
        m.u8(IFLA_BRPORT_MODE, hairpin.into());
    }
    if let Some(isolated) = flags.isolated {
        m.u8(IFLA_BRPORT_ISOLATED, isolated.into());
    }
}

pub(super) fn parse_port(data: &[u8]) -> BridgePort {
    let mut port = BridgePort::default();
    for (kind, value) in attributes(data) {
        let first = value.first().copied().unwrap_or(0);
        match kind {
            IFLA_BRPORT_MODE => port.hairpin = first != 0,
            IFLA_BRPORT_ISOLATED => port.isolated = first != 0,
            IFLA_BRPORT_STATE => port.forwarding = first == BR_STATE_FORWARDING,
            _ => {}
        }
    }
    port
}

pub(super) fn parse_vxlan(data: &[u8]) -> VxlanState {
    let mut vxlan = VxlanState::default();
    for (kind, value) in attributes(data) {
        match kind {
            IFLA_VXLAN_ID => vxlan.vni = read_u32(value, 0).unwrap_or(0),
            IFLA_VXLAN_LINK => vxlan.lower = read_u32(value, 0).map(IfIndex),
            IFLA_VXLAN_LOCAL | IFLA_VXLAN_LOCAL6 => vxlan.local = read_ip(value),
            IFLA_VXLAN_LEARNING => vxlan.learning = value.first().is_some_and(|on| *on != 0),
            IFLA_VXLAN_PORT => {
                vxlan.port = value.try_into().map(u16::from_be_bytes).unwrap_or(0);
            }
            _ => {}
        }
    }
    vxlan
}
