//! Services in IPVS: a virtual server per frontend and address, its endpoints as destinations.
//!
//! - `servers`: what a frontend needs, and the changes that make a virtual server so; `state`: all of them
//! - `items`, `rules`: what IPVS does not do, in nftables: masquerade, source ranges, what is refused and dropped
//! - `device`: the device that makes Service addresses the node's own
//! - `render`: the virtual servers as `ipvsadm-restore` takes them
//!
//! IPVS and the tables of nftables are read once at the start, and whenever something went wrong; then only
//! differences are sent. A table whose rules differ is replaced whole, at once. A destination that is not wanted any more
//! has weight 0 until its last connection has ended, which is looked for every few seconds, as is whether
//! everything is still there: nobody tells when IPVS changes.

mod device;
mod items;
mod render;
mod rules;
mod servers;
mod state;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use netlink::ipvs::{self, Service, ServiceKey};
use netlink::nftables::{ElementChange, NftSocket, Transaction};
use netlink::{Errno, Error, Family, Prefix, Result, sysctl};

pub use device::missing_dummy;
pub use render::render;

use super::{FAMILIES, Node, NodePorts, Written, index};
use crate::config::Ipvs as Settings;
use crate::service::table::Delta;
use crate::service::{Frontend, FrontendKey};
use device::Device;
use items::Item;
use rules::Difference;
use servers::Known;
use state::{Changes, State, Touched};

/// How often drained destinations are removed, and everything is looked at.
const PERIOD: Duration = Duration::from_secs(5);
/// How many virtual servers' destinations are looked at in one period, each by a message: so many, or half of all
/// if that is more.
const LOOKED_AT: usize = 500;
/// Elements in one transaction.
const CHUNK: usize = 8192;

/// Services in IPVS.
pub struct Ipvs {
    settings: Settings,
    ipvs: ipvs::Ipvs,
    nft: NftSocket,
    device: Device,
    state: State,
    /// `None` if it is not known what is in the kernel.
    nodes: Option<[Node; 2]>,
    /// When destinations are drained and everything is looked at.
    look_at: Option<Instant>,
    /// The first virtual server whose destinations are looked at next.
    next: Option<ServiceKey>,
}

impl Ipvs {
    /// Opens what is needed in the calling thread's network namespace, and sets how IPVS works there.
    pub fn open(settings: &Settings) -> Result<Ipvs> {
        let mut ipvs = ipvs::Ipvs::open().map_err(or_another_mode)?;
        prepare(settings, &mut ipvs)?;
        Ok(Ipvs {
            settings: settings.clone(),
            ipvs,
            nft: NftSocket::open()?,
            device: Device::open()?,
            state: State::default(),
            nodes: None,
            look_at: None,
            next: None,
        })
    }

    /// The number by which our own changes of nftables are known among the kernel's notifications.
    pub fn port(&self) -> Result<u32> {
        self.nft.port()
    }

    /// Whether what is in the kernel is known, so that [`Ipvs::apply`] can be used. Where node ports answer
    /// decides where they are served: if that changed, everything is planned anew.
    pub fn is_known(&self, nodes: &[Node; 2]) -> bool {
        let places = |nodes: &[Node; 2]| {
            nodes.clone().map(|node| (node.settings.nodeports, node.nodeport_addresses))
        };
        self.nodes.as_ref().is_some_and(|known| places(known) == places(nodes))
    }

    fn is_excluded(&self, ip: IpAddr) -> bool {
        self.settings.exclude_cidrs.iter().any(|network| network.contains(ip))
    }

    /// Reads virtual servers with their destinations.
    fn read(&mut self) -> Result<BTreeMap<ServiceKey, Known>> {
        let mut known = BTreeMap::new();
        for told in self.ipvs.services()? {
            let Service { key, scheduler, persistence } = told.service;
            let told = self.ipvs.destinations(&key)?;
            let destinations =
                told.iter().map(|told| (told.destination.address, told.destination.weight));
            let affinity = persistence.map(|persistence| persistence.timeout);
            let destinations = destinations.collect();
            known.insert(key, Known { scheduler, affinity, destinations });
        }
        Ok(known)
    }

