//! [`Owner`]: one attachment of one container to one network, and the names derived from it.
//!
//! Every kernel object that ADD makes can be found again from the network's name, the container ID
//! and the interface name alone: the links by their names, the netfilter elements by their comment.
//! So DEL and GC need no memory of what ADD did.

use netlink::{MacAddress, fnv1a};
use serde::{Deserialize, Serialize};

/// One interface of one container.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attachment {
    /// The container's ID.
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// The interface's name in the container.
    pub ifname: String,
}

impl std::fmt::Display for Attachment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.container_id, self.ifname)
    }
}

/// An attachment and its network.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Owner {
    /// The network's name.
    pub network: String,
    /// The attachment.
    #[serde(flatten)]
    pub attachment: Attachment,
}

/// Prefix of the name of every link of an attachment.
const LINK_PREFIX: &str = "vd";
/// Base 32 without the letters that are easily mistaken.
const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

impl Owner {
    /// The node-side link: veth, 15 characters.
    pub fn host_link(&self) -> String {
        format!("{}{}", link_prefix(&self.network), digits(self.hash("link"), 9))
    }

    /// The device that shapes what the container sends.
    pub fn shaping_link(&self) -> String {
        format!("{}{}", link_prefix(&self.network), digits(self.hash("ifb"), 9))
    }

    /// The comment of every netfilter element of this attachment: `network/containerID/ifname`.
    pub fn tag(&self) -> String {
        let Attachment { container_id, ifname } = &self.attachment;
        format!("{}{}/{ifname}", tag_prefix(&self.network), shortened(container_id, 68))
    }

    /// An Ethernet address for one end of the link, where no IP address gives one.
    pub fn mac(&self, end: &str) -> MacAddress {
        let [a, b, c, d, ..] = self.hash(end).to_be_bytes();
        MacAddress([0x0a, 0x56, a, b, c, d])
    }

    fn hash(&self, use_: &str) -> u64 {
        let Attachment { container_id, ifname } = &self.attachment;
        mixed(format!("{use_}\0{}\0{container_id}\0{ifname}", self.network).as_bytes())
    }
}

/// Whether a link has the form of the names that attachments have. Tunnel devices never have it: "l" is not a
/// digit.
pub fn is_link_name(name: &str) -> bool {
    let digits = name.strip_prefix(LINK_PREFIX).unwrap_or_default().as_bytes();
    digits.len() == 4 + 9 && digits.iter().all(|digit| DIGITS.contains(digit))
}

/// What the links of a network begin with: no other network's links do, so GC knows them.
pub fn link_prefix(network: &str) -> String {
    format!("{LINK_PREFIX}{}", digits(mixed(network.as_bytes()), 4))
}

/// What the comments of a network's netfilter elements begin with.
pub fn tag_prefix(network: &str) -> String {
    format!("{}/", shortened(network, 40))
}

/// FNV-1a with the finalizer of SplitMix64, so that every bit depends on every byte.
fn mixed(bytes: &[u8]) -> u64 {
    let mut hash = fnv1a(bytes);
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

fn digits(mut hash: u64, count: usize) -> String {
    (0..count)
        .map(|_| {
            let digit = DIGITS[(hash % 32) as usize];
            hash /= 32;
            char::from(digit)
        })
        .collect()
}

/// The text, or if it is longer than `max` bytes its beginning and a hash. ASCII only.
fn shortened(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.to_owned();
    }
    format!("{}~{:016x}", &text[..max - 17], mixed(text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(network: &str, container_id: &str) -> Owner {
        let attachment =
            Attachment { container_id: container_id.to_owned(), ifname: "eth0".to_owned() };
        Owner { network: network.to_owned(), attachment }
    }

    #[test]
    fn names_are_stable_distinct_and_fit_the_kernel() {
        let a = owner("net", "a");
        assert_eq!(a.host_link(), owner("net", "a").host_link());
        let names: std::collections::BTreeSet<String> = (0..10_000)
            .flat_map(|n| {
                let owner = owner("net", &format!("{n:064x}"));
                [owner.host_link(), owner.shaping_link()]
            })
            .collect();
        assert_eq!(names.len(), 20_000);
        assert!(names.iter().all(|name| name.len() == 15 && name.starts_with(&link_prefix("net"))));
        assert!(names.iter().all(|name| is_link_name(name)));
        assert!(["vdvxlan16777215", "vd0", "eth0"].iter().all(|name| !is_link_name(name)));
    }

    #[test]
    fn tags_fit_a_comment_whatever_the_names() {
        let long = owner(&"n".repeat(300), &"c".repeat(300));
        assert!(long.tag().len() <= 127, "{}", long.tag());
        assert!(long.tag().starts_with(&tag_prefix(&"n".repeat(300))));
        assert_ne!(long.tag(), owner(&"n".repeat(300), &"c".repeat(301)).tag());
        assert_eq!(owner("net", "abc").tag(), "net/abc/eth0");
    }
}
