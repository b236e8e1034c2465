//! The virtual servers as text that `ipvsadm-restore` can load.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

use netlink::ipvs::ServiceKey;

use super::device::NAME;
use super::servers::{Plan, places, plan};
use super::serving;
use crate::dataplane::Node;
use crate::service::{Address, Frontend, FrontendKey};

/// What would be programmed: a comment for each address of the device, and for each frontend that is refused or
/// dropped, since `ipvsadm` has no words for them. Node ports are shown at those of these addresses of the node where
/// they answer.
pub fn render<'a>(
    frontends: impl Iterator<Item = (FrontendKey, &'a Frontend)>,
    scheduler: &str,
    own: &BTreeSet<IpAddr>,
    nodes: &[Node; 2],
) -> String {
    let serving = serving(own, nodes);
    let mut wanted: BTreeMap<ServiceKey, BTreeMap<FrontendKey, Plan>> = BTreeMap::new();
    let mut vips = BTreeSet::new();
    for (key, frontend) in frontends {
        for place in places(&key, &serving) {
            let plan = plan(&place, frontend);
            wanted.entry(place).or_default().insert(key, plan);
        }
        if let Address::Ip(ip) = key.address
            && !own.contains(&ip)
        {
            vips.insert(ip);
        }
    }
    let mut text =
        "# masquerade, source ranges and refusals are in tables ip and ip6 viaduct of nftables\n"
            .to_owned();
    for ip in vips {
        // Writing to a string does not fail.
        let _ = writeln!(text, "# address {ip} on {NAME}");
    }
    for (place, plans) in &wanted {
        let Some(plan) = plans.values().next() else { continue };
        write_server(&mut text, place, plan, scheduler);
    }
    text
}

fn write_server(text: &mut String, place: &ServiceKey, plan: &Plan, scheduler: &str) {
    let option = match place.protocol {
        6 => "-t",
        17 => "-u",
        _ => "--sctp-service",
    };
    let at = SocketAddr::new(place.address, place.port);
    let Some(server) = &plan.server else {
        let _ = writeln!(text, "# {place} has no endpoint here");
        return;
    };
    let _ = write!(text, "-A {option} {at} -s {scheduler}");
    if let Some(seconds) = server.affinity {
        let _ = write!(text, " -p {seconds}");
    }
    text.push('\n');
    for destination in &server.destinations {
        let _ = writeln!(text, "-a {option} {at} -r {destination} -m -w 1");
    }
}
