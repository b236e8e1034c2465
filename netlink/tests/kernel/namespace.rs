//! Namespaces and the settings in them.

use netlink::*;

use super::{another, in_namespace, shows};

#[test]
fn a_guard_comes_back_also_from_a_panic() {
    in_namespace(|| {
        let home = Namespace::current().unwrap();
        let (other, _hold) = another();
        assert!(!home.is_same(&other).unwrap());
        other.run(|| assert!(Namespace::current().unwrap().is_same(&other).unwrap())).unwrap();
        assert!(Namespace::current().unwrap().is_same(&home).unwrap());
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            other.run(|| panic!("on purpose")).unwrap();
        }));
        assert!(panicked.is_err());
        assert!(Namespace::current().unwrap().is_same(&home).unwrap());
        for other in ["/etc/hostname", "/proc/self/ns/mnt", "/proc/self/status"] {
            assert_eq!(Namespace::open(other).unwrap_err().errno, Errno::INVAL, "{other}");
        }
        assert!(Namespace::open("/run/netns/never-was").unwrap_err().not_found());
    });
}

#[test]
fn sysctls_are_the_namespaces_own() {
    in_namespace(|| {
        assert_eq!(sysctl::read("net/ipv4/ip_forward").unwrap(), "0");
        assert!(sysctl::ensure("net/ipv4/ip_forward", "1").unwrap());
        assert!(!sysctl::ensure("net/ipv4/ip_forward", "1").unwrap());
        shows("cat /proc/sys/net/ipv4/ip_forward", &["1"]);
        assert!(!sysctl::ensure_if_present("net/ipv9/no_such", "1").unwrap());
        let error = sysctl::ensure("net/ipv4/ip_forward", "many").unwrap_err();
        assert!(error.to_string().contains("/proc/sys/net/ipv4/ip_forward"), "{error}");
    });
}
