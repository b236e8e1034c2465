//! Links: veth pairs straight into a namespace, bridges, VXLAN devices, their settings.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::link_info::{self, BridgePort, OperState, PortFlags, VxlanState};
use super::{IfIndex, RouteSocket};
use crate::MacAddress;
use crate::error::{Error, Result, found};
use crate::message::{
    NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, Writer, attributes_after, read_mac, read_string, read_u32,
};

// include/uapi/linux/rtnetlink.h
const RTM_NEWLINK: u16 = 16;
pub(super) const RTM_DELLINK: u16 = 17;
pub(super) const RTM_GETLINK: u16 = 18;
// include/uapi/linux/if_link.h
pub(super) const IFINFO_LEN: usize = 16;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_OPERSTATE: u16 = 16;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const VETH_INFO_PEER: u16 = 1;
const IFLA_BR_VLAN_FILTERING: u16 = 7;
// include/uapi/linux/if.h
/// `IFNAMSIZ` less the closing NUL.
const NAME_MAX: usize = 15;
const IFF_UP: u32 = 1;
const IFF_PROMISC: u32 = 0x100;

/// A network device as the kernel describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub index: IfIndex,
    /// Its name.
    pub name: String,
    /// Its kind (`veth`, `bridge`, `vxlan`, …); physical devices have none.
    pub kind: Option<String>,
    /// Its Ethernet address, if it has one.
    pub mac: Option<MacAddress>,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Whether it is administratively up.
    pub up: bool,
    /// Whether it can pass packets.
    pub state: OperState,
    /// The bridge it is a port of.
    pub master: Option<IfIndex>,
    /// The other end of a veth, or the lower device; in that device's own namespace.
    pub peer: Option<IfIndex>,
    /// Whether promiscuous mode was asked for by the device's flag (bridge ports and packet sockets do
    /// without it).
    pub promiscuous: bool,
    /// Whether a bridge filters by VLAN.
    pub vlan_filtering: bool,
    /// Its settings as a bridge port.
    pub port: Option<BridgePort>,
    /// Its settings as a VXLAN device.
    pub vxlan: Option<VxlanState>,
}

/// A veth pair to create: this end here, the peer in another namespace.
#[derive(Clone, Copy, Debug)]
pub struct Veth<'a> {
    /// Name of this end.
    pub name: &'a str,
    /// Address of this end.
    pub mac: MacAddress,
    /// MTU of both ends.
    pub mtu: u32,
    /// The bridge this end becomes a port of.
    pub master: Option<IfIndex>,
    /// The other end.
    pub peer: VethPeer<'a>,
}

/// The other end of a [`Veth`]. The kernel cannot create it up.
#[derive(Clone, Copy, Debug)]
pub struct VethPeer<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its address.
    pub mac: MacAddress,
    /// The namespace it is created in.
    pub namespace: BorrowedFd<'a>,
}

/// A bridge to create.
#[derive(Clone, Copy, Debug)]
pub struct Bridge<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its address. Setting one pins it: else it follows the lowest of its ports.
    pub mac: Option<MacAddress>,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Whether it separates VLANs. The kernel needs CONFIG_BRIDGE_VLAN_FILTERING.
    pub vlan_filtering: bool,
}

/// A VXLAN device to create; it never learns.
#[derive(Clone, Copy, Debug)]
pub struct Vxlan<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its VXLAN network identifier, 24 bits.
    pub vni: u32,
    /// The UDP port it listens on and sends to.
    pub port: u16,
    /// The underlay device.
    pub lower: IfIndex,
    /// The outer source address; its family is the family of the underlay.
    pub local: IpAddr,
    /// Its Ethernet address.
    pub mac: MacAddress,
    /// Its MTU in bytes.
    pub mtu: u32,
}

/// `struct ifinfomsg`: family, pad, type, index, flags, change mask.
pub(super) fn ifinfo(m: &mut Writer, family: i32, index: u32, flags: u32, change: u32) {
    let mut header = [0u8; IFINFO_LEN];
    header[0] = family as u8;
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    m.raw(&header);
}

fn new_link(up: bool, body: impl FnOnce(&mut Writer)) -> Writer {
    let flags = if up { IFF_UP } else { 0 };
    let mut request = Writer::default();
    request.message(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, |m| {
        ifinfo(m, libc::AF_UNSPEC, 0, flags, flags);
        body(m);
    });
    request
}

