//! Commands compared with what `ipvsadm` 1.31 handed to `sendmsg` under Linux 6.1, on a little-endian machine,
//! without the message header. `ipvsadm` says more than the kernel reads; what that is, is listed.

use std::collections::BTreeMap;

use super::*;
use crate::message::{attributes, messages};

/// Attributes by the path of their types: all of IPVS's are within attribute 1 or 2, or alone.
fn tree(bytes: &[u8]) -> BTreeMap<(u16, u16), Vec<u8>> {
    let mut found = BTreeMap::from([((0, 0), bytes[..4].to_vec())]);
    for (outer, value) in attributes(&bytes[4..]) {
        match outer {
            1 | 2 => {
                found
                    .extend(attributes(value).map(|(inner, value)| ((outer, inner), value.into())));
            }
            _ => drop(found.insert((outer, 0), value.to_vec())),
        }
    }
    found
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

/// What `ipvsadm` names a service by when it is about something else: flags, timeout, netmask, no scheduler.
const OF_SERVICE: [(u16, u16); 4] = [(1, 6), (1, 7), (1, 8), (1, 9)];
/// Tunnels.
const OF_DESTINATION: [(u16, u16); 3] = [(2, 13), (2, 14), (2, 15)];

#[track_caller]
fn compare(change: &Change, captured: &str, unread: &[&[(u16, u16)]]) {
    let mut writer = Writer::default();
    writer.message(0x1c, 0, |m| {
        m.raw(&[wire::command(change), 1, 0, 0]);
        wire::body(m, change);
    });
    let ours = tree(messages(writer.bytes()).next().unwrap().payload);
    let mut theirs = tree(&bytes(captured));
    for path in unread.concat() {
        assert!(theirs.remove(&path).is_some(), "{path:?} is not in what was captured");
    }
    assert_eq!(ours, theirs, "{change}");
}

fn key(protocol: u8, address: &str, port: u16) -> ServiceKey {
    ServiceKey { protocol, address: address.parse().unwrap(), port }
}

fn service(key: ServiceKey, scheduler: &str, persistence: Option<(u32, u8)>) -> Service {
    let persistence =
        persistence.map(|(timeout, prefix_length)| Persistence { timeout, prefix_length });
    Service { key, scheduler: scheduler.to_owned(), persistence }
}

#[test]
fn services_are_written_as_ipvsadm_writes_them() {
    let https = key(6, "10.96.0.1", 443);
    compare(
        // -A -t 10.96.0.1:443 -s rr
        &Change::NewService(service(https, "rr", None)),
        "010100005400018006000100020000000600020006000000140003000a6000010000000000000000000000000600040001bb000007000600727200000c00070000000000ffffffff080008000000000008000900ffffffff",
        &[],
    );
    compare(
        // -A -u 10.96.0.10:53 -s wlc -p 10800
        &Change::NewService(service(key(17, "10.96.0.10", 53), "wlc", Some((10_800, 32)))),
        "010100005400018006000100020000000600020011000000140003000a60000a000000000000000000000000060004000035000008000600776c63000c00070001000000ffffffff08000800302a000008000900ffffffff",
        &[],
    );
    compare(
        // -A -t [fd00::1]:80 -s rr -p 300 -M 128
        &Change::NewService(service(key(6, "fd00::1", 80), "rr", Some((300, 128)))),
        "0101000054000180060001000a000000060002000600000014000300fd000000000000000000000000000001060004000050000007000600727200000c00070001000000ffffffff080008002c0100000800090080000000",
        &[],
    );
    compare(
        // -E -t 10.96.0.1:443 -s wrr -p 60
        &Change::SetService(service(https, "wrr", Some((60, 32)))),
        "020100005400018006000100020000000600020006000000140003000a6000010000000000000000000000000600040001bb000008000600777272000c00070001000000ffffffff080008003c00000008000900ffffffff",
        &[],
    );
    compare(
        // -D -t 10.96.0.1:443
        &Change::DeleteService(https),
        "030100005400018006000100020000000600020006000000140003000a6000010000000000000000000000000600040001bb000005000600000000000c00070000000000ffffffff080008000000000008000900ffffffff",
        &[&OF_SERVICE],
    );
}

#[test]
fn destinations_are_written_as_ipvsadm_writes_them() {
    let https = key(6, "10.96.0.1", 443);
    let pod = Destination::new("10.244.1.2:6443".parse().unwrap());
    compare(
        // -a -t 10.96.0.1:443 -r 10.244.1.2:6443 -m -w 1
        &Change::NewDestination(https, pod),
        "050100005400018006000100020000000600020006000000140003000a6000010000000000000000000000000600040001bb000005000600000000000c00070000000000ffffffff080008000000000008000900ffffffff6000028006000b0002000000140001000af4010200000000000000000000000006000200192b00000800030000000000080004000100000005000d000000000006000e000000000006000f000000000008000500000000000800060000000000",
        &[&OF_SERVICE, &OF_DESTINATION],
    );
    compare(
        // -a -t [fd00::1]:80 -r [fd00:1::2]:8080 -m -w 3 -x 10 -y 5
        &Change::NewDestination(
            key(6, "fd00::1", 80),
            Destination {
                address: "[fd00:1::2]:8080".parse().unwrap(),
                weight: 3,
                upper_threshold: 10,
                lower_threshold: 5,
            },
        ),
        "0501000054000180060001000a000000060002000600000014000300fd000000000000000000000000000001060004000050000005000600000000000c00070000000000ffffffff080008000000000008000900800000006000028006000b000a00000014000100fd000001000000000000000000000002060002001f9000000800030000000000080004000300000005000d000000000006000e000000000006000f0000000000080005000a0000000800060005000000",
        &[&OF_SERVICE, &OF_DESTINATION],
    );
    compare(
        // -e -t 10.96.0.1:443 -r 10.244.1.2:6443 -m -w 0
        &Change::SetDestination(https, Destination { weight: 0, ..pod }),
        "060100005400018006000100020000000600020006000000140003000a6000010000000000000000000000000600040001bb000005000600000000000c00070000000000ffffffff080008000000000008000900ffffffff6000028006000b0002000000140001000af4010200000000000000000000000006000200192b00000800030000000000080004000000000005000d000000000006000e000000000006000f000000000008000500000000000800060000000000",
        &[&OF_SERVICE, &OF_DESTINATION],
    );
    compare(
        // -d -t 10.96.0.1:443 -r 10.244.1.2:6443
        &Change::DeleteDestination(https, pod.address),
        "070100005400018006000100020000000600020006000000140003000a6000010000000000000000000000000600040001bb000005000600000000000c00070000000000ffffffff080008000000000008000900ffffffff6000028006000b0002000000140001000af4010200000000000000000000000006000200192b00000800030003000000080004000100000005000d000000000006000e000000000006000f000000000008000500000000000800060000000000",
        &[&OF_SERVICE, &OF_DESTINATION, &[(2, 3), (2, 4), (2, 5), (2, 6)]],
    );
}

#[test]
fn timeouts_are_written_as_ipvsadm_writes_them_and_read_back() {
    // --set 900 120 300
    let captured = bytes("0c01000008000400840300000800050078000000080006002c010000");
    let wanted = Timeouts { tcp: 900, tcp_fin: 120, udp: 300 };
    let mut writer = Writer::default();
    writer.message(0x1c, 0, |m| {
        m.raw(&[wire::SET_CONFIG, 1, 0, 0]);
        wire::timeouts(m, &wanted);
    });
    assert_eq!(messages(writer.bytes()).next().unwrap().payload, captured);
    assert_eq!(wire::parse_timeouts(&captured), Some(wanted));
}

#[test]
fn what_is_written_is_read_as_the_same() {
    for (address, pod, length) in
        [("10.96.0.1", "10.244.1.2:1", 24), ("fd00::1", "[fd00:1::2]:1", 64)]
    {
        let key = key(132, address, 80);
        let written = service(key, "mh", Some((7, length)));
        let mut writer = Writer::default();
        writer.message(0x1c, 0, |m| {
            m.raw(&[0; 4]);
            wire::body(m, &Change::NewService(written.clone()));
        });
        let read = wire::parse_service(messages(writer.bytes()).next().unwrap().payload);
        assert_eq!(read, Some((written, Counters::default())));
        let pod = pod.parse().unwrap();
        let refused = Error::new("x", Errno::NOENT);
        assert_eq!(explain(&Change::DeleteDestination(key, pod), refused.clone()), None);
        let told = explain(&Change::NewService(service(key, "xyz", None)), refused).unwrap();
        assert!(told.to_string().contains("module ip_vs_xyz"), "{told}");
    }
}
