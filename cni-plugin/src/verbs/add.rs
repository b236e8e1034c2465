//! ADD: addresses, link, netfilter, limits, overlay, daemon. In this order, and undone in reverse.
//!
//! The lease comes first and goes last: as long as anything of an attachment exists, its lease does,
//! so that GC finds what a killed ADD left behind. The record comes last: it says that all of it is there.

use std::net::IpAddr;

use attachment::{LinkRecord, Record, Records};
use netlink::{Link, MacAddress, Namespace, OperState, RouteSocket};
use serde_json::Value;

use super::del::remove_kernel_state;
use super::{Request, chained, network};
use crate::addresses::{self, AddressSource};
use crate::config::{Config, Mode};
use crate::daemon::PodReport;
use crate::error::{CniError, Failures, Result, code};
use crate::link::{self, bridge, pod, uplink};
use crate::result::{AddResult, Interface};

/// The smallest MTU with which the kernel accepts an IPv6 address (RFC 8200).
const IPV6_MTU_MIN: u32 = 1280;

pub(super) fn add(request: &Request) -> Result<Value> {
    let previous = request.config.prev_result.as_ref();
    if let (true, Some(previous)) = (request.config.is_chained(), previous) {
        return chained::add(request, previous);
    }
    let before = match previous {
        Some(previous) => AddResult::parse(previous, "prevResult")?,
        None => AddResult::default(),
    };
    let container = network::open_namespace(request)?;
    let source = AddressSource::new(&request.config, &request.environment);
    let result = addresses::complete(&request.config, source.add(&request.config)?);
    let given = network::pod_ips(&result);
    let mut made = false;
    let attached = attach(request, &container, result, &mut made);
    if attached.is_err() {
        undo(request, &source, &given, made);
    }
    Ok(before.followed_by(attached?).to_json(request.config.version))
}

/// Takes back what a failed ADD made, then its lease. The lease stays while anything else does: the next pod
/// would get an address that still has a link or rules.
fn undo(request: &Request, source: &AddressSource<'_>, given: &[IpAddr], made: bool) {
    let mut failures = Failures::default();
    if made {
        failures.note(remove_kernel_state(&request.owner()));
    }
    if failures.is_empty() {
        failures.note(source.undo(given));
    }
    if let Err(error) = failures.into_result() {
        eprintln!("viaduct: while undoing a failed ADD: {error}: DEL or GC frees its addresses");
    }
}

/// Everything after the lease. `made` is set once something exists that is this invocation's own.
fn attach(
    request: &Request,
    container: &Namespace,
    mut result: AddResult,
    made: &mut bool,
) -> Result<AddResult> {
    let config = &request.config;
    let mut socket = RouteSocket::open()?;
    let inside = container.run(RouteSocket::open)??;
    let records = Records::of_current_namespace()?;
    network::converge_overlay(request, &mut socket, &records)?;
    let found = match config.mode {
        Mode::Bridge => bridge::find(&mut socket, config)?,
        Mode::Routed => None,
    };
    let mtu = pod_mtu(&mut socket, config, found.as_ref())?;
    leave_out_ipv6(config, mtu, &mut result)?;
    let gateways = addresses::gateways(config, &result);
    let container_mac = container_mac(request, &result);
    let mut record = network::record(request, &result, mtu, gateways, Some(container_mac))?;
    if config.mode == Mode::Bridge {
        record.link = bridge::link_record(config, found.as_ref());
    }
    Attach {
        request,
        container,
        records,
        desired: attachment::plan([&record]),
        record,
        container_mac,
        socket,
        inside,
        result,
    }
    .run(found, made)
}

/// The MTU of a pod's interface. A derived one is not larger than those of the bridge's other ports.
fn pod_mtu(socket: &mut RouteSocket, config: &Config, bridge: Option<&Link>) -> Result<u32> {
    let mtu = uplink::pod_mtu(socket, config)?;
    match bridge.filter(|bridge| config.mtu.is_none() && bridge.mtu < mtu) {
        None => Ok(mtu),
        Some(bridge) => {
            Ok(bridge::mtu_of_ports(socket, bridge)?.map_or(mtu, |ports| ports.min(mtu)))
        }
    }
}