    /// Commits what changed. After an error the state is not known any more.
    pub fn apply(&mut self, delta: &Delta, nodes: &[Node; 2], now: Instant) -> Result<Written> {
        let before = self.nodes.take();
        self.look_at.get_or_insert(now + PERIOD);
        let mut touched = Touched::default();
        for (key, frontend) in delta {
            self.state.want(*key, frontend.as_ref(), &mut touched);
        }
        let places = touched.places();
        let changes = self.state.changes(touched);
        let mut written = Written::default();
        if before.as_ref() == Some(nodes) {
            self.write(&changes, &mut written)?;
        } else {
            self.replace_tables(nodes, &mut written)?;
            self.serve(&changes)?;
        }
        written.elements += changes.len() as u64;
        // What nobody is connected to need not be drained.
        for place in self.state.abandoned(places) {
            written.elements += self.drain(place)?;
        }
        self.nodes = Some(nodes.clone());
        Ok(written)
    }

    /// Writes changes in an order in which no server is there without what restricts and masquerades its
    /// connections. If a server is refused, the rest is done all the same.
    fn write(&mut self, changes: &Changes, written: &mut Written) -> Result<()> {
        let [before, after] = changes.elements();
        self.change_elements(before, written)?;
        let served = self.serve(changes);
        self.change_elements(after, written)?;
        served
    }

    /// Changes virtual servers, and then where they are reached.
    fn serve(&mut self, changes: &Changes) -> Result<()> {
        let served = self.ipvs.apply(&changes.servers);
        // Without its server an address would be the node's own.
        let bound = served.and_then(|()| self.device.bind(&changes.bound));
        self.device.unbind(&changes.unbound)?;
        bound
    }

    fn change_elements(
        &mut self,
        mut changes: Vec<(ElementChange, &Item)>,
        written: &mut Written,
    ) -> Result<()> {
        // What concerns the same set shares messages.
        changes.sort_by_key(|(_, item)| (item.family, item.set));
        for chunk in changes.chunks(CHUNK) {
            let mut transaction = Transaction::new(None);
            for (change, item) in chunk {
                let table = super::nftables::table(item.family);
                transaction.change_element(*change, table, item.set.name(), item.element());
            }
            commit(&mut self.nft, transaction, written)?;
        }
        Ok(())
    }

    fn replace_tables(&mut self, nodes: &[Node; 2], written: &mut Written) -> Result<()> {
        FAMILIES.into_iter().try_for_each(|family| self.replace_table(family, nodes, written))
    }

    fn replace_table(
        &mut self,
        family: Family,
        nodes: &[Node; 2],
        written: &mut Written,
    ) -> Result<()> {
        let mut transaction = Transaction::new(None);
        let items = self.state.items(family).collect();
        rules::replace(family, &nodes[index(family)], items, &mut transaction);
        commit(&mut self.nft, transaction, written)
    }

    /// Writes these changes, and of the tables what is not as it should be.
    fn repair(
        &mut self,
        mut changes: Changes,
        nodes: &[Node; 2],
        written: &mut Written,
    ) -> Result<()> {
        // They were counted from nothing.
        (changes.added, changes.deleted) = (Vec::new(), Vec::new());
        let mut translated = Vec::new();
        for (family, node) in FAMILIES.into_iter().zip(nodes) {
            let items = self.state.items(family).collect();
            match rules::difference(&mut self.nft, family, node, items)? {
                Difference::None => continue,
                Difference::Elements { missing, surplus } => {
                    changes.added.extend(missing);
                    changes.deleted.extend(surplus);
                    written.repairs.push(format!("elements ({family})"));
                }
                // It serves, before IPVS sees anything, until it goes.
                Difference::OtherMode => translated.push(family),
                Difference::Whole(what) => {
                    written.repairs.push(format!("{what} ({family})"));
                    self.replace_table(family, nodes, written)?;
                }
            }
        }
        written.elements += changes.len() as u64;
        self.write(&changes, written)?;
        for family in translated {
            self.replace_table(family, nodes, written)?;
            written.repairs.push(format!("the table ({family})"));
        }
        Ok(())
    }

