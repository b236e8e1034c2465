//! What another mode, or kube-proxy, left in the kernel.
//!
//! Its rules would go on translating connections to endpoints that are long gone. The chains of the
//! kubelet and of everybody else stay.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result};
use netlink::ipset::{Ipset, NAME_MAX};
use netlink::nftables::{NftSocket, Table, TableFamily, Transaction};
use netlink::{Family, Prefix, RouteSocket};

use super::programs::{self, TABLES, Variant, legacy_tables};
use super::{FAMILIES, ipvs};
use crate::config::Mode;

/// kube-proxy's tables in nftables mode.
const KUBE_PROXY: [Table<'static>; 2] = [
    Table { family: TableFamily::Ip, name: "kube-proxy" },
    Table { family: TableFamily::Ip6, name: "kube-proxy" },
];
/// Our own, of Services.
const VIADUCT: [Table<'static>; 2] = [
    Table { family: TableFamily::Ip, name: "viaduct" },
    Table { family: TableFamily::Ip6, name: "viaduct" },
];
/// Our own, of policies in every mode.
const POLICY: [Table<'static>; 2] = [
    Table { family: TableFamily::Inet, name: "viaduct-policy" },
    Table { family: TableFamily::Bridge, name: "viaduct-policy" },
];
/// The device that IPVS modes bind Service addresses to.
const IPVS_DEVICE: &str = "kube-ipvs0";
/// kube-proxy's chains, of its iptables and IPVS modes. Others begin with `KUBE-` too: the kubelet's,
/// and those of policy agents and runtimes (`KUBE-ROUTER-…`, `KUBE-POD-FW-…`, `KUBE-HOSTPORTS`).
const CHAINS: [&str; 13] = [
    "KUBE-SERVICES",
    "KUBE-EXTERNAL-SERVICES",
    "KUBE-NODEPORTS",
    "KUBE-POSTROUTING",
    "KUBE-MARK-MASQ",
    "KUBE-FORWARD",
    "KUBE-PROXY-FIREWALL",
    "KUBE-PROXY-CANARY",
    "KUBE-NODE-PORT",
    "KUBE-LOAD-BALANCER",
    "KUBE-SOURCE-RANGES-FIREWALL",
    "KUBE-IPVS-FILTER",
    "KUBE-IPVS-OUT-FILTER",
];
/// kube-proxy's sets in IPVS mode, without `KUBE-`, or `KUBE-6-` for IPv6.
const SETS: [&str; 18] = [
    "LOOP-BACK",
    "CLUSTER-IP",
    "EXTERNAL-IP",
    "EXTERNAL-IP-LOCAL",
    "LOAD-BALANCER",
    "LOAD-BALANCER-FW",
    "LOAD-BALANCER-LOCAL",
    "LOAD-BALANCER-SOURCE-IP",
    "LOAD-BALANCER-SOURCE-CIDR",
    "NODE-PORT-TCP",
    "NODE-PORT-UDP",
    "NODE-PORT-SCTP-HASH",
    "NODE-PORT-LOCAL-TCP",
    "NODE-PORT-LOCAL-UDP",
    "NODE-PORT-LOCAL-SCTP-HASH",
    "HEALTH-CHECK-NODE-PORT",
    "IPVS-IPS",
    "NODE-PORT-LOCAL",
];
/// The beginnings of those that each Service or endpoint has.
const PREFIXES: [&str; 6] =
    ["KUBE-SVC-", "KUBE-SVL-", "KUBE-SEP-", "KUBE-FW-", "KUBE-EXT-", "KUBE-XLB-"];
/// The beginning of ours.
const OWN: &str = "VIADUCT-";
/// The module of ipset, loaded or built in.
const IPSET_MODULE: &str = "/sys/module/ip_set";
/// What to do where a program of iptables is missing.
const WHERE_PROGRAMS_ARE: &str = "run `proxyd cleanup` where the programs of iptables are";

/// What was removed, and what could not be.
#[derive(Debug, Default)]
pub struct Removal {
    /// Objects that are gone, in words.
    pub removed: Vec<String>,
    /// Objects that are not.
    pub failed: Vec<Failure>,
    /// What is in use and cannot be looked into, and why; it need not have anything to remove.
    pub unseen: Vec<String>,
}

/// Why objects could not be removed.
#[derive(Debug)]
pub struct Failure {
    /// Of which families they are.
    pub families: Vec<Family>,
    /// What went wrong, naming the objects.
    pub error: anyhow::Error,
}

