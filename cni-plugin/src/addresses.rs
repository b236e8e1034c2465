//! Addresses of an attachment: from our own IPAM or a delegate's, and what follows from them.

use std::collections::HashSet;
use std::net::IpAddr;

use attachment::Owner;
use netlink::{Family, Prefix, RouteSocket};

use crate::config::{Config, Ipam};
use crate::delegate::Delegate;
use crate::environment::Environment;
use crate::error::{CniError, Result};
use crate::ipam::{self, Route};
use crate::result::{AddResult, Ip};
use crate::teardown::Teardown;

/// Whoever gives addresses to one network, with one set of verbs.
pub(crate) struct AddressSource<'a> {
    network: &'a str,
    ipam: &'a Ipam,
    input: &'a [u8],
    environment: &'a Environment,
}

impl<'a> AddressSource<'a> {
    pub(crate) fn new(config: &'a Config, environment: &'a Environment) -> AddressSource<'a> {
        let Config { name, ipam, input, .. } = config;
        AddressSource { network: name, ipam, input, environment }
    }

    /// The source of a configuration that is read for removal.
    pub(crate) fn for_teardown(
        network: &'a str,
        teardown: &'a Teardown,
        environment: &'a Environment,
    ) -> AddressSource<'a> {
        let Teardown { ipam, input, .. } = teardown;
        AddressSource { network, ipam, input, environment }
    }

    fn delegate(&self, name: &'a str) -> Delegate<'a> {
        Delegate { name, path: &self.environment.path, input: self.input }
    }

    fn attachment(&self) -> ipam::Attachment {
        ipam::Attachment {
            container_id: self.environment.container_id.clone(),
            ifname: self.environment.ifname.clone(),
        }
    }

    /// Reserves the addresses of an attachment.
    pub(crate) fn add(&self, config: &Config) -> Result<AddResult> {
        let mut result = match self.ipam {
            Ipam::None => AddResult::default(),
            Ipam::HostLocal(ranges) => self.add_host_local(config, ranges)?,
            Ipam::Delegate(name) => self.add_delegated(&self.delegate(name))?,
        };
        for ip in &mut result.ips {
            ip.interface = None;
        }
        result.interfaces.clear();
        Ok(result)
    }

    fn add_delegated(&self, delegate: &Delegate<'_>) -> Result<AddResult> {
        let result = delegate.add().and_then(|result| {
            let empty =
                || CniError::config(format!("IPAM plugin {:?} gave no address", delegate.name));
            if result.ips.is_empty() { Err(empty()) } else { Ok(result) }
        });
        // Who had the address before is the delegate's secret.
        let result = result.map(|result| AddResult { stale_neighbours: true, ..result });
        result.inspect_err(|_| {
            // The specification: a failed delegate is told to clean up.
            if let Err(error) = delegate.call("DEL") {
                eprintln!("viaduct: after a failed ADD: {error}");
            }
        })
    }

    fn add_host_local(&self, config: &Config, ranges: &ipam::Config) -> Result<AddResult> {
        let Config { name, requested_ips, requested_mac, .. } = config;
        let attachment = self.attachment();
        // What can fail comes before the reservation.
        let dns = ranges.dns()?;
        let add = || ranges.add(name, &attachment, requested_ips, requested_mac.is_some());
        let given = self.with_room(ranges, add)?;
        let ip =
            |a: &ipam::Allocation| Ip { interface: None, address: a.address, gateway: a.gateway };
        Ok(AddResult {
            ips: given.iter().map(ip).collect(),
            routes: ranges.routes().to_vec(),
            dns,
            stale_neighbours: given.iter().any(|a| a.stale_neighbours),
            ..AddResult::default()
        })
    }

    /// Does what needs a free address. If there is none, those of attachments whose link is gone are freed
    /// first: no runtime may ever ask for that.
    fn with_room<T>(
        &self,
        ranges: &ipam::Config,
        attempt: impl Fn() -> ipam::Result<T>,
    ) -> Result<T> {
        let exhausted = match attempt() {
            Err(error @ ipam::Error::Exhausted(_)) => error,
            outcome => return Ok(outcome?),
        };
        let network = self.network;
        let links = RouteSocket::open().and_then(|mut socket| socket.links());
        // Without the list nothing is known to be dead.
        let Ok(links) = links else { return Err(exhausted.into()) };
        let names: HashSet<String> = links.into_iter().map(|link| link.name).collect();
        let is_dead = |attachment: &ipam::Attachment| {
            let owner = Owner { network: network.to_owned(), attachment: attachment.clone() };
            !names.contains(&owner.host_link())
        };
        for (attachment, address) in ranges.reclaim(network, is_dead)? {
            eprintln!(
                "viaduct: network {network:?}: {address} is free again: the link of {attachment} is gone"
            );
        }
        Ok(attempt()?)
    }

    /// Takes back what an ADD that failed later was given.
    pub(crate) fn undo(&self, given: &[IpAddr]) -> Result<()> {
        match self.ipam {
            Ipam::HostLocal(ranges) => {
                Ok(ranges.give_back(self.network, &self.attachment(), given)?)
            }
            _ => self.del(),
        }
    }

    /// Frees the addresses of an attachment; those that are not there are no failure.
    pub(crate) fn del(&self) -> Result<()> {
        match self.ipam {
            Ipam::None => Ok(()),
            Ipam::HostLocal(ranges) => {
                Ok(ranges.del(self.network, &self.attachment()).map(drop)?)
            }
            Ipam::Delegate(name) => self.delegate(name).call("DEL"),
        }
    }

    /// Whether the addresses are still reserved.
    pub(crate) fn check(&self) -> Result<()> {
        match self.ipam {
            Ipam::None => Ok(()),
            Ipam::HostLocal(ranges) => {
                Ok(ranges.check(self.network, &self.attachment()).map(drop)?)
            }
            Ipam::Delegate(name) => self.delegate(name).call("CHECK"),
        }
    }

    /// The addresses that an attachment has from our own IPAM.
    pub(crate) fn held(&self) -> Result<Vec<IpAddr>> {
        match self.ipam {
            Ipam::HostLocal(ranges) => Ok(ranges.held(self.network, &self.attachment())?),
            Ipam::None | Ipam::Delegate(_) => Ok(Vec::new()),
        }
    }

    /// Whether an ADD would find an address.
    pub(crate) fn status(&self) -> Result<()> {
        match self.ipam {
            Ipam::None => Ok(()),
            Ipam::HostLocal(ranges) => self.with_room(ranges, || ranges.status(self.network)),
            Ipam::Delegate(name) => self.delegate(name).call("STATUS"),
        }
    }

    /// The attachments that have an address but are not in the list.
    pub(crate) fn stale(&self, valid: &[ipam::Attachment]) -> Result<Vec<ipam::Attachment>> {
        match self.ipam {
            Ipam::HostLocal(ranges) => {
                let stale = ranges.stale(self.network, valid)?;
                Ok(stale.into_iter().map(|(attachment, _)| attachment).collect())
            }
            Ipam::None | Ipam::Delegate(_) => Ok(Vec::new()),
        }
    }

    /// Frees every address whose attachment is not in the list.
    pub(crate) fn gc(&self, valid: &[ipam::Attachment]) -> Result<()> {
        match self.ipam {
            Ipam::None => Ok(()),
            Ipam::HostLocal(ranges) => Ok(ranges.gc(self.network, valid).map(drop)?),
            Ipam::Delegate(name) => self.delegate(name).call("GC"),
        }
    }
}

