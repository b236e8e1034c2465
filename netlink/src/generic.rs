//! Generic netlink: families of the kernel that have a name, and a number that differs from boot to boot.

use crate::error::Result;
use crate::message::{Writer, attributes_after, read_u16};
use crate::socket::{Refused, Socket};

// include/uapi/linux/genetlink.h
/// `struct genlmsghdr`: command, version, two reserved bytes.
pub(crate) const GENL_HEADER_LEN: usize = 4;
const GENL_ID_CTRL: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;

/// A connection to one family.
pub(crate) struct GenericSocket {
    socket: Socket,
    family: u16,
}

impl GenericSocket {
    /// Looks the family up in the calling thread's network namespace. `ENOENT` if the kernel does not have it;
    /// if its module can be loaded, asking loads it.
    pub(crate) fn open(family: &str) -> Result<GenericSocket> {
        let mut socket = Socket::open(libc::NETLINK_GENERIC)?;
        let mut request = Writer::default();
        message(&mut request, GENL_ID_CTRL, CTRL_CMD_GETFAMILY, 0, |m| {
            m.string(CTRL_ATTR_FAMILY_NAME, family);
        });
        let family = socket
            .get(request, |payload| {
                let id = attributes_after(payload, GENL_HEADER_LEN)
                    .find(|(kind, _)| *kind == CTRL_ATTR_FAMILY_ID)?;
                read_u16(id.1, 0)
            })
            .map_err(|error| error.during(format!("look up the netlink family {family}")))?;
        Ok(GenericSocket { socket, family })
    }

    /// Writes one command of the family.
    pub(crate) fn command(
        &self,
        requests: &mut Writer,
        command: u8,
        flags: u16,
        body: impl FnOnce(&mut Writer),
    ) {
        message(requests, self.family, command, flags, body);
    }

    /// Sends all commands at once; tells those that the kernel refused. It tries each.
    pub(crate) fn execute_each(&mut self, requests: Writer) -> Result<Vec<Refused>> {
        self.socket.execute_each(requests)
    }

    /// Sends one command and hands its answer to `parse`.
    pub(crate) fn get<T>(
        &mut self,
        request: Writer,
        parse: impl FnMut(&[u8]) -> Option<T>,
    ) -> Result<T> {
        self.socket.get(request, parse)
    }

    /// Sends a dump request and collects what `parse` makes of every entry.
    pub(crate) fn dump<T>(
        &mut self,
        request: Writer,
        parse: impl FnMut(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>> {
        self.socket.dump(request, parse)
    }
}

fn message(
    requests: &mut Writer,
    family: u16,
    command: u8,
    flags: u16,
    body: impl FnOnce(&mut Writer),
) {
    const VERSION: u8 = 1;
    requests.message(family, flags, |m| {
        m.raw(&[command, VERSION, 0, 0]);
        body(m);
    });
}
