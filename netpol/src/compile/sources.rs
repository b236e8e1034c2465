//! From which addresses a pod may send: those of its attachments on this node, by any of its links.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::Attachment;
use crate::world::{PodName, World};

/// The addresses that packets may come from, by the node's end of the link by which they come. A link that is not
/// in it is not checked.
pub type Sources = BTreeMap<Arc<str>, BTreeSet<IpAddr>>;

/// Checks every link that the plugin told of, but those of namespaces that are spared.
pub(super) fn sources(world: &World, attachments: &BTreeMap<Arc<str>, Attachment>) -> Sources {
    let spared = |pod: &PodName| {
        world.namespaces.get(&pod.namespace).is_some_and(|namespace| namespace.any_source)
    };
    // An answer may leave by another link of the same pod.
    let mut of_pods: BTreeMap<(&PodName, &str), BTreeSet<IpAddr>> = BTreeMap::new();
    for attachment in attachments.values() {
        let addresses = of_pods.entry((&attachment.pod, &attachment.uid)).or_default();
        addresses.extend(&attachment.addresses);
    }
    let checked = attachments.values();
    let checked = checked.filter(|one| !one.interface.is_empty() && !spared(&one.pod));
    let of = |one: &Attachment| of_pods.get(&(&one.pod, &*one.uid)).cloned().unwrap_or_default();
    checked.map(|one| (Arc::clone(&one.interface), of(one))).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{Change, Compiler};
    use super::*;
    use crate::world::Namespace;

    fn attachment(pod: &str, uid: &str, link: &str, addresses: &[&str]) -> Attachment {
        Attachment {
            pod: PodName { namespace: "x".into(), name: pod.into() },
            uid: uid.into(),
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            interface: link.into(),
        }
    }

    fn told(compiler: &mut Compiler) -> Vec<String> {
        compiler.update();
        let of = |(link, addresses): (&Arc<str>, &BTreeSet<IpAddr>)| {
            let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            format!("{link}: {}", addresses.join(" "))
        };
        compiler.sources().iter().map(of).collect()
    }

    #[test]
    fn a_pod_may_send_from_all_its_addresses_by_all_its_links() {
        let mut compiler = Compiler::new("n1");
        compiler.attach("1".into(), attachment("a", "1", "v1", &["10.0.0.1", "fd00::1"]));
        compiler.attach("2".into(), attachment("a", "1", "v2", &["10.0.1.1"]));
        // The next pod of that name, and one whose link nobody told.
        compiler.attach("3".into(), attachment("a", "2", "v3", &["10.0.0.3"]));
        compiler.attach("4".into(), attachment("b", "1", "", &["10.0.0.4"]));
        let both = "10.0.0.1 10.0.1.1 fd00::1";
        let expected = [format!("v1: {both}"), format!("v2: {both}"), "v3: 10.0.0.3".into()];
        assert_eq!(told(&mut compiler), expected);
        compiler.detach("1");
        assert_eq!(told(&mut compiler), ["v2: 10.0.1.1", "v3: 10.0.0.3"]);
    }

    #[test]
    fn an_address_is_the_youngest_attachments_and_the_others_link_stays_checked() {
        let mut compiler = Compiler::new("n1");
        compiler.attach("1".into(), attachment("a", "1", "v1", &["10.0.0.1"]));
        let changed = compiler.attach("2".into(), attachment("b", "1", "v2", &["10.0.0.1"]));
        assert_eq!(changed, ["1".into()]);
        assert_eq!(told(&mut compiler), ["v1: ", "v2: 10.0.0.1"]);
        // A link is one attachment's alone.
        compiler.attach("3".into(), attachment("c", "1", "v1", &["10.0.0.3"]));
        assert!(compiler.attachment("1").is_none());
        assert_eq!(told(&mut compiler), ["v1: 10.0.0.3", "v2: 10.0.0.1"]);
    }

    #[test]
    fn a_namespace_can_be_spared() {
        let mut compiler = Compiler::new("n1");
        compiler.attach("1".into(), attachment("a", "1", "v1", &["10.0.0.1"]));
        let namespace = |any_source| {
            let namespace = Namespace { any_source, ..Namespace::default() };
            Change::Namespace("x".into(), Some(namespace))
        };
        compiler.apply(namespace(true));
        assert!(told(&mut compiler).is_empty());
        compiler.apply(namespace(false));
        assert_eq!(told(&mut compiler), ["v1: 10.0.0.1"]);
    }
}
