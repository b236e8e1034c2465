//! Netlink's wire format: messages of a fixed header and a tree of attributes.
//!
//! One writer and one reader serve every protocol (rtnetlink, nfnetlink and what is to come): they
//! differ in constants only. Layout: `include/uapi/linux/netlink.h`; everything is aligned to four
//! bytes and in host byte order unless a method says `be`.

use crate::MacAddress;
use std::net::IpAddr;

/// `struct nlmsghdr`: length, type, flags, sequence number, port id.
pub(crate) const HEADER_LEN: usize = 16;
/// `struct nlattr`: length, type.
const ATTRIBUTE_HEADER_LEN: usize = 4;
const NLA_F_NESTED: u16 = 1 << 15;
/// The bits of an attribute type that are flags (`NLA_F_NESTED`, `NLA_F_NET_BYTEORDER`).
const NLA_TYPE_MASK: u16 = 0x3fff;
/// The largest attribute: its length field has 16 bits.
pub(crate) const ATTRIBUTE_MAX: usize = u16::MAX as usize;

/// A message is a request (`NLM_F_REQUEST`).
pub(crate) const NLM_F_REQUEST: u16 = 0x1;
/// Answer with an acknowledgement (`NLM_F_ACK`).
pub(crate) const NLM_F_ACK: u16 = 0x4;
/// Return all entries (`NLM_F_ROOT | NLM_F_MATCH`).
pub(crate) const NLM_F_DUMP: u16 = 0x300;
/// On a reply: the dumped table changed meanwhile.
pub(crate) const NLM_F_DUMP_INTR: u16 = 0x10;
/// On NEW requests: replace, fail if it exists, create, append.
pub(crate) const NLM_F_REPLACE: u16 = 0x100;
pub(crate) const NLM_F_EXCL: u16 = 0x200;
pub(crate) const NLM_F_CREATE: u16 = 0x400;
pub(crate) const NLM_F_APPEND: u16 = 0x800;

fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

/// Writes messages one after the other into one buffer.
#[derive(Default)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// One message. Its sequence number is set when it is sent, or by [`Writer::numbered`].
    pub(crate) fn message(&mut self, kind: u16, flags: u16, body: impl FnOnce(&mut Writer)) {
        self.numbered(kind, flags, 0, body);
    }

    /// One message with a sequence number.
    pub(crate) fn numbered(
        &mut self,
        kind: u16,
        flags: u16,
        sequence: u32,
        body: impl FnOnce(&mut Writer),
    ) {
        let start = self.bytes.len();
        self.bytes.extend([0; 4]);
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend((flags | NLM_F_REQUEST).to_ne_bytes());
        self.bytes.extend(sequence.to_ne_bytes());
        self.bytes.extend([0; 4]);
        body(self);
        let length = (self.bytes.len() - start) as u32;
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    /// Raw bytes: a protocol's fixed header.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(aligned(self.bytes.len()), 0);
    }

    /// An attribute with these bytes.
    pub(crate) fn attr(&mut self, kind: u16, value: &[u8]) {
        debug_assert!(value.len() + ATTRIBUTE_HEADER_LEN <= ATTRIBUTE_MAX);
        self.bytes.extend(((value.len() + ATTRIBUTE_HEADER_LEN) as u16).to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.raw(value);
    }

    pub(crate) fn u8(&mut self, kind: u16, value: u8) {
        self.attr(kind, &[value]);
    }

    pub(crate) fn u32(&mut self, kind: u16, value: u32) {
        self.attr(kind, &value.to_ne_bytes());
    }

    pub(crate) fn u64(&mut self, kind: u16, value: u64) {
        self.attr(kind, &value.to_ne_bytes());
    }

    pub(crate) fn be16(&mut self, kind: u16, value: u16) {
        self.attr(kind, &value.to_be_bytes());
    }

    pub(crate) fn be32(&mut self, kind: u16, value: u32) {
        self.attr(kind, &value.to_be_bytes());
    }

    pub(crate) fn be64(&mut self, kind: u16, value: u64) {
        self.attr(kind, &value.to_be_bytes());
    }

    /// A string with its closing NUL.
    pub(crate) fn string(&mut self, kind: u16, value: &str) {
        self.bytes.extend(((value.len() + 1 + ATTRIBUTE_HEADER_LEN) as u16).to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend_from_slice(value.as_bytes());
        self.bytes.push(0);
        self.pad();
    }

    /// An address in network order.
    pub(crate) fn ip(&mut self, kind: u16, address: IpAddr) {
        match address {
            IpAddr::V4(v4) => self.attr(kind, &v4.octets()),
            IpAddr::V6(v6) => self.attr(kind, &v6.octets()),
        }
    }

    pub(crate) fn mac(&mut self, kind: u16, address: MacAddress) {
        self.attr(kind, &address.0);
    }

    /// An attribute that holds attributes.
    pub(crate) fn nest(&mut self, kind: u16, body: impl FnOnce(&mut Writer)) {
        self.nest_unflagged(kind | NLA_F_NESTED, body);
    }

    /// Like [`Writer::nest`], without the flag, where the kernel's own tools leave it out.
    pub(crate) fn nest_unflagged(&mut self, kind: u16, body: impl FnOnce(&mut Writer)) {
        let start = self.bytes.len();
        self.bytes.extend([0; 2]);
        self.bytes.extend(kind.to_ne_bytes());
        body(self);
        let length = self.bytes.len() - start;
        debug_assert!(length <= ATTRIBUTE_MAX, "an attribute of {length} bytes");
        self.bytes[start..start + 2].copy_from_slice(&(length as u16).to_ne_bytes());
    }

    /// Makes the last message and the last attribute in it longer by what `body` writes: both begin
    /// where the caller remembers and end where the buffer ends.
    pub(crate) fn extend(&mut self, message: usize, nest: usize, body: impl FnOnce(&mut Writer)) {
        body(self);
        let length = (self.bytes.len() - nest) as u16;
        self.bytes[nest..nest + 2].copy_from_slice(&length.to_ne_bytes());
        let length = (self.bytes.len() - message) as u32;
        self.bytes[message..message + 4].copy_from_slice(&length.to_ne_bytes());
    }

    /// Bytes written so far.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

/// One received message.
#[derive(Clone, Copy)]
pub(crate) struct Received<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    /// The socket that asked for what is told; 0 is the kernel.
    pub(crate) port: u32,
    pub(crate) payload: &'a [u8],
}

/// Splits a datagram into its messages; stops at the first that cannot be whole.
pub(crate) fn messages(mut datagram: &[u8]) -> impl Iterator<Item = Received<'_>> {
    std::iter::from_fn(move || {
        let length = read_u32(datagram, 0)? as usize;
        if length < HEADER_LEN || length > datagram.len() {
            return None;
        }
        let message = Received {
            kind: read_u16(datagram, 4)?,
            flags: read_u16(datagram, 6)?,
            sequence: read_u32(datagram, 8)?,
            port: read_u32(datagram, 12)?,
            payload: &datagram[HEADER_LEN..length],
        };
        datagram = datagram.get(aligned(length)..).unwrap_or_default();
        Some(message)
    })
}

