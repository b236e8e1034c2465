//! The programs of iptables: which of its two variants a host uses, and how they are run.
//!
//! xtables has no other stable interface. Besides this, only the attachment crate executes one of them, where a
//! legacy firewall drops packets of pods.

use std::fmt;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub use attachment::iptables::legacy_tables;
use attachment::iptables::{LOCK_WAIT, find_program};
use netlink::nftables::{NftSocket, Table, TableFamily};
use netlink::{Errno, Family, Result};

/// Forces a variant: `legacy` or `nft`.
pub const VARIABLE: &str = "VIADUCT_IPTABLES";
/// Tables of iptables that the iptables and IPVS modes use.
pub const TABLES: [&str; 3] = ["nat", "filter", "mangle"];

/// The two ways in which iptables keeps rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// As tables of nftables.
    Nft,
    /// In the kernel's older tables.
    Legacy,
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Variant::Nft => "nft",
            Variant::Legacy => "legacy",
        })
    }
}

/// Why a program did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// None of these is installed.
    #[error("{0} is not installed here")]
    Missing(String),
    /// It could not be started, or not be talked to.
    #[error("run {0}: {1}")]
    Run(PathBuf, std::io::Error),
    /// Somebody else had the lock of xtables all the time.
    #[error("{program}: somebody else held the lock of xtables for {LOCK_WAIT} seconds")]
    Locked {
        /// The program.
        program: String,
    },
    /// It refused its input.
    #[error("{program}: {said}")]
    Refused {
        /// The program.
        program: String,
        /// What it said.
        said: String,
        /// The line of the input that it named, from 1.
        line: Option<usize>,
    },
}

impl Variant {
    /// Names of a program, the certain one first.
    fn programs(self, family: Family, action: &str) -> [String; 2] {
        let start = match family {
            Family::V4 => "iptables",
            Family::V6 => "ip6tables",
        };
        [format!("{start}-{self}-{action}"), format!("{start}-{action}")]
    }

    /// Which of its programs this is about, in messages.
    pub fn title(self, family: Family) -> String {
        let [certain, _] = self.programs(family, "");
        certain.trim_end_matches('-').to_owned()
    }

