//! Which sysctls packets need, and which only harden.

use netlink::{Errno, sysctl};

/// The sysctl of a device: `net/ipv4/conf/DEVICE/NAME`.
pub fn of_device(family: u8, device: &str, name: &str) -> String {
    format!("net/ipv{family}/conf/{device}/{name}")
}

/// Whether a sysctl only hardens: packets pass without it.
pub fn only_hardens(name: &str) -> bool {
    ["accept_ra", "accept_dad", "route_localnet", "keep_addr_on_down", "ndisc_notify"]
        .iter()
        .any(|setting| name.ends_with(&format!("/{setting}")))
}

/// Whether an error says that `/proc/sys` is read-only, as in a container inside a container.
pub fn is_read_only(error: &netlink::Error) -> bool {
    matches!(error.errno, Errno::ROFS | Errno::ACCESS | Errno::PERM)
}

/// Sets a sysctl that only hardens. Returns the error that a read-only `/proc/sys` gives. Succeeds if the
/// kernel lacks the sysctl.
pub fn harden(name: &str, value: &str) -> netlink::Result<Option<netlink::Error>> {
    match sysctl::ensure_if_present(name, value) {
        Err(error) if is_read_only(&error) => Ok(Some(error)),
        other => other.map(|_| None),
    }
}
