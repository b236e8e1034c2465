//! Sets and maps.

use netlink::nftables::{DataType, Set, SetData, Transaction};
use nftnl_sys::*;

use super::libnftnl::Attribute::{Bytes, Counter, Number};
use super::libnftnl::{TABLE, Tree, ours, their_set};

/// Verdict maps have no length of data; libnftnl writes a zero.
fn without_zero_length((head, tree): &(Vec<u8>, Tree)) -> (Vec<u8>, Tree) {
    let zero = |entry: &&(Vec<(u16, usize)>, Vec<u8>)| entry.0 != [(7, 0)] || entry.1 != [0; 4];
    (head.clone(), tree.iter().filter(zero).cloned().collect())
}

#[track_caller]
fn assert_same(transaction: &Transaction, expected: &[(Vec<u8>, Tree)]) {
    let ours: Vec<_> = ours(transaction).iter().map(without_zero_length).collect();
    let expected: Vec<_> = expected.iter().map(without_zero_length).collect();
    assert_eq!(ours, expected);
}

#[test]
fn sets_maps_and_ranges_over_concatenations() {
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
    assert_same(&transaction, &expected);
}

/// `nft`'s number of `ipv4_addr . inet_proto . inet_service`.
const FRONTEND: u32 = (7 << 12) | (12 << 6) | 13;
const KEY: [DataType; 3] = [DataType::Ipv4Addr, DataType::InetProto, DataType::InetService];

#[test]
fn maps_whose_elements_count_packets() {
    let mut transaction = Transaction::default();
    transaction.add_set(TABLE, &Set::new("no-endpoints", &KEY).verdict_map().counted());
    transaction.add_set(TABLE, &Set::new("services", &KEY).map(&[DataType::ClassId]).counted());
    let expected = [
        their_set(
            "no-endpoints",
            &[
                Number(NFTNL_SET_FLAGS, 8),
                Number(NFTNL_SET_KEY_TYPE, FRONTEND),
                Number(NFTNL_SET_KEY_LEN, 12),
                Number(NFTNL_SET_DATA_TYPE, 0xffff_ff00),
                Number(NFTNL_SET_ID, 1),
                Counter,
            ],
        ),
        their_set(
            "services",
            &[
                Number(NFTNL_SET_FLAGS, 8),
                Number(NFTNL_SET_KEY_TYPE, FRONTEND),
                Number(NFTNL_SET_KEY_LEN, 12),
                // A classid in the host's byte order.
                Number(NFTNL_SET_DATA_TYPE, 23),
                Number(NFTNL_SET_DATA_LEN, 4),
                Number(NFTNL_SET_ID, 2),
                Bytes(NFTNL_SET_USERDATA, &host_order(1)),
                Counter,
            ],
        ),
    ];
    assert_same(&transaction, &expected);
}

/// libnftnl's user data: the byte order of the key (0) or of the data (1) is the host's (1).
fn host_order(of: u8) -> [u8; 6] {
    let [a, b, c, d] = 1u32.to_ne_bytes();
    [of, 4, a, b, c, d]
}

#[test]
fn sets_that_the_packet_path_fills_and_that_expire() {
    let mut transaction = Transaction::default();
    let clients = [DataType::Ipv6Addr, DataType::ClassId];
    transaction
        .add_set(TABLE, &Set::new("affinity", &clients).map(&[DataType::ClassId]).dynamic(65_536));
    transaction.add_set(TABLE, &Set::new("seen", &[DataType::Ipv4Addr]).dynamic(10));
    // `NFT_SET_TIMEOUT` (16) and `NFT_SET_EVAL` (32).
    let expected = [
        their_set(
            "affinity",
            &[
                Number(NFTNL_SET_FLAGS, 8 | 16 | 32),
                Number(NFTNL_SET_KEY_TYPE, (8 << 6) | 23),
                Number(NFTNL_SET_KEY_LEN, 20),
                Number(NFTNL_SET_DATA_TYPE, 23),
                Number(NFTNL_SET_DATA_LEN, 4),
                Number(NFTNL_SET_DESC_SIZE, 65_536),
                Number(NFTNL_SET_ID, 1),
                Bytes(NFTNL_SET_USERDATA, &host_order(1)),
            ],
        ),
        their_set(
            "seen",
            &[
                Number(NFTNL_SET_FLAGS, 16 | 32),
                Number(NFTNL_SET_KEY_TYPE, 7),
                Number(NFTNL_SET_KEY_LEN, 4),
                Number(NFTNL_SET_DESC_SIZE, 10),
                Number(NFTNL_SET_ID, 2),
            ],
        ),
    ];
    assert_same(&transaction, &expected);
}

