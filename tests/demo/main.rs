//! `scripts/demo`: three nodes, pods by the plugin, VXLAN then host-gw, Services, and what the packets did.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "the demonstration tells a story")]

mod policies;
mod services;

use std::net::IpAddr;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use testnet::{Family, Host, Lan, Network, Node, NodeRecord, Pod};

/// Names of the namespaces begin with it, so that `ip netns exec` and `--down` find them.
const PREFIX: &str = "viaduct-";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => tell(false),
        ["--keep"] => tell(true),
        ["--down"] => {
            let gone = testnet::unpin_all(PREFIX);
            println!("removed {} namespaces", gone.len());
            Ok(())
        }
        _ => Err(anyhow::anyhow!("usage: scripts/demo [--keep | --down]")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nThe demonstration failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn tell(keep: bool) -> Result<()> {
    testnet::unpin_all(PREFIX);
    println!("{TOPOLOGY}");
    for (number, backend) in ["vxlan", "host-gw"].into_iter().enumerate() {
        let lan = Lan::pinned(PREFIX);
        let nodes = lan.nodes(["n1", "n2", "n3"]);
        println!("\n{}. Overlay {backend}\n", number + 1);
        chapter(&lan, &nodes, backend, keep && backend == "host-gw")?;
    }
    println!("\n3. Services: proxyd on n1, from manifests\n");
    let lan = Lan::new();
    services::chapter(&lan, &lan.nodes(["n1", "n2", "n3"]))?;
    println!("\n4. Policies: proxyd and the plugin on n1, from manifests\n");
    let lan = Lan::new();
    policies::chapter(&lan.nodes(["n1"])[0])?;
    println!("\nEverything that was promised happened.");
    if keep {
        println!("{HOW_TO_ENTER}");
    } else {
        println!(
            "All namespaces are gone again; `scripts/demo --keep` leaves them for you to look at."
        );
    }
    Ok(())
}

const TOPOLOGY: &str = "
Viaduct: three nodes on a LAN, each a network namespace, each with pods made by the plugin.

            outside world 198.51.100.1
                      |
   ===================+================= LAN 192.168.0.0/24, fd00:192:168::/64
      | .1               | .2               | .3
   +--+---------+     +--+---------+     +--+---------+
   | n1         |     | n2         |     | n3         |
   |  viaduct0  |     |  viaduct0  |     |  (routed)  |
   |   |     |  |     |     |      |     |     |      |
   |  web  client|    |   shop     |     |   cache    |
   +------------+     +------------+     +------------+
   10.244.1.0/24      10.244.2.0/24      10.244.3.0/24
   fd00:10:1::/64     fd00:10:2::/64     fd00:10:3::/64

   n1 and n2 link their pods by a bridge, n3 by routed point-to-point veths.
   Host port 8080 of n1 leads to port 80 of pod web.";

const HOW_TO_ENTER: &str = "
It is still there (overlay host-gw). Look around:

   ip netns list
   ip netns exec viaduct-n1 ip route                        the routes to the other nodes' pods
   ip netns exec viaduct-n1 nft list table inet viaduct-host   masquerade and host ports
   ip netns exec viaduct-n1-web ping -c 3 10.244.3.2        a pod of n1 to a pod of n3
   ip netns exec viaduct-n2-shop ip address

Remove it with: scripts/demo --down";

fn chapter(lan: &Lan, nodes: &[Node; 3], backend: &str, keep: bool) -> Result<()> {
    let [n1, n2, n3] = nodes;
    let records: Vec<NodeRecord> = nodes.iter().map(Node::record).collect();
    let network = |node: &Node, mode: &str| {
        let network = Network::of_mode(mode, "demo")
            .subnet(&node.pod_cidr())
            .subnet(&node.pod_cidr_v6())
            .masquerade(&["10.244.0.0/16", "fd00:10::/32"]);
        if backend == "vxlan" {
            network.vxlan(node, &records)
        } else {
            network.host_gw(node, &records)
        }
    };
    let add = |node, network: &Network, name| {
        Node::try_pod(node, network, name).map_err(|output| {
            anyhow::anyhow!("ADD of pod {name}: {} {}", output.stdout, output.stderr)
        })
    };
    let web = add(n1, &network(n1, "bridge").host_port(8080, 80, "tcp"), "web")?;
    let client = add(n1, &network(n1, "bridge"), "client")?;
    let shop = add(n2, &network(n2, "bridge"), "shop")?;
    let cache = add(n3, &network(n3, "routed"), "cache")?;
    let pods = [("web", &web), ("client", &client), ("shop", &shop), ("cache", &cache)];
    for (name, pod) in pods {
        println!("   pod {name:<7} {:<12} {}", pod.v4(), pod.v6());
    }
    println!();
    reach_each_other(&pods)?;
    egress(lan, n1, &client)?;
    host_port(lan, n1, &web)?;
    how_packets_travel(n1, backend)?;
    for (_, pod) in pods {
        let check = pod.check();
        ensure!(check.status.success(), "CHECK: {}", check.stdout);
    }
    if keep {
        let hosts = [lan.namespace(), n1.namespace(), n2.namespace(), n3.namespace()];
        let containers = [&web, &client, &shop, &cache].map(|pod| pod.namespace());
        hosts.into_iter().chain(containers).for_each(|namespace| namespace.keep());
        return Ok(());
    }
    for (name, pod) in pods {
        let del = pod.cni("DEL").run(pod.node().namespace());
        ensure!(del.status.success(), "DEL of pod {name}: {}", del.stdout);
    }
    for node in nodes {
        let left = node.leases("demo");
        ensure!(left.is_empty(), "{} keeps leases {left:?}", node.name());
    }
    println!("   DEL              4 pods deleted, no lease, link or rule element left");
    Ok(())
}

/// ping, TCP and UDP between all pairs, in both families, with the pod's own address as source.
fn reach_each_other(pods: &[(&str, &Pod<'_>)]) -> Result<()> {
    let mut slowest: f64 = 0.0;
    let mut pairs = 0;
    for (to_name, to) in pods {
        let (_tcp, _udp) = (to.serve_tcp(80), to.serve_udp(53));
        for (from_name, from) in pods.iter().filter(|(name, _)| name != to_name) {
            for (source, target) in [(from.v4(), to.v4()), (from.v6(), to.v6())] {
                let what = || format!("{from_name} to {to_name} ({target})");
                let ping = from.ping(target).with_context(|| format!("ping {}", what()))?;
                let tcp = from.tcp((target, 80)).with_context(|| format!("TCP {}", what()))?;
                let udp = from.udp((target, 53)).with_context(|| format!("UDP {}", what()))?;
                ensure!(tcp.peer == source, "TCP {}: the source became {}", what(), tcp.peer);
                ensure!(udp.peer == source, "UDP {}: the source became {}", what(), udp.peer);
                slowest = slowest.max(ping.as_secs_f64() * 1000.0);
                pairs += 1;
            }
        }
    }
    println!(
        "   pod to pod       {pairs} pairs by ping, TCP and UDP, IPv4 and IPv6: all answered,"
    );
    println!("                    each seen with its pod address; slowest ping {slowest:.1} ms");
    Ok(())
}

fn egress(lan: &Lan, node: &Node, pod: &Pod<'_>) -> Result<()> {
    let _outside = lan.serve_tcp(80);
    for (family, address) in [(Family::V4, node.v4()), (Family::V6, node.v6())] {
        let seen = pod.tcp((lan.outside(family), 80)).context("the outside world")?.peer;
        ensure!(seen == address, "the outside saw {seen} instead of the node");
    }
    println!(
        "   egress           the outside sees client as {} and {}: masqueraded",
        node.v4(),
        node.v6()
    );
    Ok(())
}

fn host_port(lan: &Lan, node: &Node, pod: &Pod<'_>) -> Result<()> {
    let _server = pod.serve_tcp(80);
    let loopback: IpAddr = [127, 0, 0, 1].into();
    for (who, to) in [("outside", node.v4()), ("outside", node.v6()), ("n1 itself", loopback)] {
        let answer = if who == "outside" { lan.tcp((to, 8080)) } else { node.tcp((to, 8080)) };
        let server = answer.with_context(|| format!("host port 8080 of {to} from {who}"))?.server;
        ensure!(server == "web", "host port 8080 of {to} led to {server}");
    }
    println!(
        "   host port 8080   {}, [{}] and, on n1, 127.0.0.1 answer for web",
        node.v4(),
        node.v6()
    );
    Ok(())
}

fn how_packets_travel(node: &Node, backend: &str) -> Result<()> {
    let routes = node.namespace().ip("route show proto 86");
    let Some(route) = routes.lines().find(|line| line.starts_with("10.244.2.0/24")) else {
        bail!("n1 has no route to n2's pods: {routes}");
    };
    println!("   by {backend:<13} n1: {}", route.trim());
    Ok(())
}
