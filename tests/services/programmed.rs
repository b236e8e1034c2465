//! [`Programmed`]: what the tables of a namespace do with packets, in a form in which two can be compared.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;
use testnet::{Mode, Namespace, eventually};

/// The service that tells when the daemon has synced (see `Proxyd::await_sync`) says nothing.
const MARKERS: [&str; 2] = ["10.96.2", "fd00:96::fe:"];

/// Number to chain, for these maps.
const TARGETS: &str = "targets";
const FRONTENDS: [&str; 2] = ["services", "nodeports"];

/// A frontend whose number means nothing.
const NO_VERDICT: &str = "no verdict";

/// An endpoint whose number means nothing.
const NOWHERE: &str = "nowhere";

/// What is in force: lines whose order says nothing. Counters, handles, the order of endpoints, numbers of
/// session affinity, and chains that nothing leads to, do not show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Programmed {
    lines: BTreeSet<String>,
    flaws: Vec<String>,
}

impl Programmed {
    /// Both families' tables: all that is committed at once is one of these.
    pub(crate) fn of(namespace: &Namespace) -> Vec<Programmed> {
        let mode = Mode::of_tests();
        if let Mode::Iptables(_) = mode {
            let listed = mode.try_listed(namespace).expect("what iptables-save prints");
            return listed.iter().flat_map(|saved| Chains::parse(saved)).collect();
        }
        let families = ["ip", "ip6"].map(|family| {
            let text = namespace.try_command("nft", &["-j", "list", "table", family, "viaduct"]);
            // Where there is no table, nothing is in force.
            text.map_or_else(|_| Programmed::default(), |text| Table::parse(&text).programmed())
        });
        families.to_vec()
    }

    /// The same, once it does not change any more: a program that was started goes on without its daemon.
    pub(crate) fn at_rest(namespace: &Namespace) -> Vec<Programmed> {
        if Mode::of_tests() == Mode::Nftables {
            return Programmed::of(namespace);
        }
        let mut before = Programmed::of(namespace);
        eventually("nobody writes any more", Duration::from_secs(5), || {
            std::thread::sleep(Duration::from_millis(30));
            let now = Programmed::of(namespace);
            std::mem::replace(&mut before, now.clone()) == now
        });
        before
    }

    /// Frontends that lead to a choice among more or fewer endpoints than they have, or nowhere.
    pub(crate) fn flaws(&self) -> &[String] {
        &self.flaws
    }

    /// What only one of the two has.
    pub(crate) fn differences(&self, other: &Programmed) -> Vec<String> {
        let ours = self.lines.difference(&other.lines).map(|line| format!("- {line}"));
        ours.chain(other.lines.difference(&self.lines).map(|line| format!("+ {line}"))).collect()
    }
}

type Key = Vec<String>;

/// A table as nft lists it.
#[derive(Default)]
struct Table {
    base_chains: Vec<String>,
    rules: BTreeMap<String, Vec<Value>>,
    maps: BTreeMap<String, BTreeMap<Key, Value>>,
    sets: BTreeMap<String, Vec<Key>>,
}

impl Table {
    fn parse(text: &str) -> Table {
        let listed: Value = serde_json::from_str(text).expect("nft writes JSON");
        let mut table = Table::default();
        for object in listed["nftables"].as_array().expect("a list of objects") {
            let name = |object: &Value| object["name"].as_str().unwrap_or_default().to_owned();
            let elements = |object: &Value| object["elem"].as_array().cloned().unwrap_or_default();
            if let Some(chain) = object.get("chain") {
                table.rules.entry(name(chain)).or_default();
                if chain.get("hook").is_some() {
                    table.base_chains.push(name(chain));
                }
            } else if let Some(rule) = object.get("rule") {
                let chain = rule["chain"].as_str().expect("a rule's chain").to_owned();
                let mut seen = serde_json::json!([rule["comment"], rule["expr"]]);
                without_counts(&mut seen);
                table.rules.entry(chain).or_default().push(seen);
            } else if let Some(map) = object.get("map") {
                let of = elements(map).into_iter().map(|pair| (key(&pair[0]), pair[1].clone()));
                table.maps.insert(name(map), of.collect());
            } else if let Some(set) = object.get("set") {
                table.sets.insert(name(set), elements(set).iter().map(key).collect());
            }
        }
        table.maps.remove("affinity");
        table.resolve_targets();
        table
    }

    /// Frontends lead to chains by numbers, which mean nothing: the chains take their places.
    fn resolve_targets(&mut self) {
        let targets = self.maps.remove(TARGETS).unwrap_or_default();
        for map in FRONTENDS {
            for value in self.maps.get_mut(map).into_iter().flat_map(BTreeMap::values_mut) {
                let verdict = targets.get(&vec![plain(value)]);
                *value = verdict.cloned().unwrap_or_else(|| NO_VERDICT.into());
            }
        }
    }