/// Completes what IPAM gave: gateways where the node is one, the default routes, DNS. Pure.
pub(crate) fn complete(config: &Config, mut result: AddResult) -> AddResult {
    if config.serves_gateway() {
        for ip in &mut result.ips {
            let network = ip.address.network();
            let first = netlink::to_number(network.first()).checked_add(1);
            let first = first.map(|number| netlink::from_number(network.family(), number));
            ip.gateway = ip.gateway.or(first.filter(|first| network.contains(*first)));
        }
    }
    if config.is_default_gateway {
        for family in [Family::V4, Family::V6] {
            let destination = Prefix::default_route(family);
            let gateway = result.ips.iter().filter(|ip| ip.address.family() == family);
            let gateway = gateway.filter_map(|ip| ip.gateway).next();
            let present = result.routes.iter().any(|route| route.dst == destination);
            if let (Some(gateway), false) = (gateway, present) {
                result.routes.push(Route { gw: Some(gateway), ..Route::to(destination) });
            }
        }
    }
    if let Some(dns) = &config.dns
        && *dns != ipam::Dns::default()
    {
        result.dns = dns.clone();
    }
    result
}

/// The node's own addresses towards its pods, each with the length of its subnet.
pub(crate) fn gateways(config: &Config, result: &AddResult) -> Vec<Prefix> {
    if !config.serves_gateway() {
        return Vec::new();
    }
    let mut gateways: Vec<Prefix> = Vec::new();
    for ip in &result.ips {
        let gateway = ip.gateway.and_then(|gateway| Prefix::new(gateway, ip.address.length()));
        if let Some(gateway) = gateway.filter(|gateway| !gateways.contains(gateway)) {
            gateways.push(gateway);
        }
    }
    gateways
}
