//! ipset: sets of addresses and ports that iptables rules look up (`-m set`).
//!
//! ```no_run
//! use netlink::Family;
//! use netlink::ipset::{Entry, Ipset, SetType};
//!
//! let mut ipset = Ipset::open()?;
//! let kind = SetType::HashIpPort { family: Family::V4, max: 65_536 };
//! ipset.create("VIADUCT-SERVICES", kind)?;
//! ipset.add("VIADUCT-SERVICES", &[Entry::IpPort([10, 96, 0, 1].into(), 6, 443)])?;
//! # Ok::<(), netlink::Error>(())
//! ```
//!
//! To replace what a set holds at once, fill another one of the same type and [`Ipset::swap`] them.

mod wire;

pub(crate) use wire::refusal;

use std::net::IpAddr;

use crate::error::{Result, found};
use crate::message::Writer;
use crate::socket::Socket;
use crate::{Errno, Error, Family, Prefix};

/// What a set holds, and how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetType {
    /// `hash:ip`: addresses.
    HashIp {
        /// Family of the addresses.
        family: Family,
        /// Entries at most.
        max: u32,
    },
    /// `hash:ip,port`: address, protocol, port.
    HashIpPort {
        /// Family of the addresses.
        family: Family,
        /// Entries at most.
        max: u32,
    },
    /// `hash:ip,port,ip`: the same with a second address.
    HashIpPortIp {
        /// Family of the addresses.
        family: Family,
        /// Entries at most.
        max: u32,
    },
    /// `hash:ip,port,net`: the same with a network. The kernel refuses one of length zero: give its halves.
    HashIpPortNet {
        /// Family of the addresses.
        family: Family,
        /// Entries at most.
        max: u32,
    },
    /// `bitmap:port`: ports of a range, both ends included.
    BitmapPort {
        /// The first port.
        first: u16,
        /// The last port.
        last: u16,
    },
}

impl SetType {
    /// The kernel's name.
    pub fn name(self) -> &'static str {
        match self {
            SetType::HashIp { .. } => "hash:ip",
            SetType::HashIpPort { .. } => "hash:ip,port",
            SetType::HashIpPortIp { .. } => "hash:ip,port,ip",
            SetType::HashIpPortNet { .. } => "hash:ip,port,net",
            SetType::BitmapPort { .. } => "bitmap:port",
        }
    }

    /// The family, if the set has addresses.
    pub fn family(self) -> Option<Family> {
        match self {
            SetType::HashIp { family, .. }
            | SetType::HashIpPort { family, .. }
            | SetType::HashIpPortIp { family, .. }
            | SetType::HashIpPortNet { family, .. } => Some(family),
            SetType::BitmapPort { .. } => None,
        }
    }
}

/// An entry of a set. Protocols are the numbers of IP: 6 is TCP, 17 UDP, 132 SCTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Entry {
    /// Of `hash:ip`.
    Ip(IpAddr),
    /// Of `hash:ip,port`: address, protocol, port.
    IpPort(IpAddr, u8, u16),
    /// Of `hash:ip,port,ip`.
    IpPortIp(IpAddr, u8, u16, IpAddr),
    /// Of `hash:ip,port,net`.
    IpPortNet(IpAddr, u8, u16, Prefix),
    /// Of `bitmap:port`.
    Port(u16),
}

/// A set as the kernel tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// The kernel's name of its type.
    pub type_name: String,
    /// Its type, if it is one of [`SetType`].
    pub set_type: Option<SetType>,
    /// How many rules and other sets refer to it.
    pub references: u32,
    /// Its entries, sorted; none if it has another type.
    pub entries: Vec<Entry>,
}

/// The longest name of a set, in bytes (`IPSET_MAXNAMELEN` counts the closing NUL).
pub const NAME_MAX: usize = 31;

/// A connection to ipset.
pub struct Ipset {
    socket: Socket,
}

impl Ipset {
    /// Opens the connection in the calling thread's network namespace.
    pub fn open() -> Result<Ipset> {
        Ok(Ipset { socket: Socket::open(libc::NETLINK_NETFILTER)? })
    }