    /// The verdicts of a map; those of [`TARGETS`] are the ones that frontends lead to.
    fn verdicts<'t>(&'t self, map: &'t str) -> impl Iterator<Item = &'t Value> {
        let named = if map == TARGETS { &FRONTENDS[..] } else { std::slice::from_ref(&map) };
        let named: Vec<&str> = named.to_vec();
        named.into_iter().filter_map(|map| self.maps.get(map)).flat_map(BTreeMap::values)
    }

    fn programmed(&self) -> Programmed {
        let mut all = Programmed::default();
        for chain in self.chains_in_use() {
            for (place, rule) in self.rules.get(&chain).into_iter().flatten().enumerate() {
                all.lines.insert(format!("chain {chain}, rule {place}: {rule}"));
            }
        }
        for (set, key) in
            self.sets.iter().flat_map(|(set, keys)| keys.iter().map(move |k| (set, k)))
        {
            all.lines.insert(format!("{set}: {}", key.join(" ")));
        }
        for (map, elements) in &self.maps {
            for (key, value) in elements {
                match target(value) {
                    Some(chain) => {
                        all.lines.insert(format!("{map}: {} -> {value}", key.join(" ")));
                        all.flaws.extend(self.flaw(map, key, chain));
                    }
                    None if value == NO_VERDICT => {
                        all.flaws.push(format!("{map}: {} leads nowhere", key.join(" ")));
                    }
                    None => all.lines.extend(self.endpoint_line(map, key, value)),
                }
            }
        }
        all.lines.retain(|line| !MARKERS.iter().any(|marker| line.contains(marker)));
        all
    }

    /// Base chains, and all that packets can come to from there.
    fn chains_in_use(&self) -> BTreeSet<String> {
        let mut used = BTreeSet::new();
        let mut ahead = self.base_chains.clone();
        while let Some(chain) = ahead.pop() {
            for rule in self.rules.get(&chain).into_iter().flatten() {
                ahead.extend(targets(rule));
                for map in found(rule, "vmap").iter().filter_map(|vmap| map_name(vmap)) {
                    ahead.extend(self.verdicts(map).filter_map(target).map(str::to_owned));
                }
            }
            used.insert(chain);
            ahead.retain(|chain| !used.contains(chain));
        }
        used
    }

    /// An endpoint without its place among the others and without its number.
    fn endpoint_line(&self, map: &str, key: &Key, value: &Value) -> Option<String> {
        if map == "backends" {
            // A number that a frontend's endpoint has shows there.
            let used = self.maps.iter().filter(|(name, _)| name.ends_with("endpoint-ids"));
            let used = used.flat_map(|(_, ids)| ids.values()).any(|id| vec![plain(id)] == *key);
            return (!used).then(|| format!("{map}: {} without a frontend", plain(value)));
        }
        let (_, frontend) = key.split_last()?;
        Some(format!("{map}: {} -> {}", frontend.join(" "), self.endpoint(value)))
    }

    /// The address and port, directly or by number.
    fn endpoint(&self, value: &Value) -> String {
        if value.get("concat").is_some() {
            return plain(value);
        }
        let backend = self.maps.get("backends").and_then(|all| all.get(&vec![plain(value)]));
        backend.map_or_else(|| NOWHERE.to_owned(), plain)
    }

    /// What is wrong with where an element of a verdict map leads.
    fn flaw(&self, map: &str, frontend: &Key, chain: &str) -> Option<String> {
        let what = format!("{map}: {} -> {chain}", frontend.join(" "));
        let Some(rules) = self.rules.get(chain).filter(|rules| !rules.is_empty()) else {
            return Some(format!("{what}, which has no rules"));
        };
        let has = |map: &str| self.maps.get(map).is_some_and(|all| all.contains_key(frontend));
        let onwards: Vec<&Value> = rules.iter().flat_map(|rule| found(rule, "vmap")).collect();
        let nowhere = onwards.iter().any(|vmap| !map_name(vmap).is_some_and(has));
        if nowhere && !has("no-endpoints") && !has("no-endpoint-nodeports") {
            return Some(format!("{what}, and nothing beyond"));
        }
        for (endpoints, number) in self.choices(chain) {
            let of = |place: u64| {
                let key = [frontend.as_slice(), &[place.to_string()]].concat();
                self.maps.get(&endpoints)?.get(&key).map(|value| self.endpoint(value))
            };
            let places: Vec<Option<String>> = (0..=number).map(of).collect();
            let (beyond, chosen) = places.split_last().expect("a place at least");
            if beyond.is_some()
                || !chosen.iter().all(|at| at.as_ref().is_some_and(|at| at != NOWHERE))
            {
                return Some(format!(
                    "{what}: one of {number} in {endpoints}, where are {places:?}"
                ));
            }
        }
        None
    }

