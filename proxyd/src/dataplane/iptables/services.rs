//! The chains of Services: which follow from a frontend, and which change with it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use netlink::Family;

use super::fixed::{
    self, ADDRESSES, CLUSTER_IPS, HAIRPIN, NO_ENDPOINTS, NO_NODEPORTS, NODEPORTS, RANGES, from_to,
    set_mark,
};
use super::names::{ELSEWHERE, Own, REJECT, Table, client_list, clients, comment};
use super::tree::{By, Chains, Tree};
use crate::cluster::{Affinity, Protocol, ServicePortName};
use crate::dataplane::Node;
use crate::service::{Address, Backend, Frontend, FrontendKey, Masquerade, Resolution};

/// Rules of chains; `None` for those that are not to be.
pub(super) type Plan = BTreeMap<(Table, String), Option<Vec<String>>>;

/// The trees of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Which {
    Addresses,
    NodePorts,
    Hairpin,
    NoEndpoints,
    NoNodePorts,
    ClusterIps,
    Ranges,
}

impl Which {
    const ALL: [Which; 7] = [
        Which::Addresses,
        Which::NodePorts,
        Which::Hairpin,
        Which::NoEndpoints,
        Which::NoNodePorts,
        Which::ClusterIps,
        Which::Ranges,
    ];

    fn table(self) -> Table {
        match self {
            Which::Addresses | Which::NodePorts | Which::Hairpin => Table::Nat,
            Which::NoEndpoints | Which::NoNodePorts | Which::ClusterIps => Table::Filter,
            Which::Ranges => Table::Mangle,
        }
    }

    fn tree(self, family: Family) -> Tree {
        let (by, root, letter) = match self {
            Which::Addresses => (By::Frontend, ADDRESSES, 'A'),
            Which::NodePorts => (By::Port, NODEPORTS, 'N'),
            Which::Hairpin => (By::Source, HAIRPIN, 'H'),
            Which::NoEndpoints => (By::Frontend, NO_ENDPOINTS, 'E'),
            Which::NoNodePorts => (By::Port, NO_NODEPORTS, 'M'),
            Which::ClusterIps => (By::Destination, CLUSTER_IPS, 'C'),
            Which::Ranges => (By::Frontend, RANGES, 'R'),
        };
        Tree::new(family, by, root, letter)
    }
}

/// Changes of the entries of trees.
type Entries = BTreeMap<Which, BTreeMap<Vec<u8>, Option<Vec<String>>>>;

/// Services of a family as they are to be.
pub(super) struct Services {
    family: Family,
    node: Node,
    frontends: HashMap<FrontendKey, Frontend>,
    owners: HashMap<ServicePortName, BTreeSet<FrontendKey>>,
    /// How many frontends are of each ClusterIP, and of each endpoint on this node.
    cluster_ips: HashMap<IpAddr, usize>,
    hairpin: HashMap<IpAddr, usize>,
    trees: BTreeMap<Which, Tree>,
    /// Nobody is kept out of these any more, but for what is in the kernel: see [`Services::open`].
    opening: BTreeSet<FrontendKey>,
}

impl Services {
    /// None yet.
    pub(super) fn new(family: Family, node: Node) -> Services {
        Services {
            family,
            node,
            frontends: HashMap::new(),
            owners: HashMap::new(),
            cluster_ips: HashMap::new(),
            hairpin: HashMap::new(),
            trees: Which::ALL.map(|which| (which, which.tree(family))).into(),
            opening: BTreeSet::new(),
        }
    }

    /// What the rules depend on besides Services.
    pub(super) fn node(&self) -> &Node {
        &self.node
    }

    /// Plans all anew, with what the rules depend on besides.
    pub(super) fn set_node(&mut self, node: Node) {
        let before = std::mem::replace(self, Services::new(self.family, node));
        self.change(before.frontends.iter().map(|(key, frontend)| (*key, Some(frontend))));
        self.were_restricted(before.opening);
    }

    /// All frontends.
    pub(super) fn frontends(&self) -> &HashMap<FrontendKey, Frontend> {
        &self.frontends
    }

    /// Whether somebody is kept out of a frontend.
    pub(super) fn restricted(&self) -> bool {
        self.trees.get(&Which::Ranges).is_some_and(|tree| !tree.is_empty())
    }

    /// Frontends out of which somebody is kept in the kernel: [`Services::open`] is what ends that.
    pub(super) fn were_restricted(&mut self, keys: impl IntoIterator<Item = FrontendKey>) {
        let open = |key: &FrontendKey| {
            self.frontends.get(key).is_none_or(|frontend| frontend.source_ranges.is_none())
        };
        self.opening = keys.into_iter().filter(open).collect();
        self.restrict(&self.opening.clone(), true);
    }

