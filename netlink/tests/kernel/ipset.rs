//! Sets, as `ipset save` shows them.

use netlink::ipset::{Entry, Ipset, SetType};
use netlink::{Errno, Family};

use super::{in_namespace, ip, prefix, tool};

const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;

/// Lines of `ipset save`, without what the kernel chooses.
fn saved() -> Vec<String> {
    let lines = tool("ipset save");
    let without = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let at = words.iter().position(|word| *word == "hashsize");
        let mut kept: Vec<&str> = words.clone();
        if let Some(at) = at {
            kept.drain(at..at + 2);
        }
        kept.join(" ")
    };
    lines.lines().map(without).collect()
}

#[test]
fn every_type_of_set_is_made_filled_listed_and_destroyed() {
    in_namespace(|| {
        let mut ipset = Ipset::open().unwrap();
        let (v4, v6) = (Family::V4, Family::V6);
        let (vip, pod) = (ip("10.96.0.1"), ip("10.244.1.2"));
        let (vip6, pod6) = (ip("fd00::1"), ip("fd00:10::2"));
        let cases = [
            (SetType::HashIp { family: v4, max: 100 }, vec![Entry::Ip(vip), Entry::Ip(pod)]),
            (SetType::HashIp { family: v6, max: 100 }, vec![Entry::Ip(vip6)]),
            (
                SetType::HashIpPort { family: v4, max: 65_536 },
                vec![
                    Entry::IpPort(vip, TCP, 443),
                    Entry::IpPort(vip, UDP, 53),
                    Entry::IpPort(vip, SCTP, 53),
                ],
            ),
            (SetType::HashIpPort { family: v6, max: 9 }, vec![Entry::IpPort(vip6, UDP, 53)]),
            (
                SetType::HashIpPortIp { family: v4, max: 9 },
                vec![Entry::IpPortIp(pod, TCP, 8080, pod)],
            ),
            (
                SetType::HashIpPortIp { family: v6, max: 9 },
                vec![Entry::IpPortIp(pod6, TCP, 8080, pod6)],
            ),
            (
                SetType::HashIpPortNet { family: v4, max: 9 },
                vec![
                    Entry::IpPortNet(vip, TCP, 443, prefix("192.168.0.0/24")),
                    Entry::IpPortNet(vip, TCP, 443, prefix("172.16.0.1/32")),
                ],
            ),
            (
                SetType::HashIpPortNet { family: v6, max: 9 },
                vec![Entry::IpPortNet(vip6, TCP, 443, prefix("fd01::/64"))],
            ),
            (
                SetType::BitmapPort { first: 0, last: u16::MAX },
                vec![Entry::Port(30_080), Entry::Port(65_535)],
            ),
        ];
        for (number, (kind, entries)) in cases.iter().enumerate() {
            let name = format!("VIADUCT-{number}");
            ipset.create(&name, *kind).unwrap();
            ipset.create(&name, *kind).unwrap();
            ipset.add(&name, entries).unwrap();
            ipset.add(&name, entries).unwrap();
            let listed = ipset.list(&name).unwrap().unwrap();
            let mut sorted = entries.clone();
            sorted.sort();
            assert_eq!(listed.set_type, Some(*kind));
            assert_eq!((listed.name, listed.references), (name.clone(), 0));
            assert_eq!(listed.entries, sorted);
        }
        let shown = saved();
        for line in [
            "create VIADUCT-0 hash:ip family inet maxelem 100",
            "add VIADUCT-0 10.244.1.2",
            "create VIADUCT-1 hash:ip family inet6 maxelem 100",
            "create VIADUCT-2 hash:ip,port family inet maxelem 65536",
            "add VIADUCT-2 10.96.0.1,tcp:443",
            "add VIADUCT-2 10.96.0.1,udp:53",
            "add VIADUCT-2 10.96.0.1,sctp:53",
            "add VIADUCT-3 fd00::1,udp:53",
            "add VIADUCT-4 10.244.1.2,tcp:8080,10.244.1.2",
            "add VIADUCT-5 fd00:10::2,tcp:8080,fd00:10::2",
            "create VIADUCT-6 hash:ip,port,net family inet maxelem 9",
            "add VIADUCT-6 10.96.0.1,tcp:443,192.168.0.0/24",
            "add VIADUCT-6 10.96.0.1,tcp:443,172.16.0.1",
            "add VIADUCT-7 fd00::1,tcp:443,fd01::/64",
            "create VIADUCT-8 bitmap:port range 0-65535",
            "add VIADUCT-8 30080",
            "add VIADUCT-8 65535",
        ] {
            assert!(shown.iter().any(|shown| shown == line), "{line:?} is not in {shown:#?}");
        }
        assert_eq!(ipset.list_all().unwrap().len(), cases.len());
        for (number, (_, entries)) in cases.iter().enumerate() {
            let name = format!("VIADUCT-{number}");
            ipset.delete(&name, &entries[..1]).unwrap();
            ipset.delete(&name, &entries[..1]).unwrap();
            assert_eq!(ipset.list(&name).unwrap().unwrap().entries.len(), entries.len() - 1);
            ipset.flush(&name).unwrap();
            assert!(ipset.list(&name).unwrap().unwrap().entries.is_empty());
            assert!(ipset.destroy(&name).unwrap());
            assert!(!ipset.destroy(&name).unwrap());
        }
        assert!(saved().is_empty());
    });
}

