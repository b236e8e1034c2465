//! What is wanted, and what the kernel has; the difference is what is to be written. No I/O.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use netlink::Family;
use netlink::ipvs::{Change, DestinationState, ServiceKey};
use netlink::nftables::ElementChange;

use super::items::{Item, SetId, frontend_item, vip_item};
use super::servers::{self, Known, Plan, Server};
use crate::service::{Address, Frontend, FrontendKey};

/// What is to be written, in this order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// Virtual servers and destinations.
    pub(super) servers: Vec<Change>,
    /// Elements that are new.
    pub(super) added: Vec<Item>,
    /// Elements that go.
    pub(super) deleted: Vec<Item>,
    /// Addresses that the device gets.
    pub(super) bound: Vec<IpAddr>,
    /// Addresses that it loses.
    pub(super) unbound: Vec<IpAddr>,
}

impl Changes {
    /// Elements, servers, destinations and addresses.
    pub(super) fn len(&self) -> usize {
        let elements = self.added.len() + self.deleted.len();
        self.servers.len() + elements + self.bound.len() + self.unbound.len()
    }

    /// Elements that change before the servers do, and those that go afterwards.
    pub(super) fn elements(&self) -> [Vec<(ElementChange, &Item)>; 2] {
        let lifted = self.deleted.iter().filter(|item| item.set == SetId::SourceRestricted);
        let lifted: BTreeSet<&[u8]> = lifted.map(Item::frontend).collect();
        // Ranges of one frontend must not overlap: the old ones make way for the new ones.
        let replaced =
            |item: &&Item| item.set == SetId::SourceAllowed && !lifted.contains(item.frontend());
        let (before, after): (Vec<_>, Vec<_>) = self.deleted.iter().partition(replaced);
        let deleted = |items: Vec<_>| items.into_iter().map(|item| (ElementChange::Delete, item));
        let added = self.added.iter().map(|item| (ElementChange::Add, item));
        [deleted(before).chain(added).collect(), deleted(after).collect()]
    }
}

/// Everything of both families.
#[derive(Debug, Default)]
pub(super) struct State {
    scheduler: String,
    /// The node's own addresses: node ports answer on those that `serving` has.
    own: BTreeSet<IpAddr>,
    serving: Vec<IpAddr>,
    /// Where each frontend is served.
    places: HashMap<FrontendKey, Vec<ServiceKey>>,
    /// What is wanted at each place; the first frontend has it.
    wanted: BTreeMap<ServiceKey, BTreeMap<FrontendKey, Plan>>,
    /// Virtual servers in the kernel.
    known: BTreeMap<ServiceKey, Known>,
    /// Addresses of the device in the kernel.
    bound: BTreeSet<IpAddr>,
    /// Elements that the tables have to have, and how many places need each.
    items: HashMap<Item, usize>,
    /// How many frontends, and servers that still drain, are at each address.
    vips: HashMap<IpAddr, usize>,
    /// Places that are counted there.
    counted: BTreeSet<ServiceKey>,
    /// Places whose destinations wait for their last connection.
    draining: BTreeSet<ServiceKey>,
}

impl State {
    /// Nothing is wanted yet; this is what the kernel has.
    pub(super) fn new(
        scheduler: &str,
        known: BTreeMap<ServiceKey, Known>,
        bound: BTreeSet<IpAddr>,
    ) -> State {
        let draining = known.iter().filter(|(_, known)| known.is_draining());
        let draining = draining.map(|(key, _)| *key).collect();
        State { scheduler: scheduler.to_owned(), known, bound, draining, ..State::default() }
    }

    /// The node's addresses, all of them and those on which node ports answer: before anything is wanted.
    pub(super) fn with_addresses(self, own: BTreeSet<IpAddr>, serving: Vec<IpAddr>) -> State {
        State { own, serving, ..self }
    }

    /// The node's addresses.
    pub(super) fn own(&self) -> &BTreeSet<IpAddr> {
        &self.own
    }