    /// Lets everybody in where that is to be: which chains change by it. It comes after all other changes, since
    /// a Service that goes must not be open to all while it is still served.
    pub(super) fn open(&mut self) -> Plan {
        let keys = std::mem::take(&mut self.opening);
        let mut plan = self.restrict(&keys, false);
        plan.extend(keys.iter().map(|key| ((Table::Mangle, clients(key)), None)));
        if !plan.is_empty() && !self.restricted() {
            plan.insert((Table::Mangle, RANGES.to_owned()), None);
        }
        plan
    }

    fn restrict(&mut self, keys: &BTreeSet<FrontendKey>, restricted: bool) -> Plan {
        let (mut entries, mut plan) = (Entries::new(), Plan::new());
        for key in keys {
            let rule = restricted.then(|| vec![to_clients(key)]);
            self.entry(Which::Ranges, ip_of(key), Some(key), rule, &mut entries);
        }
        self.change_trees(entries, &mut plan);
        plan
    }

    /// The rules of every chain.
    pub(super) fn everything(&self) -> Plan {
        let mut plan = Plan::new();
        for (table, chain, rules) in fixed::chains(self.family, &self.node) {
            plan.insert((table, chain.to_owned()), Some(rules));
        }
        for (which, tree) in &self.trees {
            if *which != Which::Ranges || !tree.is_empty() {
                add(&mut plan, which.table(), tree.all());
            }
        }
        for owner in self.owners.keys() {
            self.owner_chains(owner, &mut plan);
        }
        for (key, frontend) in &self.frontends {
            clients_chain(key, Some(frontend), &mut plan);
        }
        plan.retain(|_, rules| rules.is_some());
        plan
    }

    /// Replaces frontends of this family, or removes them; tells which chains change by it. [`Services::open`]
    /// does the rest.
    pub(super) fn change<'a>(
        &mut self,
        entries: impl Iterator<Item = (FrontendKey, Option<&'a Frontend>)>,
    ) -> Plan {
        let mut plan = Plan::new();
        let mut owners: HashSet<ServicePortName> = HashSet::new();
        let mut trees = Entries::new();
        let mut ips = [HashSet::new(), HashSet::new()];
        for (key, frontend) in entries {
            let mut was_restricted = false;
            if let Some(before) = self.frontends.remove(&key) {
                was_restricted = before.source_ranges.is_some();
                self.count(&key, &before, false, &mut ips);
                let owner = &before.lists.owner;
                let own = self.owners.entry(owner.clone()).or_default();
                own.remove(&key);
                owners.insert(owner.clone());
            }
            if let Some(frontend) = frontend {
                self.count(&key, frontend, true, &mut ips);
                let owner = &frontend.lists.owner;
                self.owners.entry(owner.clone()).or_default().insert(key);
                owners.insert(owner.clone());
                self.frontends.insert(key, frontend.clone());
            }
            self.entries(&key, frontend, &mut trees);
            clients_chain(&key, frontend, &mut plan);
            if frontend.is_some_and(|frontend| frontend.source_ranges.is_some()) {
                self.opening.remove(&key);
            } else if was_restricted {
                self.opening.insert(key);
            }
        }
        let [cluster_ips, hairpin] = ips;
        for ip in cluster_ips {
            let there = self.cluster_ips.contains_key(&ip);
            let rule = || vec![format!("-d {} -j {REJECT}", host(ip))];
            self.entry(Which::ClusterIps, Some(ip), None, there.then(rule), &mut trees);
        }
        for ip in hairpin {
            let there = self.hairpin.contains_key(&ip);
            let rule = || vec![format!("-s {0} -d {0} -j MASQUERADE --random-fully", host(ip))];
            self.entry(Which::Hairpin, Some(ip), None, there.then(rule), &mut trees);
        }
        self.change_trees(trees, &mut plan);
        for owner in owners {
            self.owner_chains(&owner, &mut plan);
            if self.owners.get(&owner).is_some_and(BTreeSet::is_empty) {
                self.owners.remove(&owner);
            }
        }
        plan
    }

    fn change_trees(&mut self, trees: Entries, plan: &mut Plan) {
        for (which, entries) in trees {
            if let Some(tree) = self.trees.get_mut(&which) {
                add(plan, which.table(), tree.change(entries));
            }
        }
    }

