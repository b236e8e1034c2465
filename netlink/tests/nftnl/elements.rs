//! Elements of sets and maps.

use netlink::nftables::{
    Element, ElementChange, ElementRef, Key, Transaction, Verdict, VerdictRef,
};
use nftnl_sys::*;

use super::libnftnl::{CREATE, EXCLUSIVE, TABLE, Tree, message, messages, ours, put};

/// libnftnl numbers the list's elements, nft's own batches do not: (3, 0), (n, 0) and (3, 0), (1, n).
fn unnumbered((head, tree): &(Vec<u8>, Tree)) -> (Vec<u8>, Tree) {
    let strip = |(path, value): &(Vec<(u16, usize)>, Vec<u8>)| {
        let mut path = path.clone();
        if let Some(step) = path.get_mut(1) {
            *step = (1, usize::from(step.0) - 1 + step.1);
        }
        (path, value.clone())
    };
    let mut tree: Tree = tree.iter().map(strip).collect();
    tree.sort();
    (head.clone(), tree)
}

#[track_caller]
fn assert_same(transaction: &Transaction, expected: &[(Vec<u8>, Tree)]) {
    let ours: Vec<_> = ours(transaction).iter().map(unnumbered).collect();
    let expected: Vec<_> = expected.iter().map(unnumbered).collect();
    assert_eq!(ours, expected);
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
    assert_same(&transaction, &expected);
}

#[test]
fn ranges_over_one_field_end_before_an_element_of_their_own() {
    let (first, after) = ([10, 244, 0, 0], [10, 245, 0, 0]);
    let mut transaction = Transaction::default();
    let end = ElementRef { interval_end: true, ..ElementRef::new(&after) };
    for element in [ElementRef::new(&first), end] {
        transaction.change_element(ElementChange::Add, TABLE, "pod-cidrs", element);
    }
    transaction.change_element(ElementChange::Delete, TABLE, "pod-cidrs", end);
    // `NFT_SET_ELEM_INTERVAL_END` is 1.
    let begin = |element| put(element, NFTNL_SET_ELEM_KEY, &first);
    let end = |element| {
        put(element, NFTNL_SET_ELEM_KEY, &after);
        put(element, NFTNL_SET_ELEM_FLAGS, &1u32.to_ne_bytes());
    };
    let expected =
        [messages(12, CREATE, "pod-cidrs", &[&begin, &end]), message(14, 0, "pod-cidrs", &end)];
    assert_same(&transaction, &expected);
}

#[test]
fn elements_of_one_set_share_a_message_and_changes_of_another_kind_do_not() {
    let key = [0xfd, 0, 0, 0x96, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 17, 0, 0, 0, 0, 53, 0, 0];
    let other = [7; 24];
    let number = 0xc000_4001u32.to_ne_bytes();
    let mut transaction = Transaction::default();
    let mut change = |change, set: &str, element| {
        transaction.change_element(change, TABLE, set, element);
    };
    let (one, two) = (ElementRef::new(&key), ElementRef::new(&other));
    change(ElementChange::Create, "endpoint-ids", one.value(&number));
    change(ElementChange::Create, "endpoint-ids", two.value(&number));
    change(ElementChange::Add, "endpoint-ids", one.value(&number));
    change(ElementChange::Add, "services", one.verdict(VerdictRef::Goto("sticky-2-60s")));
    change(ElementChange::Add, "services", two.verdict(VerdictRef::Drop));
    // The data of what is deleted says nothing.
    change(ElementChange::Delete, "services", one.verdict(VerdictRef::Drop));
    change(ElementChange::Delete, "services", two);

    let first = |element| put(element, NFTNL_SET_ELEM_KEY, &key);
    let second = |element| put(element, NFTNL_SET_ELEM_KEY, &other);
    let numbered = |element| put(element, NFTNL_SET_ELEM_DATA, &number);
    let goes_on = |element| {
        first(element);
        put(element, NFTNL_SET_ELEM_VERDICT, &(-4i32).to_ne_bytes());
        put(element, NFTNL_SET_ELEM_CHAIN, b"sticky-2-60s\0");
    };
    let dropped = |element| {
        second(element);
        put(element, NFTNL_SET_ELEM_VERDICT, &0i32.to_ne_bytes());
    };
    let first_numbered = |element| {
        first(element);
        numbered(element);
    };
    let second_numbered = |element| {
        second(element);
        numbered(element);
    };
    let expected = [
        messages(12, CREATE | EXCLUSIVE, "endpoint-ids", &[&first_numbered, &second_numbered]),
        message(12, CREATE, "endpoint-ids", &first_numbered),
        messages(12, CREATE, "services", &[&goes_on, &dropped]),
        messages(14, 0, "services", &[&first, &second]),
    ];
    assert_same(&transaction, &expected);
}
