//! Requests compared with what the real tools (iproute2 6.1) send for the same operation.
//!
//! The hexadecimal texts are what `ip`, `bridge` and `tc` handed to `sendmsg`, without the message
//! header, on a little-endian machine, captured in a namespace with links br0 (2), p0 (3), eth0 (4),
//! ifb9 (5), vdvxlan1 (7). Attributes are compared as trees: order and the "nested" flag are free.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd};

use super::address::{AddressOptions, add_request};
use super::link::{port_request, veth_request, vxlan_request};
use super::neighbour::requests as neighbour_requests;
use super::qdisc::{redirect_request, token_bucket_request};
use super::route::replace_request;
use super::{IfIndex, Neighbour, PortFlags, Route, TokenBucket, Veth, VethPeer, Vxlan};
use crate::message::{Writer, attributes, messages};

/// Which attributes hold attributes, and how many bytes of another header come before those.
struct Nested(u16, usize, &'static [Nested]);

const LEAF: &[Nested] = &[];
const LINK: &[Nested] = &[Nested(
    18, // IFLA_LINKINFO
    0,
    &[Nested(2, 0, &[Nested(1, 16, LEAF)]), Nested(5, 0, LEAF)], // INFO_DATA { VETH_INFO_PEER }, SLAVE_DATA
)];
const VXLAN: &[Nested] = &[Nested(18, 0, &[Nested(2, 0, LEAF)])];
const ROUTE: &[Nested] = &[Nested(8, 0, LEAF)]; // RTA_METRICS
const TBF: &[Nested] = &[Nested(2, 0, LEAF)]; // TCA_OPTIONS
const FILTER: &[Nested] = &[Nested(
    2, // TCA_OPTIONS { TCA_U32_ACT { 1 { TCA_ACT_OPTIONS } } }
    0,
    &[Nested(7, 0, &[Nested(1, 0, &[Nested(2, 0, LEAF)])])],
)];

type Tree = BTreeMap<Vec<u16>, Vec<u8>>;

fn tree(bytes: &[u8], header: usize, nested: &[Nested]) -> Tree {
    let mut found = Tree::new();
    found.insert(Vec::new(), bytes[..header].to_vec());
    for (kind, value) in attributes(&bytes[header..]) {
        match nested.iter().find(|n| n.0 == kind) {
            Some(Nested(_, header, inner)) => {
                for (mut path, value) in tree(value, *header, inner) {
                    path.insert(0, kind);
                    found.insert(path, value);
                }
            }
            None => drop(found.insert(vec![kind], value.to_vec())),
        }
    }
    found
}

fn bytes(hex: &str) -> Vec<u8> {
    let hex: String = hex.split_whitespace().collect();
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

/// Compares but for `except`: (path, reason).
#[track_caller]
fn same(
    (kind, flags, hex): (u16, u16, &str),
    ours: &Writer,
    header: usize,
    nested: &[Nested],
    except: &[(&[u16], &str)],
) {
    let message = messages(ours.bytes()).next().unwrap();
    // The acknowledgement is asked for when a request is sent.
    const ACKNOWLEDGE: u16 = 4;
    assert_eq!((message.kind, message.flags | ACKNOWLEDGE), (kind, flags));
    let (mut ours, mut theirs) =
        (tree(message.payload, header, nested), tree(&bytes(hex), header, nested));
    for (path, _reason) in except {
        ours.remove(*path);
        theirs.remove(*path);
    }
    assert_eq!(ours, theirs);
}

#[test]
fn a_veth_pair_across_namespaces() {
    // ip link add vdtest address 0a:56:01:02:03:04 mtu 1450 master br0 up
    //    type veth peer name eth0 address 0a:58:0a:f4:01:02 mtu 1450 netns cap2
    let captured = "000000000000000001000000010000000a0001000a5601020304000008000400aa05000008000a00020000000b00030076647465737400004c0012000800010076657468400002003c000100000000000000000000000000000000000a0001000a580af40102000008000400aa05000008001c0004000000090003006574683000000000";
    let namespace = std::fs::File::open("/dev/null").unwrap();
    let request = veth_request(&Veth {
        name: "vdtest",
        mac: "0a:56:01:02:03:04".parse().unwrap(),
        mtu: 1450,
        master: Some(IfIndex(2)),
        peer: VethPeer {
            name: "eth0",
            mac: "0a:58:0a:f4:01:02".parse().unwrap(),
            namespace: namespace.as_fd(),
        },
    });
    let except: &[(&[u16], &str)] = &[
        (&[18, 1], "ip sends the kind without its closing NUL"),
        (&[18, 2, 1, 28], "the descriptor's number"),
    ];
    same((16, 0x605, captured), &request, 16, LINK, except);
    assert!(namespace.as_raw_fd() > 0);
}

#[test]
fn vxlan_devices_of_both_families() {
    // ip link add vdvxlan1 address 0e:56:c0:a8:00:01 mtu 1450
    //    type vxlan id 1 dev eth0 local 10.0.0.1 nolearning dstport 8472
    let v4 = "000000000000000000000000000000000a0001000e56c0a80001000008000400aa0500000d000300766476786c616e31000000003c0012000900010076786c616e0000002c00020008000300040000000800010001000000080004000a000001050007000000000006000f0021180000";
    // the same with id 2, mtu 1430, local fd00::1
    let v6 = "000000000000000000000000000000000a0001000e56c0a80001000008000400960500000d000300766476786c616e3200000000480012000900010076786c616e000000380002000800030004000000080001000200000014001100fd000000000000000000000000000001050007000000000006000f0021180000";
    for (captured, vni, mtu, local) in [(v4, 1, 1450, "10.0.0.1"), (v6, 2, 1430, "fd00::1")] {
        let request = vxlan_request(&Vxlan {
            name: &format!("vdvxlan{vni}"),
            vni,
            port: 8472,
            lower: IfIndex(4),
            local: local.parse().unwrap(),
            mac: "0e:56:c0:a8:00:01".parse().unwrap(),
            mtu,
        });
        let except: &[(&[u16], &str)] = &[(&[18, 1], "ip sends the kind without its closing NUL")];
        same((16, 0x605, captured), &request, 16, VXLAN, except);
    }
}

#[test]
fn bridge_port_flags() {
    // ip link set dev p0 type bridge_slave hairpin on isolated on
    let captured = "0000000003000000000000000000000028001200100001006272696467655f736c6176651400050005000400010000000500210001000000";
    let flags = PortFlags { hairpin: Some(true), isolated: Some(true) };
    let except: &[(&[u16], &str)] = &[
        (&[18, 1], "ip names the port's kind as if it were the link's"),
        (&[18, 4], "which belongs here"),
    ];
    same((16, 5, captured), &port_request(IfIndex(3), flags), 16, LINK, except);
}

#[test]
fn bridge_port_flags_as_bridge_sends_them() {
    // bridge link set dev p0 hairpin on isolated on
    let captured = "0700000003000000000000000000000014000c8005000400010000000500210001000000";
    const PORT: &[Nested] = &[Nested(12, 0, LEAF)]; // IFLA_PROTINFO
    let theirs = tree(&bytes(captured), 16, PORT);
    let flags = PortFlags { hairpin: Some(true), isolated: Some(true) };
    let request = port_request(IfIndex(3), flags);
    let ours = tree(messages(request.bytes()).next().unwrap().payload, 16, LINK);
    // Another message (RTM_SETLINK of AF_BRIDGE) and another nest, but the same attributes in it.
    let inside = |tree: &Tree, nest: &[u16]| -> Vec<(u16, Vec<u8>)> {
        let within = |(path, value): (&Vec<u16>, &Vec<u8>)| {
            Some((*path.strip_prefix(nest)?.first()?, value.clone()))
        };
        tree.iter().filter_map(within).collect()
    };
    assert_eq!(inside(&ours, &[18, 5]), inside(&theirs, &[12]));
    assert_eq!(inside(&ours, &[18, 5]), [(4, vec![1]), (33, vec![1])]);
    assert_eq!(ours[&vec![]][4..8], theirs[&vec![]][4..8], "the same link");
}

#[test]
fn a_port_flag_that_is_not_named_is_not_sent() {
    // ip link set dev p0 type bridge_slave isolated off
    let captured = "0000000003000000000000000000000020001200100001006272696467655f736c6176650c0005000500210000000000";
    let except: &[(&[u16], &str)] = &[
        (&[18, 1], "ip names the port's kind as if it were the link's"),
        (&[18, 4], "which belongs here"),
    ];
    let flags = PortFlags { hairpin: None, isolated: Some(false) };
    same((16, 5, captured), &port_request(IfIndex(3), flags), 16, LINK, except);
}

#[test]
fn addresses() {
    // ip addr add 10.244.1.2/24 brd + dev eth0
    let v4 = "0218000004000000080002000af40102080001000af40102080004000af401ff";
    let request =
        add_request(IfIndex(4), "10.244.1.2/24".parse().unwrap(), AddressOptions::default());
    same((20, 0x605, v4), &request, 8, LEAF, &[]);
    // ip addr add 10.244.9.2/32 dev eth0
    let single = "0220000004000000080002000af40902080001000af40902";
    let request =
        add_request(IfIndex(4), "10.244.9.2/32".parse().unwrap(), AddressOptions::default());
    same((20, 0x605, single), &request, 8, LEAF, &[]);
    // ip addr add 10.244.8.2/31 dev eth0
    let pair = "021f000004000000080002000af40802080001000af40802";
    let request =
        add_request(IfIndex(4), "10.244.8.2/31".parse().unwrap(), AddressOptions::default());
    same((20, 0x605, pair), &request, 8, LEAF, &[]);
    // ip addr add fd00:1::3/64 dev eth0
    let detected = "0a4000000400000014000200fd00000100000000000000000000000314000100fd000001000000000000000000000003";
    let request = add_request(
        IfIndex(4),
        "fd00:1::3/64".parse().unwrap(),
        AddressOptions { detect_duplicates: true, ..AddressOptions::default() },
    );
    same((20, 0x605, detected), &request, 8, LEAF, &[]);
    // ip addr add fd00:1::2/64 dev eth0 nodad
    let v6 = "0a4002000400000014000200fd00000100000000000000000000000214000100fd000001000000000000000000000002";
    let request =
        add_request(IfIndex(4), "fd00:1::2/64".parse().unwrap(), AddressOptions::default());
    same((20, 0x605, v6), &request, 8, LEAF, &[]);
}

#[test]
fn routes() {
    let onlink = |destination: &str, gateway: &str| {
        replace_request(&Route {
            gateway: Some(gateway.parse().unwrap()),
            link: Some(IfIndex(7)),
            onlink: true,
            protocol: 86,
            ..Route::new(destination.parse().unwrap())
        })
    };
    // ip route replace 10.244.2.0/24 via 10.244.2.0 dev vdvxlan1 onlink proto 86
    let v4 = "02180000fe56000104000000080001000af40200080005000af402000800040007000000";
    same((24, 0x505, v4), &onlink("10.244.2.0/24", "10.244.2.0"), 12, ROUTE, &[]);
    // ip -6 route replace fd00:2::/64 via fd00:2:: dev vdvxlan1 onlink proto 86
    let v6 = "0a400000fe5600010400000014000100fd00000200000000000000000000000014000500fd0000020000000000000000000000000800040007000000";
    same((24, 0x505, v6), &onlink("fd00:2::/64", "fd00:2::"), 12, ROUTE, &[]);
    // ip route replace 10.250.0.0/16 via 10.0.0.2 dev eth0 src 10.0.0.1 metric 77 mtu 1400 advmss 1360 table 1234
    let all = "021000000003000100000000080001000afa0000080005000a000002080007000a000001080006004d00000008000f00d204000008000400040000001400080008000200780500000800080050050000";
    let request = replace_request(&Route {
        gateway: "10.0.0.2".parse().ok(),
        link: Some(IfIndex(4)),
        source: "10.0.0.1".parse().ok(),
        priority: Some(77),
        mtu: Some(1400),
        advmss: Some(1360),
        table: 1234,
        ..Route::new("10.250.0.0/16".parse().unwrap())
    });
    same((24, 0x505, all), &request, 12, ROUTE, &[]);
}

#[test]
fn link_local_addresses_have_their_scope() {
    // ip addr add fe80::77/64 dev eth0 nodad
    let captured = "0a4002000400000014000200fe80000000000000000000000000007714000100fe800000000000000000000000000077";
    let request =
        add_request(IfIndex(4), "fe80::77/64".parse().unwrap(), AddressOptions::default());
    let except: &[(&[u16], &str)] =
        &[(&[], "ip leaves the scope at 0, and the kernel derives it; we say it (checked below)")];
    same((20, 0x605, captured), &request, 8, LEAF, except);
    let header = &messages(request.bytes()).next().unwrap().payload[..8];
    assert_eq!(header, [10, 64, 2, 253, 4, 0, 0, 0]);
}

#[test]
fn routes_without_a_gateway_or_to_everywhere() {
    let on_link = |destination: &str, gateway: Option<&str>| {
        replace_request(&Route {
            link: Some(IfIndex(4)),
            gateway: gateway.map(|text| text.parse().unwrap()),
            ..Route::new(destination.parse().unwrap())
        })
    };
    let same_route =
        |captured: &str, request: &Writer| same((24, 0x505, captured), request, 12, ROUTE, &[]);
    // ip route replace default via 10.0.0.2 dev eth0
    let default4 = "02000000fe03000100000000080005000a0000020800040004000000";
    same_route(default4, &on_link("0.0.0.0/0", Some("10.0.0.2")));
    // ip route replace 10.251.0.0/16 dev eth0
    let link4 = "02100000fe03fd0100000000080001000afb00000800040004000000";
    same_route(link4, &on_link("10.251.0.0/16", None));
    // ip -6 route replace fd00:9::/64 dev eth0
    let link6 = "0a400000fe0300010000000014000100fd0000090000000000000000000000000800040004000000";
    same_route(link6, &on_link("fd00:9::/64", None));
    // ip -6 route replace default via fd00::2 dev eth0
    let default6 = "0a000000fe03000100000000140001000000000000000000000000000000000014000500fd0000000000000000000000000000020800040004000000";
    let except: &[(&[u16], &str)] =
        &[(&[1], "ip sends :: as destination, whose length is 0 anyway")];
    same((24, 0x505, default6), &on_link("::/0", Some("fd00::2")), 12, ROUTE, except);
}

#[test]
fn neighbours_and_the_forwarding_database() {
    // ip neigh replace 10.244.2.0 lladdr 0e:56:c0:a8:00:02 dev vdvxlan1 nud permanent
    let neighbour = "020000000700000080000000080001000af402000a0002000e56c0a800020000";
    // bridge fdb replace 0e:56:c0:a8:00:02 dst 192.168.0.2 dev vdvxlan1 self permanent
    let forwarding = "0700000007000000c00002000a0002000e56c0a80002000008000100c0a80002";
    let entry = |address: &str| Neighbour {
        link: IfIndex(7),
        address: address.parse().unwrap(),
        mac: "0e:56:c0:a8:00:02".parse().unwrap(),
    };
    let [request, _] = neighbour_requests(&entry("10.244.2.0"));
    same((28, 0x505, neighbour), &request, 12, LEAF, &[]);
    let [_, request] = neighbour_requests(&entry("192.168.0.2"));
    same((28, 0x505, forwarding), &request, 12, LEAF, &[]);
    // ip -6 neigh replace fd00:2:: lladdr 0e:56:c0:a8:00:02 dev vdvxlan1 nud permanent
    let neighbour =
        "0a000000070000008000000014000100fd0000020000000000000000000000000a0002000e56c0a800020000";
    // bridge fdb replace 0e:56:c0:a8:00:02 dst fd00::7 dev vdvxlan1 self permanent
    let forwarding =
        "0700000007000000c00002000a0002000e56c0a80002000014000100fd000000000000000000000000000007";
    let [request, _] = neighbour_requests(&entry("fd00:2::"));
    same((28, 0x505, neighbour), &request, 12, LEAF, &[]);
    let [_, request] = neighbour_requests(&entry("fd00::7"));
    same((28, 0x505, forwarding), &request, 12, LEAF, &[]);
}

const NO_TABLE: (&[u16], &str) =
    (&[2, 2], "TCA_TBF_RTAB, a table of 256 times that the kernel has not used since Linux 3.8");

#[test]
fn a_token_bucket() {
    // tc qdisc replace dev eth0 root handle 1: tbf rate 8mbit burst 100000 limit 125000
    let captured = include_str!("captured/tbf_8mbit.hex");
    let bucket = TokenBucket { rate: 1_000_000, burst: 100_000, limit: 125_000 };
    let request = token_bucket_request(IfIndex(4), &bucket);
    same((36, 0x505, captured), &request, 20, TBF, &[NO_TABLE]);
}

#[test]
fn a_token_bucket_beyond_four_gigabytes_per_second() {
    // tc qdisc replace dev eth0 root handle 1: tbf rate 80gbit burst 4000000 limit 4000000000
    let captured = include_str!("captured/tbf_80gbit.hex");
    let bucket = TokenBucket { rate: 10_000_000_000, burst: 4_000_000, limit: 4_000_000_000 };
    let request = token_bucket_request(IfIndex(4), &bucket);
    let parameters: (&[u16], &str) = (&[2, 1], "compared below");
    same((36, 0x505, captured), &request, 20, TBF, &[NO_TABLE, parameters]);
    let ours = tree(messages(request.bytes()).next().unwrap().payload, 20, TBF);
    let theirs = tree(&bytes(captured), 20, TBF);
    let (ours, theirs) = (&ours[&vec![2, 1]], &theirs[&vec![2, 1]]);
    assert_eq!((&ours[..28], &ours[32..]), (&theirs[..28], &theirs[32..]));
    // The bucket in ticks: tc computes with the rate that 32 bits hold, we with the true one. The
    // kernel takes neither, but TCA_TBF_BURST.
    let ticks = |parameters: &[u8]| u32::from_le_bytes(parameters[28..32].try_into().unwrap());
    assert_eq!((ticks(ours), ticks(theirs)), (6250, 14546));
}

#[test]
fn a_redirect() {
    // tc filter add dev eth0 parent ffff: protocol all prio 1 u32 match u32 0 0
    //    action mirred egress redirect dev ifb9
    let captured = "0000000004000000000000000000ffff0003010008000100753332006000020038000700340001000b0001006d69727265640000240002802000020000000000000000000400000000000000000000000100000005000000240005000100010000000000000000000000000000000000000000000000000000000000";
    same((44, 0x605, captured), &redirect_request(IfIndex(4), IfIndex(5)), 20, FILTER, &[]);
}