#[test]
fn sets_of_ranges_over_one_field_and_over_several_and_maps_of_marks() {
    let mut transaction = Transaction::default();
    transaction.add_set(TABLE, &Set::new("pod-cidrs", &[DataType::Ipv6Addr]).ranges());
    let allowed = [KEY[0], KEY[1], KEY[2], DataType::Ipv4Addr];
    transaction.add_set(TABLE, &Set::new("source-allowed", &allowed).ranges());
    let address = [DataType::Ipv4Addr, DataType::InetService];
    transaction.add_set(TABLE, &Set::new("backends", &[DataType::Mark]).map(&address));
    transaction.add_set(TABLE, &Set::new("targets", &[DataType::ClassId]).verdict_map());
    transaction.add_set(TABLE, &Set::new("ids", &[DataType::ClassId]).map(&[DataType::Mark]));
    let both: Vec<u8> = [host_order(0), host_order(1)].concat();
    let expected = [
        their_set(
            "pod-cidrs",
            &[
                Number(NFTNL_SET_FLAGS, 4),
                Number(NFTNL_SET_KEY_TYPE, 8),
                Number(NFTNL_SET_KEY_LEN, 16),
                Number(NFTNL_SET_ID, 1),
            ],
        ),
        their_set(
            "source-allowed",
            &[
                Number(NFTNL_SET_FLAGS, 0x84),
                Number(NFTNL_SET_KEY_TYPE, (FRONTEND << 6) | 7),
                Number(NFTNL_SET_KEY_LEN, 16),
                Number(NFTNL_SET_ID, 2),
                Bytes(NFTNL_SET_DESC_CONCAT, &[4, 1, 2, 4]),
            ],
        ),
        their_set(
            "backends",
            &[
                Number(NFTNL_SET_FLAGS, 8),
                Number(NFTNL_SET_KEY_TYPE, 19),
                Number(NFTNL_SET_KEY_LEN, 4),
                Number(NFTNL_SET_DATA_TYPE, (7 << 6) | 13),
                Number(NFTNL_SET_DATA_LEN, 8),
                Number(NFTNL_SET_ID, 3),
                Bytes(NFTNL_SET_USERDATA, &host_order(0)),
            ],
        ),
        their_set(
            "targets",
            &[
                Number(NFTNL_SET_FLAGS, 8),
                Number(NFTNL_SET_KEY_TYPE, 23),
                Number(NFTNL_SET_KEY_LEN, 4),
                Number(NFTNL_SET_DATA_TYPE, 0xffff_ff00),
                Number(NFTNL_SET_ID, 4),
                Bytes(NFTNL_SET_USERDATA, &host_order(0)),
            ],
        ),
        their_set(
            "ids",
            &[
                Number(NFTNL_SET_FLAGS, 8),
                Number(NFTNL_SET_KEY_TYPE, 23),
                Number(NFTNL_SET_KEY_LEN, 4),
                Number(NFTNL_SET_DATA_TYPE, 19),
                Number(NFTNL_SET_DATA_LEN, 4),
                Number(NFTNL_SET_ID, 5),
                Bytes(NFTNL_SET_USERDATA, &both),
            ],
        ),
    ];
    assert_same(&transaction, &expected);
}
