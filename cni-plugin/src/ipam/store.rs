//! The folder of a network: reservations on disk, under the lock that `host-local` takes too.
//!
//! A reservation is written to an unnamed file first and then linked to its name, which fails if the
//! name is there: it appears whole, or not at all, and never twice. File systems without unnamed files or
//! hard links get a new file under a temporary name that is renamed, which the lock makes as safe. A file without an owner in it can
//! therefore only come from a write that was cut short (the reference plugin creates first and writes
//! then; a disk loses what was not synced), and it is nobody's while we hold the lock.
//!
//! A reservation of ours has a second name, a hard link that is named by its owner. So ADD sees with
//! one look-up whether its attachment has an address already, however many pods the node has. It is
//! believed only while it is a second name: if the first one goes, by whomever, it counts for nothing.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use netlink::fnv1a;
use rustix::fs::{
    AtFlags, CWD, Dir, FlockOperation, Mode, OFlags, flock, fstat, ftruncate, linkat, open, openat,
    renameat, statat, unlinkat,
};
use rustix::io::Errno;

use super::{Attachment, Error, Result};
use crate::environment::is_identifier;

/// The reference plugin's lock file.
const LOCK: &str = "lock";
const BOOT_ID: &str = "viaduct-boot-id";
/// The name of a file that is about to replace another one.
const TEMPORARY: &str = "viaduct-temporary";
/// Bytes of a file that are looked at: no container ID is nearly as long.
const CONTENT_MAX: usize = 512;

/// What a file says. On the stack: an ADD reads a file for every pod of the node.
struct Content {
    bytes: [u8; CONTENT_MAX],
    length: usize,
}

impl Content {
    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// Why an unnamed file has no name yet.
enum Unlinked {
    /// The name is taken.
    Taken,
    /// The file system cannot link it.
    Unsupported,
    /// Another failure.
    Failed(Errno),
}

/// A network's folder, locked.
pub(super) struct Store {
    path: PathBuf,
    dir: OwnedFd,
    /// Released when it is closed, also by a kill.
    _lock: OwnedFd,
}

/// A reserved address and to whom it belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reservation {
    pub(super) address: IpAddr,
    owner: Holder,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Holder {
    /// The file says nothing that makes sense.
    Nobody,
    /// An old file: all interfaces of a container.
    Container(String),
    Attachment(Attachment),
}

impl Reservation {
    fn parse(address: IpAddr, content: &[u8]) -> Reservation {
        let text = std::str::from_utf8(content).unwrap_or_default().trim();
        let mut lines = text.lines().map(str::trim);
        let id = lines.next().filter(|id| is_identifier(id)).map(str::to_owned);
        let ifname = lines.next().filter(|ifname| !ifname.is_empty()).map(str::to_owned);
        let owner = match (id, ifname) {
            (None, _) => Holder::Nobody,
            (Some(id), None) => Holder::Container(id),
            (Some(container_id), Some(ifname)) => {
                Holder::Attachment(Attachment { container_id, ifname })
            }
        };
        Reservation { address, owner }
    }

    pub(super) fn has_owner(&self) -> bool {
        self.owner != Holder::Nobody
    }

    pub(super) fn belongs_to(&self, attachment: &Attachment) -> bool {
        match &self.owner {
            Holder::Nobody => false,
            Holder::Container(id) => *id == attachment.container_id,
            Holder::Attachment(owner) => owner == attachment,
        }
    }

    /// Whose it is, with an empty interface name in an old file.
    pub(super) fn attachment(&self) -> Option<Attachment> {
        match &self.owner {
            Holder::Nobody => None,
            Holder::Container(container_id) => {
                Some(Attachment { container_id: container_id.clone(), ifname: String::new() })
            }
            Holder::Attachment(attachment) => Some(attachment.clone()),
        }
    }
}

fn io_error(operation: &'static str, path: &Path, errno: Errno) -> Error {
    Error::Io { operation, path: path.to_owned(), source: errno.into() }
}

impl Store {
    /// Opens and locks the folder; makes it if it is not there.
    pub(super) fn create(path: &Path) -> Result<Store> {
        if let Some(store) = Store::open(path)? {
            return Ok(store);
        }
        std::fs::create_dir_all(path).map_err(|source| Error::Io {
            operation: "create folder",
            path: path.to_owned(),
            source,
        })?;
        Store::open(path)?.ok_or_else(|| io_error("open folder", path, Errno::NOENT))
    }