/// A change of an existing link.
fn change(index: IfIndex, flags: u32, mask: u32, body: impl FnOnce(&mut Writer)) -> Writer {
    let mut request = Writer::default();
    request.message(RTM_NEWLINK, 0, |m| {
        ifinfo(m, libc::AF_UNSPEC, index.0, flags, mask);
        body(m);
    });
    request
}

pub(crate) fn veth_request(veth: &Veth<'_>) -> Writer {
    new_link(true, |m| {
        m.string(IFLA_IFNAME, veth.name);
        m.mac(IFLA_ADDRESS, veth.mac);
        m.u32(IFLA_MTU, veth.mtu);
        if let Some(master) = veth.master {
            m.u32(IFLA_MASTER, master.0);
        }
        m.nest(IFLA_LINKINFO, |m| {
            m.string(IFLA_INFO_KIND, "veth");
            m.nest(IFLA_INFO_DATA, |m| {
                m.nest(VETH_INFO_PEER, |m| {
                    ifinfo(m, libc::AF_UNSPEC, 0, 0, 0);
                    m.string(IFLA_IFNAME, veth.peer.name);
                    m.mac(IFLA_ADDRESS, veth.peer.mac);
                    m.u32(IFLA_MTU, veth.mtu);
                    m.u32(IFLA_NET_NS_FD, veth.peer.namespace.as_raw_fd() as u32);
                });
            });
        });
    })
}

pub(crate) fn vxlan_request(vxlan: &Vxlan<'_>) -> Writer {
    new_link(false, |m| {
        m.string(IFLA_IFNAME, vxlan.name);
        m.mac(IFLA_ADDRESS, vxlan.mac);
        m.u32(IFLA_MTU, vxlan.mtu);
        m.nest(IFLA_LINKINFO, |m| {
            m.string(IFLA_INFO_KIND, "vxlan");
            m.nest(IFLA_INFO_DATA, |m| link_info::write_vxlan(m, vxlan));
        });
    })
}

pub(crate) fn port_request(index: IfIndex, flags: PortFlags) -> Writer {
    change(index, 0, 0, |m| {
        m.nest(IFLA_LINKINFO, |m| {
            m.string(IFLA_INFO_SLAVE_KIND, "bridge");
            m.nest(IFLA_INFO_SLAVE_DATA, |m| link_info::write_port(m, flags));
        });
    })
}

impl RouteSocket {
    /// Creates the pair, moves the peer, makes this end a bridge port and brings it up: one message.
    ///
    /// `EEXIST` if either name is taken in its namespace.
    pub fn create_veth(&mut self, veth: &Veth<'_>) -> Result<()> {
        self.execute(veth_request(veth), || {
            format!("create veth pair {:?} and {:?}", veth.name, veth.peer.name)
        })
    }

    /// Creates a bridge, up at once.
    pub fn create_bridge(&mut self, bridge: &Bridge<'_>) -> Result<()> {
        let request = new_link(true, |m| {
            m.string(IFLA_IFNAME, bridge.name);
            if let Some(mac) = bridge.mac {
                m.mac(IFLA_ADDRESS, mac);
            }
            m.u32(IFLA_MTU, bridge.mtu);
            m.nest(IFLA_LINKINFO, |m| {
                m.string(IFLA_INFO_KIND, "bridge");
                if bridge.vlan_filtering {
                    m.nest(IFLA_INFO_DATA, |m| m.u8(IFLA_BR_VLAN_FILTERING, 1));
                }
            });
        });
        self.execute(request, || format!("create bridge {:?}", bridge.name))
    }

    /// Turns VLAN filtering of a bridge on.
    pub fn enable_vlan_filtering(&mut self, bridge: IfIndex) -> Result<()> {
        let request = change(bridge, 0, 0, |m| {
            m.nest(IFLA_LINKINFO, |m| {
                m.string(IFLA_INFO_KIND, "bridge");
                m.nest(IFLA_INFO_DATA, |m| m.u8(IFLA_BR_VLAN_FILTERING, 1));
            });
        });
        self.execute(request, || format!("turn on VLAN filtering of bridge {bridge}"))
    }

    /// Creates a VXLAN device, down: its address and state come last, see `overlay`.
    pub fn create_vxlan(&mut self, vxlan: &Vxlan<'_>) -> Result<()> {
        self.execute(vxlan_request(vxlan), || format!("create VXLAN device {:?}", vxlan.name))
    }

