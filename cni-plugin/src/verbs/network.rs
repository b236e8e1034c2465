//! What the verbs share: the container's namespace, the record of an attachment, netfilter, the overlay.

use std::fs::File;
use std::net::IpAddr;
use std::path::Path;

use attachment::{Forwarding, LinkRecord, Owner, Record, Records, Report, State, netfilter};
use netlink::{Errno, Family, MacAddress, Namespace, Prefix, RouteSocket};
use overlay::{Overlay, Underlay, diff, plan};

use super::Request;
use crate::addresses::AddressSource;
use crate::config::{Config, Ipam, Mode, OverlayConfig};
use crate::environment::Command;
use crate::error::{CniError, Result, code};
use crate::hostport;
use crate::link::{self, bridge};
use crate::result::{AddResult, Interface};

/// Where locks are.
const RUN_DIRECTORY: &str = "/run/viaduct";

/// Opens the container's namespace, which must not be the plugin's own.
pub(super) fn open_namespace(request: &Request) -> Result<Namespace> {
    let path = request.environment.netns.as_deref().unwrap_or(Path::new(""));
    let container = Namespace::open(path).map_err(|error| {
        let code = match error.errno {
            Errno::INVAL | Errno::NOENT => code::INVALID_NAMESPACE,
            _ => code::IO,
        };
        CniError::new(code, format!("CNI_NETNS: {error}"))
    })?;
    if !request.environment.own_netns_allowed && container.is_same(&Namespace::current()?)? {
        return Err(CniError::new(
            code::INVALID_NAMESPACE,
            format!(
                "CNI_NETNS {:?} is the plugin's own network namespace",
                path.display().to_string()
            ),
        ));
    }
    Ok(container)
}

/// The pod's addresses without their prefix lengths.
pub(super) fn pod_ips(result: &AddResult) -> Vec<IpAddr> {
    result.ips.iter().map(|ip| ip.address.address()).collect()
}

/// Refuses an interface of a result whose namespace is another one than the container's.
pub(super) fn require_same_namespace(container: &Namespace, interface: &Interface) -> Result<()> {
    // A path that is gone proves nothing: runtimes may name a namespace in several ways.
    let Ok(sandbox) = Namespace::open(&interface.sandbox) else { return Ok(()) };
    if sandbox.is_same(container)? {
        return Ok(());
    }
    Err(CniError::config(format!(
        "prevResult: interface {:?} is in another container, at {:?}",
        interface.name, interface.sandbox
    )))
}

/// Refuses a result with an address that the attachment does not hold.
pub(super) fn require_held(source: &AddressSource<'_>, result: &AddResult) -> Result<()> {
    let held = source.held()?;
    match pod_ips(result).iter().find(|ip| !held.is_empty() && !held.contains(ip)) {
        None => Ok(()),
        Some(ip) => Err(CniError::config(format!(
            "prevResult: address {ip} is not reserved for this container"
        ))),
    }
}

/// Gives the addresses of a routed result the length of their subnets again: the result has that of the
/// interface.
pub(super) fn restore_subnets(config: &Config, owner: &Owner, result: &mut AddResult) {
    let recorded = Records::of_current_namespace().and_then(|records| records.read(owner));
    let recorded = recorded.ok().flatten().map(|record| record.addresses).unwrap_or_default();
    for ip in &mut result.ips {
        let address = ip.address.address();
        let known = recorded.iter().copied().find(|known| known.address() == address);
        let subnet = match &config.ipam {
            Ipam::HostLocal(ranges) => ranges.with_subnet(address),
            Ipam::None | Ipam::Delegate(_) => None,
        };
        ip.address = known.or(subnet).unwrap_or(ip.address);
    }
}

/// What an attachment with this result needs on the node.
pub(super) fn record(
    request: &Request,
    result: &AddResult,
    mtu: u32,
    gateways: Vec<Prefix>,
    mac: Option<MacAddress>,
) -> Result<Record> {
    let config = &request.config;
    let forwarding = match (config.serves_gateway(), &config.daemon) {
        (false, _) => Forwarding::Off,
        (true, Some(_)) => Forwarding::Device,
        (true, None) => Forwarding::Node,
    };
    let (limits, raised) = config.bandwidth.limits(mtu);
    if request.environment.command == Command::Add {
        raised.iter().for_each(|line| eprintln!("viaduct: {line}"));
    }
    Ok(Record {
        owner: request.owner(),
        link: match config.mode {
            Mode::Bridge => bridge::link_record(config, None),
            Mode::Routed => LinkRecord::Routed,
        },
        mtu,
        detect_duplicates: config.detect_duplicates,
        addresses: result.ips.iter().map(|ip| ip.address).collect(),
        gateways,
        masquerade_exclusions: config.masquerade.then(|| config.masquerade_exclude.clone()),
        host_ports: hostport::resolve(&config.port_mappings, &pod_ips(result))?,
        allowed_mac: mac.filter(|_| config.mac_spoof_check),
        limits,
        forwarding,
    })
}

/// Commits the netfilter state of an attachment, and what waits for it: the node's loopback addresses may be
/// translated behind the rule that guards them, and old UDP flows end.
pub(super) fn install_netfilter(record: &Record, records: &Records) -> Result<()> {
    let outcome = netfilter::install(record, records)?;
    for line in &outcome.notices {
        eprintln!("viaduct: {line}");
    }
    let mut socket = RouteSocket::open()?;
    let desired = attachment::plan([record]);
    let mut observed = State { sysctls: Default::default(), ..desired.clone() };
    attachment::observe::read_sysctls(&mut observed, &desired);
    for change in attachment::diff(&desired, &observed).iter().filter(|c| c.needs_netfilter()) {
        link::apply(change, &mut socket)?;
    }
    let udp = record.host_ports.iter().filter(|port| port.protocol == hostport::Protocol::Udp);
    let mut ports: Vec<(Family, u16)> =
        udp.map(|port| (Family::of(port.pod_ip), port.host_port)).collect();
    ports.extend(outcome.freed_udp_ports);
    Ok(hostport::forget_udp_flows(&ports)?)
}