    /// Opens and locks the folder, if it is there.
    pub(super) fn open(path: &Path) -> Result<Option<Store>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = match open(path, flags, Mode::empty()) {
            Ok(dir) => dir,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(io_error("open folder", path, errno)),
        };
        let lock_path = path.join(LOCK);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
        let lock = openat(&dir, LOCK, flags, Mode::from_raw_mode(0o600))
            .map_err(|errno| io_error("open", &lock_path, errno))?;
        loop {
            match flock(&lock, FlockOperation::LockExclusive) {
                Err(Errno::INTR) => continue,
                other => break other.map_err(|errno| io_error("lock", &lock_path, errno))?,
            }
        }
        Ok(Some(Store { path: path.to_owned(), dir, _lock: lock }))
    }

    fn error(&self, operation: &'static str, name: &str, errno: Errno) -> Error {
        io_error(operation, &self.path.join(name), errno)
    }

    /// The names in the folder that `select` makes something of.
    fn list<T>(&self, mut select: impl FnMut(&str) -> Option<T>) -> Result<Vec<T>> {
        let failed = |errno| io_error("list folder", &self.path, errno);
        let mut found = Vec::new();
        for entry in Dir::read_from(&self.dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            found.extend(entry.file_name().to_str().ok().and_then(&mut select));
        }
        Ok(found)
    }

    /// Every file that is named by an address.
    pub(super) fn reservations(&self) -> Result<Vec<Reservation>> {
        let mut reservations = Vec::new();
        for address in self.list(|name| name.parse::<IpAddr>().ok())? {
            let name = address.to_string();
            match self.read(&name) {
                Ok(content) => reservations.push(Reservation::parse(address, content.bytes())),
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(self.error("read reservation", &name, errno)),
            }
        }
        Ok(reservations)
    }

    /// An address that this attachment has, from us in the first `sets` range sets or from the reference
    /// plugin.
    ///
    /// Our own reservations have a second name by their owner. So of the files in the folder only those
    /// without one are read.
    pub(super) fn held(&self, attachment: &Attachment, sets: usize) -> Result<Option<IpAddr>> {
        let failed = |errno| io_error("list folder", &self.path, errno);
        let own: Vec<String> = (0..sets).map(|set| mark(attachment, set)).collect();
        let (mut addresses, mut marked, mut suspects) =
            (Vec::new(), HashSet::new(), HashSet::new());
        for entry in Dir::read_from(&self.dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            if name.starts_with(MARK_PREFIX) {
                marked.insert(entry.ino());
                if own.iter().any(|own| own == name) {
                    suspects.insert(entry.ino());
                }
            } else if let Ok(address) = name.parse::<IpAddr>() {
                addresses.push((address, entry.ino()));
            }
        }
        for (address, inode) in addresses {
            if marked.contains(&inode) && !suspects.contains(&inode) {
                continue;
            }
            let name = address.to_string();
            match self.read(&name) {
                Ok(content) => {
                    let reservation = Reservation::parse(address, content.bytes());
                    if reservation.belongs_to(attachment) {
                        return Ok(Some(address));
                    }
                }
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(self.error("read reservation", &name, errno)),
            }
        }
        Ok(None)
    }

    /// Whether a reservation has a second name of ours.
    fn is_own(&self, reservation: &Reservation, sets: usize) -> bool {
        let stat = |name: &str| statat(&self.dir, name, AtFlags::empty()).ok();
        let identity = |stat: rustix::fs::Stat| (stat.st_dev, stat.st_ino);
        let Some(first) = stat(&reservation.address.to_string()).map(identity) else {
            return false;
        };
        let Some(owner) = reservation.attachment() else { return false };
        (0..sets).any(|set| stat(&mark(&owner, set)).map(identity) == Some(first))
    }

    /// Our own reservations in the first `sets` range sets that were made outside a time (seconds since 1970).
    /// Those of the reference plugin have no second name of ours.
    pub(super) fn own_outside(
        &self,
        new: &RangeInclusive<i64>,
        sets: usize,
    ) -> Result<Vec<Reservation>> {
        let is_old = |reservation: &Reservation| {
            let stat = statat(&self.dir, reservation.address.to_string(), AtFlags::empty());
            stat.is_ok_and(|stat| !new.contains(&stat.st_mtime))
        };
        let mut reservations = self.reservations()?;
        reservations.retain(|reservation| is_old(reservation) && self.is_own(reservation, sets));
        Ok(reservations)
    }

    /// Removes second names whose first is gone.
    pub(super) fn sweep(&self) -> Result<()> {
        for name in self.list(|name| name.starts_with(MARK_PREFIX).then(|| name.to_owned()))? {
            let stat = statat(&self.dir, name.as_str(), AtFlags::empty());
            if stat.is_ok_and(|stat| stat.st_nlink == 1) {
                let _ = unlinkat(&self.dir, name.as_str(), AtFlags::empty());
            }
        }
        Ok(())
    }