    /// Creates an intermediate functional block device, up: what is redirected to it can be shaped.
    pub fn create_ifb(&mut self, name: &str, mtu: u32) -> Result<()> {
        let request = new_link(true, |m| {
            m.string(IFLA_IFNAME, name);
            m.u32(IFLA_MTU, mtu);
            m.nest(IFLA_LINKINFO, |m| m.string(IFLA_INFO_KIND, "ifb"));
        });
        self.execute(request, || format!("create ifb device {name:?}"))
    }

    /// Creates a dummy device, down: it can hold addresses, and nothing is ever sent by it.
    pub fn create_dummy(&mut self, name: &str) -> Result<()> {
        let request = new_link(false, |m| {
            m.string(IFLA_IFNAME, name);
            m.nest(IFLA_LINKINFO, |m| m.string(IFLA_INFO_KIND, "dummy"));
        });
        self.execute(request, || format!("create dummy device {name:?}"))
    }

    /// The link with this name, or `None`.
    pub fn link_by_name(&mut self, name: &str) -> Result<Option<Link>> {
        if name.len() > NAME_MAX {
            return Ok(None);
        }
        self.get_link(0, Some(name)).map_err(|error| error.during(format!("look up link {name:?}")))
    }

    /// The link with this number, or `None`. Pending carrier changes are settled first (Linux 6.9).
    pub fn link_by_index(&mut self, index: IfIndex) -> Result<Option<Link>> {
        self.get_link(index.0, None).map_err(|error| error.during(format!("look up link {index}")))
    }

    fn get_link(&mut self, index: u32, name: Option<&str>) -> Result<Option<Link>> {
        let mut request = Writer::default();
        request.message(RTM_GETLINK, 0, |m| {
            ifinfo(m, libc::AF_UNSPEC, index, 0, 0);
            if let Some(name) = name {
                m.string(IFLA_IFNAME, name);
            }
        });
        found(self.socket.get(request, parse))
    }

    /// All links of the namespace.
    pub fn links(&mut self) -> Result<Vec<Link>> {
        self.dump_links(None)
    }

    /// The ports of a bridge.
    pub fn bridge_ports(&mut self, bridge: IfIndex) -> Result<Vec<Link>> {
        let mut ports = self.dump_links(Some(bridge))?;
        ports.retain(|link| link.master == Some(bridge));
        Ok(ports)
    }

    /// The links of a kind, such as `vxlan`. The kernel looks at no others.
    pub fn links_of_kind(&mut self, kind: &str) -> Result<Vec<Link>> {
        let mut links = self.dump_links_where(|m| {
            m.nest(IFLA_LINKINFO, |m| m.string(IFLA_INFO_KIND, kind));
        })?;
        links.retain(|link| link.kind.as_deref() == Some(kind));
        Ok(links)
    }

    fn dump_links(&mut self, master: Option<IfIndex>) -> Result<Vec<Link>> {
        self.dump_links_where(|m| {
            if let Some(master) = master {
                m.u32(IFLA_MASTER, master.0);
            }
        })
    }

    fn dump_links_where(&mut self, filter: impl FnOnce(&mut Writer)) -> Result<Vec<Link>> {
        let mut request = Writer::default();
        request.message(RTM_GETLINK, NLM_F_DUMP, |m| {
            ifinfo(m, libc::AF_UNSPEC, 0, 0, 0);
            filter(m);
        });
        self.socket.dump(request, parse).map_err(|error| error.during("list links"))
    }

    /// Brings a link up.
    pub fn set_up(&mut self, index: IfIndex) -> Result<()> {
        self.execute(change(index, IFF_UP, IFF_UP, |_| ()), || format!("bring up link {index}"))
    }

    /// Changes a link's MTU.
    pub fn set_mtu(&mut self, index: IfIndex, mtu: u32) -> Result<()> {
        self.execute(change(index, 0, 0, |m| m.u32(IFLA_MTU, mtu)), || {
            format!("set the MTU of link {index} to {mtu}")
        })
    }

    /// Changes a link's Ethernet address.
    pub fn set_mac(&mut self, index: IfIndex, mac: MacAddress) -> Result<()> {
        self.execute(change(index, 0, 0, |m| m.mac(IFLA_ADDRESS, mac)), || {
            format!("set the address of link {index} to {mac}")
        })
    }

