//! Taking over from the real kube-proxy, in each of its modes that this kernel has.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use testnet::manifest::Endpoint;
use testnet::{Host, Node, Proxyd, eventually, programs};

use super::prober::Prober;
use super::programs::kube_proxy;
use super::world::{PORT, World, await_ready, service, slices, vip};
use super::{FAMILIES, SOON, server};

/// kube-proxy on the first node.
struct KubeProxy(Child);

impl KubeProxy {
    fn start(world: &World, mode: &str, variant: &str) -> KubeProxy {
        let program = kube_proxy().unwrap();
        let kubeconfig = world.kubeconfig_at(&world.n1, server::PORT);
        let log = std::fs::File::create(world.n1.folder().join("kube-proxy.log")).unwrap();
        let environment = programs::iptables_environment(&world.n1, variant).unwrap();
        let mut command = Command::new(program);
        command
            .arg(format!("--kubeconfig={}", kubeconfig.display()))
            .arg(format!("--hostname-override={}", world.n1.name()))
            .arg(format!("--proxy-mode={mode}"))
            .arg("--cluster-cidr=10.244.0.0/16,fd00:244::/32")
            // A namespace cannot set the machine's limit.
            .arg("--conntrack-max-per-core=0")
            .envs(environment)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        KubeProxy(world.n1.namespace().run(move || command.spawn()).unwrap())
    }

    fn await_rules(self, node: &Node) -> KubeProxy {
        let limit = Duration::from_secs(60);
        eventually("kube-proxy's rules", limit, || !kube_proxys(node).is_empty());
        self
    }

    fn stop(mut self) {
        kill_process(Pid::from_child(&self.0), Signal::TERM).unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for KubeProxy {
    fn drop(&mut self) {
        // It may have been stopped.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Everything that a proxy may have made on a node.
fn everything(node: &Node) -> String {
    let namespace = node.namespace();
    let mut all = namespace.ruleset();
    for program in ["iptables", "ip6tables"] {
        for variant in ["legacy", "nft"] {
            all.push_str(&namespace.command(&format!("{program}-{variant}-save"), &[]));
        }
    }
    all
}

/// What kube-proxy made, line by line. KUBE-FIREWALL is the kubelet's as well, and stays on purpose.
fn kube_proxys(node: &Node) -> Vec<String> {
    let is_theirs = |line: &&str| line.contains("KUBE-") || line.contains("kube-proxy");
    let all = everything(node);
    let lines = all.lines().filter(is_theirs).filter(|line| !line.contains("KUBE-FIREWALL"));
    lines.map(str::to_owned).collect()
}

fn taken_over(mode: &str, variant: &str, ours: &str) {
    if let Err(reason) = kube_proxy() {
        return testnet::skip(&reason);
    }
    let Some(world) = World::with_nodes() else { return };
    let (a, client) = (world.backend(&world.n2, "a"), world.pod(&world.n1, "client"));
    world.apply(&[&service("web", 20)]);
    world.server.apply(&slices("web", &[Endpoint::of(&a)]));
    let theirs = KubeProxy::start(&world, mode, variant);
    for family in FAMILIES {
        eventually("kube-proxy serves", Duration::from_secs(60), || {
            client.tcp((vip(family, 20), PORT)).is_ok()
        });
    }
    assert!(!kube_proxys(&world.n1).is_empty());
    let mut kept = client.connect((vip(FAMILIES[0], 20), PORT)).unwrap();
    let probers = FAMILIES.map(|family| Prober::start(&client, (vip(family, 20), PORT).into()));
    theirs.stop();
    let kubeconfig = world.kubeconfig_at(&world.n1, server::PORT).display().to_string();
    let more = ["--kubeconfig", &kubeconfig, "--takeover", "--proxy-mode", ours];
    let mut daemon = Proxyd::spawn(&world.n1, &more);
    await_ready(&daemon);
    eventually("what kube-proxy left is gone", SOON, || {
        let left = kube_proxys(&world.n1);
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
    assert_eq!(kept.ask("after").unwrap().server, "a");
    probers.into_iter().for_each(Prober::assert_undisturbed);
    let log = daemon.log();
    assert!(log.contains("kube-proxy was here"), "it says so: {log}");

    // And what both leave.
    daemon.stop();
    KubeProxy::start(&world, mode, variant).await_rules(&world.n1).stop();
    let program = programs::proxyd().display().to_string();
    world.n1.namespace().command(&program, &["cleanup"]);
    assert_eq!(kube_proxys(&world.n1), Vec::<String>::new());
    let left = everything(&world.n1).to_lowercase();
    assert!(!left.contains("viaduct"), "{left}");
}

#[test]
fn kube_proxy_in_nftables_mode_is_taken_over_without_a_gap() {
    taken_over("nftables", "nft", "nftables");
}

#[test]
fn kube_proxy_in_iptables_mode_is_taken_over_without_a_gap() {
    taken_over("iptables", "nft", "nftables");
}

#[test]
fn kube_proxy_in_iptables_mode_of_the_legacy_variant_is_taken_over_without_a_gap() {
    taken_over("iptables", "legacy", "iptables");
}
