//! The messages of IPVS (`include/uapi/linux/ip_vs.h`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{
    Change, Counters, Destination, DestinationState, Persistence, Service, ServiceKey, Timeouts,
};
use crate::Family;
use crate::generic::GENL_HEADER_LEN;
use crate::message::{
    Writer, attribute, attributes_after, read_ip, read_string, read_u16, read_u32,
};

// IPVS_CMD_*
const NEW_SERVICE: u8 = 1;
const SET_SERVICE: u8 = 2;
const DEL_SERVICE: u8 = 3;
pub(super) const GET_SERVICE: u8 = 4;
const NEW_DEST: u8 = 5;
const SET_DEST: u8 = 6;
const DEL_DEST: u8 = 7;
pub(super) const GET_DEST: u8 = 8;
pub(super) const SET_CONFIG: u8 = 12;
pub(super) const GET_CONFIG: u8 = 13;

// IPVS_CMD_ATTR_*
const ATTR_SERVICE: u16 = 1;
const ATTR_DEST: u16 = 2;
const ATTR_TIMEOUT_TCP: u16 = 4;
const ATTR_TIMEOUT_TCP_FIN: u16 = 5;
const ATTR_TIMEOUT_UDP: u16 = 6;

// IPVS_SVC_ATTR_*
const SVC_AF: u16 = 1;
const SVC_PROTOCOL: u16 = 2;
const SVC_ADDR: u16 = 3;
const SVC_PORT: u16 = 4;
const SVC_SCHED_NAME: u16 = 6;
const SVC_FLAGS: u16 = 7;
const SVC_TIMEOUT: u16 = 8;
const SVC_NETMASK: u16 = 9;
const SVC_STATS: u16 = 10;
const SVC_STATS64: u16 = 12;

// IPVS_DEST_ATTR_*
const DEST_ADDR: u16 = 1;
const DEST_PORT: u16 = 2;
const DEST_FWD_METHOD: u16 = 3;
const DEST_WEIGHT: u16 = 4;
const DEST_U_THRESH: u16 = 5;
const DEST_L_THRESH: u16 = 6;
const DEST_ACTIVE_CONNS: u16 = 7;
const DEST_INACT_CONNS: u16 = 8;
const DEST_PERSIST_CONNS: u16 = 9;
const DEST_STATS: u16 = 10;
const DEST_ADDR_FAMILY: u16 = 11;
const DEST_STATS64: u16 = 12;

// IPVS_STATS_ATTR_*
const STATS_CONNS: u16 = 1;
const STATS_INPKTS: u16 = 2;
const STATS_OUTPKTS: u16 = 3;
const STATS_INBYTES: u16 = 4;
const STATS_OUTBYTES: u16 = 5;

/// `IP_VS_SVC_F_PERSISTENT`: a client stays with its destination.
const FLAG_PERSISTENT: u32 = 1;
/// `IP_VS_CONN_F_MASQ` among `IP_VS_CONN_F_FWD_MASK`: destination NAT.
const FWD_MASQ: u32 = 0;

/// The command of a change.
pub(super) fn command(change: &Change) -> u8 {
    match change {
        Change::NewService(_) => NEW_SERVICE,
        Change::SetService(_) => SET_SERVICE,
        Change::DeleteService(_) => DEL_SERVICE,
        Change::NewDestination(..) => NEW_DEST,
        Change::SetDestination(..) => SET_DEST,
        Change::DeleteDestination(..) => DEL_DEST,
    }
}

