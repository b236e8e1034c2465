//! A search tree of chains: a packet finds its frontend in some tens of rules, however many there are.
//!
//! What is looked for is a row of digits: the destination's address from its last four bits on (which differ
//! most), the protocol, the port. A chain with more than a few entries has a rule for each digit that comes up
//! at the first place where its entries differ, by a mask that is not contiguous:
//!
//! ```text
//! -A VIADUCT-ADDRESSES -d 0.0.0.5/0.0.0.15 -g VIADUCT-A-5
//! -A VIADUCT-A-5 -d 0.0.0.32/0.0.0.240 -g VIADUCT-A-52
//! -A VIADUCT-A-52 -d 10.96.3.37/32 -p tcp -m tcp --dport 80 -g VIADUCT-SVC-…
//! ```
//!
//! The edges are `goto`, so whatever is not found is back at the root's caller after one look at each level:
//! no set of addresses is needed to send other traffic on its way. A change rewrites the chain of its leaf,
//! and those above only where a digit appears or goes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Bound;

use netlink::Family;

use super::names::{LONGEST, PREFIX, short};
use crate::cluster::Protocol;

/// Entries that are looked at one by one.
const FEW: usize = 8;

/// Digits of four bits.
type Path = Vec<u8>;

const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

/// What is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// Destination address, protocol, port.
    Frontend,
    /// Protocol and port.
    Port,
    /// Destination address.
    Destination,
    /// Source address.
    Source,
}

/// A tree, as it is to be; which of its chains changed is told by [`Tree::change`].
#[derive(Debug)]
pub(super) struct Tree {
    family: Family,
    by: By,
    root: &'static str,
    letter: char,
    entries: BTreeMap<Path, Vec<String>>,
    /// The chains that there are, by what their entries begin with.
    chains: BTreeMap<Path, Shape>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Leaf,
    /// Entries differ first at this place.
    Fork(usize),
}

/// The rules of chains that changed; `None` for those that are gone.
pub(super) type Chains = Vec<(String, Option<Vec<String>>)>;

impl Tree {
    /// An empty tree: chain `root` alone, which is there always.
    pub(super) fn new(family: Family, by: By, root: &'static str, letter: char) -> Tree {
        let (entries, chains) = (BTreeMap::new(), BTreeMap::from([(Path::new(), Shape::Leaf)]));
        Tree { family, by, root, letter, entries, chains }
    }

    /// What an entry is found by. Each part that is not looked for is not needed.
    pub(super) fn path(&self, ip: Option<IpAddr>, port: Option<(Protocol, u16)>) -> Path {
        let mut path = Path::new();
        if self.by != By::Port {
            let bytes = match ip {
                Some(IpAddr::V4(v4)) => v4.octets().to_vec(),
                Some(IpAddr::V6(v6)) => v6.octets().to_vec(),
                None => Vec::new(),
            };
            path.extend(bytes.iter().rev().flat_map(|byte| [byte & 15, byte >> 4]));
        }
        if let (By::Frontend | By::Port, Some((protocol, port))) = (self.by, port) {
            path.push(PROTOCOLS.iter().position(|p| *p == protocol).unwrap_or_default() as u8);
            path.extend([12, 8, 4, 0].map(|shift| (port >> shift) as u8 & 15));
        }
        path
    }

    /// Whether there is no entry.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Replaces the rules (without their chain) of entries, or removes them; returns the chains that this
    /// changes.
    pub(super) fn change(&mut self, changes: BTreeMap<Path, Option<Vec<String>>>) -> Chains {
        let mut touched = BTreeSet::new();
        for (path, rules) in changes {
            let before = match &rules {
                Some(rules) => self.entries.insert(path.clone(), rules.clone()),
                None => self.entries.remove(&path),
            };
            if before != rules {
                touched.insert(path);
            }
        }
        let mut changed = Chains::new();
        if !touched.is_empty() {
            self.update(Path::new(), Some(&touched), &mut changed);
        }
        changed
    }

    /// All chains.
    pub(super) fn all(&self) -> Chains {
        let all = self.chains.iter();
        all.map(|(path, shape)| (self.chain(path), Some(self.rules(path, *shape)))).collect()
    }

