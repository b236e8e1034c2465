//! What another mode, or kube-proxy, left in the kernel.
//!
//! Its rules would go on translating connections to endpoints that are long gone. The chains of the
//! kubelet and of everybody else stay.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use netlink::ipset::{Ipset, NAME_MAX};
use netlink::nftables::{NftSocket, Table, TableFamily, Transaction};
use netlink::{Errno, Family, Prefix, RouteSocket};

use super::ipvs;
use super::programs::{TABLES, Variant};
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

/// What was removed, and what could not be.
#[derive(Debug, Default)]
pub struct Removal {
    /// Objects that are gone, in words.
    pub removed: Vec<String>,
    /// Errors, each naming its object.
    pub failed: Vec<anyhow::Error>,
}

impl Removal {
    fn note(&mut self, outcome: Result<Option<String>>) {
        match outcome {
            Ok(removed) => self.removed.extend(removed),
            Err(error) => self.failed.push(error),
        }
    }
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
    for table in KUBE_PROXY {
        removal.note(delete_table(table));
    }
    if mode == Mode::Iptables {
        for table in VIADUCT {
            removal.note(delete_table(table));
        }
    }
    if mode != Mode::Ipvs {
        // The device tells whose virtual servers these are: it stays as long as they do.
        let servers = delete_virtual_servers(spared);
        let gone = servers.is_ok();
        removal.note(servers);
        if gone {
            removal.note(delete_device());
        }
    }
    for family in [Family::V4, Family::V6] {
        for variant in [Variant::Nft, Variant::Legacy] {
            removal.note(clean_iptables(family, variant, keep));
        }
    }
    removal
}

/// Removes everything that any mode of ours or of kube-proxy makes.
pub fn remove_all() -> Removal {
    let mut removal = remove_others(Mode::Nftables, Keep::Nothing, &[]);
    // Their rules are gone by now. Not done by `run`: to ask may load a kernel module, and sets alone do nothing.
    removal.note(delete_sets());
    for table in VIADUCT.into_iter().chain(POLICY) {
        removal.note(delete_table(table));
    }
    removal
}

/// What of kube-proxy's is in the kernel, in words; to be removed.
pub fn kube_proxys() -> Vec<String> {
    let mut found = Vec::new();
    for table in KUBE_PROXY {
        let comment = NftSocket::open().and_then(|mut socket| socket.table_comment(table));
        if comment.is_ok_and(|comment| comment.is_some()) {
            found.push(format!("nftables table {} {}", name_of(table.family), table.name));
        }
    }
    for family in [Family::V4, Family::V6] {
        for variant in [Variant::Nft, Variant::Legacy] {
            if variant.may_have(family, is_kube_proxys).unwrap_or(false)
                && let Ok(saved) = variant.save(family)
            {
                let chains = removal_script(&saved, is_kube_proxys).1;
                if chains > 0 {
                    found.push(format!("{chains} chains of {}", variant.title(family)));
                }
            }
        }
    }
    found
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
        Err(error) if error.not_found() => Ok(None),
        Err(error) => Err(error).with_context(|| format!("delete {what}")),
    }
}

fn delete_virtual_servers(spared: &[Prefix]) -> Result<Option<String>> {
    let count = ipvs::remove(spared).context("remove virtual servers of IPVS")?;
    Ok((count > 0).then(|| format!("{count} virtual servers of IPVS")))
}

fn delete_sets() -> Result<Option<String>> {
    let mut sets = match Ipset::open() {
        Ok(sets) => sets,
        Err(error) => return Err(error).context("list ipsets"),
    };
    let mut count = 0;
    for name in SETS.iter().flat_map(|name| [format!("KUBE-{name}"), format!("KUBE-6-{name}")]) {
        let name = &name[..name.len().min(NAME_MAX)];
        match sets.destroy(name) {
            Ok(destroyed) => count += usize::from(destroyed),
            // A kernel without ipset has none.
            Err(error) if error.errno == Errno::INVAL || error.errno == Errno::OPNOTSUPP => break,
            Err(error) => return Err(error).with_context(|| format!("remove ipset {name}")),
        }
    }
    Ok((count > 0).then(|| format!("{count} ipsets of kube-proxy")))
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
    let title = variant.title(family);
    let what = || format!("remove the chains of kube-proxy from {title}");
    let goes = |chain: &str| keep.removes(variant, chain);
    if !variant.may_have(family, goes).with_context(what)? {
        return Ok(None);
    }
    let missing = "run `proxyd cleanup` where the programs of iptables are";
    let saved = variant.save(family).context(missing).with_context(what)?;
    let (script, chains) = removal_script(&saved, goes);
    if chains == 0 {
        return Ok(None);
    }
    variant.restore(family, &script).with_context(what)?;
    Ok(Some(format!("{chains} chains of {title}")))
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