/// Leaves IPv6 out where the MTU is too small for it. IPv4 goes on.
fn leave_out_ipv6(config: &Config, mtu: u32, result: &mut AddResult) -> Result<()> {
    if mtu >= IPV6_MTU_MIN || !result.has_family(netlink::Family::V6) {
        return Ok(());
    }
    let reason = match config.mtu {
        Some(mtu) => format!("mtu {mtu} is less than the {IPV6_MTU_MIN} bytes that IPv6 needs"),
        None => format!(
            "the uplink leaves pods an MTU of {mtu} bytes (its own, less what the overlay adds), but IPv6 needs {IPV6_MTU_MIN}"
        ),
    };
    if !result.has_family(netlink::Family::V4) {
        return Err(CniError::config(reason));
    }
    eprintln!("viaduct: the pod has no IPv6 address: {reason}");
    result.ips.retain(|ip| ip.address.address().is_ipv4());
    result.routes.retain(|route| route.dst.address().is_ipv4());
    Ok(())
}

/// An attachment in the making.
struct Attach<'a> {
    request: &'a Request,
    container: &'a Namespace,
    records: Records,
    record: Record,
    desired: attachment::State,
    container_mac: MacAddress,
    socket: RouteSocket,
    /// A socket in the container's namespace.
    inside: RouteSocket,
    result: AddResult,
}