    /// Reads what is in the kernel, and writes what differs from these frontends.
    pub fn reconcile<'a>(
        &mut self,
        frontends: impl Fn() -> Vec<(FrontendKey, &'a Frontend)>,
        nodes: &[Node; 2],
        now: Instant,
    ) -> Result<Written> {
        self.nodes = None;
        self.look_at = Some(now + PERIOD);
        let mut written = Written::default();
        let (bound, own) = self.device.addresses()?;
        let serving = serving(&own, nodes);
        let known = self.read()?;
        let fresh = State::new(self.settings.scheduler.name(), known, bound);
        self.state = fresh.with_addresses(own, serving);
        let mut touched = Touched::default();
        for (key, frontend) in frontends() {
            self.state.want(key, Some(frontend), &mut touched);
        }
        let excluded = self.settings.exclude_cidrs.clone();
        let is_excluded = |ip| excluded.iter().any(|network| network.contains(ip));
        self.state.forget(is_excluded);
        self.state.touch_all(&mut touched);
        let mut changes = self.state.changes(touched);
        changes.unbound.extend(self.state.unbind_unused(is_excluded));
        self.repair(changes, nodes, &mut written)?;
        self.nodes = Some(nodes.clone());
        Ok(written)
    }

    /// When [`Ipvs::look`] is due.
    pub fn look_at(&self) -> Option<Instant> {
        // After an error the next attempt compares everything, and has a time of its own.
        self.look_at.filter(|_| self.nodes.is_some())
    }

    /// Removes what was drained, and looks whether everything is still there; tells what is not.
    pub fn look(&mut self, now: Instant) -> Result<Vec<String>> {
        if self.look_at.is_none_or(|at| at > now) || self.nodes.is_none() {
            return Ok(Vec::new());
        }
        self.look_at = Some(now + PERIOD);
        for place in self.state.draining() {
            self.drain(place)?;
        }
        self.compare()
    }

    fn drain(&mut self, place: ServiceKey) -> Result<u64> {
        let told = self.ipvs.destinations(&place)?;
        let changes = self.state.drain(place, &told);
        self.write(&changes, &mut Written::default())?;
        Ok(changes.len() as u64)
    }

    fn compare(&mut self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        let (bound, own) = self.device.read()?;
        let missing = self.state.bound().difference(&bound).count();
        if missing > 0 {
            found.push(format!("{missing} addresses of {} missing", device::NAME));
        }
        if own != *self.state.own() {
            found.push("the node's addresses changed".to_owned());
        }
        let told = self.ipvs.services()?;
        let there: BTreeSet<ServiceKey> = told.iter().map(|told| told.service.key).collect();
        let known = self.state.known();
        let missing = known.keys().filter(|key| !there.contains(key)).count();
        if missing > 0 {
            found.push(format!("{missing} virtual servers missing"));
        }
        let foreign =
            there.iter().filter(|key| !known.contains_key(key) && !self.is_excluded(key.address));
        let foreign = foreign.count();
        if foreign > 0 {
            found.push(format!("{foreign} virtual servers of others"));
        }
        for service in told.into_iter().map(|told| told.service) {
            let timeout = service.persistence.map(|persistence| persistence.timeout);
            let same =
                |known: &Known| (known.affinity, &known.scheduler) == (timeout, &service.scheduler);
            if known.get(&service.key).is_some_and(|known| !same(known)) {
                found.push(format!("virtual server {} changed", service.key));
            }
        }
        // The rest of them in the next periods.
        let from = self.next.take();
        let range = from.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Included);
        let number = LOOKED_AT.max(known.len().div_ceil(2));
        let keys: Vec<ServiceKey> = known
            .range((range, std::ops::Bound::Unbounded))
            .map(|(key, _)| *key)
            .take(number + 1)
            .collect();
        self.next = keys.get(number).copied();
        for key in keys.iter().take(number) {
            let told = self.ipvs.destinations(key)?;
            let there: BTreeMap<_, _> = told
                .iter()
                .map(|told| (told.destination.address, told.destination.weight))
                .collect();
            let known = self.state.known().get(key);
            if known.is_some_and(|known| known.destinations != there) {
                found.push(format!("destinations of {key} changed"));
            }
        }
        Ok(found)
    }

    /// Virtual servers of a family, and their destinations.
    pub fn counts(&self, family: Family) -> (usize, usize) {
        self.state.counts(family)
    }
}

