//! The same objects through libnftnl, and messages as trees of attributes.

use std::ffi::{CString, c_char, c_void};

use netlink::nftables::{Table, TableFamily, Transaction};
use nftnl_sys::libc::nlmsghdr;
use nftnl_sys::*;

pub(crate) const TABLE: Table<'static> = Table { family: TableFamily::Inet, name: "viaduct-host" };
/// `NFPROTO_INET`, `NLM_F_CREATE`, `NLM_F_EXCL`, `NLM_F_APPEND`.
const INET: u16 = 1;
pub(crate) const CREATE: u16 = 0x400;
pub(crate) const EXCLUSIVE: u16 = 0x200;
pub(crate) const APPEND: u16 = 0x800;

/// (path of attribute types with their position among equals, value); the order is kept.
pub(crate) type Tree = Vec<(Vec<(u16, usize)>, Vec<u8>)>;

fn tree(mut bytes: &[u8]) -> Tree {
    let mut found = Tree::new();
    let mut seen = std::collections::HashMap::<u16, usize>::new();
    while bytes.len() >= 4 {
        let length = usize::from(u16::from_ne_bytes([bytes[0], bytes[1]]));
        let kind = u16::from_ne_bytes([bytes[2], bytes[3]]);
        let value = &bytes[4..length];
        let position = seen.entry(kind & 0x3fff).or_default();
        let step = (kind & 0x3fff, *position);
        *position += 1;
        if kind & 0x8000 != 0 {
            for (mut path, value) in tree(value) {
                path.insert(0, step);
                found.push((path, value));
            }
        } else {
            found.push((vec![step], value.to_vec()));
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found.sort();
    found
}

/// The messages of a transaction without its begin: (type and nfgenmsg, attributes).
pub(crate) fn ours(transaction: &Transaction) -> Vec<(Vec<u8>, Tree)> {
    let mut bytes = transaction.wire();
    let mut messages = Vec::new();
    while bytes.len() >= 16 {
        let length = u32::from_ne_bytes(bytes[..4].try_into().unwrap()) as usize;
        messages.push(split(&bytes[..length]));
        bytes = &bytes[length.next_multiple_of(4)..];
    }
    messages.split_off(1)
}

/// Type, flags and nfgenmsg of a message; its attributes.
fn split(message: &[u8]) -> (Vec<u8>, Tree) {
    ([&message[4..8], &message[16..20]].concat(), tree(&message[20..]))
}

/// A message that libnftnl builds.
pub(crate) fn theirs(
    kind: u16,
    flags: u16,
    payload: impl FnOnce(*mut nlmsghdr),
) -> (Vec<u8>, Tree) {
    let mut buffer = vec![0u8; 65536];
    // SAFETY: the buffer is larger than any message built here, and lives until it was read.
    unsafe {
        let header =
            nftnl_nlmsg_build_hdr(buffer.as_mut_ptr().cast::<c_char>(), kind, INET, flags, 0);
        payload(header);
    }
    let length = u32::from_ne_bytes(buffer[..4].try_into().unwrap()) as usize;
    split(&buffer[..length])
}

pub(crate) fn text(value: &str) -> CString {
    CString::new(value).unwrap()
}
/// What is set of a set: attribute and number, or attribute and bytes.
pub(crate) enum Attribute<'a> {
    Number(u32, u32),
    Bytes(u32, &'a [u8]),
    /// Each element has a counter.
    Counter,
}

/// A set of libnftnl with these attributes.
///
/// # Safety
///
/// The result must be freed with `nftnl_set_free`.
pub(crate) unsafe fn set(name: &str, attributes: &[Attribute<'_>]) -> *mut nftnl_set {
    // SAFETY: valid handles; strings and bytes are copied.
    unsafe {
        let set = nftnl_set_alloc();
        nftnl_set_set_str(set, NFTNL_SET_TABLE as u16, text("viaduct-host").as_ptr());
        nftnl_set_set_str(set, NFTNL_SET_NAME as u16, text(name).as_ptr());
        for attribute in attributes {
            match attribute {
                Attribute::Number(kind, value) => nftnl_set_set_u32(set, *kind as u16, *value),
                Attribute::Counter => {
                    nftnl_set_add_expr(set, nftnl_expr_alloc(text("counter").as_ptr()));
                }
                Attribute::Bytes(kind, bytes) => {
                    nftnl_set_set_data(
                        set,
                        *kind as u16,
                        bytes.as_ptr().cast(),
                        bytes.len() as u32,
                    );
                }
            }
        }
        set
    }
}

pub(crate) fn their_set(name: &'static str, attributes: &[Attribute<'_>]) -> (Vec<u8>, Tree) {
    theirs(9, CREATE, |header| {
        // SAFETY: the set is valid until it is freed here.
        unsafe {
            let set = set(name, attributes);
            nftnl_set_nlmsg_build_payload(header, set);
            nftnl_set_free(set);
        }
    })
}
/// What makes an element of libnftnl.
pub(crate) type Fill<'a> = &'a dyn Fn(*mut nftnl_set_elem);

/// A message about one element of a set of libnftnl.
pub(crate) fn message(
    kind: u16,
    flags: u16,
    name: &'static str,
    fill: Fill<'_>,
) -> (Vec<u8>, Tree) {
    messages(kind, flags, name, &[fill])
}

/// A message about several elements of a set of libnftnl.
pub(crate) fn messages(
    kind: u16,
    flags: u16,
    name: &'static str,
    fills: &[Fill<'_>],
) -> (Vec<u8>, Tree) {
    theirs(kind, flags, |header| {
        // SAFETY: the elements belong to the set, which is valid until it is freed here.
        unsafe {
            let set = set(name, &[]);
            for fill in fills {
                let element = nftnl_set_elem_alloc();
                fill(element);
                nftnl_set_elem_add(set, element);
            }
            nftnl_set_elems_nlmsg_build_payload(header, set);
            nftnl_set_free(set);
        }
    })
}

pub(crate) fn put(element: *mut nftnl_set_elem, kind: u32, bytes: &[u8]) {
    // SAFETY: the bytes are copied.
    unsafe {
        nftnl_set_elem_set(element, kind as u16, bytes.as_ptr().cast(), bytes.len() as u32);
    }
}

/// An expression of libnftnl: its name, its numbers, its bytes, its strings.
pub(crate) struct Theirs<'a>(
    pub(crate) &'static str,
    pub(crate) &'a [(u32, u32)],
    pub(crate) &'a [(u32, &'a [u8])],
    pub(crate) &'a [(u32, &'a str)],
);

