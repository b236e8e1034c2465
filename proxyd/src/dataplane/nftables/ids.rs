//! Numbers of endpoints with session affinity.
//!
//! A client's entry in the kernel's map `affinity` holds a number. What an entry may still hold is not
//! given to another endpoint: an entry lives as long as the affinity's timeout.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use netlink::Family;

use super::index;
use super::layout::{ID_LIST_SHIFT, ID_PREFIX};
use super::names::List;
use crate::cluster::{Affinity, ServicePortName};
use crate::service::Backend;

/// Endpoints that one list can number.
const ENDPOINTS: u16 = 1 << ID_LIST_SHIFT;
/// Lists of a family that can be numbered.
const LISTS: u32 = 1 << 16;
/// Time on top of the timeout, for packets that are just being handled.
const GRACE: Duration = Duration::from_secs(5);

/// A list whose endpoints have numbers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct ListName {
    pub(super) owner: ServicePortName,
    pub(super) family: Family,
    pub(super) list: List,
}

#[derive(Debug, Default)]
struct Numbers {
    list: u16,
    timeout: Duration,
    next: u16,
    live: HashMap<Backend, u16>,
    retired: VecDeque<(u16, Instant)>,
}

/// All numbers of both families.
#[derive(Debug, Default)]
pub(super) struct Ids {
    lists: HashMap<ListName, Numbers>,
    /// Numbers of lists that are in use, by family, …
    used: [HashSet<u16>; 2],
    /// … and those that an entry may still hold.
    retired: VecDeque<(Family, u16, Instant)>,
    next: u32,
}

/// The list and the endpoint in a number.
pub(super) fn split(id: u32) -> (u16, u16) {
    (((id & !ID_PREFIX) >> ID_LIST_SHIFT) as u16, (id as u16) & (ENDPOINTS - 1))
}

fn join(list: u16, endpoint: u16) -> u32 {
    ID_PREFIX | (u32::from(list) << ID_LIST_SHIFT) | u32::from(endpoint)
}

impl Ids {
    /// Gives the endpoints of a list their numbers: those that had one keep it, those that are gone
    /// lose theirs. `None` if there are too many; the list then has no affinity.
    pub(super) fn number(
        &mut self,
        name: &ListName,
        Affinity(seconds): Affinity,
        backends: &[Backend],
        now: Instant,
    ) -> Option<()> {
        let timeout = Duration::from_secs(u64::from(seconds));
        if !self.lists.contains_key(name) {
            let list = self.free_list(name.family, now)?;
            self.used[index(name.family)].insert(list);
            self.lists.insert(name.clone(), Numbers { list, timeout, ..Numbers::default() });
        }
        let numbers = self.lists.get_mut(name)?;
        // An entry of the time of a longer timeout lives on.
        numbers.timeout = numbers.timeout.max(timeout);
        let wanted: HashSet<&Backend> = backends.iter().collect();
        let free_at = now + numbers.timeout + GRACE;
        let gone: Vec<Backend> =
            numbers.live.keys().filter(|backend| !wanted.contains(backend)).copied().collect();
        for backend in gone {
            if let Some(endpoint) = numbers.live.remove(&backend) {
                numbers.retired.push_back((endpoint, free_at));
            }
        }
        while numbers.retired.front().is_some_and(|(_, until)| *until <= now) {
            numbers.retired.pop_front();
        }
        if backends.len() + numbers.retired.len() >= usize::from(ENDPOINTS) {
            return None;
        }
        let mut taken: HashSet<u16> = numbers.live.values().copied().collect();
        taken.extend(numbers.retired.iter().map(|(endpoint, _)| *endpoint));
        for backend in backends {
            if numbers.live.contains_key(backend) {
                continue;
            }
            while taken.contains(&numbers.next) {
                numbers.next = (numbers.next + 1) % ENDPOINTS;
            }
            taken.insert(numbers.next);
            numbers.live.insert(*backend, numbers.next);
            numbers.next = (numbers.next + 1) % ENDPOINTS;
        }
        Some(())
    }

    /// The number of an endpoint.
    pub(super) fn get(&self, name: &ListName, backend: &Backend) -> Option<u32> {
        let numbers = self.lists.get(name)?;
        numbers.live.get(backend).map(|endpoint| join(numbers.list, *endpoint))
    }

    /// The list needs no numbers any more.
    pub(super) fn retire(&mut self, name: &ListName, now: Instant) {
        if let Some(numbers) = self.lists.remove(name) {
            self.retired.push_back((name.family, numbers.list, now + numbers.timeout + GRACE));
        }
    }