    /// Notes what a frontend needs now (`None`: nothing), and which places that touches.
    pub(super) fn want(
        &mut self,
        key: FrontendKey,
        frontend: Option<&Frontend>,
        touched: &mut Touched,
    ) {
        for place in self.places.remove(&key).unwrap_or_default() {
            self.touch(&place, touched);
            if let Some(claims) = self.wanted.get_mut(&place) {
                claims.remove(&key);
                if claims.is_empty() {
                    self.wanted.remove(&place);
                }
            }
        }
        let Some(frontend) = frontend else { return };
        let places = servers::places(&key, &self.serving);
        for place in &places {
            self.touch(place, touched);
            let plan = servers::plan(place, frontend);
            self.wanted.entry(*place).or_default().insert(key, plan);
        }
        self.places.insert(key, places);
    }

    /// Remembers what a place needed before it is changed for the first time.
    fn touch(&self, place: &ServiceKey, touched: &mut Touched) {
        if !touched.before.contains_key(place) {
            touched.before.insert(*place, self.items_of(place));
        }
    }

    fn winner(&self, place: &ServiceKey) -> Option<(&FrontendKey, &Plan)> {
        self.wanted.get(place)?.first_key_value()
    }

    fn server(&self, place: &ServiceKey) -> Option<&Server> {
        self.winner(place)?.1.server.as_ref()
    }

    /// The elements of a place. One that nobody wants any more refuses what is new until it is drained.
    fn items_of(&self, place: &ServiceKey) -> Vec<Item> {
        match self.winner(place) {
            Some((_, plan)) => plan.items.clone(),
            None if self.known.contains_key(place) => vec![frontend_item(SetId::Rejected, place)],
            None => Vec::new(),
        }
    }

    /// The address that a place needs on the device: node ports need none.
    fn address(&self, place: &ServiceKey) -> Option<IpAddr> {
        match self.winner(place) {
            Some((key, _)) => matches!(key.address, Address::Ip(_)).then_some(place.address),
            // Until its last connection ends; a node port's never was on the device.
            None => (self.known.contains_key(place) && self.bound.contains(&place.address))
                .then_some(place.address),
        }
        .filter(|ip| !self.own.contains(ip))
    }

    /// What the touched places have to become. Afterwards that is taken for what the kernel has.
    pub(super) fn changes(&mut self, touched: Touched) -> Changes {
        let mut changes = Changes::default();
        let (mut elements, mut vips) = (BTreeMap::<Item, isize>::new(), BTreeMap::new());
        for (place, before) in touched.before {
            let mut known = self.known.remove(&place);
            let server = self.server(&place);
            servers::differ(&place, &mut known, server, &self.scheduler, &mut changes.servers);
            self.note(place, known);
            self.count_elements(before, self.items_of(&place), &mut elements);
            self.count_address(place, &mut vips);
        }
        self.write_addresses(vips, &mut elements, &mut changes);
        self.write_elements(elements, &mut changes);
        changes
    }

    fn write_elements(&mut self, elements: BTreeMap<Item, isize>, changes: &mut Changes) {
        for (item, difference) in elements {
            let count = self.items.get(&item).copied().unwrap_or(0);
            let now = count.saturating_add_signed(difference);
            match (count, now) {
                (0, 0) => continue,
                (0, _) => changes.added.push(item.clone()),
                (_, 0) => changes.deleted.push(item.clone()),
                _ => {}
            }
            if now == 0 {
                self.items.remove(&item);
            } else {
                self.items.insert(item, now);
            }
        }
    }

    fn note(&mut self, place: ServiceKey, known: Option<Known>) {
        if known.as_ref().is_some_and(Known::is_draining) {
            self.draining.insert(place);
        } else {
            self.draining.remove(&place);
        }
        self.known.extend(known.map(|known| (place, known)));
    }

    fn count_elements(
        &self,
        before: Vec<Item>,
        now: Vec<Item>,
        elements: &mut BTreeMap<Item, isize>,
    ) {
        for item in before {
            *elements.entry(item).or_default() -= 1;
        }
        for item in now {
            *elements.entry(item).or_default() += 1;
        }
    }

    fn count_address(&mut self, place: ServiceKey, vips: &mut BTreeMap<IpAddr, isize>) {
        let now = self.address(&place).is_some();
        let before = if now { !self.counted.insert(place) } else { self.counted.remove(&place) };
        *vips.entry(place.address).or_default() += isize::from(now) - isize::from(before);
    }