    /// Brings a chain up to date, and those below it: with `touched` only those that have such an entry.
    fn update(&mut self, path: Path, touched: Option<&BTreeSet<Path>>, changed: &mut Chains) {
        let before = self.chains.get(&path).copied();
        let Some(shape) = self.shape(&path) else {
            self.forget(&path, true, changed);
            return;
        };
        if before != Some(shape) {
            self.forget(&path, false, changed);
        }
        self.chains.insert(path.clone(), shape);
        changed.push((self.chain(&path), Some(self.rules(&path, shape))));
        let Shape::Fork(place) = shape else { return };
        let touched = touched.filter(|_| before == Some(shape));
        let mut children = self.children(&path, place);
        if touched.is_some() {
            // Those that went are visited to be forgotten.
            let below = below(&self.chains, &path).map(|(child, _)| child);
            let gone = below.filter(|child| child.len() == place + 1).cloned();
            children.extend(gone.collect::<Vec<_>>());
            children.sort();
            children.dedup();
        }
        for child in children {
            let concerned = touched.is_none_or(|touched| {
                touched.range(child.clone()..).next().is_some_and(|t| t.starts_with(&child))
            });
            if concerned {
                self.update(child, touched, changed);
            }
        }
    }

    /// Forgets the chains below one, and perhaps itself.
    fn forget(&mut self, path: &Path, itself: bool, changed: &mut Chains) {
        let mut gone: Vec<Path> =
            below(&self.chains, path).map(|(below, _)| below.clone()).collect();
        if itself && self.chains.contains_key(path) {
            gone.push(path.clone());
        }
        for path in gone {
            self.chains.remove(&path);
            changed.push((self.chain(&path), None));
        }
    }

    fn shape(&self, path: &Path) -> Option<Shape> {
        let mut entries = range(&self.entries, path);
        if entries.clone().nth(FEW).is_none() {
            let wanted = path.is_empty() || entries.next().is_some();
            return wanted.then_some(Shape::Leaf);
        }
        let (first, _) = entries.next()?;
        let (last, _) = range(&self.entries, path).next_back()?;
        // They are sorted, so all have in common what the first and the last have.
        let place = first.iter().zip(last).position(|(a, b)| a != b)?;
        Some(Shape::Fork(place))
    }

    /// What the entries of each branch begin with.
    fn children(&self, path: &Path, place: usize) -> Vec<Path> {
        let Some((first, _)) = range(&self.entries, path).next() else { return Vec::new() };
        let digits = (0..16u8).map(|digit| [&first[..place], &[digit]].concat());
        digits.filter(|child| range(&self.entries, child).next().is_some()).collect()
    }

    fn rules(&self, path: &Path, shape: Shape) -> Vec<String> {
        match shape {
            Shape::Leaf => {
                range(&self.entries, path).flat_map(|(_, rules)| rules).cloned().collect()
            }
            Shape::Fork(place) => {
                let children = self.children(path, place);
                let go =
                    |child: &Path| format!("{} -g {}", self.matching(child), self.chain(child));
                children.iter().map(go).collect()
            }
        }
    }

    fn chain(&self, path: &Path) -> String {
        if path.is_empty() {
            return self.root.to_owned();
        }
        let digits: String =
            path.iter().filter_map(|digit| char::from_digit(u32::from(*digit), 16)).collect();
        let name = format!("{PREFIX}{}-{digits}", self.letter);
        if name.len() <= LONGEST {
            name
        } else {
            format!("{PREFIX}{}-{}", self.letter, short(digits))
        }
    }

    /// What tells the last digit of a path.
    fn matching(&self, path: &Path) -> String {
        let bits = match (self.by, self.family) {
            (By::Port, _) => 0,
            (_, Family::V4) => 8,
            (_, Family::V6) => 32,
        };
        let (place, digit) = (path.len() - 1, path[path.len() - 1]);
        if place < bits {
            let side = if self.by == By::Source { "-s" } else { "-d" };
            let at = |digit: u8| u128::from(digit) << (4 * place);
            return match self.family {
                Family::V4 => {
                    let [value, mask] = [digit, 15].map(|digit| Ipv4Addr::from(at(digit) as u32));
                    format!("{side} {value}/{mask}")
                }
                Family::V6 => {
                    let [value, mask] = [digit, 15].map(|digit| Ipv6Addr::from(at(digit)));
                    format!("{side} {value}/{mask}")
                }
            };
        }
        let protocol = PROTOCOLS[usize::from(path[bits]).min(2)];
        if place == bits {
            return format!("-p {protocol}");
        }
        let known = path[bits + 1..].iter().fold(0u32, |port, digit| port << 4 | u32::from(*digit));
        let open = 4 * (4 - (place - bits)) as u32;
        let (first, last) = (known << open, ((known + 1) << open) - 1);
        match open {
            0 => format!("-p {protocol} -m {protocol} --dport {first}"),
            _ => format!("-p {protocol} -m {protocol} --dport {first}:{last}"),
        }
    }
}

/// What begins with a path.
fn range<'a, V>(
    map: &'a BTreeMap<Path, V>,
    path: &Path,
) -> std::collections::btree_map::Range<'a, Path, V> {
    let mut after = path.clone();
    // No digit is greater than 15.
    after.push(16);
    map.range((Bound::Included(path.clone()), Bound::Excluded(after)))
}