impl Removal {
    fn note(&mut self, families: &[Family], outcome: Result<Option<String>>) {
        match outcome {
            Ok(removed) => self.removed.extend(removed),
            Err(error) => self.failed.push(Failure { families: families.to_vec(), error }),
        }
    }

    fn delete_tables(&mut self, tables: &[Table<'_>]) {
        for table in tables {
            let families = match table.family {
                TableFamily::Ip => &[Family::V4],
                TableFamily::Ip6 => &[Family::V6],
                TableFamily::Inet | TableFamily::Bridge => &FAMILIES[..],
            };
            self.note(families, delete_table(*table));
        }
    }

    /// What is left, and why.
    pub fn left(&self) -> Vec<String> {
        let failed = self.failed.iter().map(|failure| format!("{:#}", failure.error));
        failed.chain(self.unseen.iter().cloned()).collect()
    }
}

/// What there is before anything is removed.
#[derive(Debug, Default)]
pub struct Found {
    /// Objects of kube-proxy's, in words.
    pub kube_proxys: Vec<String>,
    /// What is in use and cannot be looked into, and why.
    pub unseen: Vec<String>,
}

/// What of iptables keeps its chains: where it is the mode, ours stay in the variant that is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Nothing: kube-proxy's chains go, and ours.
    Nothing,
    /// Our own chains in this variant.
    OursIn(Variant),
}

impl Keep {
    fn removes(self, variant: Variant, chain: &str) -> bool {
        is_kube_proxys(chain) || (chain.starts_with(OWN) && self != Keep::OursIn(variant))
    }
}

/// Removes what would get in the way of a mode: what kube-proxy made, and what our other modes did.
pub fn remove_others(mode: Mode, keep: Keep, spared: &[Prefix]) -> Removal {
    let mut removal = Removal::default();
    removal.delete_tables(&KUBE_PROXY);
    if mode == Mode::Iptables {
        removal.delete_tables(&VIADUCT);
    }
    if mode != Mode::Ipvs {
        // The device tells whose virtual servers these are: it stays as long as they do.
        let servers = delete_virtual_servers(spared);
        let gone = servers.is_ok();
        removal.note(&FAMILIES, servers);
        if gone {
            removal.note(&FAMILIES, delete_device());
        }
    }
    for family in FAMILIES {
        for variant in [Variant::Nft, Variant::Legacy] {
            match clean_iptables(family, variant, keep) {
                Err(error) if variant == Variant::Legacy && is_program_missing(&error) => {
                    removal.unseen.push(unseen(family, variant, &error));
                }
                outcome => {
                    let what = || {
                        format!("remove the chains of kube-proxy from {}", variant.title(family))
                    };
                    removal.note(&[family], outcome.with_context(what));
                }
            }
        }
    }
    // Now that their rules are gone.
    delete_sets(&mut removal);
    removal
}

/// Removes everything that any mode of ours or of kube-proxy makes, but virtual servers in these networks.
pub fn remove_all(spared: &[Prefix]) -> Removal {
    let mut removal = remove_others(Mode::Nftables, Keep::Nothing, spared);
    removal.delete_tables(&VIADUCT);
    removal.delete_tables(&POLICY);
    removal
}

/// What of kube-proxy's is in the kernel, but virtual servers in these networks.
pub fn find(spared: &[Prefix]) -> Found {
    let mut found = Found::default();
    for table in KUBE_PROXY.into_iter().filter(|table| has_table(*table)) {
        found.kube_proxys.push(format!("nftables table {} {}", name_of(table.family), table.name));
    }
    // Beside tables of ours they are ours.
    if !VIADUCT.into_iter().any(has_table) && ipvs::has_device().unwrap_or(false) {
        let servers = ipvs::servers(spared).map_or(0, |servers| servers.len());
        found.kube_proxys.push(format!("device {IPVS_DEVICE} with {servers} virtual servers"));
    }
    for family in FAMILIES {
        for variant in [Variant::Nft, Variant::Legacy] {
            let title = variant.title(family);
            match removable(family, variant, is_kube_proxys) {
                Ok(None) => {}
                Ok(Some((_, chains))) => {
                    found.kube_proxys.push(format!("{chains} chains of {title}"))
                }
                Err(error) => {
                    // The kernel itself has told their names.
                    if variant == Variant::Nft && is_program_missing(&error) {
                        found.kube_proxys.push(format!("chains of {title}"));
                    }
                    found.unseen.push(unseen(family, variant, &error));
                }
            }
        }
    }
    let sets = count_sets();
    if sets > 0 {
        found.kube_proxys.push(format!("{sets} ipsets"));
    }
    found
}

