//! Where the programs of iptables are, and which of the kernel's older tables are in use.

use std::path::{Path, PathBuf};

use netlink::Family;

const FOLDERS: [&str; 5] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin", "/usr/local/sbin"];
/// Seconds that a program waits for the lock of xtables.
pub const LOCK_WAIT: &str = "5";

/// The first of these programs that is installed.
pub fn find_program<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<PathBuf> {
    let mut paths =
        names.into_iter().flat_map(|name| FOLDERS.map(|folder| Path::new(folder).join(name)));
    paths.find(|path| path.exists())
}

/// Legacy tables that are used in this network namespace.
pub fn legacy_tables(family: Family) -> Vec<String> {
    let file = match family {
        Family::V4 => "/proc/thread-self/net/ip_tables_names",
        Family::V6 => "/proc/thread-self/net/ip6_tables_names",
    };
    // No file: the kernel module is not loaded, so no program has such rules.
    let names = std::fs::read_to_string(file).unwrap_or_default();
    names.split_whitespace().map(str::to_owned).collect()
}