#[test]
fn a_long_list_is_added_read_and_swapped_in() {
    in_namespace(|| {
        let mut ipset = Ipset::open().unwrap();
        let kind = SetType::HashIpPort { family: Family::V4, max: 65_536 };
        let entries: Vec<Entry> = (0..20_000u32)
            .map(|n| Entry::IpPort((0x0a60_0000 + n).to_be_bytes().into(), TCP, 80))
            .collect();
        ipset.create("old", kind).unwrap();
        ipset.create("new", kind).unwrap();
        ipset.add("old", &entries[..1]).unwrap();
        ipset.add("new", &entries).unwrap();
        ipset.swap("old", "new").unwrap();
        assert!(ipset.list("old").unwrap().unwrap().entries == entries);
        assert_eq!(ipset.list("new").unwrap().unwrap().entries, entries[..1]);
        ipset.delete("old", &entries[1..]).unwrap();
        assert_eq!(ipset.list("old").unwrap().unwrap().entries, entries[..1]);
        ipset.rename("new", "newer").unwrap();
        assert_eq!(ipset.list("new").unwrap(), None);
        assert_eq!(ipset.list_all().unwrap().len(), 2);
    });
}

#[test]
fn what_the_kernel_refuses_is_told_in_words() {
    in_namespace(|| {
        let mut ipset = Ipset::open().unwrap();
        let (family, max) = (Family::V4, 1);
        ipset.create("ips", SetType::HashIp { family, max }).unwrap();
        let other = ipset.create("ips", SetType::HashIpPort { family, max }).unwrap_err();
        assert!(other.already_exists());
        assert!(other.to_string().contains("create ipset ips of type hash:ip,port"), "{other}");
        assert!(other.to_string().contains("HashIp {"), "{other}");
        let size = ipset.create("ips", SetType::HashIp { family, max: 7 }).unwrap_err();
        assert!(size.already_exists(), "{size}");
        let long = ipset.create(&"x".repeat(32), SetType::HashIp { family, max }).unwrap_err();
        assert_eq!(long.errno, Errno::NAMETOOLONG);
        let wrong = ipset.add("ips", &[Entry::Ip(ip("fd00::1"))]).unwrap_err();
        assert!(wrong.to_string().contains("fd00::1"), "{wrong}");
        assert!(wrong.to_string().contains("another family"), "{wrong}");
        ipset.create("nets", SetType::HashIpPortNet { family, max }).unwrap();
        let all = Entry::IpPortNet(ip("10.96.0.1"), TCP, 80, prefix("0.0.0.0/0"));
        let all = ipset.add("nets", &[all]).unwrap_err();
        assert!(all.to_string().contains("of this length"), "{all}");
        let types = ipset.swap("ips", "nets").unwrap_err();
        assert!(types.to_string().contains("different types"), "{types}");
        assert!(ipset.rename("ips", "nets").unwrap_err().already_exists());
        assert_eq!(ipset.add("none", &[Entry::Port(1)]).unwrap_err().errno, Errno::NOENT);
        assert!(ipset.flush("none").unwrap_err().not_found());
        // A bucket is filled before the limit counts.
        let many: Vec<Entry> = (1..=200).map(|n| Entry::Ip([10, 0, 0, n].into())).collect();
        let full = ipset.add("ips", &many).unwrap_err();
        assert_eq!(full.errno, Errno::NOSPC, "{full}");
        assert!(full.to_string().contains("the set is full"), "{full}");
    });
}