    /// Makes a set; one of the same name, type and size stays as it is, with its entries.
    ///
    /// # Errors
    ///
    /// `EEXIST`, naming the type, if a set of that name has another type or size.
    pub fn create(&mut self, name: &str, set: SetType) -> Result<()> {
        let what = format!("create ipset {name} of type {}", set.name());
        if name.is_empty() || name.len() > NAME_MAX {
            let mut error = Error::new(what, Errno::NAMETOOLONG);
            error.detail = Some(format!("a name has 1 to {NAME_MAX} bytes"));
            return Err(error);
        }
        let error = match self.execute(&what, |w| wire::create(w, name, set)) {
            Err(error) if error.already_exists() => error,
            other => return other,
        };
        let there = self.list(name)?;
        let detail = there.map(|there| match there.set_type {
            Some(other) => format!("there is a set of that name already: {other:?}"),
            None => format!("there is a set of that name already, of type {}", there.type_name),
        });
        Err(Error { detail: detail.or(error.detail.clone()), ..error })
    }

    /// Adds entries; those that are there stay.
    pub fn add(&mut self, name: &str, entries: &[Entry]) -> Result<()> {
        self.change(wire::ADD, "add to", name, entries)
    }

    /// Deletes entries; those that are not there are no error.
    pub fn delete(&mut self, name: &str, entries: &[Entry]) -> Result<()> {
        self.change(wire::DEL, "delete from", name, entries)
    }

    fn change(&mut self, command: u16, verb: &str, name: &str, entries: &[Entry]) -> Result<()> {
        for (at, chunk) in entries.chunks(wire::CHUNK).enumerate() {
            let mut request = Writer::default();
            wire::entries(&mut request, command, name, chunk);
            self.socket.execute(request).map_err(|error| {
                // One entry is named; of many, the kernel tells which by a number that it echoes.
                let which = match chunk {
                    [entry] => format!("{entry:?}"),
                    _ => format!("one of {} entries from number {}", chunk.len(), at * wire::CHUNK),
                };
                error.during(format!("{verb} ipset {name}: {which}"))
            })?;
        }
        Ok(())
    }

    /// Empties a set.
    pub fn flush(&mut self, name: &str) -> Result<()> {
        self.execute(&format!("flush ipset {name}"), |w| wire::named(w, wire::FLUSH, name))
    }

    /// Exchanges the contents of two sets of one type, at once for every rule that uses them.
    pub fn swap(&mut self, one: &str, other: &str) -> Result<()> {
        let what = format!("swap ipsets {one} and {other}");
        self.execute(&what, |w| wire::pair(w, wire::SWAP, one, other))
    }

    /// Gives a set that nothing refers to another name.
    pub fn rename(&mut self, from: &str, to: &str) -> Result<()> {
        let what = format!("rename ipset {from} to {to}");
        self.execute(&what, |w| wire::pair(w, wire::RENAME, from, to))
    }

    /// Destroys a set; tells whether it was there.
    ///
    /// # Errors
    ///
    /// `EBUSY` while a rule refers to it.
    pub fn destroy(&mut self, name: &str) -> Result<bool> {
        let what = format!("destroy ipset {name}");
        Ok(found(self.execute(&what, |w| wire::named(w, wire::DESTROY, name)))?.is_some())
    }

    /// A set with its entries, if there is one of that name.
    pub fn list(&mut self, name: &str) -> Result<Option<Listed>> {
        let listed = found(self.dump(Some(name)))?;
        Ok(listed.and_then(|sets| sets.into_iter().next()))
    }

    /// All sets with their entries, sorted by name.
    pub fn list_all(&mut self) -> Result<Vec<Listed>> {
        self.dump(None)
    }

    fn dump(&mut self, name: Option<&str>) -> Result<Vec<Listed>> {
        let mut request = Writer::default();
        wire::list(&mut request, name);
        let what = match name {
            Some(name) => format!("list ipset {name}"),
            None => "list ipsets".to_owned(),
        };
        let mut type_name = String::new();
        let parts = self.socket.dump(request, |payload| wire::parse(payload, &mut type_name));
        Ok(wire::join(parts.map_err(|error| error.during(what))?))
    }

    fn execute(&mut self, what: &str, write: impl FnOnce(&mut Writer)) -> Result<()> {
        let mut request = Writer::default();
        write(&mut request);
        self.socket.execute(request).map_err(|error| error.during(what))
    }
}