/// The attributes in `bytes`, flags stripped from their types; stops at the first that cannot be whole.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(read_u16(bytes, 0)?);
        if length < ATTRIBUTE_HEADER_LEN || length > bytes.len() {
            return None;
        }
        let kind = read_u16(bytes, 2)? & NLA_TYPE_MASK;
        let value = &bytes[ATTRIBUTE_HEADER_LEN..length];
        bytes = bytes.get(aligned(length)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The attributes of a message whose fixed header has `header` bytes.
pub(crate) fn attributes_after(
    payload: &[u8],
    header: usize,
) -> impl Iterator<Item = (u16, &[u8])> {
    attributes(payload.get(header..).unwrap_or_default())
}

/// The first attribute of this type.
pub(crate) fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

pub(crate) fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub(crate) fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

pub(crate) fn read_be32(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(..4)?.try_into().ok()?))
}

pub(crate) fn read_be64(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.get(..8)?.try_into().ok()?))
}

pub(crate) fn read_ip(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        Some(IpAddr::from(v4))
    } else {
        Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?))
    }
}

pub(crate) fn read_mac(bytes: &[u8]) -> Option<MacAddress> {
    Some(MacAddress(bytes.try_into().ok()?))
}

/// Text up to the first NUL.
pub(crate) fn read_string(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        let mut writer = Writer::default();
        writer.numbered(7, NLM_F_ACK, 42, |m| {
            m.raw(&[1, 2, 3, 4]);
            m.string(1, "abc");
            m.nest(2, |m| m.be32(3, 0x0102_0304));
        });
        writer.message(8, 0, |_| ());
        let received: Vec<_> = messages(writer.bytes()).collect();
        assert_eq!(received.len(), 2);
        assert_eq!((received[0].kind, received[0].sequence), (7, 42));
        let attrs: Vec<_> = attributes_after(received[0].payload, 4).collect();
        assert_eq!(attrs[0], (1, &b"abc\0"[..]));
        assert_eq!(attribute(attrs[1].1, 3).and_then(read_be32), Some(0x0102_0304));
        assert!(received[1].payload.is_empty());
    }

    #[test]
    fn garbage_ends_the_reading_and_never_panics() {
        let mut state = 1u64;
        for length in 0..200 {
            let bytes: Vec<u8> = (0..length)
                .map(|_| {
                    state =
                        state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    (state >> 60) as u8
                })
                .collect();
            for message in messages(&bytes) {
                let _ = attributes_after(message.payload, 4).count();
            }
            let _ = attributes(&bytes).count();
        }
    }
}
