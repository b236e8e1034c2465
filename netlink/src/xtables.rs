//! How large a legacy iptables table is: the cheapest sign that somebody changed it.
//!
//! Rules of xtables have no interface but the programs `iptables-restore` and `iptables-save`; this is the
//! one question that needs neither.

use std::os::fd::AsRawFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with};

use crate::error::{Error, Result};
use crate::message::{read_u16, read_u32};
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

/// Reads an option of xtables whose structure begins with the name of a table.
#[expect(unsafe_code, reason = "rustix has no getter for the options of xtables")]
fn get(family: Family, table: &str, option: libc::c_int, buffer: &mut [u8]) -> Result<()> {
    let operation = || format!("look at iptables table {table} ({family})");
    let (domain, level) = match family {
        Family::V4 => (AddressFamily::INET, libc::IPPROTO_IP),
        Family::V6 => (AddressFamily::INET6, libc::IPPROTO_IPV6),
    };
    let socket = socket_with(domain, SocketType::RAW, SocketFlags::CLOEXEC, Some(ipproto::RAW))
        .map_err(|errno| Error::new(operation(), errno))?;
    // The last byte of the name stays zero.
    for (to, from) in buffer[..NAME - 1].iter_mut().zip(table.bytes()) {
        *to = from;
    }
    let mut length = buffer.len() as libc::socklen_t;
    // SAFETY: `buffer` is as long as `length` says and outlives the call, which writes no more than that.
    let outcome = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            option,
            buffer.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if outcome == 0 {
        return Ok(());
    }
    let error = std::io::Error::last_os_error();
    let errno = rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO);
    Err(Error::new(operation(), errno))
}

/// The extent of a legacy table of the calling thread's network namespace. The kernel makes the table if there
/// is none, so this is for those that are used. `ENOENT` if it cannot.
pub fn extent(family: Family, table: &str) -> Result<Extent> {
    let mut info = [0u8; LENGTH];
    get(family, table, SO_GET_INFO, &mut info)?;
    let word = |at| read_u32(&info, at).unwrap_or(0);
    Ok(Extent { entries: word(LENGTH - 8), bytes: word(LENGTH - 4) })
}

/// `IPT_SO_GET_ENTRIES` and `IP6T_SO_GET_ENTRIES`.
const SO_GET_ENTRIES: libc::c_int = 65;
/// `struct ipt_get_entries`: the name, the size, padding; then the entries.
const ENTRIES: usize = NAME + 8;
/// Where `struct ipt_getinfo` has the end of the chain at the forward hook: behind the mask and five hooks.
const FORWARD_UNDERFLOW: usize = NAME + 4 + 5 * 4 + 2 * 4;
/// `sizeof(struct xt_entry_target)`, behind which a standard target has its verdict.
const TARGET: usize = 32;
/// The verdict of a policy that drops (`-NF_DROP - 1`).
const DROP: u32 = u32::MAX;

/// Whether the policy of chain FORWARD of the legacy table `filter` drops. The same holds as for [`extent`].
pub fn drops_forwarded(family: Family) -> Result<bool> {
    const TABLE: &str = "filter";
    let malformed = || Error::malformed(format!("read iptables table {TABLE} ({family})"));
    let mut info = [0u8; LENGTH];
    get(family, TABLE, SO_GET_INFO, &mut info)?;
    let end = read_u32(&info, FORWARD_UNDERFLOW).ok_or_else(malformed)? as usize;
    let size = read_u32(&info, LENGTH - 4).ok_or_else(malformed)?;
    let mut table = vec![0u8; ENTRIES + size as usize];
    table[NAME..NAME + 4].copy_from_slice(&size.to_ne_bytes());
    get(family, TABLE, SO_GET_ENTRIES, &mut table)?;
    // `target_offset` of `struct ipt_entry` and `struct ip6t_entry`.
    let offset = match family {
        Family::V4 => 88,
        Family::V6 => 140,
    };
    let entry = table.get(ENTRIES + end..).ok_or_else(malformed)?;
    let target = usize::from(read_u16(entry, offset).ok_or_else(malformed)?);
    Ok(read_u32(entry, target + TARGET).ok_or_else(malformed)? == DROP)
}
