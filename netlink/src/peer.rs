//! Who is at the other end of a Unix socket.

use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;

use crate::error::{Error, Result};

/// The user at the other end, as the kernel noted it when the connection was made. (Its process may be in
/// another PID namespace and have no number here, with which other libraries cannot live.)
#[expect(unsafe_code, reason = "rustix takes for granted that a peer has a process number")]
pub fn peer_uid(socket: impl AsFd) -> Result<u32> {
    let mut credentials = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: `credentials` and `length` are writable for the whole call, and `length` tells the size of the
    // former, which the kernel does not exceed.
    let outcome = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut credentials).cast(),
            &raw mut length,
        )
    };
    if outcome != 0 {
        let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
        return Err(Error::new("read a peer's credentials", Errno::from_raw_os_error(errno)));
    }
    Ok(credentials.uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_its_own_peer() {
        let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(peer_uid(&one).unwrap(), rustix::process::getuid().as_raw());
        let (pipe, _) = std::io::pipe().unwrap();
        assert!(peer_uid(&pipe).is_err());
    }
}