/// The attributes of a change.
pub(super) fn body(m: &mut Writer, change: &Change) {
    match change {
        Change::NewService(service) | Change::SetService(service) => {
            m.nest(ATTR_SERVICE, |m| {
                key(m, &service.key);
                m.string(SVC_SCHED_NAME, &service.scheduler);
                let (flags, timeout, length) = match service.persistence {
                    Some(persistence) => {
                        (FLAG_PERSISTENT, persistence.timeout, persistence.prefix_length)
                    }
                    None => (0, 0, service.key.family().bits()),
                };
                // The flags, and which of them count: all.
                let flags = [flags.to_ne_bytes(), u32::MAX.to_ne_bytes()].concat();
                m.attr(SVC_FLAGS, &flags);
                m.u32(SVC_TIMEOUT, timeout);
                m.u32(SVC_NETMASK, netmask(service.key.family(), length));
            });
        }
        Change::DeleteService(service) => service_key(m, service),
        Change::NewDestination(service, destination)
        | Change::SetDestination(service, destination) => {
            service_key(m, service);
            m.nest(ATTR_DEST, |m| {
                endpoint(m, destination.address);
                m.u32(DEST_FWD_METHOD, FWD_MASQ);
                m.u32(DEST_WEIGHT, destination.weight);
                m.u32(DEST_U_THRESH, destination.upper_threshold);
                m.u32(DEST_L_THRESH, destination.lower_threshold);
            });
        }
        Change::DeleteDestination(service, address) => {
            service_key(m, service);
            m.nest(ATTR_DEST, |m| endpoint(m, *address));
        }
    }
}

/// Names the service that a command is about.
pub(super) fn service_key(m: &mut Writer, service: &ServiceKey) {
    m.nest(ATTR_SERVICE, |m| key(m, service));
}

fn key(m: &mut Writer, key: &ServiceKey) {
    m.attr(SVC_AF, &u16::from(key.family().af()).to_ne_bytes());
    m.attr(SVC_PROTOCOL, &u16::from(key.protocol).to_ne_bytes());
    address(m, SVC_ADDR, key.address);
    m.be16(SVC_PORT, key.port);
}

fn endpoint(m: &mut Writer, socket: SocketAddr) {
    m.attr(DEST_ADDR_FAMILY, &u16::from(Family::of(socket.ip()).af()).to_ne_bytes());
    address(m, DEST_ADDR, socket.ip());
    m.be16(DEST_PORT, socket.port());
}

/// `union nf_inet_addr`: always sixteen bytes.
fn address(m: &mut Writer, kind: u16, address: IpAddr) {
    let mut bytes = [0; 16];
    match address {
        IpAddr::V4(v4) => bytes[..4].copy_from_slice(&v4.octets()),
        IpAddr::V6(v6) => bytes = v6.octets(),
    }
    m.attr(kind, &bytes);
}

/// A mask for IPv4, a length for IPv6.
fn netmask(family: Family, length: u8) -> u32 {
    match family {
        Family::V4 => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            u32::from_ne_bytes(mask.to_be_bytes())
        }
        Family::V6 => u32::from(length),
    }
}

fn prefix_length(family: Family, netmask: u32) -> u8 {
    match family {
        Family::V4 => netmask.count_ones() as u8,
        Family::V6 => netmask as u8,
    }
}

/// The timeouts that are to be set; the kernel leaves those that are zero.
pub(super) fn timeouts(m: &mut Writer, timeouts: &Timeouts) {
    m.u32(ATTR_TIMEOUT_TCP, timeouts.tcp);
    m.u32(ATTR_TIMEOUT_TCP_FIN, timeouts.tcp_fin);
    m.u32(ATTR_TIMEOUT_UDP, timeouts.udp);
}

pub(super) fn parse_timeouts(payload: &[u8]) -> Option<Timeouts> {
    let value = |kind| {
        let found = attributes_after(payload, GENL_HEADER_LEN).find(|(k, _)| *k == kind)?;
        read_u32(found.1, 0)
    };
    Some(Timeouts {
        tcp: value(ATTR_TIMEOUT_TCP)?,
        tcp_fin: value(ATTR_TIMEOUT_TCP_FIN)?,
        udp: value(ATTR_TIMEOUT_UDP)?,
    })
}

