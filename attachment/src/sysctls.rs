//! Which sysctls packets need, and which only harden.

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
