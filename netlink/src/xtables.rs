//! How large a legacy iptables table is: the cheapest sign that somebody changed it.
//!
//! Rules of xtables have no interface but the programs `iptables-restore` and `iptables-save`; this is the
//! one question that needs neither.

use std::os::fd::AsRawFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with};

use crate::error::{Error, Result};
use crate::prefix::Family;

/// `IPT_SO_GET_INFO` and `IP6T_SO_GET_INFO` (include/uapi/linux/netfilter_ipv4/ip_tables.h, …_ipv6/ip6_tables.h).
const SO_GET_INFO: libc::c_int = 64;
/// `XT_TABLE_MAXNAMELEN`.
const NAME: usize = 32;
/// `struct ipt_getinfo`: the name, five hooks (a mask, entries, underflows), the number of entries, their size.
const LENGTH: usize = NAME + 4 + 5 * 4 + 5 * 4 + 4 + 4;

/// The extent of a table's rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Rules, heads of chains and their ends.
    pub entries: u32,
    /// Their size in bytes.
    pub bytes: u32,
}

/// The extent of a legacy table of the calling thread's network namespace. The kernel makes the table if there
/// is none, so this is for those that are used. `ENOENT` if it cannot.
#[expect(unsafe_code, reason = "rustix has no getter for the options of xtables")]
pub fn extent(family: Family, table: &str) -> Result<Extent> {
    let operation = || format!("look at iptables table {table} ({family})");
    let (domain, level) = match family {
        Family::V4 => (AddressFamily::INET, libc::IPPROTO_IP),
        Family::V6 => (AddressFamily::INET6, libc::IPPROTO_IPV6),
    };
    let socket = socket_with(domain, SocketType::RAW, SocketFlags::CLOEXEC, Some(ipproto::RAW))
        .map_err(|errno| Error::new(operation(), errno))?;
    let mut info = [0u8; LENGTH];
    // The last byte of the name stays zero.
    for (to, from) in info[..NAME - 1].iter_mut().zip(table.bytes()) {
        *to = from;
    }
    let mut length = LENGTH as libc::socklen_t;
    // SAFETY: `info` is as long as `length` says and outlives the call, which writes no more than that.
    let outcome = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            SO_GET_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if outcome != 0 {
        let error = std::io::Error::last_os_error();
        let errno = rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO);
        return Err(Error::new(operation(), errno));
    }
    let word = |from_end: usize| {
        let at = LENGTH - from_end;
        u32::from_ne_bytes([info[at], info[at + 1], info[at + 2], info[at + 3]])
    };
    Ok(Extent { entries: word(8), bytes: word(4) })
}
