//! What ADD and CHECK share: the container's namespace, the wanted netfilter state, the overlay.

use std::fs::File;
use std::net::IpAddr;
use std::path::Path;

use netlink::{Errno, MacAddress, Namespace, Prefix, RouteSocket};
use overlay::{Overlay, State, Underlay, diff, plan};

use super::Request;
use crate::config::{Mode, OverlayConfig};
use crate::error::{CniError, Result, code};
use crate::hostport;
use crate::netfilter::{self, Wanted};
use crate::result::AddResult;

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

/// The netfilter state of an attachment with these results. `device` leads to the pod from the node.
pub(super) fn wanted_netfilter(
    request: &Request,
    result: &AddResult,
    device: &str,
    port_mac: Option<MacAddress>,
) -> Result<Wanted> {
    let (config, owner) = (&request.config, request.owner());
    let mut wanted = Wanted::default();
    if config.masquerade {
        let addresses: Vec<Prefix> = result.ips.iter().map(|ip| ip.address).collect();
        wanted.masquerade(&owner, &addresses, &config.masquerade_exclude);
    }
    let ports = hostport::resolve(&config.port_mappings, &pod_ips(result))?;
    let shared = config.mode == Mode::Bridge || config.prev_result.is_some();
    wanted.host_ports(&owner, &ports, device, shared);
    if let (true, Some(mac)) = (config.mac_spoof_check, port_mac) {
        wanted.mac_check(&owner, &owner.host_link(), mac);
    }
    Ok(wanted)
}

/// Commits the netfilter state, and what host ports need besides: the node's loopback may be
/// translated on the device (behind the rule that guards it), and old UDP flows end.
pub(super) fn install_netfilter(
    request: &Request,
    wanted: &Wanted,
    result: &AddResult,
    device: &str,
) -> Result<()> {
    netfilter::install(wanted)?;
    let ports = hostport::resolve(&request.config.port_mappings, &pod_ips(result))?;
    if ports.iter().any(|port| port.pod_ip.is_ipv4()) {
        netlink::sysctl::ensure(&format!("net/ipv4/conf/{device}/route_localnet"), "1")?;
    }
    let udp: Vec<_> = ports
        .iter()
        .filter(|port| port.mapping.protocol == hostport::Protocol::Udp)
        .map(|port| (netlink::Family::of(port.pod_ip), port.mapping.host_port))
        .collect();
    Ok(hostport::forget_udp_flows(&udp)?)
}

/// The overlay, if this invocation keeps it: nodes are given and no daemon is in charge.
fn kept_overlay(request: &Request) -> Option<(&OverlayConfig, &[overlay::Node])> {
    let config = request.config.overlay.as_ref()?;
    let nodes = config.nodes.as_deref()?;
    request.config.daemon.is_none().then_some((config, nodes))
}

/// Brings the overlay to the configuration. Usually there is nothing to do, and nothing is locked.
pub(super) fn converge_overlay(request: &Request, socket: &mut RouteSocket) -> Result<()> {
    let Some((OverlayConfig { overlay, .. }, nodes)) = kept_overlay(request) else {
        return Ok(());
    };
    let underlay = Underlay::observe(socket, overlay, nodes)?;
    let plan = plan(overlay, nodes, &underlay)?;
    if !diff(&State::observe(socket, &plan)?, &plan.desired).is_empty() {
        for problem in &plan.problems {
            eprintln!("viaduct: overlay: {problem}");
        }
        let _alone = lock("overlay.lock")?;
        Overlay::default().converge(socket, &plan)?;
    }
    Ok(())
}

/// Whether the overlay is as configured.
pub(super) fn check_overlay(request: &Request, socket: &mut RouteSocket) -> Result<()> {
    let Some((OverlayConfig { overlay, .. }, nodes)) = kept_overlay(request) else {
        return Ok(());
    };
    let underlay = Underlay::observe(socket, overlay, nodes)?;
    let plan = plan(overlay, nodes, &underlay)?;
    let changes = diff(&State::observe(socket, &plan)?, &plan.desired);
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
