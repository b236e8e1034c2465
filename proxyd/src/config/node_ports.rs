//! `nodePortAddresses`: on which of the node's addresses node ports answer.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use netlink::{Family, Prefix};

use super::address::network;
use super::mode::Mode;

/// The list as the user wrote it; empty is the default of the mode.
///
/// Keywords may be mixed with CIDRs, as in kube-proxy 1.37.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodePortAddresses {
    entries: Vec<Entry>,
}

/// Which local addresses of one family have node ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodePortScope {
    /// All of them.
    All,
    /// Some of them.
    Listed {
        /// The node's primary address of the family, according to its Node object.
        primary: bool,
        /// Every address in one of these networks.
        cidrs: Vec<Prefix>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    Primary,
    Localhost,
    All,
    Cidr(Prefix),
}

impl NodePortAddresses {
    /// Reads a list; the error says which item is wrong.
    pub(super) fn parse(items: &[String]) -> Result<NodePortAddresses, String> {
        let entries = items.iter().map(|item| match item.as_str() {
            "primary" => Ok(Entry::Primary),
            "localhost" => Ok(Entry::Localhost),
            "all" => Ok(Entry::All),
            cidr => network(cidr)
                .map(Entry::Cidr)
                .map_err(|error| format!("{error}; an item is a CIDR, primary, localhost or all")),
        });
        Ok(NodePortAddresses { entries: entries.collect::<Result<_, _>>()? })
    }

    /// Whether the user left the choice to the mode.
    pub fn is_default(&self) -> bool {
        self.entries.is_empty()
    }

    /// Where node ports of `family` answer when the mode is `mode`.
    ///
    /// A network with length 0 wins over everything else, and a family of which nothing is listed
    /// matches all. Loopback networks are among the CIDRs; whether they can be served depends on
    /// the mode.
    pub fn scope(&self, family: Family, mode: Mode) -> NodePortScope {
        if self.is_default() {
            return match mode {
                Mode::Nftables => NodePortScope::Listed { primary: true, cidrs: Vec::new() },
                Mode::Iptables | Mode::Ipvs => NodePortScope::All,
            };
        }
        let primary = self.entries.contains(&Entry::Primary);
        let cidrs = self.cidrs(family);
        let nothing_listed = !primary && cidrs.is_empty();
        if nothing_listed || cidrs.iter().any(|cidr| cidr.length() == 0) {
            return NodePortScope::All;
        }
        NodePortScope::Listed { primary, cidrs }
    }

    /// Whether loopback is listed explicitly in `family`: by `localhost`, or by a network within
    /// 127.0.0.0/8 or `::1/128`. A wider network, or `all`, does not count.
    pub fn localhost(&self, family: Family) -> bool {
        let loopback = loopback(family);
        self.cidrs(family).into_iter().any(|cidr| loopback.covers(cidr))
    }

    /// The list, as a configuration file has it.
    pub fn items(&self) -> Vec<String> {
        self.entries.iter().map(ToString::to_string).collect()
    }

    fn cidrs(&self, family: Family) -> Vec<Prefix> {
        self.entries
            .iter()
            .filter_map(|entry| match entry {
                Entry::Primary => None,
                Entry::Localhost => Some(loopback(family)),
                Entry::All => Some(Prefix::default_route(family)),
                Entry::Cidr(cidr) => (cidr.family() == family).then_some(*cidr),
            })
            .collect()
    }
}

fn loopback(family: Family) -> Prefix {
    match family {
        Family::V4 => Prefix::new(Ipv4Addr::new(127, 0, 0, 0).into(), 8).expect("8 is below 32"),
        Family::V6 => Prefix::host(Ipv6Addr::LOCALHOST.into()),
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Entry::Primary => f.write_str("primary"),
            Entry::Localhost => f.write_str("localhost"),
            Entry::All => f.write_str("all"),
            Entry::Cidr(cidr) => cidr.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(items: &[&str]) -> NodePortAddresses {
        let items: Vec<_> = items.iter().map(|item| (*item).to_owned()).collect();
        NodePortAddresses::parse(&items).unwrap()
    }

    fn listed(primary: bool, cidrs: &[&str]) -> NodePortScope {
        let cidrs = cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect();
        NodePortScope::Listed { primary, cidrs }
    }

    /// The scopes of IPv4 and IPv6 in nftables mode.
    fn scopes(items: &[&str]) -> [NodePortScope; 2] {
        let addresses = addresses(items);
        [Family::V4, Family::V6].map(|family| addresses.scope(family, Mode::Nftables))
    }

    #[test]
    fn the_default_depends_on_the_mode() {
        let default = NodePortAddresses::default();
        assert_eq!(default.scope(Family::V4, Mode::Nftables), listed(true, &[]));
        assert_eq!(default.scope(Family::V6, Mode::Iptables), NodePortScope::All);
        assert_eq!(default.scope(Family::V6, Mode::Ipvs), NodePortScope::All);
    }

    #[test]
    fn primary_and_all_mean_both_families() {
        assert_eq!(scopes(&["primary"]), [listed(true, &[]), listed(true, &[])]);
        assert_eq!(scopes(&["all"]), [NodePortScope::All, NodePortScope::All]);
        let primary = addresses(&["primary"]);
        assert_eq!(primary.scope(Family::V4, Mode::Iptables), listed(true, &[]));
    }

    #[test]
    fn a_family_without_a_cidr_matches_all() {
        assert_eq!(
            scopes(&["10.0.0.0/8", "192.168.0.0/16"]),
            [listed(false, &["10.0.0.0/8", "192.168.0.0/16"]), NodePortScope::All]
        );
        assert_eq!(
            scopes(&["primary", "10.0.0.0/8"]),
            [listed(true, &["10.0.0.0/8"]), listed(true, &[])]
        );
    }

    #[test]
    fn length_zero_wins_in_its_family_alone() {
        assert_eq!(
            scopes(&["10.0.0.0/8", "0.0.0.0/0", "fd00::/8"]),
            [NodePortScope::All, listed(false, &["fd00::/8"])]
        );
        assert_eq!(scopes(&["primary", "::/0"])[1], NodePortScope::All);
    }

    #[test]
    fn localhost_must_be_explicit() {
        let localhost = |items: &[&str]| {
            let addresses = addresses(items);
            [Family::V4, Family::V6].map(|family| addresses.localhost(family))
        };
        assert_eq!(localhost(&["localhost"]), [true, true]);
        assert_eq!(localhost(&["127.0.0.0/8"]), [true, false]);
        assert_eq!(localhost(&["127.0.0.1/32"]), [true, false]);
        assert_eq!(localhost(&["::1/128"]), [false, true]);
        assert_eq!(localhost(&["all"]), [false, false]);
        assert_eq!(localhost(&["0.0.0.0/0", "::/0", "primary"]), [false, false]);
        assert_eq!(localhost(&["all", "localhost"]), [true, true]);
        assert_eq!(localhost(&[]), [false, false]);
        assert_eq!(
            scopes(&["localhost"]),
            [listed(false, &["127.0.0.0/8"]), listed(false, &["::1/128"])]
        );
    }

    #[test]
    fn a_wrong_item_is_named() {
        for item in ["Primary", "10.0.0.1", "10.0.0.1/8", ""] {
            let error = NodePortAddresses::parse(&[item.to_owned()]).unwrap_err();
            assert!(error.contains(item) && error.contains("primary, localhost or all"), "{error}");
        }
    }

    #[test]
    fn the_items_are_those_given() {
        let items = ["primary", "localhost", "all", "10.0.0.0/8"];
        assert_eq!(addresses(&items).items(), items);
    }
}
