//! What the kernel holds of a family's table.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use netlink::nftables::{ElementDataRef, ElementRef, NftSocket, RuleTag};
use netlink::{Family, Result};

use super::element::{Data, Item, Value, read_backend, read_frontend};
use super::layout::{self, ID_PREFIX, Layout, Rule, base_chains};
use super::names::{Keys, List, SetId, Target, table};
use crate::service::{Backend, FrontendKey};

/// A table as it was found.
#[derive(Debug)]
pub(super) struct Found {
    family: Family,
    /// Whether there was a table at all.
    pub(super) exists: bool,
    /// Whether it is missing, or of another version.
    pub(super) recreate: bool,
    /// Whether rules of base chains are not as they should be.
    pub(super) rules_differ: bool,
    /// Chains that are there.
    pub(super) chains: HashSet<Target>,
    /// The chains of map `targets`.
    pub(super) numbers: HashMap<u32, Target>,
    /// One more than the largest number there, without its prefix.
    pub(super) next_number: u32,
    /// Chains that are there, but not as they should be.
    pub(super) broken_targets: Vec<Target>,
    /// What was found wrong, in words.
    pub(super) repairs: Vec<String>,
    items: HashMap<FrontendKey, Vec<Item>>,
    /// Elements that several frontends can need.
    pub(super) shared: HashSet<Item>,
    node: Vec<Item>,
    /// Elements that belong to nobody.
    pub(super) foreign: Vec<Item>,
    /// Numbers that clients' entries hold.
    pub(super) held: Vec<(u32, Duration)>,
    backends: HashMap<u32, Backend>,
}

impl Found {
    /// Reads the elements of a table; without `settled` some that are there may be missing.
    /// [`Found::read_rules`] completes it.
    pub(super) fn read(socket: &mut NftSocket, family: Family, settled: bool) -> Result<Found> {
        let table = table(family);
        let mut found = Found {
            family,
            exists: false,
            recreate: true,
            rules_differ: true,
            chains: HashSet::new(),
            numbers: HashMap::new(),
            next_number: 0,
            broken_targets: Vec::new(),
            repairs: Vec::new(),
            items: HashMap::new(),
            shared: HashSet::new(),
            node: Vec::new(),
            foreign: Vec::new(),
            held: Vec::new(),
            backends: HashMap::new(),
        };
        let Some(version) = socket.table_comment(table)? else {
            found.repairs.push(format!("table {family} viaduct was missing"));
            return Ok(found);
        };
        found.exists = true;
        let sets: HashSet<String> = socket.sets(table)?.into_iter().collect();
        let missing: Vec<&str> =
            SetId::ALL.iter().map(|set| set.name()).filter(|set| !sets.contains(*set)).collect();
        if version != layout::version(family) || !missing.is_empty() {
            found.repairs.push(match missing.first() {
                Some(set) => format!("set {set} ({family}) was missing"),
                None => format!("the {family} table was of another version"),
            });
            return Ok(found);
        }
        found.recreate = false;
        found.read_numbers(socket, settled)?;
        for set in SetId::ALL {
            if set == SetId::Targets {
                continue;
            }
            if set == SetId::Affinity {
                let held = socket.parse_elements(table, set.name(), settled, |element| {
                    let Some(ElementDataRef::Value(value)) = element.data else { return None };
                    Some(u32::from_ne_bytes(value.try_into().ok()?))
                })?;
                // However long an entry has to live, it is not longer than a day.
                const LONGEST: Duration = Duration::from_secs(86_400);
                found.held = held.unwrap_or_default().into_iter().map(|id| (id, LONGEST)).collect();
                continue;
            }
            let numbers = &found.numbers;
            let read = |element: ElementRef<'_>| Item::read(set, element, numbers);
            let items = socket.parse_elements(table, set.name(), settled, read)?;
            for item in items.unwrap_or_default() {
                found.sort_in(item);
            }
        }
        Ok(found)
    }

    fn read_numbers(&mut self, socket: &mut NftSocket, settled: bool) -> Result<()> {
        let none = HashMap::new();
        let read = |element: ElementRef<'_>| Item::read(SetId::Targets, element, &none);
        let name = SetId::Targets.name();
        let items = socket.parse_elements(table(self.family), name, settled, read)?;
        for item in items.unwrap_or_default() {
            let number = item.key.as_slice().try_into().map(u32::from_ne_bytes);
            if let Ok(number) = number {
                self.next_number = self.next_number.max((number & !ID_PREFIX) + 1);
            }
            match (number, item.data) {
                (Ok(number), Data::Goto(target)) => {
                    self.numbers.insert(number, target);
                }
                _ => self.foreign.push(item),
            }
        }
        Ok(())
    }

