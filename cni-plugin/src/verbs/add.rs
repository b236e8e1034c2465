//! ADD: addresses, link, netfilter, limits, overlay, daemon. In this order, and undone in reverse.
//!
//! The lease comes first and goes last: as long as anything of an attachment exists, its lease does,
//! so that GC finds what a killed ADD left behind.

use std::net::IpAddr;

use netlink::{IfIndex, Link, MacAddress, OperState, Prefix, RouteSocket};
use serde_json::Value;

use super::del::remove_kernel_state;
use super::{Request, chained, network};
use crate::addresses::{self, AddressSource};
use crate::attachment::Owner;
use crate::config::{Config, Mode};
use crate::daemon::PodReport;
use crate::error::{Failures, Result};
use crate::link::{self, bridge, pod, routed, uplink};
use crate::result::{AddResult, Interface};

pub(super) fn add(request: &Request) -> Result<Value> {
    if let Some(previous) = &request.config.prev_result {
        return chained::add(request, previous);
    }
    let container = network::open_namespace(request)?;
    let source = AddressSource::new(&request.config, &request.environment);
    let result = addresses::complete(&request.config, source.add()?);
    let given = network::pod_ips(&result);
    let attached = attach(request, &container, result);
    if attached.is_err() {
        let mut failures = Failures::default();
        failures.note(source.undo(&given));
        report(failures);
    }
    Ok(attached?.to_json(request.config.version))
}

/// Everything after the lease.
fn attach(
    request: &Request,
    container: &netlink::Namespace,
    result: AddResult,
) -> Result<AddResult> {
    let (config, owner) = (&request.config, request.owner());
    let mut socket = RouteSocket::open()?;
    let mut inside = container.run(RouteSocket::open)??;
    network::converge_overlay(request, &mut socket)?;
    let mtu = uplink::pod_mtu(&mut socket, config)?;
    let gateways = addresses::gateways(config, &result);

    let bridge = match config.mode {
        Mode::Bridge => Some(bridge::ensure(&mut socket, config, &gateways, mtu)?),
        Mode::Routed => None,
    };
    let pair = link::Pair {
        host_mac: owner.mac("host"),
        container_mac: container_mac(config, &owner, &result),
        mtu,
        master: bridge.as_ref().map(|bridge| bridge.index),
    };
    link::create_pair(&mut socket, &mut inside, container, &owner, &pair)?;

    // From here on the link is this invocation's own, and goes if anything fails.
    let linked = Linked { config, owner: &owner, bridge, pair, gateways };
    linked.finish(request, &mut socket, &mut inside, container, result).inspect_err(|_| {
        let mut failures = Failures::default();
        failures.note(remove_kernel_state(&owner));
        report(failures);
    })
}

struct Linked<'a> {
    config: &'a Config,
    owner: &'a Owner,
    bridge: Option<Link>,
    pair: link::Pair,
    gateways: Vec<Prefix>,
}

