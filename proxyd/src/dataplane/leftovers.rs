//! What another mode, or kube-proxy, left in the kernel.
//!
//! Its rules would go on translating connections to endpoints that are long gone. The chains of the
//! kubelet and of everybody else stay.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use netlink::RouteSocket;
use netlink::nftables::{NftSocket, Table, TableFamily, Transaction};

use super::ipvs;
use crate::config::Mode;

/// kube-proxy's tables in nftables mode.
const KUBE_PROXY: [Table<'static>; 2] = [
    Table { family: TableFamily::Ip, name: "kube-proxy" },
    Table { family: TableFamily::Ip6, name: "kube-proxy" },
];
/// Our own.
const VIADUCT: [Table<'static>; 3] = [
    Table { family: TableFamily::Ip, name: "viaduct" },
    Table { family: TableFamily::Ip6, name: "viaduct" },
    Table { family: TableFamily::Inet, name: "viaduct-policy" },
];
/// The device that IPVS modes bind Service addresses to.
const IPVS_DEVICE: &str = "kube-ipvs0";
/// Tables of iptables that the iptables and IPVS modes use.
const IPTABLES: [&str; 3] = ["nat", "filter", "mangle"];
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
/// The beginnings of those that each Service or endpoint has, and of ours.
const PREFIXES: [&str; 7] =
    ["KUBE-SVC-", "KUBE-SVL-", "KUBE-SEP-", "KUBE-FW-", "KUBE-EXT-", "KUBE-XLB-", "VIADUCT-"];

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

/// Removes what would get in the way of a mode: what kube-proxy made, and what our other modes did.
pub fn remove_others(mode: Mode) -> Removal {
    let mut removal = Removal::default();
    for table in KUBE_PROXY {
        removal.note(delete_table(table));
    }
    if mode != Mode::Ipvs {
        removal.note(delete_virtual_servers());
        removal.note(delete_device());
    }
    for family in [TableFamily::Ip, TableFamily::Ip6] {
        for variant in [Variant::Nft, Variant::Legacy] {
            removal.note(clean_iptables(family, variant));
        }
    }
    removal
}

/// Removes everything that any mode of ours or of kube-proxy makes.
pub fn remove_all() -> Removal {
    let mut removal = remove_others(Mode::Nftables);
    for table in VIADUCT {
        removal.note(delete_table(table));
    }
    removal
}

fn name_of(family: TableFamily) -> &'static str {
    if family == TableFamily::Ip6 { "ip6" } else { "ip" }
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

fn delete_virtual_servers() -> Result<Option<String>> {
    let count = ipvs::remove().context("remove virtual servers of IPVS")?;
    Ok((count > 0).then(|| format!("{count} virtual servers of IPVS")))
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

/// The two ways in which iptables keeps rules.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Variant {
    Nft,
    Legacy,
}

impl Variant {
    /// Names of a program, the certain one first.
    fn programs(self, family: TableFamily, action: &str) -> [String; 2] {
        let start = if family == TableFamily::Ip6 { "ip6tables" } else { "iptables" };
        let own = match self {
            Variant::Nft => "nft",
            Variant::Legacy => "legacy",
        };
        [format!("{start}-{own}-{action}"), format!("{start}-{action}")]
    }

    /// Whether there can be anything to remove. To run the programs would load kernel modules.
    fn is_used(self, family: TableFamily) -> Result<bool> {
        match self {
            Variant::Nft => {
                let mut socket = NftSocket::open()?;
                for name in IPTABLES {
                    let chains = socket.chains(Table { family, name })?;
                    if chains.iter().any(|chain| is_ours(chain)) {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Variant::Legacy => {
                let file = format!("/proc/net/{}_tables_names", name_of(family));
                // No file: the kernel module is not loaded, so nobody has such rules.
                Ok(std::fs::read_to_string(file).is_ok_and(|names| !names.trim().is_empty()))
            }
        }
    }
}

fn is_ours(chain: &str) -> bool {
    CHAINS.contains(&chain) || PREFIXES.iter().any(|prefix| chain.starts_with(prefix))
}

fn clean_iptables(family: TableFamily, variant: Variant) -> Result<Option<String>> {
    let [certain, _] = variant.programs(family, "save");
    let certain = certain.trim_end_matches("-save");
    let what = || format!("remove the chains of kube-proxy from {certain}");
    if !variant.is_used(family).with_context(what)? {
        return Ok(None);
    }
    let saved = execute(&variant.programs(family, "save"), &[], "").with_context(what)?;
    let (script, chains) = removal_script(&saved);
    if chains == 0 {
        return Ok(None);
    }
    // Only the legacy variant knows the lock, the other one ignores the option.
    let options = ["--noflush", "--wait", "5"];
    execute(&variant.programs(family, "restore"), &options, &script).with_context(what)?;
    Ok(Some(format!("{chains} chains of {certain}")))
}

/// Runs the first of these programs that is installed.
fn execute(programs: &[String], options: &[&str], input: &str) -> Result<String> {
    let places = ["/usr/sbin", "/sbin", "/usr/bin", "/bin", "/usr/local/sbin"];
    let mut candidates = programs.iter().flat_map(|name| places.map(|p| Path::new(p).join(name)));
    let Some(program) = candidates.find(|path| path.exists()) else {
        bail!("{} is not installed here: run `proxyd cleanup` where it is", programs.join(" or "));
    };
    let mut child = Command::new(&program)
        .args(options)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {}", program.display()))?;
    // These programs read all of their input before they write anything.
    let sent = child.stdin.take().map(|mut stdin| stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{}: {}: {}", program.display(), output.status, said.trim());
    }
    sent.transpose().with_context(|| format!("write to {}", program.display()))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// From the output of `iptables-save`, the input of `iptables-restore --noflush` that removes our chains
/// and the rules that lead to them; and how many chains these are.
fn removal_script(saved: &str) -> (String, usize) {
    let mut script = String::new();
    let mut count = 0;
    for table in saved.split("\n*").map(|table| table.trim_start_matches('*')) {
        let mut lines = table.lines();
        let Some(name) = lines.next().filter(|name| IPTABLES.contains(name)) else { continue };
        let (mut chains, mut jumps) = (BTreeSet::new(), Vec::new());
        for line in lines {
            if let Some(declared) = line.strip_prefix(':') {
                let chain = declared.split(' ').next().unwrap_or_default();
                if is_ours(chain) {
                    chains.insert(chain);
                }
            } else if let Some(rule) = line.strip_prefix("-A ") {
                let mut words = rule.split(' ');
                let outside = words.next().is_some_and(|chain| !is_ours(chain));
                let words: Vec<&str> = words.collect();
                let mut pairs = words.windows(2);
                if outside && pairs.any(|pair| matches!(pair[0], "-j" | "-g") && is_ours(pair[1])) {
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
            assert!(!is_ours(chain), "{chain}");
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
        let (script, chains) = removal_script(saved);
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
