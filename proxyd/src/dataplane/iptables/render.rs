//! Everything as text: what `iptables-restore` and `ip6tables-restore` take.

use std::fmt::Write as _;

use super::fixed;
use super::saved::Held;
use super::script::Script;
use super::services::Services;
use crate::dataplane::{FAMILIES, Node};
use crate::service::{Frontend, FrontendKey};

/// What would be programmed where nothing is yet: a part for each family.
pub fn render<'a>(
    frontends: impl Iterator<Item = (FrontendKey, &'a Frontend)> + Clone,
    nodes: &[Node; 2],
) -> String {
    let mut text = String::new();
    for ((family, node), program) in
        FAMILIES.into_iter().zip(nodes).zip(["iptables-restore", "ip6tables-restore"])
    {
        let mut services = Services::new(family, node.clone());
        let own = frontends.clone().filter(|(key, _)| key.family() == family);
        services.change(own.map(|(key, frontend)| (key, Some(frontend))));
        let jumps = fixed::jumps(services.restricted());
        let script = Script::new(&Held::default(), &services.everything(), jumps, true);
        // Writing to a String does not fail.
        let _ = write!(text, "# {family}, for {program} --noflush\n{}", script.text);
    }
    text
}