/// Writes the record of an attachment that is complete. Without it the attachment works, and is not repaired.
pub(super) fn write_record(records: &Records, record: &Record) {
    if let Err(error) = records.write(record) {
        eprintln!("viaduct: {error}: damage to the node's side of this pod will not be repaired");
    }
}

/// Whether the netfilter state of an attachment is in force.
pub(super) fn check_netfilter(record: &Record) -> Result<()> {
    match netfilter::check(record)? {
        None => Ok(()),
        Some(damage) => Err(CniError::new(code::CHECK_FAILED, damage)),
    }
}

/// Whether the node forwards what the pod sends.
pub(super) fn check_forwarding(record: &Record) -> Result<()> {
    let desired = attachment::plan([record]);
    for (name, value) in desired.sysctls.iter().filter(|(name, _)| name.ends_with("forward")) {
        if netlink::sysctl::read(name).is_ok_and(|found| found != *value) {
            return Err(CniError::new(code::CHECK_FAILED, format!("sysctl {name} is not {value}")));
        }
    }
    Ok(())
}

/// Writes what a comparison of the node found to standard error.
pub(super) fn print_report(report: &Report) {
    for repair in &report.repairs {
        eprintln!("viaduct: repaired: {}", repair.damage);
    }
    for problem in report.problems.iter().chain(&report.failures) {
        eprintln!("viaduct: {problem}");
    }
}

/// The overlay, if this invocation keeps it: nodes are given and no daemon is in charge.
fn kept_overlay(request: &Request) -> Option<(&OverlayConfig, &[overlay::Node])> {
    let config = request.config.overlay.as_ref()?;
    let nodes = config.nodes.as_deref()?;
    request.config.daemon.is_none().then_some((config, nodes))
}

/// Brings the overlay to the configuration. Usually there is nothing to do, and nothing is locked.
pub(super) fn converge_overlay(
    request: &Request,
    socket: &mut RouteSocket,
    records: &Records,
) -> Result<()> {
    let network = &request.config.name;
    let Some((OverlayConfig { overlay, .. }, nodes)) = kept_overlay(request) else {
        let is_gone = request.config.daemon.is_none() && records.overlay(network).is_some();
        return if is_gone { remove_overlay(network, socket, records) } else { Ok(()) };
    };
    let underlay = Underlay::observe(socket, overlay, nodes)?;
    let plan = plan(overlay, nodes, &underlay)?;
    for problem in &plan.problems {
        eprintln!("viaduct: overlay: {problem}");
    }
    let device = plan.desired.device.as_ref().map(|device| device.name.as_str());
    let noted = records.overlay(network);
    let is_noted = noted.as_ref().is_some_and(|noted| noted.as_deref() == device);
    if is_noted && diff(&overlay::State::observe(socket, &plan)?, &plan.desired).is_empty() {
        return Ok(());
    }
    let _alone = lock("overlay.lock")?;
    if noted.is_none() {
        // Before it exists: nothing else tells later whose it is.
        records.note_overlay(network, device)?;
    }
    let converged = Overlay::default().converge(socket, &plan)?;
    if let Some(error) = converged.unhardened {
        eprintln!("viaduct: {error}; the network works");
    }
    if let Some(Some(former)) = noted
        && Some(&*former) != device
        && !records.overlays_except(network).0.contains(&former)
    {
        socket.delete_link_by_name(&former)?;
    }
    // After the former tunnel is gone: an ADD that fails before leaves its name to the next one.
    Ok(records.note_overlay(network, device)?)
}

/// Removes the overlay that the network had: its routes would win against those of another network.
fn remove_overlay(network: &str, socket: &mut RouteSocket, records: &Records) -> Result<()> {
    let _alone = lock("overlay.lock")?;
    let (keep, keep_direct) = records.overlays_except(network);
    for line in overlay::remove(socket, &keep, keep_direct)? {
        eprintln!("viaduct: removed {line}");
    }
    records.forget_overlay(network);
    Ok(())
}

/// Whether the overlay is as configured.
pub(super) fn check_overlay(request: &Request, socket: &mut RouteSocket) -> Result<()> {
    let Some((OverlayConfig { overlay, .. }, nodes)) = kept_overlay(request) else {
        return Ok(());
    };
    let underlay = Underlay::observe(socket, overlay, nodes)?;
    let plan = plan(overlay, nodes, &underlay)?;
    let changes = diff(&overlay::State::observe(socket, &plan)?, &plan.desired);
    if changes.is_empty() {
        return Ok(());
    }
    let message =
        format!("the overlay differs from its configuration in {} entries", changes.entries());
    Err(CniError::new(code::CHECK_FAILED, message))
}

/// An exclusive lock that ends with the returned file, or with the process.
fn lock(name: &str) -> Result<File> {
    let path = Path::new(RUN_DIRECTORY).join(name);
    let failed = |error: std::io::Error| {
        CniError::new(code::IO, format!("lock {}: {error}", path.display()))
    };
    std::fs::create_dir_all(RUN_DIRECTORY).map_err(failed)?;
    let file = File::options().create(true).append(true).open(&path).map_err(failed)?;
    file.lock().map_err(failed)?;
    Ok(file)
}