    fn write_addresses(
        &mut self,
        vips: BTreeMap<IpAddr, isize>,
        elements: &mut BTreeMap<Item, isize>,
        changes: &mut Changes,
    ) {
        for (ip, difference) in vips {
            let before = self.vips.get(&ip).copied().unwrap_or(0);
            let now = before.saturating_add_signed(difference);
            if now > 0 {
                self.vips.insert(ip, now);
                if before == 0 {
                    *elements.entry(vip_item(ip)).or_default() += 1;
                }
                if self.bound.insert(ip) {
                    changes.bound.push(ip);
                }
            } else {
                self.vips.remove(&ip);
                if before > 0 {
                    *elements.entry(vip_item(ip)).or_default() -= 1;
                }
                if self.bound.remove(&ip) {
                    changes.unbound.push(ip);
                }
            }
        }
    }

    /// Leaves those virtual servers alone that nobody wants and that are somebody else's.
    pub(super) fn forget(&mut self, is_others: impl Fn(IpAddr) -> bool) {
        self.known.retain(|key, _| self.wanted.contains_key(key) || !is_others(key.address));
        self.draining.retain(|key| self.known.contains_key(key));
    }

    /// All that is wanted has been noted: touches what the kernel has besides.
    pub(super) fn touch_all(&self, touched: &mut Touched) {
        for place in self.known.keys() {
            // Nothing of it was counted yet.
            touched.before.insert(*place, Vec::new());
        }
    }

    /// Addresses of the device that no place needs.
    pub(super) fn unbind_unused(&mut self, keep: impl Fn(IpAddr) -> bool) -> Vec<IpAddr> {
        let unused = self.bound.iter().filter(|ip| !self.vips.contains_key(ip) && !keep(**ip));
        let unused: Vec<IpAddr> = unused.copied().collect();
        for ip in &unused {
            self.bound.remove(ip);
        }
        unused
    }

    /// Places whose destinations wait for their last connection.
    pub(super) fn draining(&self) -> Vec<ServiceKey> {
        self.draining.iter().copied().collect()
    }

    /// Those of these places that nobody wants any more, and that are still there.
    pub(super) fn abandoned(&self, places: Vec<ServiceKey>) -> Vec<ServiceKey> {
        let is_abandoned =
            |place: &ServiceKey| self.known.contains_key(place) && !self.wanted.contains_key(place);
        places.into_iter().filter(is_abandoned).collect()
    }

    /// Removes those destinations that have no connection any more.
    pub(super) fn drain(&mut self, place: ServiceKey, told: &[DestinationState]) -> Changes {
        let before = self.items_of(&place);
        let mut changes = Changes::default();
        let mut known = self.known.remove(&place);
        let wanted = self.server(&place);
        servers::drain(&place, &mut known, wanted, told, &mut changes.servers);
        self.note(place, known);
        let (mut elements, mut vips) = (BTreeMap::new(), BTreeMap::new());
        self.count_elements(before, self.items_of(&place), &mut elements);
        self.count_address(place, &mut vips);
        self.write_addresses(vips, &mut elements, &mut changes);
        self.write_elements(elements, &mut changes);
        changes
    }

    /// Elements of a family that the tables have to have.
    pub(super) fn items(&self, family: Family) -> impl Iterator<Item = &Item> {
        self.items.keys().filter(move |item| item.family == family)
    }

    /// What the kernel has.
    pub(super) fn known(&self) -> &BTreeMap<ServiceKey, Known> {
        &self.known
    }

    /// Addresses of the device.
    pub(super) fn bound(&self) -> &BTreeSet<IpAddr> {
        &self.bound
    }

    /// Virtual servers of a family, and their destinations.
    pub(super) fn counts(&self, family: Family) -> (usize, usize) {
        let of_family = self.known.iter().filter(|(key, _)| key.family() == family);
        let (mut servers, mut destinations) = (0, 0);
        for (_, known) in of_family {
            servers += 1;
            destinations += known.destinations.values().filter(|weight| **weight > 0).count();
        }
        (servers, destinations)
    }
}

/// Places that a change is about.
#[derive(Debug, Default)]
pub(super) struct Touched {
    /// With the elements that they needed before.
    before: BTreeMap<ServiceKey, Vec<Item>>,
}

impl Touched {
    /// The places.
    pub(super) fn places(&self) -> Vec<ServiceKey> {
        self.before.keys().copied().collect()
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
