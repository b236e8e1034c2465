//! Tables and chains, and what is deleted or flushed as a whole.

use netlink::nftables::{Chain, Hook, Transaction};
use nftnl_sys::*;

use super::libnftnl::{CREATE, TABLE, Tree, ours, set, text, theirs};

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

/// A message about the whole table, with a comment if it is made.
fn table(kind: u16, flags: u16, comment: Option<&[u8]>) -> (Vec<u8>, Tree) {
    theirs(kind, flags, |header| {
        // SAFETY: as above.
        unsafe {
            let table = nftnl_table_alloc();
            nftnl_table_set_str(table, NFTNL_TABLE_NAME as u16, text("viaduct-host").as_ptr());
            if let Some(bytes) = comment {
                let length = bytes.len() as u32;
                let kind = NFTNL_TABLE_USERDATA as u16;
                nftnl_table_set_data(table, kind, bytes.as_ptr().cast(), length);
            }
            nftnl_table_nlmsg_build_payload(header, table);
            nftnl_table_free(table);
        }
    })
}

/// A message about a chain, or (`of_rules`) about the rules in it.
fn chain(kind: u16, of_rules: bool) -> (Vec<u8>, Tree) {
    theirs(kind, 0, |header| {
        // SAFETY: as above.
        unsafe {
            if of_rules {
                let rule = nftnl_rule_alloc();
                nftnl_rule_set_str(rule, NFTNL_RULE_TABLE as u16, text("viaduct-host").as_ptr());
                nftnl_rule_set_str(rule, NFTNL_RULE_CHAIN as u16, text("pick-3").as_ptr());
                nftnl_rule_nlmsg_build_payload(header, rule);
                nftnl_rule_free(rule);
            } else {
                let chain = nftnl_chain_alloc();
                nftnl_chain_set_str(chain, NFTNL_CHAIN_TABLE as u16, text("viaduct-host").as_ptr());
                nftnl_chain_set_str(chain, NFTNL_CHAIN_NAME as u16, text("pick-3").as_ptr());
                nftnl_chain_nlmsg_build_payload(header, chain);
                nftnl_chain_free(chain);
            }
        }
    })
}

/// A message about a set (`of_elements`: about all that is in it).
fn whole_set(kind: u16, of_elements: bool) -> (Vec<u8>, Tree) {
    theirs(kind, 0, |header| {
        // SAFETY: the set is valid until it is freed here.
        unsafe {
            let set = set("services", &[]);
            if of_elements {
                nftnl_set_elems_nlmsg_build_payload(header, set);
            } else {
                nftnl_set_nlmsg_build_payload(header, set);
            }
            nftnl_set_free(set);
        }
    })
}

#[test]
fn a_comment_of_a_table_and_all_that_goes_as_a_whole() {
    let mut transaction = Transaction::default();
    transaction.add_table_with_comment(TABLE, "layout");
    transaction.flush_chain(TABLE, "pick-3");
    transaction.delete_chain(TABLE, "pick-3");
    transaction.flush_set(TABLE, "services");
    transaction.delete_set(TABLE, "services");
    transaction.delete_table(TABLE);
    let expected = [
        table(0, CREATE, Some(b"\0\x07layout\0")),
        chain(8, true),
        chain(5, false),
        whole_set(14, true),
        whole_set(11, false),
        table(2, 0, None),
    ];
    assert_eq!(ours(&transaction), expected);
}
