//! Which IPv6 addresses a device answers for.
//!
//! An address is usable as soon as it is added without duplicate address detection, but the kernel
//! joins its solicited-node group (RFC 4291, 2.7.1), without which no neighbour gets an answer, from a
//! work queue, and under load that comes late.

use std::fs;
use std::net::Ipv6Addr;

use rustix::io::Errno;

use crate::error::{Error, Result};

/// Whether a device of the calling thread's network namespace is in the solicited-node group of each
/// address.
pub fn answers_for(device: &str, addresses: &[Ipv6Addr]) -> Result<bool> {
    const PATH: &str = "/proc/thread-self/net/igmp6";
    let groups = fs::read_to_string(PATH).map_err(|error| {
        Error::new(format!("read {PATH}"), Errno::from_io_error(&error).unwrap_or(Errno::IO))
    })?;
    Ok(addresses.iter().all(|address| is_listed(&groups, device, *address)))
}

/// A line is: index, device, group in hexadecimal, users, flags, timer.
fn is_listed(groups: &str, device: &str, address: Ipv6Addr) -> bool {
    let [.., a, b, c] = address.octets();
    let group = format!("ff0200000000000000000001ff{a:02x}{b:02x}{c:02x}");
    groups.lines().any(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        words.next() == Some(device) && words.next() == Some(group.as_str())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_is_that_of_the_last_24_bits() {
        let groups = "2    eth0            ff0200000000000000000001ff00007a     1 00000004 0\n\
                      2    eth0            ff020000000000000000000000000001     1 0000000C 0\n";
        assert!(is_listed(groups, "eth0", "fd00::7a".parse().unwrap()));
        assert!(!is_listed(groups, "eth0", "fd00::7b".parse().unwrap()));
        assert!(!is_listed(groups, "eth1", "fd00::7a".parse().unwrap()));
    }
}
