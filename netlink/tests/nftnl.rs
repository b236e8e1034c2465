//! Our nftables messages compared, attribute by attribute, with what libnftnl makes of the same objects.
//!
//! (The `nftnl` crate's safe half cannot express maps, so this uses its raw half.)

#![allow(clippy::unwrap_used, reason = "a failed expectation is how a test fails")]
#![expect(unsafe_code, reason = "libnftnl is a C library; this is a test of ours beside it")]

use std::ffi::{CString, c_char, c_void};

use netlink::nftables::{
    Chain, Compare, Ct, DataType, Element, Expression, Hook, Key, Meta, NatKind, Payload, Register,
    Set, SetData, Table, TableFamily, Transaction, Verdict,
};
use nftnl_sys::libc::nlmsghdr;
use nftnl_sys::*;

const TABLE: Table<'static> = Table { family: TableFamily::Inet, name: "viaduct-host" };
/// `NFPROTO_INET`, `NLM_F_CREATE`, `NLM_F_APPEND`.
const INET: u16 = 1;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;

/// (path of attribute types with their position among equals, value); the order is kept.
type Tree = Vec<(Vec<(u16, usize)>, Vec<u8>)>;

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
fn ours(transaction: &Transaction) -> Vec<(Vec<u8>, Tree)> {
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
fn theirs(kind: u16, flags: u16, payload: impl FnOnce(*mut nlmsghdr)) -> (Vec<u8>, Tree) {
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

fn text(value: &str) -> CString {
    CString::new(value).unwrap()
}

#[test]
fn tables() {
    let mut transaction = Transaction::default();
    transaction.add_table(TABLE);
    let theirs = theirs(0, CREATE, |header| {
        // SAFETY: valid handles and NUL-terminated strings, which libnftnl copies.
        unsafe {
            let table = nftnl_table_alloc();
            nftnl_table_set_str(table, NFTNL_TABLE_NAME as u16, text("viaduct-host").as_ptr());
            nftnl_table_nlmsg_build_payload(header, table);
            nftnl_table_free(table);
        }
    });
    assert_eq!(ours(&transaction), [theirs]);
}

#[test]
fn chains_with_and_without_a_hook() {
    let hook = Hook { kind: "nat", number: Hook::POSTROUTING, priority: -300 };
    let mut transaction = Transaction::default();
    transaction.add_chain(TABLE, &Chain { name: "postrouting", hook: Some(hook) });
    transaction.add_chain(TABLE, &Chain { name: "hostports", hook: None });
    let chain = |name: &'static str, hooked: bool| {
        theirs(3, CREATE, move |header| {
            // SAFETY: as above.
            unsafe {
                let chain = nftnl_chain_alloc();
                nftnl_chain_set_str(chain, NFTNL_CHAIN_TABLE as u16, text("viaduct-host").as_ptr());
                nftnl_chain_set_str(chain, NFTNL_CHAIN_NAME as u16, text(name).as_ptr());
                if hooked {
                    nftnl_chain_set_u32(chain, NFTNL_CHAIN_HOOKNUM as u16, 4);
                    nftnl_chain_set_s32(chain, NFTNL_CHAIN_PRIO as u16, -300);
                    nftnl_chain_set_str(chain, NFTNL_CHAIN_TYPE as u16, text("nat").as_ptr());
                }
                nftnl_chain_nlmsg_build_payload(header, chain);
                nftnl_chain_free(chain);
            }
        })
    };
    assert_eq!(ours(&transaction), [chain("postrouting", true), chain("hostports", false)]);
}

/// What is set of a set: attribute and number, or attribute and bytes.
enum Attribute<'a> {
    Number(u32, u32),
    Bytes(u32, &'a [u8]),
}

/// A set of libnftnl with these attributes.
///
/// # Safety
///
/// The result must be freed with `nftnl_set_free`.
unsafe fn set(name: &str, attributes: &[Attribute<'_>]) -> *mut nftnl_set {
    // SAFETY: valid handles; strings and bytes are copied.
    unsafe {
        let set = nftnl_set_alloc();
        nftnl_set_set_str(set, NFTNL_SET_TABLE as u16, text("viaduct-host").as_ptr());
        nftnl_set_set_str(set, NFTNL_SET_NAME as u16, text(name).as_ptr());
        for attribute in attributes {
            match attribute {
                Attribute::Number(kind, value) => nftnl_set_set_u32(set, *kind as u16, *value),
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

fn their_set(name: &'static str, attributes: &[Attribute<'_>]) -> (Vec<u8>, Tree) {
    theirs(9, CREATE, |header| {
        // SAFETY: the set is valid until it is freed here.
        unsafe {
            let set = set(name, attributes);
            nftnl_set_nlmsg_build_payload(header, set);
            nftnl_set_free(set);
        }
    })
}

#[test]
fn sets_maps_and_ranges_over_concatenations() {
    use Attribute::{Bytes, Number};
    let (ip, service) = (DataType::Ipv4Addr, DataType::InetService);
    let mut transaction = Transaction::default();
    let plain = |name, key| Set::new(name, key);
    transaction.add_set(TABLE, &plain("devices", &[DataType::IfName]));
    let value = Some(SetData::Value(&[ip, service]));
    let key = &[ip, DataType::InetProto, service];
    transaction.add_set(TABLE, &Set { data: value, ..plain("hostports", key) });
    let verdict = Some(SetData::Verdict);
    transaction.add_set(TABLE, &Set { data: verdict, ..plain("services", key) });
    transaction.add_set(TABLE, &Set { interval: true, ..plain("exclude", &[ip, ip]) });
    let concatenated = (7 << 12) | (12 << 6) | 13;
    let expected = [
        their_set(
            "devices",
            &[
                Number(NFTNL_SET_FLAGS, 0),
                Number(NFTNL_SET_KEY_TYPE, 41),
                Number(NFTNL_SET_KEY_LEN, 16),
                Number(NFTNL_SET_ID, 1),
                Bytes(NFTNL_SET_USERDATA, &[0, 4, 1, 0, 0, 0]),
            ],
        ),
        their_set(
            "hostports",
            &[
                Number(NFTNL_SET_FLAGS, 8),
                Number(NFTNL_SET_KEY_TYPE, concatenated),
                Number(NFTNL_SET_KEY_LEN, 12),
                Number(NFTNL_SET_DATA_TYPE, (7 << 6) | 13),
                Number(NFTNL_SET_DATA_LEN, 8),
                Number(NFTNL_SET_ID, 2),
            ],
        ),
        their_set(
            "services",
            &[
                Number(NFTNL_SET_FLAGS, 8),
                Number(NFTNL_SET_KEY_TYPE, concatenated),
                Number(NFTNL_SET_KEY_LEN, 12),
                Number(NFTNL_SET_DATA_TYPE, 0xffff_ff00),
                Number(NFTNL_SET_ID, 3),
            ],
        ),
        their_set(
            "exclude",
            &[
                Number(NFTNL_SET_FLAGS, 0x84),
                Number(NFTNL_SET_KEY_TYPE, (7 << 6) | 7),
                Number(NFTNL_SET_KEY_LEN, 8),
                Number(NFTNL_SET_ID, 4),
                Bytes(NFTNL_SET_DESC_CONCAT, &[4, 4]),
            ],
        ),
    ];
    let ours = ours(&transaction);
    for (ours, expected) in ours.iter().zip(&expected) {
        // Verdict maps have no length of data; libnftnl writes a zero.
        let without = |tree: &Tree| -> Tree {
            let zero =
                |entry: &&(Vec<(u16, usize)>, Vec<u8>)| entry.0 != [(7, 0)] || entry.1 != [0; 4];
            tree.iter().filter(zero).cloned().collect()
        };
        assert_eq!((&ours.0, without(&ours.1)), (&expected.0, without(&expected.1)));
    }
    assert_eq!(ours.len(), 4);
}

/// A message about one element of a set of libnftnl.
fn message(
    kind: u16,
    flags: u16,
    name: &'static str,
    fill: &dyn Fn(*mut nftnl_set_elem),
) -> (Vec<u8>, Tree) {
    theirs(kind, flags, |header| {
        // SAFETY: the element belongs to the set, which is valid until it is freed here.
        unsafe {
            let set = set(name, &[]);
            let element = nftnl_set_elem_alloc();
            fill(element);
            nftnl_set_elem_add(set, element);
            nftnl_set_elems_nlmsg_build_payload(header, set);
            nftnl_set_free(set);
        }
    })
}

fn put(element: *mut nftnl_set_elem, kind: u32, bytes: &[u8]) {
    // SAFETY: the bytes are copied.
    unsafe {
        nftnl_set_elem_set(element, kind as u16, bytes.as_ptr().cast(), bytes.len() as u32);
    }
}

#[test]
fn elements_with_values_verdicts_ranges_and_comments() {
    let frontend = Key::new().ip([10, 96, 0, 1].into()).protocol(6).port(80);
    let backend = Key::new().ip([10, 244, 1, 2].into()).port(8080);
    let key = [10, 96, 0, 1, 6, 0, 0, 0, 0, 80, 0, 0];
    let value = [10, 244, 1, 2, 0x1f, 0x90, 0, 0];
    let comment = b"\0\x0bnet/a/eth0\0";
    let mut transaction = Transaction::default();
    let element = Element::new(frontend.clone()).value(backend).comment("net/a/eth0");
    transaction.add_elements(TABLE, "hostports", false, [&element]);
    let verdict = Element::new(frontend).verdict(Verdict::Goto("pick-3".into()));
    transaction.add_elements(TABLE, "services", false, [&verdict]);
    let range = Element::new(Key::new().ip([10, 244, 1, 0].into()).ip([10, 0, 0, 0].into()))
        .to(Key::new().ip([10, 244, 1, 255].into()).ip([10, 255, 255, 255].into()));
    transaction.add_elements(TABLE, "exclude", false, [&range]);
    transaction.delete_elements(TABLE, "hostports", [&element]);

    let expected = [
        message(12, CREATE, "hostports", &|element| {
            put(element, NFTNL_SET_ELEM_KEY, &key);
            put(element, NFTNL_SET_ELEM_DATA, &value);
            put(element, NFTNL_SET_ELEM_USERDATA, comment);
        }),
        message(12, CREATE, "services", &|element| {
            put(element, NFTNL_SET_ELEM_KEY, &key);
            put(element, NFTNL_SET_ELEM_VERDICT, &(-4i32).to_ne_bytes());
            put(element, NFTNL_SET_ELEM_CHAIN, b"pick-3\0");
        }),
        message(12, CREATE, "exclude", &|element| {
            put(element, NFTNL_SET_ELEM_KEY, &[10, 244, 1, 0, 10, 0, 0, 0]);
            put(element, NFTNL_SET_ELEM_KEY_END, &[10, 244, 1, 255, 10, 255, 255, 255]);
        }),
        message(14, 0, "hostports", &|element| put(element, NFTNL_SET_ELEM_KEY, &key)),
    ];
    // libnftnl numbers the list's elements, nft's own batches do not: (3, 0), (n, 0) and (3, 0), (1, 0).
    let unnumbered = |(head, tree): &(Vec<u8>, Tree)| {
        let strip = |(path, value): &(Vec<(u16, usize)>, Vec<u8>)| {
            let mut path = path.clone();
            if path.len() > 1 {
                path[1] = (1, 0);
            }
            (path, value.clone())
        };
        let mut tree: Tree = tree.iter().map(strip).collect();
        tree.sort();
        (head.clone(), tree)
    };
    let ours: Vec<_> = ours(&transaction).iter().map(unnumbered).collect();
    let expected: Vec<_> = expected.iter().map(unnumbered).collect();
    assert_eq!(ours, expected);
}

/// An expression of libnftnl: its name, its numbers, its bytes, its strings.
struct Theirs(
    &'static str,
    &'static [(u32, u32)],
    &'static [(u32, &'static [u8])],
    &'static [(u32, &'static str)],
);

#[test]
fn rules_with_every_expression() {
    let (r0, r1) = (Register(0), Register(1));
    // Slot n is NFT_REG32_00 + n.
    const A: u32 = 8;
    const B: u32 = 9;
    let rule = [
        Expression::LoadMeta(Meta::NfProto, r0),
        Expression::Compare(Compare::Equal, r0, vec![2]),
        Expression::LoadPayload(Payload::IP_SADDR, r0),
        Expression::LookupSet { set: "masquerade-4".into(), key: r0, inverted: true },
        Expression::LoadMeta(Meta::L4Proto, r0),
        Expression::LookupMap { map: "hostports".into(), key: r0, value: r0 },
        Expression::LookupVerdict { map: "services".into(), key: r0 },
        Expression::LoadCt(Ct::Status, r0),
        Expression::Bitwise { register: r0, mask: vec![0x20, 0, 0, 0], xor: vec![0; 4] },
        Expression::Compare(Compare::NotEqual, r0, vec![0; 4]),
        Expression::LoadDestinationType(r0),
        Expression::StoreMeta(Meta::Mark, r0),
        Expression::Nat { kind: NatKind::Destination, family: 2, address: r0, port: r1 },
        Expression::Masquerade,
        Expression::Verdict(Verdict::Jump("hostports".into())),
        Expression::Verdict(Verdict::Drop),
    ];
    let theirs_rule = [
        Theirs("meta", &[(NFTNL_EXPR_META_KEY, 15), (NFTNL_EXPR_META_DREG, A)], &[], &[]),
        Theirs(
            "cmp",
            &[(NFTNL_EXPR_CMP_SREG, A), (NFTNL_EXPR_CMP_OP, 0)],
            &[(NFTNL_EXPR_CMP_DATA, &[2])],
            &[],
        ),
        Theirs(
            "payload",
            &[
                (NFTNL_EXPR_PAYLOAD_DREG, A),
                (NFTNL_EXPR_PAYLOAD_BASE, 1),
                (NFTNL_EXPR_PAYLOAD_OFFSET, 12),
                (NFTNL_EXPR_PAYLOAD_LEN, 4),
            ],
            &[],
            &[],
        ),
        Theirs(
            "lookup",
            &[(NFTNL_EXPR_LOOKUP_SREG, A), (NFTNL_EXPR_LOOKUP_FLAGS, 1)],
            &[],
            &[(NFTNL_EXPR_LOOKUP_SET, "masquerade-4")],
        ),
        Theirs("meta", &[(NFTNL_EXPR_META_KEY, 16), (NFTNL_EXPR_META_DREG, A)], &[], &[]),
        Theirs(
            "lookup",
            &[(NFTNL_EXPR_LOOKUP_SREG, A), (NFTNL_EXPR_LOOKUP_DREG, A)],
            &[],
            &[(NFTNL_EXPR_LOOKUP_SET, "hostports")],
        ),
        Theirs(
            "lookup",
            &[(NFTNL_EXPR_LOOKUP_SREG, A), (NFTNL_EXPR_LOOKUP_DREG, 0)],
            &[],
            &[(NFTNL_EXPR_LOOKUP_SET, "services")],
        ),
        Theirs("ct", &[(NFTNL_EXPR_CT_KEY, 2), (NFTNL_EXPR_CT_DREG, A)], &[], &[]),
        Theirs(
            "bitwise",
            &[
                (NFTNL_EXPR_BITWISE_SREG, A),
                (NFTNL_EXPR_BITWISE_DREG, A),
                (NFTNL_EXPR_BITWISE_LEN, 4),
            ],
            &[(NFTNL_EXPR_BITWISE_MASK, &[0x20, 0, 0, 0]), (NFTNL_EXPR_BITWISE_XOR, &[0; 4])],
            &[],
        ),
        Theirs(
            "cmp",
            &[(NFTNL_EXPR_CMP_SREG, A), (NFTNL_EXPR_CMP_OP, 1)],
            &[(NFTNL_EXPR_CMP_DATA, &[0; 4])],
            &[],
        ),
        Theirs(
            "fib",
            &[(NFTNL_EXPR_FIB_FLAGS, 2), (NFTNL_EXPR_FIB_RESULT, 3), (NFTNL_EXPR_FIB_DREG, A)],
            &[],
            &[],
        ),
        Theirs("meta", &[(NFTNL_EXPR_META_KEY, 3), (NFTNL_EXPR_META_SREG, A)], &[], &[]),
        Theirs(
            "nat",
            &[
                (NFTNL_EXPR_NAT_TYPE, 1),
                (NFTNL_EXPR_NAT_FAMILY, 2),
                (NFTNL_EXPR_NAT_REG_ADDR_MIN, A),
                (NFTNL_EXPR_NAT_REG_PROTO_MIN, B),
            ],
            &[],
            &[],
        ),
        Theirs("masq", &[(NFTNL_EXPR_MASQ_FLAGS, 16)], &[], &[]),
        Theirs(
            "immediate",
            &[(NFTNL_EXPR_IMM_DREG, 0), (NFTNL_EXPR_IMM_VERDICT, -3i32 as u32)],
            &[],
            &[(NFTNL_EXPR_IMM_CHAIN, "hostports")],
        ),
        Theirs("immediate", &[(NFTNL_EXPR_IMM_DREG, 0), (NFTNL_EXPR_IMM_VERDICT, 0)], &[], &[]),
    ];
    let mut transaction = Transaction::default();
    transaction.add_rule(TABLE, "postrouting", "why", &rule);
    let expected = theirs(6, CREATE | APPEND, |header| {
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
            for Theirs(name, numbers, bytes, strings) in &theirs_rule {
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
    });
    assert_eq!(ours(&transaction), [expected]);
}
