//! [`State`]: links, addresses, routes and sysctls of the node that attachments need, desired or observed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use netlink::{MacAddress, Prefix};

/// A bridge.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BridgeState {
    /// Its MAC address. As desired, `None` leaves the choice to the kernel.
    pub mac: Option<MacAddress>,
    /// The MTU to create it with. The kernel lowers it to the smallest of its ports afterwards.
    pub mtu: u32,
    /// Whether it is up.
    pub up: bool,
    /// Whether it is promiscuous. As desired, `false` leaves it alone.
    pub promiscuous: bool,
    /// Whether it filters by VLAN. As desired, `false` leaves it alone.
    pub vlan_filtering: bool,
    /// As desired: whether the MAC address is one that we give to bridges, so that a change is damage.
    pub owns_mac: bool,
}

/// The node's end of a pod's link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndState {
    /// Whether it is up.
    pub up: bool,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// The bridge that it is a port of.
    pub bridge: Option<String>,
    /// Frames may leave through the port that they came in by. As desired, `false` leaves it alone.
    pub hairpin: bool,
    /// Frames do not pass between isolated ports. As desired, `false` leaves it alone.
    pub isolated: bool,
    /// VLANs of the port, each with whether it is the port's own.
    pub vlans: Vec<(u16, bool)>,
}

/// Who owns an address of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AddressOwner {
    /// It carries our protocol number.
    Viaduct,
    /// It carries another one, or none.
    Unknown,
}

/// How a route comes to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouteKind {
    /// It leads to a pod.
    Pod,
    /// The kernel adds it with this address of the device.
    Connected(IpAddr),
}

/// Links, addresses, routes and sysctls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Bridges by name.
    pub bridges: BTreeMap<String, BridgeState>,
    /// The node's ends of pods' links by name.
    pub ends: BTreeMap<String, EndState>,
    /// Addresses by device.
    pub addresses: BTreeMap<(String, Prefix), AddressOwner>,
    /// As desired: devices whose IPv6 addresses wait for duplicate address detection.
    pub detecting: BTreeSet<String>,
    /// Routes without a gateway by destination and device.
    pub routes: BTreeMap<(Prefix, String), RouteKind>,
    /// Values of sysctls by name.
    pub sysctls: BTreeMap<String, String>,
}
