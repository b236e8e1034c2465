//! Rules.

use netlink::nftables::{
    Compare, Ct, DynsetOperation, Expression, Meta, NatKind, Payload, Register, RejectWith,
    Transaction, Verdict,
};
use nftnl_sys::*;

use super::libnftnl::{TABLE, Theirs, ours, their_rule};

// Slot n is NFT_REG32_00 + n.
const A: u32 = 8;
const B: u32 = 9;

/// A rule of ours is what libnftnl makes of the same expressions.
#[track_caller]
fn assert_same(rule: &[Expression], theirs: &[Theirs<'_>]) {
    let mut transaction = Transaction::default();
    transaction.add_rule(TABLE, "postrouting", "why", rule);
    assert_eq!(ours(&transaction), [their_rule(theirs)]);
}

#[test]
fn a_rule_of_the_plugin() {
    let (r0, r1) = (Register(0), Register(1));
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
    assert_same(&rule, &theirs_rule);
}

const THREE_HOURS: [u8; 8] = 10_800_000u64.to_ne_bytes();

#[test]
fn random_numbers_and_constants() {
    assert_same(
        &[
            Expression::LoadRandom { modulus: 3, to: Register(1) },
            Expression::LoadValue(vec![0xc0, 0, 0x40, 1], Register(0)),
        ],
        &[
            Theirs(
                "numgen",
                &[
                    (NFTNL_EXPR_NG_DREG, B),
                    (NFTNL_EXPR_NG_MODULUS, 3),
                    (NFTNL_EXPR_NG_TYPE, 1),
                    (NFTNL_EXPR_NG_OFFSET, 0),
                ],
                &[],
                &[],
            ),
            Theirs(
                "immediate",
                &[(NFTNL_EXPR_IMM_DREG, A)],
                &[(NFTNL_EXPR_IMM_DATA, &[0xc0, 0, 0x40, 1])],
                &[],
            ),
        ],
    );
}

#[test]
fn dynamic_maps_are_updated_with_a_timeout_and_deleted_from() {
    let dynset = |operation, data, timeout_ms| Expression::Dynset {
        set: "affinity".into(),
        operation,
        key: Register(0),
        data,
        timeout_ms,
    };
    let name = &[(NFTNL_EXPR_DYNSET_SET_NAME, "affinity")];
    assert_same(
        &[
            dynset(DynsetOperation::Update, Some(Register(1)), 10_800_000),
            dynset(DynsetOperation::Delete, Some(Register(1)), 0),
            dynset(DynsetOperation::Update, None, 0),
        ],
        &[
            Theirs(
                "dynset",
                &[
                    (NFTNL_EXPR_DYNSET_SREG_KEY, A),
                    (NFTNL_EXPR_DYNSET_SREG_DATA, B),
                    (NFTNL_EXPR_DYNSET_OP, 1),
                ],
                &[(NFTNL_EXPR_DYNSET_TIMEOUT, &THREE_HOURS)],
                name,
            ),
            Theirs(
                "dynset",
                &[
                    (NFTNL_EXPR_DYNSET_SREG_KEY, A),
                    (NFTNL_EXPR_DYNSET_SREG_DATA, B),
                    (NFTNL_EXPR_DYNSET_OP, 2),
                ],
                &[],
                name,
            ),
            Theirs(
                "dynset",
                &[(NFTNL_EXPR_DYNSET_SREG_KEY, A), (NFTNL_EXPR_DYNSET_OP, 1)],
                &[],
                name,
            ),
        ],
    );
}

#[test]
fn rejections() {
    // `NFT_REJECT_ICMP_UNREACH` with ICMP's and ICMPv6's port unreachable; `NFT_REJECT_TCP_RST` has no code.
    assert_same(
        &[
            Expression::Reject(RejectWith::IcmpUnreachable(3)),
            Expression::Reject(RejectWith::IcmpUnreachable(4)),
            Expression::Reject(RejectWith::TcpReset),
        ],
        &[
            Theirs(
                "reject",
                &[(NFTNL_EXPR_REJECT_TYPE, 0)],
                &[(NFTNL_EXPR_REJECT_CODE, &[3])],
                &[],
            ),
            Theirs(
                "reject",
                &[(NFTNL_EXPR_REJECT_TYPE, 0)],
                &[(NFTNL_EXPR_REJECT_CODE, &[4])],
                &[],
            ),
            Theirs("reject", &[(NFTNL_EXPR_REJECT_TYPE, 1)], &[], &[]),
        ],
    );
}

#[test]
fn connections_and_their_original_direction() {
    let original: &[(u32, &[u8])] = &[(NFTNL_EXPR_CT_DIR, &[0])];
    assert_same(
        &[
            Expression::LoadCt(Ct::State, Register(0)),
            Expression::LoadCtOriginal(Ct::DestinationIp, Register(0)),
            Expression::LoadCtOriginal(Ct::DestinationIp6, Register(1)),
        ],
        &[
            Theirs("ct", &[(NFTNL_EXPR_CT_KEY, 0), (NFTNL_EXPR_CT_DREG, A)], &[], &[]),
            Theirs("ct", &[(NFTNL_EXPR_CT_KEY, 20), (NFTNL_EXPR_CT_DREG, A)], original, &[]),
            Theirs("ct", &[(NFTNL_EXPR_CT_KEY, 22), (NFTNL_EXPR_CT_DREG, B)], original, &[]),
        ],
    );
}

#[test]
fn properties_of_packets_and_of_their_source() {
    let (key, to, from) = (NFTNL_EXPR_META_KEY, NFTNL_EXPR_META_DREG, NFTNL_EXPR_META_SREG);
    assert_same(
        &[
            Expression::LoadMeta(Meta::Priority, Register(0)),
            Expression::LoadMeta(Meta::IifName, Register(0)),
            Expression::LoadMeta(Meta::OifName, Register(0)),
            Expression::LoadMeta(Meta::IifKind, Register(0)),
            Expression::StoreMeta(Meta::Priority, Register(1)),
            Expression::LoadSourceType(Register(0)),
            Expression::LoadPayload(Payload::IP6_DADDR, Register(0)),
            Expression::LoadPayload(Payload::TH_DPORT, Register(4)),
        ],
        &[
            Theirs("meta", &[(key, 2), (to, A)], &[], &[]),
            Theirs("meta", &[(key, 6), (to, A)], &[], &[]),
            Theirs("meta", &[(key, 7), (to, A)], &[], &[]),
            Theirs("meta", &[(key, 26), (to, A)], &[], &[]),
            Theirs("meta", &[(key, 2), (from, B)], &[], &[]),
            Theirs(
                "fib",
                &[(NFTNL_EXPR_FIB_FLAGS, 1), (NFTNL_EXPR_FIB_RESULT, 3), (NFTNL_EXPR_FIB_DREG, A)],
                &[],
                &[],
            ),
            Theirs(
                "payload",
                &[
                    (NFTNL_EXPR_PAYLOAD_DREG, A),
                    (NFTNL_EXPR_PAYLOAD_BASE, 1),
                    (NFTNL_EXPR_PAYLOAD_OFFSET, 24),
                    (NFTNL_EXPR_PAYLOAD_LEN, 16),
                ],
                &[],
                &[],
            ),
            Theirs(
                "payload",
                &[
                    (NFTNL_EXPR_PAYLOAD_DREG, A + 4),
                    (NFTNL_EXPR_PAYLOAD_BASE, 2),
                    (NFTNL_EXPR_PAYLOAD_OFFSET, 2),
                    (NFTNL_EXPR_PAYLOAD_LEN, 2),
                ],
                &[],
                &[],
            ),
        ],
    );
}

#[test]
fn verdicts_maps_of_data_and_counters() {
    let immediate = |verdict| [(NFTNL_EXPR_IMM_DREG, 0), (NFTNL_EXPR_IMM_VERDICT, verdict)];
    assert_same(
        &[
            Expression::Counter,
            Expression::LookupMap { map: "endpoints".into(), key: Register(0), value: Register(1) },
            Expression::LookupSet { set: "cluster-ips".into(), key: Register(0), inverted: false },
            Expression::Nat {
                kind: NatKind::Source,
                family: 10,
                address: Register(1),
                port: Register(0),
            },
            Expression::Verdict(Verdict::Accept),
            Expression::Verdict(Verdict::Return),
            Expression::Verdict(Verdict::Goto("pick-3".into())),
        ],
        &[
            // It begins at zero, unless it is restored.
            Theirs("counter", &[], &[], &[]),
            Theirs(
                "lookup",
                &[(NFTNL_EXPR_LOOKUP_SREG, A), (NFTNL_EXPR_LOOKUP_DREG, B)],
                &[],
                &[(NFTNL_EXPR_LOOKUP_SET, "endpoints")],
            ),
            Theirs(
                "lookup",
                &[(NFTNL_EXPR_LOOKUP_SREG, A)],
                &[],
                &[(NFTNL_EXPR_LOOKUP_SET, "cluster-ips")],
            ),
            Theirs(
                "nat",
                &[
                    (NFTNL_EXPR_NAT_TYPE, 0),
                    (NFTNL_EXPR_NAT_FAMILY, 10),
                    (NFTNL_EXPR_NAT_REG_ADDR_MIN, B),
                    (NFTNL_EXPR_NAT_REG_PROTO_MIN, A),
                ],
                &[],
                &[],
            ),
            Theirs("immediate", &immediate(1), &[], &[]),
            Theirs("immediate", &immediate(-5i32 as u32), &[], &[]),
            Theirs("immediate", &immediate(-4i32 as u32), &[], &[(NFTNL_EXPR_IMM_CHAIN, "pick-3")]),
        ],
    );
}

#[test]
fn replies_marks_limits_and_logs() {
    let reply: &[(u32, &[u8])] = &[(NFTNL_EXPR_CT_DIR, &[1])];
    let (rate, unit) = (10u64.to_ne_bytes(), 1u64.to_ne_bytes());
    let group = 86u16.to_ne_bytes();
    assert_same(
        &[
            Expression::LoadCtReply(Ct::SourceIp, Register(0)),
            Expression::LoadCt(Ct::Protocol, Register(1)),
            Expression::LoadCtReply(Ct::SourcePort, Register(0)),
            Expression::LoadCt(Ct::Mark, Register(0)),
            Expression::StoreCt(Ct::Mark, Register(0)),
            Expression::Limit { per_second: 10, burst: 5 },
            Expression::Log { group: 86, prefix: "to-1".into(), snaplen: 128 },
        ],
        &[
            Theirs("ct", &[(NFTNL_EXPR_CT_KEY, 19), (NFTNL_EXPR_CT_DREG, A)], reply, &[]),
            Theirs("ct", &[(NFTNL_EXPR_CT_KEY, 10), (NFTNL_EXPR_CT_DREG, B)], &[], &[]),
            Theirs("ct", &[(NFTNL_EXPR_CT_KEY, 11), (NFTNL_EXPR_CT_DREG, A)], reply, &[]),
            Theirs("ct", &[(NFTNL_EXPR_CT_KEY, 3), (NFTNL_EXPR_CT_DREG, A)], &[], &[]),
            Theirs("ct", &[(NFTNL_EXPR_CT_KEY, 3), (NFTNL_EXPR_CT_SREG, A)], &[], &[]),
            Theirs(
                "limit",
                &[(NFTNL_EXPR_LIMIT_BURST, 5)],
                &[(NFTNL_EXPR_LIMIT_RATE, &rate), (NFTNL_EXPR_LIMIT_UNIT, &unit)],
                &[],
            ),
            Theirs(
                "log",
                &[(NFTNL_EXPR_LOG_SNAPLEN, 128)],
                &[(NFTNL_EXPR_LOG_GROUP, &group)],
                &[(NFTNL_EXPR_LOG_PREFIX, "to-1")],
            ),
        ],
    );
}