    /// The beginning of a file; all of it, since everything here is short.
    fn read(&self, name: &str) -> std::result::Result<Content, Errno> {
        let file = openat(&self.dir, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let mut content = Content { bytes: [0; CONTENT_MAX], length: 0 };
        content.length = rustix::io::read(&file, &mut content.bytes)?;
        Ok(content)
    }

    /// Reserves an address of a range set; `false` if it is somebody's.
    pub(super) fn reserve(
        &self,
        address: IpAddr,
        attachment: &Attachment,
        set: usize,
    ) -> Result<bool> {
        let name = address.to_string();
        let content = format!("{}\r\n{}", attachment.container_id, attachment.ifname);
        let failed = |errno| self.error("reserve", &name, errno);
        let unnamed = self.write_unnamed(content.as_bytes()).map_err(failed)?;
        for _ in 0..2 {
            let taken = match &unnamed {
                Some(file) => self.link(file, &name),
                None => Err(Unlinked::Unsupported),
            };
            match taken {
                Ok(()) => {
                    self.mark(&name, attachment, set);
                    return Ok(true);
                }
                Err(Unlinked::Failed(errno)) => return Err(failed(errno)),
                Err(Unlinked::Taken | Unlinked::Unsupported) => {}
            }
            let holder = self.read(&name);
            if holder.is_ok_and(|file| Reservation::parse(address, file.bytes()).has_owner()) {
                return Ok(false);
            }
            if matches!(taken, Err(Unlinked::Unsupported)) {
                // The lock is ours, so the name stays without an owner until it is replaced.
                self.replace(&name, content.as_bytes()).map_err(failed)?;
                self.mark(&name, attachment, set);
                return Ok(true);
            }
            self.release(address)?;
        }
        Ok(false)
    }

    /// Gives a reservation its second name. Where that fails, a repeated ADD is noticed later.
    fn mark(&self, name: &str, attachment: &Attachment, set: usize) {
        let own = mark(attachment, set);
        for _ in 0..2 {
            match linkat(&self.dir, name, &self.dir, own.as_str(), AtFlags::empty()) {
                Err(Errno::EXIST) => drop(unlinkat(&self.dir, own.as_str(), AtFlags::empty())),
                _ => return,
            }
        }
    }

    /// Whether the last owner of an address had a MAC address of its own choice, so that neighbours may
    /// remember it; from now on it is so or not, as `chosen` says.
    pub(super) fn swap_foreign_mac(&self, address: IpAddr, chosen: bool) -> bool {
        let name = format!("{FOREIGN_MAC_PREFIX}{address}");
        if !chosen {
            return unlinkat(&self.dir, name, AtFlags::empty()).is_ok();
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        openat(&self.dir, name, flags, Mode::from_raw_mode(0o600)).is_err()
    }

    /// Removes the second names of an attachment's reservations.
    pub(super) fn unmark(&self, attachment: &Attachment, sets: usize) {
        for set in 0..sets {
            let _ = unlinkat(&self.dir, mark(attachment, set), AtFlags::empty());
        }
    }

    /// A file without a name. `None` where the file system has none of that kind.
    fn write_unnamed(&self, content: &[u8]) -> std::result::Result<Option<OwnedFd>, Errno> {
        let flags = OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC;
        let file = match openat(&self.dir, ".", flags, Mode::from_raw_mode(0o600)) {
            // Also what kernels and file systems answer that do not know the flag.
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOENT | Errno::NOSYS) => {
                return Ok(None);
            }
            other => other?,
        };
        write_all(&file, content)?;
        Ok(Some(file))
    }

    /// Gives an unnamed file its name.
    fn link(&self, file: &OwnedFd, name: &str) -> std::result::Result<(), Unlinked> {
        let unnamed = format!("/proc/self/fd/{}", file.as_raw_fd());
        match linkat(CWD, unnamed, &self.dir, name, AtFlags::SYMLINK_FOLLOW) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => Err(Unlinked::Taken),
            // No /proc, or a file system without hard links.
            Err(
                Errno::XDEV
                | Errno::NOENT
                | Errno::PERM
                | Errno::OPNOTSUPP
                | Errno::NOSYS
                | Errno::MLINK,
            ) => Err(Unlinked::Unsupported),
            Err(errno) => Err(Unlinked::Failed(errno)),
        }
    }