    /// Makes a link a port of a bridge.
    pub fn set_master(&mut self, index: IfIndex, bridge: IfIndex) -> Result<()> {
        self.execute(change(index, 0, 0, |m| m.u32(IFLA_MASTER, bridge.0)), || {
            format!("make link {index} a port of bridge {bridge}")
        })
    }

    /// Switches promiscuous mode on or off.
    pub fn set_promiscuous(&mut self, index: IfIndex, on: bool) -> Result<()> {
        let flags = if on { IFF_PROMISC } else { 0 };
        self.execute(change(index, flags, IFF_PROMISC, |_| ()), || {
            format!("set promiscuous mode of link {index} to {on}")
        })
    }

    /// Changes what `flags` names of a bridge port.
    pub fn set_bridge_port(&mut self, index: IfIndex, flags: PortFlags) -> Result<()> {
        self.execute(port_request(index, flags), || format!("set {flags:?} of bridge port {index}"))
    }

    /// Deletes a link; a veth takes its peer along.
    pub fn delete_link(&mut self, index: IfIndex) -> Result<()> {
        let mut request = Writer::default();
        request.message(RTM_DELLINK, 0, |m| ifinfo(m, libc::AF_UNSPEC, index.0, 0, 0));
        self.execute(request, || format!("delete link {index}"))
    }

    /// Deletes a link by name with one message; tells whether it was there.
    pub fn delete_link_by_name(&mut self, name: &str) -> Result<bool> {
        if name.len() > NAME_MAX {
            return Ok(false);
        }
        let mut request = Writer::default();
        request.message(RTM_DELLINK, 0, |m| {
            ifinfo(m, libc::AF_UNSPEC, 0, 0, 0);
            m.string(IFLA_IFNAME, name);
        });
        Ok(found(self.execute(request, || format!("delete link {name:?}")))?.is_some())
    }
}

fn parse(payload: &[u8]) -> Option<Link> {
    let flags = read_u32(payload, 8)?;
    let mut link = Link {
        index: IfIndex(read_u32(payload, 4)?),
        name: String::new(),
        kind: None,
        mac: None,
        mtu: 0,
        up: flags & IFF_UP != 0,
        state: OperState::Unknown,
        master: None,
        peer: None,
        promiscuous: flags & IFF_PROMISC != 0,
        vlan_filtering: false,
        port: None,
        vxlan: None,
    };
    for (kind, value) in attributes_after(payload, IFINFO_LEN) {
        match kind {
            IFLA_IFNAME => link.name = read_string(value),
            IFLA_ADDRESS => link.mac = read_mac(value),
            IFLA_MTU => link.mtu = read_u32(value, 0)?,
            IFLA_MASTER => link.master = read_u32(value, 0).map(IfIndex),
            IFLA_LINK => link.peer = read_u32(value, 0).map(IfIndex),
            IFLA_OPERSTATE => link.state = OperState::from_number(*value.first()?),
            IFLA_LINKINFO => parse_info(&mut link, value),
            _ => {}
        }
    }
    Some(link)
}

fn parse_info(link: &mut Link, info: &[u8]) {
    let (mut data, mut port_kind, mut port_data) = (None, None, None);
    for (kind, value) in crate::message::attributes(info) {
        match kind {
            IFLA_INFO_KIND => link.kind = Some(read_string(value)),
            IFLA_INFO_DATA => data = Some(value),
            IFLA_INFO_SLAVE_KIND => port_kind = Some(read_string(value)),
            IFLA_INFO_SLAVE_DATA => port_data = Some(value),
            _ => {}
        }
    }
    match (link.kind.as_deref(), data) {
        (Some("vxlan"), Some(data)) => link.vxlan = Some(link_info::parse_vxlan(data)),
        (Some("bridge"), Some(data)) => {
            let filtering = crate::message::attribute(data, IFLA_BR_VLAN_FILTERING);
            link.vlan_filtering = filtering.and_then(<[u8]>::first).is_some_and(|on| *on != 0);
        }
        _ => {}
    }
    if port_kind.as_deref() == Some("bridge") {
        link.port = port_data.map(link_info::parse_port);
    }
}

impl Error {
    /// Whether the kernel lacks what was asked for (a device kind or an option of one).
    pub fn unsupported(&self) -> bool {
        self.errno == rustix::io::Errno::OPNOTSUPP || self.errno == rustix::io::Errno::NOTSUP
    }
}
