//! A blocking netlink socket: requests with acknowledgements, look-ups, dumps.

use std::collections::BTreeSet;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, sendto, socket_with,
};

use crate::error::{Error, Result};
use crate::message::{
    HEADER_LEN, NLM_F_ACK, NLM_F_DUMP_INTR, Received, Writer, attributes, messages, read_string,
    read_u16, read_u32,
};

/// `NLMSG_ERROR`: an error, or an acknowledgement when its number is zero.
const NLMSG_ERROR: u16 = 2;
/// `NLMSG_DONE`: the end of a dump.
const NLMSG_DONE: u16 = 3;
/// `MAX_ERRNO`: larger numbers are a subsystem's own; ipset alone has some.
const ERRNO_MAX: i32 = 4095;
/// `NLMSGERR_ATTR_MSG`: the kernel's explanation.
const NLMSGERR_ATTR_MSG: u16 = 1;
/// The kernel builds dump datagrams of at most 32 KiB.
const RECEIVE_BUFFER: usize = 64 * 1024;
/// A dump of a table that others change all the time is begun anew at most this often.
const DUMP_ATTEMPTS: usize = 100;
/// The kernel fills at least so much of a datagram before it begins another (`NLMSG_GOODSIZE`).
const SMALLEST_DATAGRAM: usize = 3000;
/// Readings of a table under change that add nothing before it counts as read.
const STEADY_READINGS: usize = 8;
/// `SOL_NETLINK` options (`include/uapi/linux/netlink.h`).
const NETLINK_CAP_ACK: i32 = 10;
const NETLINK_EXT_ACK: i32 = 11;
const NETLINK_GET_STRICT_CHK: i32 = 12;

/// One netlink socket, bound to the network namespace it was opened in for all its life.
pub(crate) struct Socket {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

/// A message that the kernel refused.
pub(crate) struct Refused {
    /// Its place among those that were sent.
    pub(crate) position: usize,
    /// Why.
    pub(crate) error: Error,
}

/// An answer to one message of a transaction.
pub(crate) struct Answer {
    /// The sequence number of the message that is answered.
    pub(crate) sequence: u32,
    /// `None` is an acknowledgement.
    pub(crate) error: Option<Error>,
}

impl Socket {
    /// Opens a socket of this protocol (`NETLINK_ROUTE`, `NETLINK_NETFILTER`, …) in the calling
    /// thread's network namespace.
    pub(crate) fn open(protocol: i32) -> Result<Socket> {
        let failed =
            |errno| Error::new(format!("open a netlink socket of protocol {protocol}"), errno);
        let raw = rustix::net::RawProtocol::new(protocol as u32);
        let fd = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            raw.map(rustix::net::Protocol::from_raw),
        )
        .map_err(failed)?;
        bind(&fd, &SocketAddrNetlink::new(0, 0)).map_err(failed)?;
        for option in [NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK] {
            // Each is newer than netlink itself; without it errors say less, nothing else changes.
            let _ = set_option(&fd, libc::SOL_NETLINK, option, 1);
        }
        Ok(Socket { fd, sequence: 0, buffer: vec![0; RECEIVE_BUFFER] })
    }