    /// Reads the chains and compares their rules with the layout's; nothing if the table is to be made
    /// anew anyway.
    pub(super) fn read_rules(&mut self, socket: &mut NftSocket, layout: &Layout<'_>) -> Result<()> {
        if self.recreate {
            return Ok(());
        }
        let table = table(self.family);
        let chains: HashSet<String> = socket.chains(table)?.into_iter().collect();
        let mut tags: HashMap<String, Vec<String>> = HashMap::new();
        for RuleTag { chain, comment } in socket.rules(table)?.unwrap_or_default() {
            tags.entry(chain).or_default().push(comment);
        }
        let is_right = |chain: &str, rules: &[&Rule]| {
            let wanted = rules.iter().map(|rule| rule.comment.as_str());
            let there = tags.get(chain).map(Vec::as_slice).unwrap_or_default();
            chains.contains(chain) && wanted.eq(there.iter().map(String::as_str))
        };
        let rules = layout.rules();
        self.rules_differ = false;
        for (chain, _) in base_chains() {
            let own: Vec<&Rule> = rules.iter().filter(|rule| rule.chain == chain).collect();
            if !is_right(chain, &own) {
                self.rules_differ = true;
                self.repairs.push(format!("rules of chain {chain} ({}) had changed", self.family));
            }
        }
        for target in chains.iter().filter_map(|chain| Target::parse(chain)) {
            let name = target.to_string();
            let rules = layout.target(target);
            let own: Vec<&Rule> = rules.iter().collect();
            if !is_right(&name, &own) {
                self.broken_targets.push(target);
                self.repairs.push(format!("rules of chain {name} ({}) had changed", self.family));
            }
            self.chains.insert(target);
        }
        if !self.chains.contains(&Target::Reject) {
            self.rules_differ = true;
        }
        Ok(())
    }

    /// Puts an element where it belongs.
    fn sort_in(&mut self, item: Item) {
        let keys = match item.set {
            SetId::Endpoints(keys, _)
            | SetId::EndpointIds(keys, _)
            | SetId::Services(keys)
            | SetId::ShortCircuits(keys)
            | SetId::LocalServices(keys)
            | SetId::NoEndpoints(keys) => keys,
            SetId::SourceAllowed | SetId::SourceRestricted => Keys::Ip,
            SetId::Backends | SetId::Hairpin | SetId::ClusterIps => {
                if let (SetId::Backends, Data::Value(value)) = (item.set, &item.data)
                    && let (Ok(id), Some(backend)) =
                        (item.key.as_slice().try_into(), read_backend(value))
                {
                    self.backends.insert(u32::from_ne_bytes(id), backend);
                }
                self.shared.insert(item);
                return;
            }
            SetId::PodCidrs | SetId::NodePortAddresses | SetId::ServiceCidrs => {
                // `nft` puts an end before the first range, which does nothing.
                let first = item.key.as_slice().iter().all(|byte| *byte == 0);
                if !(first && item.range_end) {
                    self.node.push(item);
                }
                return;
            }
            SetId::Affinity | SetId::Targets => return,
        };
        match read_frontend(keys, self.family, item.key.as_slice()) {
            Some(key) => self.items.entry(key).or_default().push(item),
            None => self.foreign.push(item),
        }
    }

    /// Frontends of which there is anything.
    pub(super) fn frontends(&self) -> impl Iterator<Item = FrontendKey> {
        self.items.keys().copied()
    }

    /// The elements of a frontend.
    pub(super) fn take_items(&mut self, key: &FrontendKey) -> Vec<Item> {
        self.items.remove(key).unwrap_or_default()
    }

    /// The elements that do not come from Services.
    pub(super) fn node_items(&mut self) -> Vec<Item> {
        std::mem::take(&mut self.node)
    }

    /// The endpoints in the two lists of a frontend, by place.
    pub(super) fn places(&self, key: &FrontendKey) -> [Vec<Option<Backend>>; 2] {
        [0, 1].map(|at| {
            let mut places = Vec::new();
            for (place, backend, _) in self.list(key, at) {
                // A list that is longer than there are elements has holes that are no use.
                if place < 1 << 20 {
                    if places.len() <= place {
                        places.resize(place + 1, None);
                    }
                    places[place] = Some(backend);
                }
            }
            places
        })
    }

    /// The numbers of the endpoints in one of the two lists of a frontend.
    pub(super) fn numbers(
        &self,
        key: &FrontendKey,
        at: usize,
    ) -> impl Iterator<Item = (Backend, u32)> {
        self.list(key, at).filter_map(|(_, backend, id)| Some((backend, id?)))
    }

    fn list(
        &self,
        key: &FrontendKey,
        at: usize,
    ) -> impl Iterator<Item = (usize, Backend, Option<u32>)> {
        let wanted = [List::Primary, List::Local][at];
        let items = self.items.get(key).map(Vec::as_slice).unwrap_or_default();
        items.iter().filter_map(move |item| {
            let Data::Value(value) = &item.data else { return None };
            let place = item.key.as_slice().last_chunk::<4>()?;
            let place = u32::from_ne_bytes(*place) as usize;
            match item.set {
                SetId::Endpoints(_, list) if list == wanted => {
                    Some((place, read_backend(value)?, None))
                }
                SetId::EndpointIds(_, list) if list == wanted => {
                    let id = number(value)?;
                    Some((place, *self.backends.get(&id)?, Some(id)))
                }
                _ => None,
            }
        })
    }
}

fn number(value: &Value) -> Option<u32> {
    Some(u32::from_ne_bytes(value.as_slice().try_into().ok()?))
}