impl Linked<'_> {
    fn finish(
        &self,
        request: &Request,
        socket: &mut RouteSocket,
        inside: &mut RouteSocket,
        container: &netlink::Namespace,
        result: AddResult,
    ) -> Result<AddResult> {
        let ifname = &self.owner.attachment.ifname;
        match self.bridge {
            Some(_) => bridge::configure_port(socket, self.config, self.owner)?,
            None => link::skip_duplicate_detection(self.config, &self.owner.host_link())?,
        }
        container.run(|| pod::configure(inside, self.config, ifname, &result))??;
        let host = self.host_link(socket)?;
        pod::announce(inside, self.config, ifname, self.pair.container_mac, &result)?;
        if self.bridge.is_none() {
            let ips = network::pod_ips(&result);
            routed::configure(socket, self.config, &host, &self.gateways, &ips)?;
        }
        self.serve_gateway(socket, &host, &result)?;
        self.netfilter(request, &host, &result)?;
        if self.config.bandwidth.any() {
            self.config.bandwidth.apply(socket, self.owner, host.index, self.pair.mtu)?;
        }
        if !self.config.container_interface_disabled {
            let ips = network::pod_ips(&result);
            container.run(|| link::wait_until_answering(ifname, &ips))??;
            if self.bridge.as_ref().is_none_or(is_new) {
                let gateways: Vec<IpAddr> = self.gateways.iter().map(|g| g.address()).collect();
                link::wait_until_answering(self.device(&host), &gateways)?;
            }
        }
        if let Some(daemon) = &self.config.daemon {
            daemon.add(&PodReport {
                environment: &request.environment,
                network: &self.config.name,
                host_link: &host.name,
                ips: network::pod_ips(&result),
            })?;
        }
        Ok(self.result(request, result))
    }

    /// The node's end, once it passes packets.
    fn host_link(&self, socket: &mut RouteSocket) -> Result<Link> {
        let name = self.owner.host_link();
        let index = socket.link_by_name(&name)?.map_or(IfIndex(0), |link| link.index);
        if self.config.container_interface_disabled {
            return Ok(socket.link_by_index(index)?.ok_or_else(|| {
                netlink::Error::new(format!("look up link {name:?}"), netlink::Errno::NODEV)
            })?);
        }
        let host = link::settled(socket, index)?;
        // The first port gives its bridge a carrier; until the kernel has acted on that, the bridge
        // device drops what the node sends.
        if let Some(bridge) = self.bridge.as_ref().filter(|bridge| is_new(bridge)) {
            link::settled(socket, bridge.index)?;
        }
        Ok(host)
    }

    /// The device that leads from the node to the pod.
    fn device<'a>(&'a self, host: &'a Link) -> &'a str {
        self.bridge.as_ref().map_or(&host.name, |bridge| &bridge.name)
    }

    fn serve_gateway(
        &self,
        socket: &mut RouteSocket,
        host: &Link,
        result: &AddResult,
    ) -> Result<()> {
        if !self.config.serves_gateway() {
            return Ok(());
        }
        let alone = self.config.daemon.is_none();
        for family in [netlink::Family::V4, netlink::Family::V6] {
            if result.has_family(family) {
                uplink::enable_forwarding(socket, family, self.device(host), alone)?;
            }
        }
        Ok(())
    }

    fn netfilter(&self, request: &Request, host: &Link, result: &AddResult) -> Result<()> {
        let mac = Some(self.pair.container_mac);
        let device = self.device(host);
        let wanted = network::wanted_netfilter(request, result, device, mac)?;
        network::install_netfilter(request, &wanted, result, device)
    }

    fn result(&self, request: &Request, mut result: AddResult) -> AddResult {
        let interface = |name: &str, mac, sandbox: String| Interface {
            name: name.to_owned(),
            mac: Some(mac),
            mtu: Some(self.pair.mtu),
            sandbox,
        };
        if let Some(bridge) = &self.bridge {
            let mac = bridge.mac.unwrap_or(MacAddress([0; 6]));
            result.interfaces.push(interface(&bridge.name, mac, String::new()));
        }
        let host = self.owner.host_link();
        result.interfaces.push(interface(&host, self.pair.host_mac, String::new()));
        let sandbox = request.environment.netns.as_ref().map(|path| path.display().to_string());
        let ifname = &self.owner.attachment.ifname;
        let container = interface(ifname, self.pair.container_mac, sandbox.unwrap_or_default());
        result.interfaces.push(container);
        let position = result.interfaces.len() - 1;
        for ip in &mut result.ips {
            ip.interface = Some(position);
        }
        result
    }
}

/// Whether a bridge had no port in use when it was looked at.
fn is_new(bridge: &Link) -> bool {
    bridge.state != OperState::Up
}

/// The container's MAC address: as asked for, or derived from its first IP address, so that whoever
/// remembers a former owner of the address is right by chance.
fn container_mac(config: &Config, owner: &Owner, result: &AddResult) -> MacAddress {
    let derived = || match result.ips.first() {
        Some(ip) => MacAddress::for_address([0x0a, 0x58], ip.address.address()),
        None => owner.mac("container"),
    };
    config.requested_mac.unwrap_or_else(derived)
}

fn report(failures: Failures) {
    if let Err(error) = failures.into_result() {
        eprintln!("viaduct: while undoing a failed ADD: {error}");
    }
}