    /// Puts a file with this content at a name, in place of another one, as a whole. Uses no hard link.
    ///
    /// The file is a new one: what a kill left under the temporary name may be the file of a reservation.
    fn replace(&self, name: &str, content: &[u8]) -> std::result::Result<(), Errno> {
        match unlinkat(&self.dir, TEMPORARY, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = openat(&self.dir, TEMPORARY, flags, Mode::from_raw_mode(0o600))?;
        let written = write_all(&file, content)
            .and_then(|()| renameat(&self.dir, TEMPORARY, &self.dir, name));
        if written.is_err() {
            let _ = unlinkat(&self.dir, TEMPORARY, AtFlags::empty());
        }
        written
    }

    /// Frees an address; one that is free is no failure.
    pub(super) fn release(&self, address: IpAddr) -> Result<()> {
        let name = address.to_string();
        match unlinkat(&self.dir, name.as_str(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(self.error("release", &name, errno)),
        }
    }

    /// The address that was given away last in a range set.
    pub(super) fn last_reserved(&self, set: usize) -> Option<IpAddr> {
        let content = self.read(&last_reserved_name(set)).ok()?;
        std::str::from_utf8(content.bytes()).ok()?.trim().parse().ok()
    }

    /// Remembers it. This is a hint: without it the search begins at the start of the range.
    pub(super) fn set_last_reserved(&self, set: usize, address: IpAddr) {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
        let name = last_reserved_name(set);
        let text = address.to_string();
        // Written over, not truncated first: file systems guard truncated files by writing to disk.
        let written =
            openat(&self.dir, name.as_str(), flags, Mode::from_raw_mode(0o600)).and_then(|file| {
                write_all(&file, text.as_bytes())?;
                if fstat(&file)?.st_size > text.len() as i64 {
                    ftruncate(&file, text.len() as u64)?;
                }
                Ok(())
            });
        if let Err(errno) = written {
            eprintln!("viaduct: {}", self.error("remember the last address in", &name, errno));
        }
    }

    /// Drops the reservations that were made before this boot: no network namespace survives one.
    ///
    /// A folder that the reference plugin made has no mark of a boot, and keeps everything.
    pub(super) fn forget_earlier_boots(&self, sets: usize) -> Result<()> {
        match Boot::current() {
            Some(boot) => self.forget_before(&boot, sets),
            None => Ok(()), // no /proc: nothing can be known
        }
    }

    /// Another boot's identity alone proves that our own reservations are of an earlier boot, whatever the
    /// clock says. Those of the reference plugin, which makes new ones without that mark, go by their time.
    pub(super) fn forget_before(&self, boot: &Boot, sets: usize) -> Result<()> {
        let mark = self.read(BOOT_ID).ok();
        let marked = mark.as_ref().map(Content::bytes).unwrap_or_default();
        if marked == boot.id.as_bytes() {
            return Ok(());
        }
        if !marked.is_empty() {
            let since = (boot.since)().unwrap_or(i64::MIN);
            for reservation in self.reservations()? {
                let name = reservation.address.to_string();
                let modified = statat(&self.dir, name.as_str(), AtFlags::empty());
                if modified.is_ok_and(|stat| stat.st_mtime < since)
                    || self.is_own(&reservation, sets)
                {
                    self.release(reservation.address)?;
                }
            }
        }
        if let Err(errno) = self.replace(BOOT_ID, boot.id.as_bytes()) {
            eprintln!("viaduct: {}", self.error("write", BOOT_ID, errno));
        }
        Ok(())
    }
}

/// The running system's boot.
pub(super) struct Boot {
    /// Its random identity.
    pub(super) id: String,
    /// When it was, in seconds since 1970. Asked only when it matters: /proc/stat is slow to read.
    pub(super) since: fn() -> Option<i64>,
}

impl Boot {
    fn current() -> Option<Boot> {
        let mut id = [0; 36];
        File::open("/proc/sys/kernel/random/boot_id").ok()?.read_exact(&mut id).ok()?;
        let id = String::from_utf8(id.to_vec()).ok()?;
        Some(Boot { id, since: boot_time })
    }
}

/// `btime` of /proc/stat.
fn boot_time() -> Option<i64> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

/// Beside an address whose last owner had a MAC address of its own choice.
const FOREIGN_MAC_PREFIX: &str = "viaduct-foreign-mac-";
const MARK_PREFIX: &str = "viaduct-owner-";

/// The second name of the reservation of an attachment in a range set.
fn mark(owner: &Attachment, set: usize) -> String {
    let hash = fnv1a(format!("{}\0{}", owner.container_id, owner.ifname).as_bytes());
    format!("{MARK_PREFIX}{hash:016x}.{set}")
}

fn last_reserved_name(set: usize) -> String {
    format!("last_reserved_ip.{set}")
}

fn write_all(file: &OwnedFd, mut content: &[u8]) -> std::result::Result<(), Errno> {
    while !content.is_empty() {
        match rustix::io::write(file, content) {
            Ok(0) => return Err(Errno::IO),
            Ok(written) => content = &content[written..],
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
