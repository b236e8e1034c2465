//! Elements: what a frontend needs in the sets and maps.

use std::collections::HashMap;
use std::net::IpAddr;

use netlink::nftables::{ElementDataRef, ElementRef, VerdictRef};
use netlink::{Family, Prefix, from_number, to_number};

use super::chains::Chains;
use super::names::{Keys, List, Pick, SetId, Target};
use crate::cluster::Protocol;
use crate::service::{Address, Backend, Frontend, FrontendKey, Masquerade, Resolution};

/// A few bytes in place.
#[derive(Clone, Copy)]
pub(super) struct Bytes<const N: usize> {
    length: u8,
    bytes: [u8; N],
}

/// The longest key is an IPv6 frontend with a source address.
pub(super) type Key = Bytes<40>;
/// The longest value is an IPv6 endpoint.
pub(super) type Value = Bytes<20>;

impl<const N: usize> Bytes<N> {
    pub(super) const EMPTY: Bytes<N> = Bytes { length: 0, bytes: [0; N] };

    /// The bytes, if they are few enough.
    pub(super) fn new(from: &[u8]) -> Option<Bytes<N>> {
        let mut new = Bytes { length: u8::try_from(from.len()).ok()?, bytes: [0; N] };
        new.bytes.get_mut(..from.len())?.copy_from_slice(from);
        Some(new)
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    /// One more field, padded to four bytes.
    fn field(mut self, field: &[u8]) -> Bytes<N> {
        let start = usize::from(self.length);
        self.bytes[start..start + field.len()].copy_from_slice(field);
        self.length += field.len().next_multiple_of(4) as u8;
        self
    }

    pub(super) fn ip(self, address: IpAddr) -> Bytes<N> {
        match address {
            IpAddr::V4(v4) => self.field(&v4.octets()),
            IpAddr::V6(v6) => self.field(&v6.octets()),
        }
    }

    pub(super) fn number(self, number: u32) -> Bytes<N> {
        self.field(&number.to_ne_bytes())
    }
}

/// An endpoint as a map's data.
pub(super) fn backend_value(backend: Backend) -> Value {
    Value::EMPTY.ip(backend.ip).field(&backend.port.to_be_bytes())
}

/// The endpoint in a map's data.
pub(super) fn read_backend(value: &Value) -> Option<Backend> {
    let (ip, port) = value.as_slice().split_last_chunk::<4>()?;
    let ip = match ip.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(ip).ok()?),
        _ => IpAddr::from(<[u8; 16]>::try_from(ip).ok()?),
    };
    Some(Backend { ip, port: u16::from_be_bytes([port[0], port[1]]) })
}

pub(super) fn frontend_key(key: &FrontendKey) -> Key {
    let start = match key.address {
        Address::Ip(ip) => Key::EMPTY.ip(ip),
        Address::Node(_) => Key::EMPTY,
    };
    start.field(&[key.protocol.number()]).field(&key.port.to_be_bytes())
}

/// The frontend that a key begins with.
pub(super) fn read_frontend(keys: Keys, family: Family, key: &[u8]) -> Option<FrontendKey> {
    let (address, rest) = match (keys, family) {
        (Keys::NodePort, _) => (Address::Node(family), key),
        (Keys::Ip, Family::V4) => {
            let (ip, rest) = key.split_first_chunk::<4>()?;
            (Address::Ip(IpAddr::from(*ip)), rest)
        }
        (Keys::Ip, Family::V6) => {
            let (ip, rest) = key.split_first_chunk::<16>()?;
            (Address::Ip(IpAddr::from(*ip)), rest)
        }
    };
    let [protocol, _, _, _, high, low, ..] = *rest else { return None };
    let protocol = Protocol::from_number(protocol)?;
    Some(FrontendKey { address, protocol, port: u16::from_be_bytes([high, low]) })
}

impl<const N: usize> PartialEq for Bytes<N> {
    fn eq(&self, other: &Bytes<N>) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl<const N: usize> Eq for Bytes<N> {}

impl<const N: usize> PartialOrd for Bytes<N> {
    fn partial_cmp(&self, other: &Bytes<N>) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<const N: usize> Ord for Bytes<N> {
    fn cmp(&self, other: &Bytes<N>) -> std::cmp::Ordering {
        self.as_slice().cmp(other.as_slice())
    }
}

impl<const N: usize> std::hash::Hash for Bytes<N> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.as_slice().hash(state);
    }
}

impl<const N: usize> std::fmt::Debug for Bytes<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.as_slice().fmt(f)
    }
}

/// A map's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Data {
    None,
    Value(Value),
    Goto(Target),
    /// What none of ours has.
    Foreign,
}