    fn count(
        &mut self,
        key: &FrontendKey,
        frontend: &Frontend,
        up: bool,
        touched: &mut [HashSet<IpAddr>; 2],
    ) {
        let cluster_ip = match key.address {
            Address::Ip(ip) if frontend.cluster_ip => Some(ip),
            _ => None,
        };
        let counts = [&mut self.cluster_ips, &mut self.hairpin];
        let ips = [cluster_ip.as_slice(), &frontend.lists.hairpin];
        for ((count, ips), touched) in counts.into_iter().zip(ips).zip(touched) {
            for ip in ips {
                touched.insert(*ip);
                let number = count.entry(*ip).or_default();
                *number = if up { *number + 1 } else { number.saturating_sub(1) };
                if *number == 0 {
                    count.remove(ip);
                }
            }
        }
    }

    fn entry(
        &self,
        which: Which,
        ip: Option<IpAddr>,
        key: Option<&FrontendKey>,
        rules: Option<Vec<String>>,
        entries: &mut Entries,
    ) {
        if let Some(tree) = self.trees.get(&which) {
            let path = tree.path(ip, key.map(|key| (key.protocol, key.port)));
            entries.entry(which).or_default().insert(path, rules);
        }
    }

    /// What a frontend has in the trees.
    fn entries(&self, key: &FrontendKey, frontend: Option<&Frontend>, entries: &mut Entries) {
        let to = to_frontend(key);
        let (ip, served, unserved) = match key.address {
            Address::Ip(ip) => (Some(ip), Which::Addresses, Which::NoEndpoints),
            Address::Node(_) => (None, Which::NodePorts, Which::NoNodePorts),
        };
        let go =
            |own: Own, frontend: &Frontend| format!("{to} -g {}", own.of(&frontend.lists.owner));
        let serve = frontend.and_then(|frontend| match frontend.resolution {
            Resolution::Cluster(Masquerade::Always) => {
                let mark = format!("{to} {}", set_mark(&self.node));
                Some(vec![mark, go(Own::Cluster, frontend)])
            }
            Resolution::Cluster(Masquerade::OffCluster) => Some(vec![go(Own::Cluster, frontend)]),
            Resolution::Local => Some(vec![go(Own::Local, frontend)]),
            Resolution::ByOrigin => Some(vec![go(Own::External, frontend)]),
            Resolution::Reject | Resolution::Drop => None,
        });
        self.entry(served, ip, Some(key), serve, entries);
        let refuse = frontend.and_then(|frontend| {
            let (why, verdict) = match frontend.resolution {
                Resolution::Reject => ("has no endpoints", REJECT),
                Resolution::Drop => ("has no local endpoints", "DROP"),
                Resolution::ByOrigin if frontend.lists.local.is_empty() => {
                    ("has no local endpoints", "DROP")
                }
                _ => return None,
            };
            let why = comment(format_args!("{} {why}", frontend.lists.owner));
            Some(vec![format!("{to} {why} -j {verdict}")])
        });
        self.entry(unserved, ip, Some(key), refuse, entries);
        if ip.is_some() && frontend.is_some_and(|frontend| frontend.source_ranges.is_some()) {
            self.entry(Which::Ranges, ip, Some(key), Some(vec![to_clients(key)]), entries);
        }
    }

    /// The chains of a Service port.
    fn owner_chains(&self, owner: &ServicePortName, plan: &mut Plan) {
        let keys = self.owners.get(owner).into_iter().flatten();
        let frontends: Vec<(&FrontendKey, &Frontend)> =
            keys.filter_map(|key| Some((key, self.frontends.get(key)?))).collect();
        let resolves =
            |to: fn(&Resolution) -> bool| frontends.iter().any(|(_, f)| to(&f.resolution));
        let external = resolves(|to| *to == Resolution::ByOrigin);
        let cluster = external || resolves(|to| matches!(to, Resolution::Cluster(_)));
        let lists = frontends.first().map(|(_, frontend)| &frontend.lists);
        let has_local = lists.is_some_and(|lists| !lists.local.is_empty());
        let local = resolves(|to| *to == Resolution::Local) || (external && has_local);
        for own in Own::ALL {
            let rules = match (own, lists) {
                (Own::Cluster, Some(lists)) if cluster => {
                    let mut rules = self.off_cluster(owner, &frontends);
                    balance(owner, &lists.cluster, lists.affinity, &mut rules);
                    Some(rules)
                }
                (Own::Local, Some(lists)) if local => {
                    let mut rules = self.off_cluster(owner, &frontends);
                    balance(owner, &lists.local, lists.affinity, &mut rules);
                    Some(rules)
                }
                (Own::External, Some(_)) if external => Some(self.external(owner, has_local)),
                _ => None,
            };
            plan.insert((Table::Nat, own.of(owner)), rules);
        }
    }