/// What begins with a path and is longer.
fn below<'a, V>(
    map: &'a BTreeMap<Path, V>,
    path: &'a Path,
) -> impl Iterator<Item = (&'a Path, &'a V)> {
    range(map, path).filter(move |(other, _)| *other != path)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Rules = BTreeMap<String, Vec<String>>;

    fn apply(changed: Chains, to: &mut Rules) {
        for (chain, rules) in changed {
            match rules {
                Some(rules) => to.insert(chain, rules),
                None => to.remove(&chain),
            };
        }
    }

    fn address(number: u32) -> IpAddr {
        Ipv4Addr::from(0x0a60_0000 + number).into()
    }

    fn entry(tree: &Tree, number: u32) -> (Path, Option<Vec<String>>) {
        let path = tree.path(Some(address(number)), Some((Protocol::Tcp, 80)));
        (path, Some(vec![format!("-d {}/32 -j X", address(number))]))
    }

    #[test]
    fn ten_thousand_addresses_are_found_within_some_tens_of_rules() {
        let mut tree = Tree::new(Family::V4, By::Frontend, "ROOT", 'A');
        tree.change((0..10_000).map(|number| entry(&tree, number)).collect());
        let mut rules = Rules::new();
        apply(tree.all(), &mut rules);
        let mut worst = 0;
        for number in 0..10_000u32 {
            let IpAddr::V4(to) = address(number) else { panic!("IPv4") };
            let (mut chain, mut looked_at) = ("ROOT".to_owned(), 0);
            'found: loop {
                for rule in &rules[&chain] {
                    looked_at += 1;
                    let words: Vec<&str> = rule.split(' ').collect();
                    let (value, mask) = words[1].split_once('/').unwrap();
                    let value: Ipv4Addr = value.parse().unwrap();
                    let mask = mask.parse().unwrap_or(Ipv4Addr::BROADCAST);
                    if to & mask == value {
                        if words[2] == "-j" {
                            break 'found;
                        }
                        chain = words[3].to_owned();
                        continue 'found;
                    }
                }
                panic!("{to} is not found in {chain}");
            }
            worst = worst.max(looked_at);
        }
        assert!(worst <= 56, "{worst} rules");
    }

    #[test]
    fn changes_one_by_one_lead_to_what_a_new_tree_would_be() {
        for seed in 0..6u32 {
            let mut tree = Tree::new(Family::V4, By::Frontend, "ROOT", 'A');
            let mut rules = Rules::new();
            apply(tree.all(), &mut rules);
            let mut there = BTreeSet::new();
            for step in 0..120u32 {
                let random = (step * 7919 + seed * 104_729).wrapping_mul(2_654_435_761) >> 20;
                let number = random % 64 * if seed % 2 == 0 { 1 } else { 16 };
                let (path, rule) = entry(&tree, number);
                let rule = if there.insert(number) { rule } else { None };
                if rule.is_none() {
                    there.remove(&number);
                }
                apply(tree.change(BTreeMap::from([(path, rule)])), &mut rules);
                let mut fresh = Tree::new(Family::V4, By::Frontend, "ROOT", 'A');
                fresh.change(there.iter().map(|number| entry(&tree, *number)).collect());
                let mut wanted = Rules::new();
                apply(fresh.all(), &mut wanted);
                assert_eq!(rules, wanted, "seed {seed}, step {step}");
            }
        }
    }

    #[test]
    fn a_changed_entry_among_many_rewrites_its_leaf_and_what_leads_to_it() {
        let mut tree = Tree::new(Family::V4, By::Frontend, "ROOT", 'A');
        tree.change((0..5000).map(|number| entry(&tree, number)).collect());
        let (path, _) = entry(&tree, 77);
        let changed = tree.change(BTreeMap::from([(path, Some(vec!["-j Y".to_owned()]))]));
        assert!(changed.len() <= 4, "{changed:?}");
    }

    #[test]
    fn ports_and_long_addresses_are_told_apart_too() {
        let mut tree = Tree::new(Family::V6, By::Port, "ROOT", 'N');
        let path = |port| tree.path(None, Some((Protocol::Udp, port)));
        let entries = (30_000..30_040).map(|port| (path(port), Some(vec![format!("{port}")])));
        let entries = entries.collect();
        tree.change(entries);
        let mut rules = Rules::new();
        apply(tree.all(), &mut rules);
        assert!(
            rules["ROOT"][0].starts_with("-p udp -m udp --dport 30000:30015 -g VIADUCT-N-"),
            "{rules:?}"
        );
        let tree = Tree::new(Family::V6, By::Destination, "ROOT", 'C');
        assert_eq!(tree.matching(&vec![0, 5]), "-d ::50/::f0");
        assert_eq!(tree.chain(&vec![7; 32]).len(), LONGEST - 2);
    }
}