fn has_table(table: Table<'_>) -> bool {
    let comment = NftSocket::open().and_then(|mut socket| socket.table_comment(table));
    comment.is_ok_and(|comment| comment.is_some())
}

fn name_of(family: TableFamily) -> &'static str {
    match family {
        TableFamily::Inet => "inet",
        TableFamily::Ip => "ip",
        TableFamily::Ip6 => "ip6",
        TableFamily::Bridge => "bridge",
    }
}

fn delete_table(table: Table<'_>) -> Result<Option<String>> {
    let what = format!("nftables table {} {}", name_of(table.family), table.name);
    let mut transaction = Transaction::default();
    transaction.delete_table(table);
    match NftSocket::open().and_then(|mut socket| socket.commit(transaction)) {
        Ok(()) => Ok(Some(what)),
        // A kernel without nf_tables has none.
        Err(error) if error.not_found() || error.unsupported() => Ok(None),
        Err(error) => Err(error).with_context(|| format!("delete {what}")),
    }
}

fn delete_virtual_servers(spared: &[Prefix]) -> Result<Option<String>> {
    let count = ipvs::remove(spared).context("remove virtual servers of IPVS")?;
    Ok((count > 0).then(|| format!("{count} virtual servers of IPVS")))
}

/// To ask for sets loads the module, and without it there are none.
fn open_ipset() -> netlink::Result<Option<Ipset>> {
    Path::new(IPSET_MODULE).exists().then(Ipset::open).transpose()
}

/// Names of kube-proxy's sets, each with its family.
fn set_names() -> impl Iterator<Item = (Family, String)> {
    let named = |(family, start)| SETS.iter().map(move |name| (family, format!("{start}{name}")));
    let names = [(Family::V4, "KUBE-"), (Family::V6, "KUBE-6-")].into_iter().flat_map(named);
    names.map(|(family, mut name)| {
        name.truncate(NAME_MAX);
        (family, name)
    })
}

fn count_sets() -> usize {
    let Ok(Some(mut sets)) = open_ipset() else { return 0 };
    set_names().filter(|(_, name)| sets.list(name).is_ok_and(|set| set.is_some())).count()
}

fn delete_sets(removal: &mut Removal) {
    let mut sets = match open_ipset() {
        Ok(Some(sets)) => sets,
        Ok(None) => return,
        Err(error) => return removal.note(&FAMILIES, Err(error).context("remove ipsets")),
    };
    let mut count = 0;
    for (family, name) in set_names() {
        match sets.destroy(&name) {
            Ok(destroyed) => count += usize::from(destroyed),
            Err(error) => removal.note(&[family], Err(error.into())),
        }
    }
    if count > 0 {
        removal.removed.push(format!("{count} ipsets of kube-proxy"));
    }
}

fn delete_device() -> Result<Option<String>> {
    let deleted = RouteSocket::open().and_then(|mut socket| {
        let link = socket.link_by_name(IPVS_DEVICE)?;
        // A name alone does not make a device of somebody's ours.
        match link.filter(|link| link.kind.as_deref() == Some("dummy")) {
            Some(link) => socket.delete_link(link.index).map(|()| true),
            None => Ok(false),
        }
    });
    let deleted = deleted.with_context(|| format!("delete device {IPVS_DEVICE}"))?;
    Ok(deleted.then(|| format!("device {IPVS_DEVICE}")))
}

fn is_kube_proxys(chain: &str) -> bool {
    CHAINS.contains(&chain) || PREFIXES.iter().any(|prefix| chain.starts_with(prefix))
}

fn clean_iptables(family: Family, variant: Variant, keep: Keep) -> Result<Option<String>> {
    let goes = |chain: &str| keep.removes(variant, chain);
    let Some((script, chains)) = removable(family, variant, goes)? else { return Ok(None) };
    variant.restore(family, &script)?;
    Ok(Some(format!("{chains} chains of {}", variant.title(family))))
}