fn commit(nft: &mut NftSocket, transaction: Transaction, written: &mut Written) -> Result<()> {
    if transaction.is_empty() {
        return Ok(());
    }
    written.transactions += 1;
    written.bytes += transaction.bytes() as u64;
    nft.commit(transaction)
}

/// On which of the node's addresses node ports answer.
fn serving(own: &BTreeSet<IpAddr>, nodes: &[Node; 2]) -> Vec<IpAddr> {
    let serves = |ip: &IpAddr| {
        let node = &nodes[index(Family::of(*ip))];
        match node.settings.nodeports {
            NodePorts::Everywhere => true,
            NodePorts::Listed | NodePorts::InNetworks => {
                node.nodeport_addresses.iter().any(|network| network.contains(*ip))
            }
        }
    };
    own.iter().copied().filter(device::can_serve).filter(serves).collect()
}

/// Sets how IPVS works: its connections are known to conntrack, which masquerade needs, and end with their
/// destination.
fn prepare(settings: &Settings, ipvs: &mut ipvs::Ipvs) -> Result<()> {
    let vs = ["conntrack", "expire_nodest_conn", "expire_quiescent_template"];
    let vs = vs.iter().map(|name| (format!("net/ipv4/vs/{name}"), "1"));
    let arp = [("net/ipv4/conf/all/arp_ignore", "1"), ("net/ipv4/conf/all/arp_announce", "2")];
    let arp = arp.into_iter().filter(|_| settings.strict_arp);
    for (name, value) in vs.chain(arp.map(|(name, value)| (name.to_owned(), value))) {
        if sysctl::ensure(&name, value)? {
            tracing::info!("set {name} to {value}");
        }
    }
    let seconds = |timeout: Option<Duration>| {
        timeout.map_or(0, |timeout| u32::try_from(timeout.as_secs().max(1)).unwrap_or(u32::MAX))
    };
    let wanted = ipvs::Timeouts {
        tcp: seconds(settings.tcp_timeout),
        tcp_fin: seconds(settings.tcp_fin_timeout),
        udp: seconds(settings.udp_timeout),
    };
    if wanted != ipvs::Timeouts::default() {
        ipvs.set_timeouts(&wanted)?;
    }
    Ok(())
}

/// Whether there is the device that our IPVS mode, and kube-proxy's, make.
pub fn has_device() -> Result<bool> {
    let device = netlink::RouteSocket::open()?.link_by_name(device::NAME)?;
    Ok(device.is_some_and(|link| link.kind.as_deref() == Some("dummy")))
}

/// All virtual servers but those in these networks, if a mode of ours or of kube-proxy made some: then its device
/// is there.
pub fn servers(spared: &[Prefix]) -> Result<Vec<ServiceKey>> {
    Ok(open_with_servers(spared)?.map_or_else(Vec::new, |(_, servers)| servers))
}

fn open_with_servers(spared: &[Prefix]) -> Result<Option<(ipvs::Ipvs, Vec<ServiceKey>)>> {
    if !has_device()? {
        return Ok(None);
    }
    let mut ipvs = match ipvs::Ipvs::open() {
        Err(Error { errno: Errno::OPNOTSUPP, .. }) => return Ok(None),
        other => other?,
    };
    let mut servers: Vec<ServiceKey> =
        ipvs.services()?.iter().map(|told| told.service.key).collect();
    servers.retain(|key| !spared.iter().any(|network| network.contains(key.address)));
    Ok(Some((ipvs, servers)))
}

/// Removes [`servers()`]; tells how many there were.
pub fn remove(spared: &[Prefix]) -> Result<usize> {
    let Some((mut ipvs, servers)) = open_with_servers(spared)? else { return Ok(0) };
    let changes: Vec<ipvs::Change> = servers.into_iter().map(ipvs::Change::DeleteService).collect();
    ipvs.apply(&changes)?;
    Ok(changes.len())
}

/// What to do where the kernel lacks a module that this mode alone needs.
pub const OR_ANOTHER_MODE: &str = "load it, or use --proxy-mode nftables or iptables";

/// Adds [`OR_ANOTHER_MODE`] to an error that names the module.
fn or_another_mode(error: Error) -> Error {
    let detail = error.detail.map(|detail| format!("{detail}: {OR_ANOTHER_MODE}"));
    Error { detail, ..error }
}
