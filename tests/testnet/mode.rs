//! [`Mode`]: the proxy mode that the tests run in, from the environment.

use std::path::Path;

use crate::namespace::Namespace;
use crate::wait::skip;

/// What the daemon programs Services in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// nftables.
    Nftables,
    /// iptables, with this variant of its programs.
    Iptables(&'static str),
    /// IPVS, which only User Mode Linux has here.
    Ipvs,
}

impl Mode {
    /// `VIADUCT_PROXY_MODE`, and for iptables `VIADUCT_IPTABLES` (`nft` by default, which daemons inherit).
    ///
    /// # Panics
    ///
    /// If that is no mode.
    pub fn of_tests() -> Mode {
        let read = |name: &str| std::env::var(name).unwrap_or_default();
        match (&*read("VIADUCT_PROXY_MODE"), &*read("VIADUCT_IPTABLES")) {
            ("" | "nftables", _) => Mode::Nftables,
            ("ipvs", _) => Mode::Ipvs,
            ("iptables", "legacy") => Mode::Iptables("legacy"),
            ("iptables", "" | "nft") => Mode::Iptables("nft"),
            other => panic!(
                "{other:?}: VIADUCT_PROXY_MODE is nftables, iptables or ipvs, VIADUCT_IPTABLES legacy or nft"
            ),
        }
    }

    /// What `--proxy-mode` takes.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Nftables => "nftables",
            Mode::Iptables(_) => "iptables",
            Mode::Ipvs => "ipvs",
        }
    }

    /// All rules, without what changes by itself: counters, times.
    ///
    /// # Panics
    ///
    /// If they cannot be listed.
    pub fn rules(self, namespace: &Namespace) -> String {
        match self {
            // What IPVS does not do is in the same tables.
            Mode::Nftables | Mode::Ipvs => ["ip", "ip6"]
                .map(|family| {
                    // With the handle of every object: what is written again gets another.
                    namespace.command("nft", &["-a", "-s", "list", "table", family, "viaduct"])
                })
                .concat(),
            Mode::Iptables(_) => {
                let listed = self.try_listed(namespace).unwrap_or_else(|error| panic!("{error}"));
                let lines = listed.iter().flat_map(|text| text.lines());
                let rules =
                    lines.filter(|line| !line.starts_with(['#', ':']) || line.contains(" - ["));
                rules.map(|line| format!("{line}\n")).collect()
            }
        }
    }

    /// A listing of what the daemon made, of IPv4 and of IPv6; the error is what the program said.
    pub fn try_listed(self, namespace: &Namespace) -> Result<[String; 2], String> {
        let [v4, v6] = match self {
            // What IPVS does not do is in the same tables.
            Mode::Nftables | Mode::Ipvs => ["ip", "ip6"]
                .map(|family| namespace.try_command("nft", &["list", "table", family, "viaduct"])),
            Mode::Iptables(variant) => ["iptables", "ip6tables"]
                .map(|program| namespace.try_command(&format!("{program}-{variant}-save"), &[])),
        };
        Ok([v4?, v6?])
    }
}

/// Whether the tests run in nftables mode; if not, says that one is skipped, and why.
pub fn only_nftables(reason: &str) -> bool {
    let here = Mode::of_tests() == Mode::Nftables;
    if !here {
        skip(&format!("only in nftables mode: {reason}"));
    }
    here
}

/// The file that programs of a namespace lock: xtables' own is one for all namespaces.
pub(crate) fn lock_file(number: u64) -> std::path::PathBuf {
    Path::new("/tmp").join(format!("testnet-xtables-{}-{number}", std::process::id()))
}