/// The script that removes chains of these names, and how many these are, if there are any.
fn removable(
    family: Family,
    variant: Variant,
    goes: impl Fn(&str) -> bool,
) -> Result<Option<(String, usize)>> {
    if !variant.may_have(family, &goes)? {
        return Ok(None);
    }
    let saved = variant.save(family).map_err(|failure| {
        let missing = matches!(failure, programs::Failure::Missing(_));
        let error = anyhow::Error::new(failure);
        if missing { error.context(WHERE_PROGRAMS_ARE) } else { error }
    })?;
    let (script, chains) = removal_script(&saved, goes);
    Ok((chains > 0).then_some((script, chains)))
}

fn is_program_missing(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(programs::Failure::Missing(_)))
}

/// In words, what cannot be looked into.
fn unseen(family: Family, variant: Variant, error: &anyhow::Error) -> String {
    let title = variant.title(family);
    match variant {
        Variant::Nft => format!("{title}: {error:#}"),
        Variant::Legacy => format!("{title} ({}): {error:#}", legacy_tables(family).join(", ")),
    }
}

/// From the output of `iptables-save`, the input of `iptables-restore --noflush` that removes the chains
/// of these names and the rules that lead to them; and how many chains these are.
fn removal_script(saved: &str, goes: impl Fn(&str) -> bool) -> (String, usize) {
    let mut script = String::new();
    let mut count = 0;
    for table in saved.split("\n*").map(|table| table.trim_start_matches('*')) {
        let mut lines = table.lines();
        let Some(name) = lines.next().filter(|name| TABLES.contains(name)) else { continue };
        let (mut chains, mut jumps) = (BTreeSet::new(), Vec::new());
        for line in lines {
            if let Some(declared) = line.strip_prefix(':') {
                let chain = declared.split(' ').next().unwrap_or_default();
                if goes(chain) {
                    chains.insert(chain);
                }
            } else if let Some(rule) = line.strip_prefix("-A ") {
                let mut words = rule.split(' ');
                let outside = words.next().is_some_and(|chain| !goes(chain));
                let words: Vec<&str> = words.collect();
                let mut pairs = words.windows(2);
                if outside && pairs.any(|pair| matches!(pair[0], "-j" | "-g") && goes(pair[1])) {
                    jumps.push(rule);
                }
            }
        }
        if chains.is_empty() {
            continue;
        }
        count += chains.len();
        script += &format!("*{name}\n");
        // To declare a chain empties it.
        script.extend(chains.iter().map(|chain| format!(":{chain} - [0:0]\n")));
        script.extend(jumps.iter().map(|rule| format!("-D {rule}\n")));
        script.extend(chains.iter().map(|chain| format!("-X {chain}\n")));
        script += "COMMIT\n";
    }
    (script, count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_of_others_that_have_such_names_are_not_kube_proxys() {
        for chain in [
            "KUBE-FIREWALL",
            "KUBE-KUBELET-CANARY",
            "KUBE-IPTABLES-HINT",
            "KUBE-MARK-DROP",
            "KUBE-ROUTER-FORWARD",
            "KUBE-POD-FW-ABCDEFGHIJKLMNOP",
            "KUBE-NWPLCY-DEFAULT",
            "KUBE-HOSTPORTS",
            "KUBE-HP-ABCDEFGHIJKLMNOP",
        ] {
            assert!(!is_kube_proxys(chain), "{chain}");
        }
    }

    #[test]
    fn our_chains_go_and_those_of_others_stay() {
        let saved = "\
# Generated by iptables-save v1.8.9
*mangle
:PREROUTING ACCEPT [0:0]
:KUBE-IPTABLES-HINT - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
COMMIT
# Completed
# Generated
*nat
:PREROUTING ACCEPT [0:0]
:DOCKER - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-SVC-X - [0:0]
-A PREROUTING -m comment --comment \"kubernetes service portals -j DOCKER\" -j KUBE-SERVICES
-A PREROUTING -m comment --comment \"see KUBE-SERVICES\" -j DOCKER
-A KUBE-SERVICES -d 10.96.0.1/32 -p tcp -j KUBE-SVC-X
COMMIT
*raw
:KUBE-UNKNOWN - [0:0]
COMMIT
";
        let (script, chains) = removal_script(saved, is_kube_proxys);
        assert_eq!(
            script,
            "\
*nat
:KUBE-SERVICES - [0:0]
:KUBE-SVC-X - [0:0]
-D PREROUTING -m comment --comment \"kubernetes service portals -j DOCKER\" -j KUBE-SERVICES
-X KUBE-SERVICES
-X KUBE-SVC-X
COMMIT
"
        );
        assert_eq!(chains, 2);
    }
}