/// An element of a set or map of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Item {
    pub(super) set: SetId,
    pub(super) key: Key,
    /// A range over several fields: so many bits of the last field are free.
    pub(super) free_bits: u8,
    /// The key is the first one after a range.
    pub(super) range_end: bool,
    pub(super) data: Data,
}

impl Item {
    pub(super) fn new(set: SetId, key: Key, data: Data) -> Item {
        Item { set, key, free_bits: 0, range_end: false, data }
    }

    /// Reads an element of the kernel's; `chains` are those that map `targets` has.
    pub(super) fn read(
        set: SetId,
        element: ElementRef<'_>,
        chains: &HashMap<u32, Target>,
    ) -> Option<Item> {
        let data = match element.data {
            None => Data::None,
            Some(ElementDataRef::Value(value)) if matches!(set, SetId::Services(_)) => {
                let number = u32::from_ne_bytes(value.try_into().ok()?);
                chains.get(&number).map_or(Data::Foreign, |target| Data::Goto(*target))
            }
            Some(ElementDataRef::Value(value)) => Data::Value(Value::new(value)?),
            Some(ElementDataRef::Verdict(VerdictRef::Goto(chain))) => {
                Target::parse(chain).map_or(Data::Foreign, Data::Goto)
            }
            Some(ElementDataRef::Verdict(_)) => Data::Foreign,
        };
        let last = element.key_end.unwrap_or(element.key);
        let key = Key::new(element.key)?;
        let mut item = Item::new(set, key, data);
        item.range_end = element.interval_end;
        item.free_bits = (0..=128).find(|bits| last_key(&key, *bits).as_slice() == last)?;
        Some(item)
    }

    /// Hands the element to `write` as the kernel takes it; `chains` have numbers for those that it needs.
    pub(super) fn write(&self, chains: &Chains, write: impl FnOnce(ElementRef<'_>)) {
        let (chain, last, number);
        let mut element = ElementRef::new(self.key.as_slice());
        element.interval_end = self.range_end;
        if self.set == SetId::SourceAllowed {
            last = last_key(&self.key, self.free_bits);
            element.key_end = Some(last.as_slice());
        }
        match &self.data {
            Data::None | Data::Foreign => {}
            Data::Value(value) => element.data = Some(ElementDataRef::Value(value.as_slice())),
            Data::Goto(target) if matches!(self.set, SetId::Services(_)) => {
                // Without one it leads nowhere, which no transaction of ours writes.
                number = chains.number(*target).unwrap_or_default().to_ne_bytes();
                element.data = Some(ElementDataRef::Value(&number));
            }
            Data::Goto(target) => {
                chain = target.to_string();
                element = element.verdict(VerdictRef::Goto(&chain));
            }
        }
        write(element);
    }
}

/// A key with so many of its last bits set.
fn last_key(key: &Key, bits: u8) -> Key {
    let mut last = *key;
    let length = usize::from(key.length);
    for bit in 0..usize::from(bits).min(length * 8) {
        last.bytes[length - 1 - bit / 8] |= 1 << (bit % 8);
    }
    last
}

/// An endpoint at its place in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) backend: Backend,
    /// Its number, with session affinity.
    pub(super) id: Option<u32>,
}

/// A frontend as it is, or is to be, in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Programmed {
    pub(super) frontend: Frontend,
    pub(super) primary: Vec<Slot>,
    pub(super) local: Vec<Slot>,
}