/// A rule of chain `postrouting` with the comment `why`.
pub(crate) fn their_rule(expressions: &[Theirs<'_>]) -> (Vec<u8>, Tree) {
    theirs(6, CREATE | APPEND, |header| {
        // SAFETY: expressions belong to the rule, which is valid until it is freed here; data is copied.
        unsafe {
            let rule = nftnl_rule_alloc();
            nftnl_rule_set_str(rule, NFTNL_RULE_TABLE as u16, text("viaduct-host").as_ptr());
            nftnl_rule_set_str(rule, NFTNL_RULE_CHAIN as u16, text("postrouting").as_ptr());
            let comment: &[u8] = b"\0\x04why\0";
            nftnl_rule_set_data(
                rule,
                NFTNL_RULE_USERDATA as u16,
                comment.as_ptr().cast::<c_void>(),
                comment.len() as u32,
            );
            for Theirs(name, numbers, bytes, strings) in expressions {
                let expression = nftnl_expr_alloc(text(name).as_ptr());
                for (kind, value) in *numbers {
                    nftnl_expr_set_u32(expression, *kind as u16, *value);
                }
                for (kind, value) in *bytes {
                    let length = value.len() as u32;
                    nftnl_expr_set(expression, *kind as u16, value.as_ptr().cast(), length);
                }
                for (kind, value) in *strings {
                    nftnl_expr_set_str(expression, *kind as u16, text(value).as_ptr());
                }
                nftnl_rule_add_expr(rule, expression);
            }
            nftnl_rule_nlmsg_build_payload(header, rule);
            nftnl_rule_free(rule);
        }
    })
}
