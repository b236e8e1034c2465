//! Routes.

use std::net::IpAddr;

use super::{IfIndex, RouteBatch, RouteSocket};
use crate::error::{Result, found};
use crate::message::{
    NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE, Writer, attributes, attributes_after,
    read_ip, read_u32,
};
use crate::{Family, Prefix};

// include/uapi/linux/rtnetlink.h
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const RTMSG_LEN: usize = 12;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTA_METRICS: u16 = 8;
const RTA_TABLE: u16 = 15;
const RTAX_MTU: u16 = 2;
const RTAX_ADVMSS: u16 = 8;
const RTN_UNICAST: u8 = 1;
const RTNH_F_ONLINK: u32 = 4;
/// The main table, `RT_TABLE_MAIN`.
const MAIN_TABLE: u32 = 254;
/// `RTPROT_BOOT`: what an administrator or a script sets.
const PROTOCOL_BOOT: u8 = 3;

/// How far away a destination is (`rtm_scope`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope(pub u8);

impl Scope {
    /// Anywhere, through a gateway.
    pub const UNIVERSE: Scope = Scope(0);
    /// On the link itself.
    pub const LINK: Scope = Scope(253);
}

/// A unicast route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Route {
    /// Where to.
    pub destination: Prefix,
    /// Through which gateway; without one the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// Out of which link.
    pub link: Option<IfIndex>,
    /// With which source address.
    pub source: Option<IpAddr>,
    /// The gateway is taken as reachable on the link, whatever the other routes say.
    pub onlink: bool,
    /// Scope; `None` is the usual one: link without a gateway, else universe.
    pub scope: Option<Scope>,
    /// Who made it (`rtm_protocol`, `/etc/iproute2/rt_protos`).
    pub protocol: u8,
    /// Routing table.
    pub table: u32,
    /// Metric; the lowest wins. `None` is the kernel's choice.
    pub priority: Option<u32>,
    /// Path MTU.
    pub mtu: Option<u32>,
    /// The MSS to advertise.
    pub advmss: Option<u32>,
}

impl Route {
    /// A plain route in the main table.
    pub fn new(destination: Prefix) -> Route {
        Route {
            destination,
            gateway: None,
            link: None,
            source: None,
            onlink: false,
            scope: None,
            protocol: PROTOCOL_BOOT,
            table: MAIN_TABLE,
            priority: None,
            mtu: None,
            advmss: None,
        }
    }
}

/// Which routes to list.
#[derive(Clone, Copy, Debug)]
pub struct RouteFilter {
    /// The family; a dump is always of one.
    pub family: Family,
    /// Only routes out of this link.
    pub link: Option<IfIndex>,
    /// Only routes made by this protocol.
    pub protocol: Option<u8>,
}

impl RouteFilter {
    fn matches(&self, route: &Route) -> bool {
        self.link.is_none_or(|link| route.link == Some(link))
            && self.protocol.is_none_or(|protocol| route.protocol == protocol)
            && route.destination.family() == self.family
    }
}

/// `struct rtmsg`: family, lengths, tos, table, protocol, scope, type, flags.
fn rtmsg(m: &mut Writer, route: &Route) {
    let implied = if route.gateway.is_none() && route.destination.family() == Family::V4 {
        Scope::LINK
    } else {
        Scope::UNIVERSE
    };
    let mut header = [0u8; RTMSG_LEN];
    header[0] = route.destination.family().af();
    header[1] = route.destination.length();
    header[4] = u8::try_from(route.table).unwrap_or(0); // a larger number is an attribute
    header[5] = route.protocol;
    header[6] = route.scope.unwrap_or(implied).0;
    header[7] = RTN_UNICAST;
    let flags = if route.onlink { RTNH_F_ONLINK } else { 0 };
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    m.raw(&header);
}

fn write(m: &mut Writer, route: &Route) {
    rtmsg(m, route);
    if route.table > u32::from(u8::MAX) {
        m.u32(RTA_TABLE, route.table);
    }
    if route.destination.length() > 0 {
        m.ip(RTA_DST, route.destination.first());
    }
    if let Some(gateway) = route.gateway {
        m.ip(RTA_GATEWAY, gateway);
    }
    if let Some(link) = route.link {
        m.u32(RTA_OIF, link.0);
    }
    if let Some(source) = route.source {
        m.ip(RTA_PREFSRC, source);
    }
    if let Some(priority) = route.priority {
        m.u32(RTA_PRIORITY, priority);
    }
    if route.mtu.is_some() || route.advmss.is_some() {
        m.nest(RTA_METRICS, |m| {
            if let Some(mtu) = route.mtu {
                m.u32(RTAX_MTU, mtu);
            }
            if let Some(advmss) = route.advmss {
                m.u32(RTAX_ADVMSS, advmss);
            }
        });
    }
}

fn request(kind: u16, flags: u16, route: &Route) -> Writer {
    let mut request = Writer::default();
    request.message(kind, flags, |m| write(m, route));
    request
}