/// A service; `None` for one that is known by a firewall mark.
pub(super) fn parse_service(payload: &[u8]) -> Option<(Service, Counters)> {
    let nest = attributes_after(payload, GENL_HEADER_LEN).find(|(k, _)| *k == ATTR_SERVICE)?.1;
    let family = Family::from_af(read_u16(attribute(nest, SVC_AF)?, 0)? as u8)?;
    let key = ServiceKey {
        protocol: read_u16(attribute(nest, SVC_PROTOCOL)?, 0)? as u8,
        address: read_address(family, attribute(nest, SVC_ADDR)?)?,
        port: read_port(attribute(nest, SVC_PORT)?)?,
    };
    let flags = read_u32(attribute(nest, SVC_FLAGS)?, 0)?;
    let timeout = read_u32(attribute(nest, SVC_TIMEOUT)?, 0)?;
    let netmask = read_u32(attribute(nest, SVC_NETMASK)?, 0)?;
    let persistence = (flags & FLAG_PERSISTENT != 0)
        .then(|| Persistence { timeout, prefix_length: prefix_length(family, netmask) });
    let scheduler = read_string(attribute(nest, SVC_SCHED_NAME)?);
    let counters = counters(nest, SVC_STATS64, SVC_STATS);
    Some((Service { key, scheduler, persistence }, counters))
}

/// A destination of a service of this family; `None` if it is not reached by NAT.
pub(super) fn parse_destination(service: Family, payload: &[u8]) -> Option<DestinationState> {
    let nest = attributes_after(payload, GENL_HEADER_LEN).find(|(k, _)| *k == ATTR_DEST)?.1;
    let number = |kind| read_u32(attribute(nest, kind)?, 0);
    // Since Linux 3.18 it is told.
    let family = match attribute(nest, DEST_ADDR_FAMILY) {
        Some(bytes) => Family::from_af(read_u16(bytes, 0)? as u8)?,
        None => service,
    };
    const FWD_MASK: u32 = 7;
    let address = SocketAddr::new(
        read_address(family, attribute(nest, DEST_ADDR)?)?,
        read_port(attribute(nest, DEST_PORT)?)?,
    );
    Some(DestinationState {
        destination: Destination {
            address,
            weight: number(DEST_WEIGHT)?,
            upper_threshold: number(DEST_U_THRESH)?,
            lower_threshold: number(DEST_L_THRESH)?,
        },
        is_nat: number(DEST_FWD_METHOD)? & FWD_MASK == FWD_MASQ,
        active: number(DEST_ACTIVE_CONNS)?,
        inactive: number(DEST_INACT_CONNS)?,
        persistent: number(DEST_PERSIST_CONNS)?,
        counters: counters(nest, DEST_STATS64, DEST_STATS),
    })
}

fn read_address(family: Family, bytes: &[u8]) -> Option<IpAddr> {
    match family {
        Family::V4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes.get(..4)?).ok()?).into()),
        Family::V6 => read_ip(bytes).filter(IpAddr::is_ipv6).or(Some(Ipv6Addr::UNSPECIFIED.into())),
    }
}

fn read_port(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(..2)?.try_into().ok()?))
}

/// Counters of 64 bits (since Linux 4.1), else those of 32.
fn counters(nest: &[u8], wide: u16, narrow: u16) -> Counters {
    let stats = attribute(nest, wide).or_else(|| attribute(nest, narrow)).unwrap_or_default();
    let number = |kind| match attribute(stats, kind) {
        Some(bytes) if bytes.len() == 4 => u64::from(read_u32(bytes, 0).unwrap_or(0)),
        Some(bytes) => bytes.try_into().map_or(0, u64::from_ne_bytes),
        None => 0,
    };
    Counters {
        connections: number(STATS_CONNS),
        packets_in: number(STATS_INPKTS),
        packets_out: number(STATS_OUTPKTS),
        bytes_in: number(STATS_INBYTES),
        bytes_out: number(STATS_OUTBYTES),
    }
}