    /// Sends the writer's messages in one system call, as they are.
    pub(crate) fn send(&self, bytes: &[u8]) -> Result<()> {
        sendto(&self.fd, bytes, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))
            .map(drop)
            .map_err(|errno| Error::new("send to the kernel", errno))
    }

    /// The socket's own address, which the kernel chose.
    pub(crate) fn port(&self) -> Result<u32> {
        let address = rustix::net::getsockname(&self.fd)
            .map_err(|errno| Error::new("read the address of a netlink socket", errno))?;
        SocketAddrNetlink::try_from(address)
            .map(|address| address.pid())
            .map_err(|errno| Error::new("read the address of a netlink socket", errno))
    }

    /// Joins a multicast group, with room for `buffer` bytes of unread messages.
    pub(crate) fn join(&self, group: u32, buffer: usize) -> Result<()> {
        let failed = |errno| Error::new(format!("join netlink group {group}"), errno);
        let wanted = i32::try_from(buffer).unwrap_or(i32::MAX);
        set_option(&self.fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, wanted).map_err(failed)?;
        set_option(&self.fd, libc::SOL_NETLINK, libc::NETLINK_ADD_MEMBERSHIP, group as i32)
            .map_err(failed)
    }

    /// Waits for a datagram of a multicast group. `ENOBUFS` if some were lost.
    pub(crate) fn wait(&mut self, mut each: impl FnMut(Received<'_>)) -> Result<()> {
        self.receive(&mut each)
    }

    /// Lets one send hold `bytes`, whatever the system's limit is (`SO_SNDBUFFORCE`).
    pub(crate) fn reserve_send_buffer(&self, bytes: usize) -> Result<()> {
        let wanted = i32::try_from(bytes).unwrap_or(i32::MAX);
        set_option(&self.fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, wanted)
            .map_err(|errno| Error::new(format!("make room for a message of {bytes} bytes"), errno))
    }

    /// Sends every message in one system call and waits until all have been tried. The first error is
    /// returned.
    pub(crate) fn execute(&mut self, requests: Writer) -> Result<()> {
        let refused = self.execute_each(requests)?.into_iter().next();
        refused.map_or(Ok(()), |refused| Err(refused.error))
    }

    /// The same; every error is returned, with the message's place.
    ///
    /// The kernel takes messages in order and answers errors at once, so an acknowledgement of the last
    /// is enough.
    pub(crate) fn execute_each(&mut self, mut requests: Writer) -> Result<Vec<Refused>> {
        let first = self.sequence.wrapping_add(1);
        let count = self.number(&mut requests, NLM_F_ACK);
        self.send(requests.bytes())?;
        let mut refused = Vec::new();
        let mut done = count == 0;
        while !done {
            let more = self.receive_answers(|message| {
                let position = message.sequence.wrapping_sub(first);
                if position < count && message.kind == NLMSG_ERROR {
                    let error = error_of(message);
                    refused
                        .extend(error.map(|error| Refused { position: position as usize, error }));
                    done = position == count - 1;
                }
            })?;
            done |= !more;
        }
        Ok(refused)
    }

    /// Sends one message and hands its answer to `parse`.
    pub(crate) fn get<T>(
        &mut self,
        mut request: Writer,
        mut parse: impl FnMut(&[u8]) -> Option<T>,
    ) -> Result<T> {
        self.number(&mut request, 0);
        self.send(request.bytes())?;
        let sequence = self.sequence;
        let mut answer = None;
        while answer.is_none() {
            self.receive(|message| {
                if message.sequence == sequence && answer.is_none() {
                    answer =
                        Some(match message.kind {
                            NLMSG_ERROR => Err(error_of(message)
                                .unwrap_or_else(|| Error::malformed("read an answer"))),
                            _ => parse(message.payload)
                                .ok_or_else(|| Error::malformed("read an answer")),
                        });
                }
            })?;
        }
        answer.unwrap_or_else(|| Err(Error::malformed("read an answer")))
    }

    /// Sends a dump request and collects what `parse` makes of every entry, in order.
    ///
    /// A dump that was interrupted by a change (`NLM_F_DUMP_INTR`) begins anew, so that the result
    /// is never a mixture.
    pub(crate) fn dump<T>(
        &mut self,
        mut request: Writer,
        mut parse: impl FnMut(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>> {
        for _ in 0..DUMP_ATTEMPTS {
            self.number(&mut request, 0);
            self.send(request.bytes())?;
            let sequence = self.sequence;
            let mut entries = Vec::new();
            let (mut done, mut interrupted, mut failure) = (false, false, None);
            while !done {
                self.receive(|message| {
                    if message.sequence != sequence {
                        return;
                    }
                    interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
                    match message.kind {
                        NLMSG_DONE => {
                            done = true;
                            failure = failure.take().or(error_of(message));
                        }
                        NLMSG_ERROR => {
                            done = true;
                            failure = error_of(message);
                        }
                        _ => entries.extend(parse(message.payload)),
                    }
                })?;
            }
            match failure {
                Some(error) if error.errno == Errno::INTR => continue,
                Some(error) => return Err(error),
                None if interrupted => continue,
                None => return Ok(entries),
            }
        }
        Err(Error {
            operation: "dump a kernel table".to_owned(),
            errno: Errno::INTR,
            detail: Some(format!("it changed during each of {DUMP_ATTEMPTS} attempts")),
        })
    }

    /// A dump of a table that the kernel walks anew for every datagram, without saying that it changed
    /// meanwhile: entries are shown twice, or not at all. What takes more than one datagram is read
    /// until two readings agree. The result is ordered.
    pub(crate) fn settled_dump<T: Ord>(
        &mut self,
        request: impl Fn() -> Writer,
        mut parse: impl FnMut(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>> {
        let mut before: Option<Vec<T>> = None;
        for _ in 0..DUMP_ATTEMPTS {
            let mut bytes = 0;
            let mut entries = self.dump(request(), |payload| {
                bytes += payload.len() + HEADER_LEN;
                parse(payload)
            })?;
            entries.sort();
            entries.dedup();
            if bytes < SMALLEST_DATAGRAM || before.as_ref() == Some(&entries) {
                return Ok(entries);
            }
            before = Some(entries);
        }
        Err(Error {
            operation: "dump a kernel table".to_owned(),
            errno: Errno::INTR,
            detail: Some(format!("no two of {DUMP_ATTEMPTS} readings agree")),
        })
    }

    /// Like [`Socket::settled_dump`] for a table that other processes may never leave alone, so that no
    /// two readings agree: then readings are put together until [`STEADY_READINGS`] add nothing. An entry
    /// that is deleted meanwhile may be among the result.
    pub(crate) fn collected_dump<T: Ord + Clone>(
        &mut self,
        request: impl Fn() -> Writer,
        mut parse: impl FnMut(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>> {
        let (mut all, mut before, mut steady) = (BTreeSet::new(), None, 0);
        for _ in 0..DUMP_ATTEMPTS {
            let mut bytes = 0;
            let entries = self.dump(request(), |payload| {
                bytes += payload.len() + HEADER_LEN;
                parse(payload)
            })?;
            let entries: BTreeSet<T> = entries.into_iter().collect();
            if bytes < SMALLEST_DATAGRAM || before.as_ref() == Some(&entries) {
                return Ok(entries.into_iter().collect());
            }
            let known = all.len();
            all.extend(entries.iter().cloned());
            steady = if all.len() == known { steady + 1 } else { 0 };
            if steady == STEADY_READINGS {
                return Ok(all.into_iter().collect());
            }
            before = Some(entries);
        }
        Err(Error {
            operation: "dump a kernel table".to_owned(),
            errno: Errno::INTR,
            detail: Some(format!("{DUMP_ATTEMPTS} readings show ever more")),
        })
    }

    /// Lists the answers in the next datagram; `None` if there are no more, because the kernel had to
    /// drop some: there were more errors than the receive buffer holds.
    pub(crate) fn answers(&mut self) -> Result<Option<Vec<Answer>>> {
        let mut answers = Vec::new();
        let more = self.receive_answers(|message| {
            if message.kind == NLMSG_ERROR {
                answers.push(Answer { sequence: message.sequence, error: error_of(message) });
            }
        })?;
        Ok(more.then_some(answers))
    }

    /// Receives a datagram of answers to what was sent; `false` if there is none.
    ///
    /// The kernel works while it is sent to, so all answers are there already. If they were too many
    /// for the receive buffer, that is said once (`ENOBUFS`), and the first ones are still to be had.
    fn receive_answers(&mut self, mut each: impl FnMut(Received<'_>)) -> Result<bool> {
        loop {
            match recv(&self.fd, &mut self.buffer[..], RecvFlags::DONTWAIT) {
                Ok((length, _)) => {
                    messages(&self.buffer[..length]).for_each(&mut each);
                    return Ok(true);
                }
                Err(Errno::INTR | Errno::NOBUFS) => {}
                Err(Errno::AGAIN) => return Ok(false),
                Err(errno) => return Err(Error::new("receive from the kernel", errno)),
            }
        }
    }

    /// A range of `count` unused sequence numbers; the first is returned.
    pub(crate) fn take_sequences(&mut self, count: u32) -> u32 {
        let first = self.sequence.wrapping_add(1);
        self.sequence = self.sequence.wrapping_add(count);
        first
    }

    /// Gives each message the next sequence number, and the last these flags too; counts them.
    fn number(&mut self, requests: &mut Writer, last_flags: u16) -> u32 {
        let bytes = requests.bytes_mut();
        let (mut next, mut last, mut count) = (0, None, 0);
        while let Some(length) = read_u32(bytes, next).filter(|l| *l as usize >= HEADER_LEN) {
            self.sequence = self.sequence.wrapping_add(1);
            bytes[next + 8..next + 12].copy_from_slice(&self.sequence.to_ne_bytes());
            last = Some(next);
            next += (length as usize).next_multiple_of(4);
            count += 1;
        }
        if let Some(flags) = last.map(|start| start + 6) {
            let all = read_u16(bytes, flags).unwrap_or(0) | last_flags;
            bytes[flags..flags + 2].copy_from_slice(&all.to_ne_bytes());
        }
        count
    }

    fn receive(&mut self, mut each: impl FnMut(Received<'_>)) -> Result<()> {
        let (length, _) = loop {
            match recv(&self.fd, &mut self.buffer[..], RecvFlags::empty()) {
                Err(Errno::INTR) => continue,
                other => break other,
            }
        }
        .map_err(|errno| Error::new("receive from the kernel", errno))?;
        messages(&self.buffer[..length]).for_each(&mut each);
        Ok(())
    }
}

/// The error in an `NLMSG_ERROR` or `NLMSG_DONE` message; `None` is success.
fn error_of(message: Received<'_>) -> Option<Error> {
    let number = read_u32(message.payload, 0).unwrap_or(0) as i32;
    if number >= 0 {
        return None;
    }
    if number < -ERRNO_MAX {
        return Some(crate::ipset::refusal(-number));
    }
    // After the number: the header of the refused message (NETLINK_CAP_ACK leaves out its body).
    let skip = if message.kind == NLMSG_ERROR { 4 + HEADER_LEN } else { 4 };
    let detail = attributes(message.payload.get(skip..).unwrap_or_default())
        .find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG)
        .map(|(_, text)| format!("the kernel says {:?}", read_string(text)));
    Some(Error {
        operation: "kernel request".to_owned(),
        errno: Errno::from_raw_os_error(-number),
        detail,
    })
}

#[expect(unsafe_code, reason = "rustix has no setter for the options of netlink sockets")]
fn set_option(fd: &OwnedFd, level: i32, option: i32, value: i32) -> std::result::Result<(), Errno> {
    let length = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the pointer and the length describe `value`, which outlives the call.
    let result = unsafe {
        libc::setsockopt(fd.as_raw_fd(), level, option, (&raw const value).cast(), length)
    };
    if result == 0 {
        Ok(())
    } else {
        Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL))
    }
}
