//! Network namespaces: open one, work inside, always come back.

use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, fstat, fstatfs, open};
use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use crate::error::{Error, Result};

/// The file system of namespaces (`include/uapi/linux/magic.h`).
const NSFS_MAGIC: u64 = 0x6e73_6673;
/// Asks which kind of namespace a descriptor is (`include/uapi/linux/nsfs.h`).
const NS_GET_NSTYPE: libc::c_ulong = 0xb703;

/// `SO_NETNS_COOKIE` (`include/uapi/asm-generic/socket.h`).
const SO_NETNS_COOKIE: libc::c_int = 71;

/// A handle on a network namespace; it keeps the namespace alive.
#[derive(Debug)]
pub struct Namespace {
    fd: OwnedFd,
    name: String,
}

impl Namespace {
    /// Opens the namespace at `path`, such as `/run/netns/NAME` or `/proc/PID/ns/net`.
    ///
    /// Fails with `ENOENT` if nothing is there and with `EINVAL` if it is no namespace.
    pub fn open(path: impl AsRef<Path>) -> Result<Namespace> {
        let name = path.as_ref().display().to_string();
        let failed = |errno| Error::new(format!("open network namespace {name:?}"), errno);
        // Not blocking: it may be a pipe.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let fd = open(path.as_ref(), flags, Mode::empty()).map_err(failed)?;
        let magic = fstatfs(&fd).map_err(failed)?.f_type as u64;
        if magic != NSFS_MAGIC || namespace_type(&fd) != Some(libc::CLONE_NEWNET) {
            return Err(failed(Errno::INVAL));
        }
        Ok(Namespace { fd, name })
    }

    /// The calling thread's namespace.
    pub fn current() -> Result<Namespace> {
        Namespace::open("/proc/thread-self/ns/net")
    }

    /// Moves the calling thread into a new network namespace, which ends with its last user.
    #[expect(unsafe_code, reason = "rustix marks unshare as unsafe for flags other than this one")]
    pub fn unshare() -> Result<()> {
        // SAFETY: a new network namespace leaves memory and descriptors alone.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }
            .map_err(|errno| Error::new("create a network namespace", errno))
    }

    /// Whether both are handles on one namespace.
    pub fn is_same(&self, other: &Namespace) -> Result<bool> {
        let identity = |namespace: &Namespace| {
            fstat(&namespace.fd)
                .map(|stat| (stat.st_dev, stat.st_ino))
                .map_err(|errno| Error::new(format!("stat namespace {:?}", namespace.name), errno))
        };
        Ok(identity(self)? == identity(other)?)
    }

    /// The number of the calling thread's namespace, which the kernel gives to no other one until it
    /// restarts (`SO_NETNS_COOKIE`, Linux 5.14). On older kernels the inode, which may be reused.
    #[expect(unsafe_code, reason = "rustix has no getter for the cookie of a namespace")]
    pub fn current_cookie() -> Result<u64> {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
        let failed = |errno| Error::new("read the cookie of the network namespace", errno);
        let socket =
            socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
                .map_err(failed)?;
        let mut cookie = 0u64;
        let mut length = size_of::<u64>() as libc::socklen_t;
        // SAFETY: `cookie` and `length` are writable for the whole call. The kernel writes at most
        // `length` bytes, which is the size of `cookie`.
        let outcome = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                SO_NETNS_COOKIE,
                (&raw mut cookie).cast(),
                &raw mut length,
            )
        };
        if outcome == 0 {
            return Ok(cookie);
        }
        let current = Namespace::current()?;
        Ok(fstat(&current.fd).map_err(failed)?.st_ino)
    }

    /// Moves the calling thread into the namespace until the guard is dropped.
    pub fn enter(&self) -> Result<NamespaceGuard> {
        let home = Namespace::current()?;
        self.move_into()?;
        Ok(NamespaceGuard { home, _not_send: PhantomData })
    }

    /// Runs `work` inside the namespace, and comes back also if it panics.
    pub fn run<T>(&self, work: impl FnOnce() -> T) -> Result<T> {
        let _guard = self.enter()?;
        Ok(work())
    }

    fn move_into(&self) -> Result<()> {
        move_into_link_name_space(self.fd.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(|errno| Error::new(format!("enter network namespace {:?}", self.name), errno))
    }
}

/// The `CLONE_NEW…` flag of a namespace's kind.
#[expect(unsafe_code, reason = "rustix has no wrapper for the requests of namespaces")]
fn namespace_type(fd: &OwnedFd) -> Option<i32> {
    // SAFETY: the request takes no argument and changes nothing.
    let kind = unsafe { libc::ioctl(fd.as_raw_fd(), NS_GET_NSTYPE as _) };
    (kind >= 0).then_some(kind)
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Brings the thread back to the namespace it came from when dropped.
///
/// Namespaces belong to threads, so the guard cannot be sent to another one.
#[derive(Debug)]
pub struct NamespaceGuard {
    home: Namespace,
    _not_send: PhantomData<*const ()>,
}

impl Drop for NamespaceGuard {
    fn drop(&mut self) {
        if let Err(error) = self.home.move_into() {
            // Going on would run everything that follows in the wrong network.
            eprintln!("cannot return from a network namespace: {error}");
            std::process::abort();
        }
    }
}