    /// The random choices in a chain and those it leads to: the map, and among how many.
    fn choices(&self, chain: &str) -> Vec<(String, u64)> {
        let mut all = Vec::new();
        for rule in self.rules.get(chain).into_iter().flatten() {
            for map in found(rule, "map") {
                let random = found(map, "numgen").first().and_then(|random| random["mod"].as_u64());
                all.extend(map_name(map).map(str::to_owned).zip(random));
            }
            all.extend(targets(rule).iter().flat_map(|chain| self.choices(chain)));
        }
        all
    }
}

/// The values that have this name, at any depth.
fn found<'v>(value: &'v Value, name: &str) -> Vec<&'v Value> {
    match value {
        Value::Array(all) => all.iter().flat_map(|value| found(value, name)).collect(),
        Value::Object(all) => {
            let inside = all.values().flat_map(|value| found(value, name));
            all.get(name).into_iter().chain(inside).collect()
        }
        _ => Vec::new(),
    }
}

/// Where a verdict leads.
fn target(verdict: &Value) -> Option<&str> {
    let jump = verdict.get("goto").or_else(|| verdict.get("jump"))?;
    jump["target"].as_str()
}

/// The chains that a rule names.
fn targets(rule: &Value) -> Vec<String> {
    let jumps = [found(rule, "goto"), found(rule, "jump")].concat();
    jumps.iter().filter_map(|jump| jump["target"].as_str()).map(str::to_owned).collect()
}

fn map_name(lookup: &Value) -> Option<&str> {
    lookup["data"].as_str()?.strip_prefix('@')
}

fn without_counts(value: &mut Value) {
    match value {
        Value::Array(all) => all.iter_mut().for_each(without_counts),
        Value::Object(all) => {
            for (name, value) in all {
                if name == "counter" {
                    *value = Value::Null;
                }
                without_counts(value);
            }
        }
        _ => {}
    }
}

/// The fields of a key.
fn key(element: &Value) -> Key {
    let element = element.get("elem").map_or(element, |element| &element["val"]);
    let fields = element.get("concat").and_then(Value::as_array);
    fields.map_or_else(|| vec![plain(element)], |fields| fields.iter().map(plain).collect())
}

fn plain(value: &Value) -> String {
    if let Some(fields) = value.get("concat").and_then(Value::as_array) {
        return fields.iter().map(plain).collect::<Vec<_>>().join(" ");
    }
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// What the chains of a table of iptables do: the same for that mode.
struct Chains {
    rules: BTreeMap<String, Vec<String>>,
}

impl Chains {
    /// Every table that `iptables-save` prints.
    fn parse(saved: &str) -> Vec<Programmed> {
        let tables = saved.split("\n*").map(|table| {
            let mut chains = Chains { rules: BTreeMap::new() };
            for line in table.lines() {
                if let Some(chain) = line.strip_prefix(':').and_then(|rest| rest.split(' ').next())
                {
                    chains.rules.entry(chain.to_owned()).or_default();
                } else if let Some((chain, rule)) =
                    line.strip_prefix("-A ").and_then(|rest| rest.split_once(' '))
                {
                    chains.rules.entry(chain.to_owned()).or_default().push(rule.to_owned());
                }
            }
            let name = table.trim_start_matches('*').lines().next().unwrap_or_default();
            (name.to_owned(), chains)
        });
        let tables: BTreeMap<String, Chains> = tables.collect();
        // A table that nobody made does what an empty one does.
        let of = |name| tables.get(name).map_or_else(Programmed::default, Chains::programmed);
        ["mangle", "nat", "filter"].map(of).to_vec()
    }

    /// A node of a search tree: how deep the tree is says nothing.
    fn is_branch(chain: &str) -> bool {
        let mut parts = chain.split('-');
        parts.next() == Some("VIADUCT") && parts.next().is_some_and(|letter| letter.len() == 1)
    }

    fn programmed(&self) -> Programmed {
        let mut all = Programmed::default();
        let roots = self.rules.keys().filter(|chain| !Chains::is_branch(chain));
        for root in roots {
            self.add(root, root, &mut all);
        }
        all.lines.retain(|line| !MARKERS.iter().any(|marker| line.contains(marker)));
        all
    }

    fn add(&self, root: &str, chain: &str, all: &mut Programmed) {
        let rules = &self.rules[chain];
        if rules.is_empty() && chain != root {
            all.flaws.push(format!("{chain}, below {root}, is empty"));
        }
        let in_tree = rules.iter().any(|rule| rule.starts_with("-d ") || rule.starts_with("-s "));
        for (place, rule) in rules.iter().enumerate() {
            let target = rule.split(' ').next_back().unwrap_or_default();
            match self.rules.get(target) {
                Some(_) if Chains::is_branch(target) => self.add(root, target, all),
                Some(_) | None if in_tree || chain != root => {
                    all.lines.insert(format!("{root}: {rule}"));
                }
                Some(_) | None => {
                    all.lines.insert(format!("{root}, rule {place}: {rule}"));
                }
            }
            if target.starts_with("VIADUCT-") && !self.rules.contains_key(target) {
                all.flaws.push(format!("{chain}: {rule}: there is no such chain"));
            }
        }
    }
}
