//! What is programmed, and what has to change for it to be something else. Pure: no kernel.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use netlink::Family;

use super::changes::{Changes, difference};
use super::element::{Item, Programmed, Slot, items};
use super::found::Found;
use super::ids::{Ids, ListName};
use super::names::List;
use super::slots::{place, places};
use super::{FAMILIES, index};
use crate::cluster::ServicePortName;
use crate::service::{Backend, Frontend, FrontendKey, Resolution};

/// The frontends of both families, with the places and numbers of their endpoints.
#[derive(Default)]
pub(super) struct State {
    programmed: HashMap<FrontendKey, Programmed>,
    /// How many frontends need an element that several can need.
    shared: HashMap<(Family, Item), u32>,
    ids: Ids,
    numbered: HashMap<ListName, u32>,
}

impl State {
    /// Whose frontend this is.
    fn owner(&self, key: &FrontendKey) -> Option<&ServicePortName> {
        Some(&self.programmed.get(key)?.frontend.lists.owner)
    }

    /// Puts frontends into the order in which they are to be changed: Service by Service.
    pub(super) fn sort(&self, entries: &mut [(FrontendKey, Option<&Frontend>)]) {
        entries.sort_by_cached_key(|(key, frontend)| {
            let owner = frontend.map(|frontend| &frontend.lists.owner);
            let owner = owner.or_else(|| self.owner(key));
            (owner.map(|owner| owner.service.clone()), *key)
        });
    }

    /// Whether any frontend needs this element.
    pub(super) fn is_shared(&self, family: Family, item: &Item) -> bool {
        self.shared.contains_key(&(family, *item))
    }

    /// Adds what is needed to change a frontend, or to remove it, to `changes`. What was `found` in the
    /// kernel may be anything.
    pub(super) fn change(
        &mut self,
        key: FrontendKey,
        frontend: Option<&Frontend>,
        changes: &mut Changes,
        now: Instant,
        found: Option<&mut Found>,
    ) {
        let family = key.family();
        let before = self.programmed.remove(&key);
        let guide = match (&before, &found) {
            (Some(before), _) => [places(&before.primary), places(&before.local)],
            (None, Some(found)) => found.places(&key),
            (None, None) => Default::default(),
        };
        let after = frontend.map(|frontend| self.program(&key, frontend, guide, now));
        let mut old = Vec::new();
        let mut new = Vec::new();
        if let Some(before) = &before {
            items(&key, before, &mut old);
        }
        if let Some(after) = &after {
            items(&key, after, &mut new);
            self.programmed.insert(key, after.clone());
        }
        self.release(&key, before.as_ref(), after.as_ref(), now);
        let (removed, added) = difference(old, new);
        let (mut deletes, mut adds) = (Vec::new(), Vec::new());
        for item in added {
            if item.set.is_shared() {
                let count = self.shared.entry((family, item)).or_default();
                *count += 1;
                let there = found.as_ref().is_some_and(|found| found.shared.contains(&item));
                if *count > 1 || there {
                    continue;
                }
            }
            adds.push(item);
        }
        for item in removed {
            if item.set.is_shared()
                && let Some(count) = self.shared.get_mut(&(family, item))
            {
                *count -= 1;
                if *count > 0 {
                    continue;
                }
                self.shared.remove(&(family, item));
            }
            deletes.push(item);
        }
        if let Some(found) = found {
            // Compared with what is there, which may be anything.
            adds.sort_unstable();
            let own = found.take_items(&key);
            let (shared, unshared): (Vec<Item>, Vec<Item>) =
                adds.into_iter().partition(|item| item.set.is_shared());
            (deletes, adds) = difference(own, unshared);
            adds.extend(shared);
        }
        changes.differ(family, (deletes, adds));
    }