/// The elements that a frontend needs.
pub(super) fn items(key: &FrontendKey, programmed: &Programmed, out: &mut Vec<Item>) {
    let Programmed { frontend, primary, local } = programmed;
    let keys = match key.address {
        Address::Ip(_) => Keys::Ip,
        Address::Node(_) => Keys::NodePort,
    };
    let name = frontend_key(key);
    let pick = |list, slots: &[Slot], masquerade| {
        // Either all endpoints have numbers or none.
        let numbered = slots.iter().all(|slot| slot.id.is_some());
        let sticky = frontend.lists.affinity.filter(|_| numbered).map(|affinity| affinity.0);
        let count = slots.len() as u32;
        Data::Goto(Target::Pick(Pick { keys, list, masquerade, sticky, count }))
    };
    match frontend.resolution {
        Resolution::Cluster(masquerade) => {
            let masquerade = masquerade == Masquerade::Always;
            let go = pick(List::Primary, primary, masquerade);
            out.push(Item::new(SetId::Services(keys), name, go));
        }
        Resolution::Local => {
            let go = pick(List::Primary, primary, false);
            out.push(Item::new(SetId::Services(keys), name, go));
        }
        Resolution::ByOrigin => {
            let go = Data::Goto(Target::External(keys));
            out.push(Item::new(SetId::Services(keys), name, go));
            let go = pick(List::Primary, primary, false);
            out.push(Item::new(SetId::ShortCircuits(keys), name, go));
            if local.is_empty() {
                let drop = Data::Goto(Target::Drop);
                out.push(Item::new(SetId::NoEndpoints(keys), name, drop));
            } else {
                let go = pick(List::Local, local, false);
                out.push(Item::new(SetId::LocalServices(keys), name, go));
            }
        }
        Resolution::Reject => {
            let reject = Data::Goto(Target::Reject);
            out.push(Item::new(SetId::NoEndpoints(keys), name, reject));
        }
        Resolution::Drop => {
            out.push(Item::new(SetId::NoEndpoints(keys), name, Data::Goto(Target::Drop)));
        }
    }
    list_items(keys, List::Primary, name, primary, out);
    list_items(keys, List::Local, name, local, out);
    if !primary.is_empty() {
        for ip in &frontend.lists.hairpin {
            out.push(Item::new(SetId::Hairpin, Key::EMPTY.ip(*ip).ip(*ip), Data::None));
        }
    }
    if let (true, Address::Ip(ip)) = (frontend.cluster_ip, key.address) {
        out.push(Item::new(SetId::ClusterIps, Key::EMPTY.ip(ip), Data::None));
    }
    if let Some(ranges) = &frontend.source_ranges {
        out.push(Item::new(SetId::SourceRestricted, name, Data::None));
        for range in ranges.iter() {
            let mut item = Item::new(SetId::SourceAllowed, name.ip(range.first()), Data::None);
            item.free_bits = range.family().bits() - range.length();
            out.push(item);
        }
    }
}

fn list_items(keys: Keys, list: List, name: Key, slots: &[Slot], out: &mut Vec<Item>) {
    let numbered = slots.iter().all(|slot| slot.id.is_some());
    for (at, slot) in slots.iter().enumerate() {
        let key = name.number(at as u32);
        let backend = backend_value(slot.backend);
        match slot.id.filter(|_| numbered) {
            None => {
                out.push(Item::new(SetId::Endpoints(keys, list), key, Data::Value(backend)));
            }
            Some(id) => {
                let number = Data::Value(Value::EMPTY.number(id));
                out.push(Item::new(SetId::EndpointIds(keys, list), key, number));
                let number = Key::EMPTY.number(id);
                out.push(Item::new(SetId::Backends, number, Data::Value(backend)));
            }
        }
    }
}

/// The elements of a set of ranges over single addresses: none may touch another.
pub(super) fn range_items(set: SetId, prefixes: &[Prefix], out: &mut Vec<Item>) {
    let mut sorted: Vec<Prefix> = prefixes.iter().map(|prefix| prefix.network()).collect();
    sorted.sort_by_key(|prefix| (prefix.first(), prefix.length()));
    let mut ranges: Vec<(u128, u128, IpAddr)> = Vec::new();
    for prefix in sorted {
        let (first, last) = (to_number(prefix.first()), to_number(prefix.last()));
        match ranges.last_mut() {
            Some((_, end, _)) if first <= end.saturating_add(1) => *end = (*end).max(last),
            _ => ranges.push((first, last, prefix.first())),
        }
    }
    for (_, last, first_ip) in ranges {
        out.push(Item::new(set, Key::EMPTY.ip(first_ip), Data::None));
        let family = Family::of(first_ip);
        let after = last.wrapping_add(1);
        let beyond = if family == Family::V4 { after >> 32 != 0 } else { after == 0 };
        if !beyond {
            let key = Key::EMPTY.ip(from_number(family, after));
            out.push(Item { range_end: true, ..Item::new(set, key, Data::None) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(prefixes: &[&str]) -> Vec<(Vec<u8>, bool)> {
        let prefixes: Vec<Prefix> = prefixes.iter().map(|p| p.parse().unwrap()).collect();
        let mut out = Vec::new();
        range_items(SetId::PodCidrs, &prefixes, &mut out);
        out.iter().map(|item| (item.key.as_slice().to_vec(), item.range_end)).collect()
    }

    #[test]
    fn ranges_that_touch_become_one_and_the_last_address_has_no_end() {
        assert_eq!(
            ranges(&["10.0.1.0/24", "10.0.0.0/24", "10.0.0.128/25"]),
            [(vec![10, 0, 0, 0], false), (vec![10, 0, 2, 0], true)]
        );
        assert_eq!(ranges(&["0.0.0.0/0"]), [(vec![0, 0, 0, 0], false)]);
        assert_eq!(ranges(&["255.0.0.0/8"]), [(vec![255, 0, 0, 0], false)]);
        assert_eq!(ranges(&["::/0"]), [(vec![0; 16], false)]);
    }
}