    /// A ClusterIP is for pods; others that use it are seen as the node.
    fn off_cluster(
        &self,
        owner: &ServicePortName,
        frontends: &[(&FrontendKey, &Frontend)],
    ) -> Vec<String> {
        let ips = frontends.iter().filter_map(|(key, frontend)| match key.address {
            Address::Ip(ip) if frontend.cluster_ip => Some(ip),
            _ => None,
        });
        ips.map(|ip| format!("-d {} {} -j {ELSEWHERE}", host(ip), comment(owner))).collect()
    }

    fn external(&self, owner: &ServicePortName, has_local: bool) -> Vec<String> {
        let all = format!("-g {}", Own::Cluster.of(owner));
        let from_node = "-m addrtype --src-type LOCAL";
        let from_pods = fixed::from_pods(self.family, &self.node);
        let mut rules: Vec<String> = from_pods.iter().map(|from| format!("{from}{all}")).collect();
        rules.push(format!("{from_node} {}", set_mark(&self.node)));
        rules.push(format!("{from_node} {all}"));
        rules.extend(has_local.then(|| format!("-g {}", Own::Local.of(owner))));
        rules
    }
}

fn add(plan: &mut Plan, table: Table, chains: Chains) {
    plan.extend(chains.into_iter().map(|(chain, rules)| ((table, chain), rules)));
}

fn host(ip: IpAddr) -> String {
    let length = if ip.is_ipv4() { 32 } else { 128 };
    format!("{ip}/{length}")
}

fn to_frontend(key: &FrontendKey) -> String {
    let port = format!("-p {0} -m {0} --dport {1}", key.protocol, key.port);
    match key.address {
        Address::Ip(ip) => format!("-d {} {port}", host(ip)),
        Address::Node(_) => port,
    }
}

fn ip_of(key: &FrontendKey) -> Option<IpAddr> {
    match key.address {
        Address::Ip(ip) => Some(ip),
        Address::Node(_) => None,
    }
}

/// The rule that leads to the clients that a frontend lets in.
fn to_clients(key: &FrontendKey) -> String {
    format!("{} -g {}", to_frontend(key), clients(key))
}

/// The frontend that such a rule is for.
pub(super) fn restricted_by(rule: &str) -> Option<FrontendKey> {
    let words: Vec<&str> = rule.split(' ').collect();
    let after = |option| words.iter().skip_while(|word| **word != option).nth(1);
    let ip = after("-d")?.split('/').next()?.parse().ok()?;
    let protocol = Protocol::from_api(&after("-p")?.to_uppercase())?;
    let port = after("--dport")?.parse().ok()?;
    let key = FrontendKey { address: Address::Ip(ip), protocol, port };
    (to_clients(&key) == rule).then_some(key)
}

/// The clients that a frontend lets in.
fn clients_chain(key: &FrontendKey, frontend: Option<&Frontend>, plan: &mut Plan) {
    if let Some(ranges) = frontend.and_then(|frontend| frontend.source_ranges.as_deref()) {
        let allowed = ranges.iter().map(|range| format!("{}-j RETURN", from_to("-s", *range)));
        let rules = allowed.chain(["-j DROP".to_owned()]).collect();
        plan.insert((Table::Mangle, clients(key)), Some(rules));
    }
}

/// One of a list, each as likely as the others; with affinity the one that the client had, if it is there.
fn balance(
    owner: &ServicePortName,
    backends: &[Backend],
    affinity: Option<Affinity>,
    rules: &mut Vec<String>,
) {
    let protocol = owner.protocol;
    let recent = |backend: &Backend, what: &str| {
        let mask = if backend.ip.is_ipv4() {
            "255.255.255.255"
        } else {
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
        };
        let list = client_list(owner, backend);
        format!("-m recent {what} --name {list} --mask {mask} --rsource ")
    };
    if let Some(Affinity(timeout)) = affinity {
        let seen = format!("--update --seconds {timeout} --reap");
        rules.extend(backends.iter().map(|backend| {
            format!("-p {protocol} {}-j DNAT --to-destination {backend}", recent(backend, &seen))
        }));
    }
    for (at, backend) in backends.iter().enumerate() {
        let chance = match backends.len() - at {
            1 => String::new(),
            left => format!("-m statistic --mode random --probability {:.11} ", one_of(left)),
        };
        let remember = affinity.map(|_| recent(backend, "--set")).unwrap_or_default();
        rules.push(format!("-p {protocol} {chance}{remember}-j DNAT --to-destination {backend}"));
    }
}

/// The chance that the kernel makes of 1/n, which has 31 bits: what it is told as.
fn one_of(n: usize) -> f64 {
    let bits = f64::from(1u32 << 31);
    (bits / n as f64).round() / bits
}