pub(crate) fn replace_request(route: &Route) -> Writer {
    request(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, route)
}

impl RouteBatch {
    /// See [`RouteSocket::replace_route`].
    pub fn replace_route(&mut self, route: &Route) {
        self.piece(|| format!("set route {}", route.destination)).message(
            RTM_NEWROUTE,
            NLM_F_CREATE | NLM_F_REPLACE,
            |m| write(m, route),
        );
    }

    /// Deletes a route.
    pub fn delete_route(&mut self, route: &Route) {
        self.piece(|| format!("delete route {}", route.destination)).message(
            RTM_DELROUTE,
            0,
            |m| write(m, route),
        );
    }
}

impl RouteSocket {
    /// Adds a route beside others to the same destination.
    pub fn append_route(&mut self, route: &Route) -> Result<()> {
        self.execute(request(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_APPEND, route), || {
            format!("add route {}", describe(route))
        })
    }

    /// Sets the route to its destination, in place of one with the same metric.
    pub fn replace_route(&mut self, route: &Route) -> Result<()> {
        self.execute(replace_request(route), || format!("set route {}", describe(route)))
    }

    /// Deletes a route; tells whether it was there.
    pub fn delete_route(&mut self, route: &Route) -> Result<bool> {
        let deleted = self.execute(request(RTM_DELROUTE, 0, route), || {
            format!("delete route {}", describe(route))
        });
        Ok(found(deleted)?.is_some())
    }

    /// The unicast routes that match, of all tables but the local one, in order.
    pub fn routes(&mut self, filter: RouteFilter) -> Result<Vec<Route>> {
        let request = || {
            let mut dump = Writer::default();
            dump.message(RTM_GETROUTE, NLM_F_DUMP, |m| {
                let mut header = [0u8; RTMSG_LEN];
                header[0] = filter.family.af();
                header[5] = filter.protocol.unwrap_or(0);
                m.raw(&header);
                if let Some(link) = filter.link {
                    m.u32(RTA_OIF, link.0);
                }
            });
            dump
        };
        let matching = |payload: &[u8]| parse(payload).filter(|route| filter.matches(route));
        match self.socket.collected_dump(request, matching) {
            Err(error) if error.not_found() => Ok(Vec::new()),
            other => other.map_err(|error| error.during(format!("list {} routes", filter.family))),
        }
    }

    /// The route that a packet to `destination` takes, or `None` if there is none.
    pub fn route_to(&mut self, destination: IpAddr) -> Result<Option<Route>> {
        let mut get = Writer::default();
        get.message(RTM_GETROUTE, 0, |m| {
            let mut header = [0u8; RTMSG_LEN];
            header[0] = Family::of(destination).af();
            header[1] = Family::of(destination).bits();
            m.raw(&header);
            m.ip(RTA_DST, destination);
        });
        match self.socket.get(get, parse_any) {
            Err(error)
                if error.not_found()
                    || matches!(
                        error.errno,
                        rustix::io::Errno::NETUNREACH | rustix::io::Errno::HOSTUNREACH
                    ) =>
            {
                Ok(None)
            }
            other => other
                .map(Some)
                .map_err(|error| error.during(format!("look up the route to {destination}"))),
        }
    }
}

fn describe(route: &Route) -> String {
    let via = route.gateway.map(|g| format!(" via {g}")).unwrap_or_default();
    let link = route.link.map(|l| format!(" on link {l}")).unwrap_or_default();
    format!("{}{via}{link}", route.destination)
}

fn parse(payload: &[u8]) -> Option<Route> {
    (*payload.get(7)? == RTN_UNICAST).then(|| parse_any(payload)).flatten()
}

fn parse_any(payload: &[u8]) -> Option<Route> {
    let family = Family::from_af(*payload.first()?)?;
    let mut destination = family.unspecified();
    let mut route = Route {
        table: u32::from(*payload.get(4)?),
        protocol: *payload.get(5)?,
        scope: Some(Scope(*payload.get(6)?)),
        onlink: read_u32(payload, 8)? & RTNH_F_ONLINK != 0,
        ..Route::new(Prefix::default_route(family))
    };
    for (kind, value) in attributes_after(payload, RTMSG_LEN) {
        match kind {
            RTA_DST => destination = read_ip(value)?,
            RTA_OIF => route.link = read_u32(value, 0).map(IfIndex),
            RTA_GATEWAY => route.gateway = read_ip(value),
            RTA_PRIORITY => route.priority = read_u32(value, 0),
            RTA_PREFSRC => route.source = read_ip(value),
            RTA_TABLE => route.table = read_u32(value, 0)?,
            RTA_METRICS => {
                for (metric, value) in attributes(value) {
                    match metric {
                        RTAX_MTU => route.mtu = read_u32(value, 0),
                        RTAX_ADVMSS => route.advmss = read_u32(value, 0),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    route.destination = Prefix::new(destination, *payload.get(1)?)?;
    Some(route)
}