impl Attach<'_> {
    fn run(mut self, found: Option<Link>, made: &mut bool) -> Result<AddResult> {
        let config = &self.request.config;
        let (mut bridge, mut bridge_is_new) = (None, false);
        if config.mode == Mode::Bridge {
            let (link, is_new) = bridge::ensure(
                &mut self.socket,
                found,
                &self.record,
                &self.desired,
                &self.records,
            )?;
            if let LinkRecord::Bridge { bridge_mac, .. } = &mut self.record.link {
                *bridge_mac = link.mac;
            }
            (bridge, bridge_is_new) = (Some(link), is_new);
        }
        let pair = link::Pair {
            host_mac: self.record.owner.mac("host"),
            container_mac: self.container_mac,
            mtu: self.record.mtu,
            master: bridge.as_ref().map(|bridge| bridge.index),
        };
        let owner = &self.record.owner;
        link::create_pair(&mut self.socket, &mut self.inside, self.container, owner, &pair)?;
        *made = true;
        self.configure_link()?;
        let ifname = self.record.owner.attachment.ifname.clone();
        self.container
            .run(|| pod::configure(&mut self.inside, config, &ifname, &self.result))??;
        let host = self.host_link(bridge.as_ref())?;
        pod::announce(&mut self.inside, config, &ifname, self.container_mac, &self.result)?;
        network::install_netfilter(&self.record, &self.records)?;
        if self.record.limits.any() {
            let (limits, mtu) = (&self.record.limits, self.record.mtu);
            limits.apply(&mut self.socket, &self.record.owner, host.index, mtu)?;
        }
        self.wait_until_answering(bridge.as_ref(), &host)?;
        self.report_to_daemon(&host)?;
        network::write_record(&self.records, &self.record);
        if config.daemon.is_none() && config.serves_gateway() {
            attachment::admit(&self.record).iter().for_each(|line| eprintln!("viaduct: {line}"));
        }
        if bridge_is_new && config.daemon.is_none() {
            self.repair_others();
        }
        Ok(self.into_result(bridge, &pair))
    }

    /// The node's end: port settings or addresses and routes, and the sysctls that it needs. Before it has a
    /// carrier, so that the kernel adds nothing of its own.
    fn configure_link(&mut self) -> Result<()> {
        let observed = attachment::observe::new_end(&self.record, &self.desired);
        let changes = attachment::diff(&self.desired, &observed);
        for change in changes.iter().filter(|change| !change.needs_netfilter()) {
            link::apply(change, &mut self.socket)?;
        }
        Ok(())
    }

    /// The node's end, once it passes packets.
    fn host_link(&mut self, bridge: Option<&Link>) -> Result<Link> {
        let name = self.record.owner.host_link();
        let gone = || {
            let message = format!("the node's end of the link, {name:?}, vanished during ADD");
            CniError::new(code::IO, message)
        };
        let link = self.socket.link_by_name(&name)?.ok_or_else(gone)?;
        if self.request.config.container_interface_disabled {
            return Ok(link);
        }
        let host = link::settled(&mut self.socket, link.index)?;
        // The first port gives its bridge a carrier. Until the kernel has acted on that, the bridge
        // device drops what the node sends.
        if let Some(bridge) = bridge.filter(|bridge| is_new(bridge)) {
            link::settled(&mut self.socket, bridge.index)?;
        }
        Ok(host)
    }

    fn wait_until_answering(&self, bridge: Option<&Link>, host: &Link) -> Result<()> {
        if self.request.config.container_interface_disabled {
            return Ok(());
        }
        let ifname = &self.record.owner.attachment.ifname;
        let ips = network::pod_ips(&self.result);
        self.container.run(|| link::wait_until_answering(ifname, &ips))??;
        if bridge.is_none_or(is_new) {
            let gateways: Vec<IpAddr> =
                self.record.gateways.iter().map(|gateway| gateway.address()).collect();
            let device = bridge.map_or(&host.name, |bridge| &bridge.name);
            link::wait_until_answering(device, &gateways)?;
        }
        Ok(())
    }

    fn report_to_daemon(&self, host: &Link) -> Result<()> {
        let Some(daemon) = &self.request.config.daemon else { return Ok(()) };
        daemon.add(&PodReport {
            environment: &self.request.environment,
            network: &self.request.config.name,
            host_link: &host.name,
            ips: network::pod_ips(&self.result),
        })
    }

    /// A bridge that is new may have been deleted under other pods: their ports come back.
    fn repair_others(&self) {
        match attachment::converge() {
            Ok(report) => network::print_report(&report),
            Err(error) => eprintln!("viaduct: cannot compare the node with its records: {error}"),
        }
    }

    fn into_result(self, bridge: Option<Link>, pair: &link::Pair) -> AddResult {
        let interface = |name: &str, mac, sandbox: String| Interface {
            name: name.to_owned(),
            mac: Some(mac),
            mtu: Some(pair.mtu),
            sandbox,
        };
        let mut result = self.result;
        if let Some(bridge) = &bridge {
            let mac = bridge.mac.unwrap_or(MacAddress([0; 6]));
            result.interfaces.push(interface(&bridge.name, mac, String::new()));
        }
        let host = self.record.owner.host_link();
        result.interfaces.push(interface(&host, pair.host_mac, String::new()));
        let netns = self.request.environment.netns.as_ref();
        let sandbox = netns.map(|path| path.display().to_string());
        let ifname = &self.record.owner.attachment.ifname;
        let container = interface(ifname, pair.container_mac, sandbox.unwrap_or_default());
        result.interfaces.push(container);
        let position = result.interfaces.len() - 1;
        for ip in &mut result.ips {
            ip.interface = Some(position);
            // The result says what the interface has.
            ip.address = pod::address_inside(&self.request.config, ip);
        }
        result
    }
}

/// Whether a bridge had no port in use when it was observed.
fn is_new(bridge: &Link) -> bool {
    bridge.state != OperState::Up
}

/// The container's MAC address: as requested, or derived from its first IP address, so that neighbours
/// that remember a former owner of the address are right.
fn container_mac(request: &Request, result: &AddResult) -> MacAddress {
    let derived = || match result.ips.first() {
        Some(ip) => MacAddress::for_address([0x0a, 0x58], ip.address.address()),
        None => request.owner().mac("container"),
    };
    request.config.requested_mac.unwrap_or_else(derived)
}