    /// Takes over a number that is in the kernel: an endpoint's of a list.
    pub(super) fn adopt(&mut self, name: &ListName, affinity: Affinity, id: u32, backend: Backend) {
        let (list, endpoint) = split(id);
        let known = self.lists.get(name).map(|numbers| numbers.list);
        if known.is_none() && !self.used[index(name.family)].insert(list) {
            return; // it is another list's
        }
        if known.is_some_and(|known| known != list) {
            return;
        }
        let timeout = Duration::from_secs(u64::from(affinity.0));
        let numbers = self.lists.entry(name.clone()).or_insert_with(|| Numbers {
            list,
            timeout,
            ..Numbers::default()
        });
        if !numbers.live.values().any(|known| *known == endpoint) {
            numbers.live.entry(backend).or_insert(endpoint);
        }
    }

    /// Numbers that clients' entries hold, found in the kernel: those of nobody are not given away for
    /// as long as an entry can live.
    pub(super) fn hold(&mut self, family: Family, held: &BTreeMap<u32, Duration>, now: Instant) {
        for (id, left) in held {
            let (list, endpoint) = split(*id);
            let until = now + *left + GRACE;
            match self.lists.iter_mut().find(|(n, l)| n.family == family && l.list == list) {
                Some((_, numbers)) if numbers.live.values().any(|e| *e == endpoint) => {}
                Some((_, numbers)) => numbers.retired.push_back((endpoint, until)),
                None => {
                    self.used[index(family)].insert(list);
                    self.retired.push_back((family, list, until));
                }
            }
        }
    }

    fn free_list(&mut self, family: Family, now: Instant) -> Option<u16> {
        let used = &mut self.used;
        self.retired.retain(|(family, list, until)| {
            let free = *until <= now;
            if free {
                used[index(*family)].remove(list);
            }
            !free
        });
        for _ in 0..LISTS {
            let list = (self.next % LISTS) as u16;
            self.next = self.next.wrapping_add(1);
            if !self.used[index(family)].contains(&list) {
                return Some(list);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{Protocol, ServiceName};

    fn name() -> ListName {
        let service = ServiceName { namespace: "default".into(), name: "web".into() };
        let owner = ServicePortName { service, port: "".into(), protocol: Protocol::Tcp };
        ListName { owner, family: Family::V4, list: List::Primary }
    }

    fn backend(number: u8) -> Backend {
        Backend { ip: [10, 0, 0, number].into(), port: 80 }
    }

    #[test]
    fn a_number_comes_back_to_nobody_while_an_entry_may_hold_it() {
        let (mut ids, name, now) = (Ids::default(), name(), Instant::now());
        let affinity = Affinity(10);
        ids.number(&name, affinity, &[backend(1), backend(2)], now);
        let (one, two) = (ids.get(&name, &backend(1)), ids.get(&name, &backend(2)));
        assert!(one.is_some() && two.is_some() && one != two);
        ids.number(&name, affinity, &[backend(2)], now);
        assert_eq!((ids.get(&name, &backend(1)), ids.get(&name, &backend(2))), (None, two));
        // Not even to the same endpoint when it comes back.
        ids.number(&name, affinity, &[backend(1), backend(2), backend(3)], now);
        let (again, three) = (ids.get(&name, &backend(1)), ids.get(&name, &backend(3)));
        assert!(again != one && three != one && again != three);
    }

    #[test]
    fn the_numbers_of_a_list_that_is_gone_are_not_used_at_once() {
        let (mut ids, name, now) = (Ids::default(), name(), Instant::now());
        ids.number(&name, Affinity(10), &[backend(1)], now);
        let before = ids.get(&name, &backend(1));
        ids.retire(&name, now);
        ids.next = 0;
        ids.number(&name, Affinity(10), &[backend(1)], now);
        assert_ne!(ids.get(&name, &backend(1)), before);
    }

    #[test]
    fn what_is_found_is_taken_over() {
        let (mut ids, name, now) = (Ids::default(), name(), Instant::now());
        let id = join(7, 3);
        ids.adopt(&name, Affinity(10), id, backend(1));
        ids.hold(Family::V4, &BTreeMap::from([(join(7, 4), Duration::from_secs(5))]), now);
        ids.number(&name, Affinity(10), &[backend(1), backend(2)], now);
        assert_eq!(ids.get(&name, &backend(1)), Some(id));
        let second = split(ids.get(&name, &backend(2)).unwrap());
        assert!(second.0 == 7 && second.1 != 3 && second.1 != 4, "{second:?}");
    }
}