    /// Chains of nftables' own that the nft variant keeps, which are those of a name in `chosen`.
    fn has_chain(family: Family, chosen: impl Fn(&str) -> bool) -> Result<bool> {
        let mut socket = NftSocket::open()?;
        for name in TABLES {
            let chains = match socket.chains(Table { family: table_family(family), name }) {
                // The answer of a kernel without nf_tables.
                Err(error) if error.errno == Errno::INVAL => return Ok(false),
                chains => chains?,
            };
            if chains.iter().any(|chain| chosen(chain)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether there can be chains of the user's that `chosen` is true for. To run the programs would load
    /// kernel modules.
    pub fn may_have(self, family: Family, chosen: impl Fn(&str) -> bool) -> Result<bool> {
        match self {
            Variant::Nft => Variant::has_chain(family, chosen),
            Variant::Legacy => Ok(!legacy_tables(family).is_empty()),
        }
    }

    /// All rules, as `iptables-save` prints them. The legacy one prints tables that are used alone.
    pub fn save(self, family: Family) -> std::result::Result<String, Failure> {
        execute(&self.programs(family, "save"), &[], "")
    }

    /// Gives a script to `iptables-restore`, which leaves alone what it does not mention.
    pub fn restore(self, family: Family, script: &str) -> std::result::Result<(), Failure> {
        // Only the legacy variant knows the lock, the other one ignores the option.
        let options = ["--noflush", "--wait", LOCK_WAIT];
        execute(&self.programs(family, "restore"), &options, script).map(|_| ())
    }

    /// Which variant this host uses, and how that is known.
    pub fn of_host() -> Result<(Variant, String)> {
        if let Some(forced) = std::env::var_os(VARIABLE) {
            let variant = match forced.to_str() {
                Some("legacy") => Variant::Legacy,
                Some("nft") => Variant::Nft,
                _ => {
                    let said =
                        format!("{VARIABLE} must be legacy or nft, not {}", forced.display());
                    return Err(netlink::Error::new(said, Errno::INVAL));
                }
            };
            return Ok((variant, format!("{VARIABLE} says so")));
        }
        // The kubelet marks the variant that it uses; where we were, we stay.
        let marks = |chain: &str| {
            matches!(chain, "KUBE-IPTABLES-HINT" | "KUBE-KUBELET-CANARY")
                || chain.starts_with("VIADUCT-")
        };
        for family in [Family::V4, Family::V6] {
            if Variant::has_chain(family, marks)? {
                return Ok((
                    Variant::Nft,
                    format!("its {family} tables have our chains, or the kubelet's"),
                ));
            }
        }
        let legacy = legacy_tables(Family::V4);
        if !legacy.is_empty() {
            return Ok((Variant::Legacy, format!("its tables are in use: {}", legacy.join(", "))));
        }
        if Variant::has_chain(Family::V4, |_| true)? {
            return Ok((Variant::Nft, "its tables are in use".to_owned()));
        }
        // The plain program is a link to one of the two.
        let plain = ["iptables-restore".to_owned()];
        let said = execute(&plain, &["--version"], "").unwrap_or_default();
        let variant = if said.contains("legacy") { Variant::Legacy } else { Variant::Nft };
        Ok((variant, "no tables are in use, and iptables-restore is of this kind".to_owned()))
    }
}

/// A family as nftables has it.
pub fn table_family(family: Family) -> TableFamily {
    match family {
        Family::V4 => TableFamily::Ip,
        Family::V6 => TableFamily::Ip6,
    }
}

/// Runs the first of these programs that is installed.
fn execute(
    programs: &[String],
    options: &[&str],
    input: &str,
) -> std::result::Result<String, Failure> {
    let Some(path) = find_program(programs.iter().map(String::as_str)) else {
        return Err(Failure::Missing(programs.join(" or ")));
    };
    let failed = |error| Failure::Run(path.clone(), error);
    let mut child = Command::new(&path)
        .args(options)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    // These programs read all of their input before they write anything.
    let sent = child.stdin.take().map(|mut stdin| stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().map_err(failed)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(refusal(&path, &said, output.status));
    }
    sent.transpose().map_err(failed)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn refusal(path: &Path, said: &str, status: std::process::ExitStatus) -> Failure {
    let program = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if said.contains("xtables lock") {
        return Failure::Locked { program };
    }
    let lines = said.lines().map(str::trim);
    let told: Vec<&str> =
        lines.filter(|line| !line.is_empty() && !line.starts_with("Try `")).collect();
    let said = if told.is_empty() { status.to_string() } else { first(&told) };
    Failure::Refused { program, line: line_number(&said), said }
}

/// The first lines of what was said: of a table that is not ours to write, every line of ours is refused.
fn first(lines: &[&str]) -> String {
    const FEW: usize = 4;
    match lines.len().saturating_sub(FEW) {
        0 => lines.join("; "),
        more => format!("{}; and {more} lines more", lines[..FEW].join("; ")),
    }
}

/// The line that a message names: `line 4 failed`, `Error occurred at line: 3`.
fn line_number(said: &str) -> Option<usize> {
    said.match_indices("line").find_map(|(at, word)| {
        let rest = said[at + word.len()..].trim_start_matches([':', ' ']);
        let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
        digits.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_says_much_is_cut_short() {
        assert_eq!(first(&["a", "b"]), "a; b");
        assert_eq!(first(&["line"; 9000]), "line; line; line; line; and 8996 lines more");
    }

    #[test]
    fn the_line_that_a_program_names_is_found() {
        for (said, line) in [
            ("iptables-restore: line 4 failed", Some(4)),
            (
                "iptables-restore v1.8.9 (legacy): Couldn't load target `FOO'; Error occurred at line: 3",
                Some(3),
            ),
            ("line 17: RULE_APPEND failed (Invalid argument): rule in chain VIADUCT-X", Some(17)),
            ("the command line is wrong", None),
        ] {
            assert_eq!(line_number(said), line, "{said}");
        }
    }
}