    /// A frontend with the places and numbers of its endpoints.
    fn program(
        &mut self,
        key: &FrontendKey,
        frontend: &Frontend,
        [primary, local]: [Vec<Option<Backend>>; 2],
        now: Instant,
    ) -> Programmed {
        let [first, second] = lists(frontend);
        let mut slots = |guide: &[Option<Backend>], list: Option<(List, &[Backend])>| {
            let Some((list, backends)) = list else { return Vec::new() };
            let name = frontend.lists.affinity.map(|affinity| {
                let owner = frontend.lists.owner.clone();
                let name = ListName { owner, family: key.family(), list };
                let _ = self.ids.number(&name, affinity, backends, now);
                name
            });
            let number = |backend: Backend| {
                let id = name.as_ref().and_then(|name| self.ids.get(name, &backend));
                Slot { backend, id }
            };
            place(guide, backends).into_iter().map(number).collect()
        };
        let primary = slots(&primary, first);
        let local = slots(&local, second);
        Programmed { frontend: frontend.clone(), primary, local }
    }

    /// Frees the numbers of lists that no frontend uses any more.
    fn release(
        &mut self,
        key: &FrontendKey,
        before: Option<&Programmed>,
        after: Option<&Programmed>,
        now: Instant,
    ) {
        let names = |programmed: Option<&Programmed>| -> Vec<ListName> {
            let Some(Programmed { frontend, .. }) = programmed else { return Vec::new() };
            if frontend.lists.affinity.is_none() {
                return Vec::new();
            }
            let owner = &frontend.lists.owner;
            let family = key.family();
            let name = |(list, _)| ListName { owner: owner.clone(), family, list };
            lists(frontend).into_iter().flatten().map(name).collect()
        };
        for name in names(after) {
            *self.numbered.entry(name).or_default() += 1;
        }
        for name in names(before) {
            let Some(count) = self.numbered.get_mut(&name) else { continue };
            *count -= 1;
            if *count == 0 {
                self.numbered.remove(&name);
                self.ids.retire(&name, now);
            }
        }
    }

    /// Takes over the numbers that clients may hold.
    pub(super) fn adopt(
        &mut self,
        frontends: &[(FrontendKey, &Frontend)],
        found: &[Found; 2],
        now: Instant,
    ) {
        for (key, frontend) in frontends {
            let Some(affinity) = frontend.lists.affinity else { continue };
            let found = &found[index(key.family())];
            for (at, list) in lists(frontend).into_iter().enumerate() {
                let Some((list, backends)) = list else { continue };
                let owner = frontend.lists.owner.clone();
                let name = ListName { owner, family: key.family(), list };
                for (backend, id) in found.numbers(key, at) {
                    if backends.binary_search(&backend).is_ok() {
                        self.ids.adopt(&name, affinity, id, backend);
                    }
                }
            }
        }
        for (family, found) in FAMILIES.into_iter().zip(found) {
            let held: BTreeMap<u32, Duration> =
                found.held.iter().map(|(id, left)| (*id, *left)).collect();
            self.ids.hold(family, &held, now);
        }
    }

    /// Frontends and endpoints of a family that are programmed.
    pub(super) fn counts(&self, family: Family) -> (usize, usize) {
        let own = self.programmed.iter().filter(|(key, _)| key.family() == family);
        own.fold((0, 0), |(frontends, endpoints), (_, programmed)| {
            (frontends + 1, endpoints + programmed.primary.len() + programmed.local.len())
        })
    }
}

/// The lists that a frontend needs: the first, and for the Local policy's external traffic another.
fn lists(frontend: &Frontend) -> [Option<(List, &[Backend])>; 2] {
    let cluster = (List::Primary, frontend.lists.cluster.as_slice());
    let local = (List::Local, frontend.lists.local.as_slice());
    match frontend.resolution {
        Resolution::Cluster(_) => [Some(cluster), None],
        Resolution::Local => [Some(local), None],
        Resolution::ByOrigin => [Some(cluster), Some(local)],
        Resolution::Reject | Resolution::Drop => [None, None],
    }
}
