//! The chapter about Services: one daemon, one Service, real connections.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use testnet::{Host, Lan, Network, Node, NodeRecord, Pod, Proxyd, eventually};

const CLUSTER_IP: &str = "10.96.0.80";
const NODE_PORT: u16 = 30080;

/// The Service `shop` and its slice with these pods as endpoints.
fn manifests(nodes: &[Node], pods: &[&Pod<'_>], affinity: &str) -> String {
    let mut text = String::new();
    for node in nodes {
        text += &format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: {}}}\nstatus: {{addresses: [{{type: InternalIP, address: {}}}]}}\n---\n",
            node.name(),
            node.v4()
        );
    }
    let endpoints: Vec<String> = pods
        .iter()
        .map(|pod| format!("{{addresses: [{}], nodeName: {}}}", pod.v4(), pod.node().name()))
        .collect();
    text += &format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: shop, namespace: default}}\n\
         spec:\n  type: NodePort\n  clusterIP: {CLUSTER_IP}\n  sessionAffinity: {affinity}\n  \
         ports: [{{name: http, port: 80, nodePort: {NODE_PORT}}}]\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: shop-1, namespace: default, labels: {{kubernetes.io/service-name: shop}}}}\n\
         addressType: IPv4\nports: [{{name: http, port: 8080}}]\nendpoints: [{}]\n",
        endpoints.join(", ")
    );
    text
}

/// Who answered how many of 30 connections.
fn who(from: &impl Host, to: (IpAddr, u16)) -> Result<BTreeMap<String, usize>> {
    let mut answers = BTreeMap::new();
    for _ in 0..30 {
        *answers
            .entry(from.tcp(to).with_context(|| format!("connect to {to:?}"))?.server)
            .or_default() += 1;
    }
    Ok(answers)
}

/// Three nodes; the daemon runs on the first.
pub(crate) fn chapter(lan: &Lan, nodes: &[Node; 3]) -> Result<()> {
    let records: Vec<NodeRecord> = nodes.iter().map(Node::record).collect();
    let pod = |node: usize, name: &str| {
        let node = &nodes[node];
        let network =
            Network::bridge("demo").subnet(&node.pod_cidr()).masquerade(&["10.244.0.0/16"]);
        node.pod(&network.host_gw(node, &records), name)
    };
    let (client, other) = (pod(0, "client"), pod(0, "client2"));
    let backends = [pod(0, "shop-a"), pod(1, "shop-b"), pod(2, "shop-c"), pod(1, "shop-d")];
    let _servers: Vec<_> = backends.iter().map(|backend| backend.serve_tcp(8080)).collect();
    let [a, b, c, d] = &backends;
    let proxyd = Proxyd::start(&nodes[0], &[]);
    let to = (CLUSTER_IP.parse()?, 80);

    proxyd.apply("shop.yaml", &manifests(nodes, &[a, b, c], "None"));
    let spread = who(&client, to)?;
    ensure!(spread.len() == 3, "ClusterIP reached only {spread:?}");
    ensure!(client.tcp(to)?.peer == client.v4(), "the client's address was not kept");
    println!(
        "   ClusterIP        {CLUSTER_IP}:80 from a pod: {spread:?}, seen with its own address"
    );

    let node_port = (nodes[0].v4(), NODE_PORT);
    let spread = who(lan, node_port)?;
    ensure!(spread.len() == 3, "node port reached only {spread:?}");
    let seen = lan.tcp(node_port)?.peer;
    let own = nodes[0].namespace().ip("address show");
    ensure!(own.contains(&format!("inet {seen}/")), "{seen} is no address of n1");
    println!(
        "   NodePort         {}:{NODE_PORT} from outside: {spread:?}, masqueraded (as {seen})",
        nodes[0].v4()
    );

    proxyd.apply("shop.yaml", &manifests(nodes, &[a, b, c], "ClientIP"));
    let (one, two) = (who(&client, to)?, who(&other, to)?);
    ensure!(one.len() == 1 && two.len() == 1, "affinity: {one:?}, {two:?}");
    println!("   affinity         client always reaches {one:?}, client2 {two:?}");

    proxyd.apply("shop.yaml", &manifests(nodes, &[a, b, c], "None"));
    let mut connection = client.connect(to)?;
    let first = connection.ask("before")?.server;
    for step in [&[b, c, d][..], &[c, d], &[d]] {
        proxyd.apply("shop.yaml", &manifests(nodes, step, "None"));
        let reached = who(&client, to)?;
        let known: Vec<&str> = step.iter().map(|pod| pod.namespace().name()).collect();
        ensure!(
            reached.keys().all(|name| known.contains(&name.as_str())),
            "{reached:?} of {known:?}"
        );
    }
    ensure!(connection.ask("after")?.server == first, "the old connection was lost");
    println!(
        "   rolling backend  a, b, c → b, c, d → c, d → d: no connection failed, the one to {first} lives on"
    );

    nodes[0].namespace().command("nft", &["delete", "table", "ip", "viaduct"]);
    eventually("the table is back", Duration::from_secs(10), || client.tcp(to));
    println!("   repair           `nft delete table ip viaduct`: it is back");
    drop(proxyd);
    ensure!(client.can_reach(to), "rules went with the daemon");
    println!("   without daemon   proxyd was killed: {CLUSTER_IP} still answers");
    Ok(())
}
