//! The two proxies under measurement, each in a node's network namespace.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use netlink::nftables::{NftSocket, Table, TableFamily};
use testnet::{Host, Node, programs};

use super::control_plane::{ControlPlane, kubernetes_program};
use crate::process::{self, Program};

/// Longer than anything may take; kube-proxy is stopped then, and counts as having taken so long.
pub(super) const LIMIT: Duration = Duration::from_secs(400);
const METRICS: u16 = 10249;
const HEALTH: u16 = 10256;

/// Whose figures they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    Viaduct,
    KubeProxy,
}

impl Who {
    pub(super) fn name(self) -> &'static str {
        match self {
            Who::Viaduct => "viaduct",
            Who::KubeProxy => "kube-proxy",
        }
    }

    fn line(
        self,
        plane: &ControlPlane,
        node: &Node,
        mode: Mode,
        more: &[String],
    ) -> Result<Vec<String>> {
        let mut line = mode.environment(node)?;
        match self {
            Who::Viaduct => {
                line.extend([programs::proxyd().display().to_string(), "run".to_owned()])
            }
            Who::KubeProxy => line.extend([
                kubernetes_program("kube-proxy")?.display().to_string(),
                // A namespace cannot set the machine's limit.
                "--conntrack-max-per-core=0".to_owned(),
            ]),
        }
        line.extend([
            format!("--kubeconfig={}", plane.kubeconfig().display()),
            format!("--hostname-override={}", node.name()),
            format!("--proxy-mode={}", mode.name()),
            "--cluster-cidr=10.128.0.0/9".to_owned(),
        ]);
        line.extend_from_slice(more);
        Ok(line)
    }

    /// The map that has an element for each Service.
    fn services(self) -> (&'static str, &'static str) {
        match self {
            Who::Viaduct => ("viaduct", "services"),
            Who::KubeProxy => ("kube-proxy", "service-ips"),
        }
    }

    /// What the chain of each Service begins with.
    fn chain(self) -> &'static str {
        match self {
            Who::Viaduct => ":VIADUCT-SVC-",
            Who::KubeProxy => ":KUBE-SVC-",
        }
    }
}

/// What both program Services in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Nftables,
    /// With this variant of iptables.
    Iptables(&'static str),
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Mode::Nftables => "nftables",
            Mode::Iptables(_) => "iptables",
        }
    }

    /// What a command line begins with so that `iptables` is the right one, with a lock of the node's own.
    fn environment(self, node: &Node) -> Result<Vec<String>> {
        let Mode::Iptables(variant) = self else { return Ok(Vec::new()) };
        let variables = programs::iptables_environment(node, variant)?;
        let variables = variables.into_iter().map(|(name, value)| format!("{name}={value}"));
        Ok(std::iter::once("env".to_owned()).chain(variables).collect())
    }
}

/// A running proxy, alone on its node.
pub(super) struct Proxy {
    pub(super) who: Who,
    pub(super) node: Node,
    mode: Mode,
    program: Program,
    started: (Instant, SystemTime),
    /// Of the `nft` that it ran, MB.
    pub(super) nft_memory: f64,
}

impl Proxy {
    /// Starts it on a fresh node.
    pub(super) fn start(
        plane: &ControlPlane,
        who: Who,
        mode: Mode,
        more: &[String],
    ) -> Result<Proxy> {
        let node = plane.lan.node("node-0");
        // As its Node object says, whichever node of the LAN this is.
        node.namespace().ip("addr replace 192.168.0.1/24 dev eth0");
        let line = who.line(plane, &node, mode, more)?;
        let log = File::create(node.folder().join("log"))?;
        let started = (Instant::now(), SystemTime::now());
        let program = node.namespace().run(move || Program::start(who.name(), &line, log))?;
        Ok(Proxy { who, node, mode, program, started, nft_memory: 0.0 })
    }

    /// Milliseconds from the start of the process until everything is in force, by what the proxy says of
    /// itself. That it has so many Services in the kernel is then looked up.
    pub(super) fn programmed(&mut self, services: u32) -> Result<f64> {
        let (started, clock) = self.started;
        let took = loop {
            match self.who {
                // It is ready once the first sync is committed.
                Who::Viaduct => {
                    if self
                        .get(HEALTH, "/readyz")
                        .is_ok_and(|text| text.starts_with("HTTP/1.1 200"))
                    {
                        break started.elapsed().as_secs_f64();
                    }
                    std::thread::sleep(Duration::from_millis(2));
                }
                // It writes nothing before it has everything; the first sync is one transaction, after
                // which it notes the time.
                Who::KubeProxy => {
                    let page = self.get(METRICS, "/metrics").unwrap_or_default();
                    if let Some(at) = last_synced(&page) {
                        let clock = clock.duration_since(UNIX_EPOCH)?.as_secs_f64();
                        break at - clock;
                    }
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
            for child in process::children(self.program.pid(), "nft") {
                let memory = process::peak_memory(child).unwrap_or(0.0);
                self.nft_memory = self.nft_memory.max(memory);
            }
            self.program.check().with_context(|| self.log())?;
            if started.elapsed() >= LIMIT {
                ensure!(self.who == Who::KubeProxy, "not in {LIMIT:?}: {}", self.log());
                return Ok(LIMIT.as_secs_f64() * 1e3);
            }
        };
        let found = match self.mode {
            Mode::Nftables => self.elements()?,
            Mode::Iptables(variant) => self.chains(variant)?,
        };
        ensure!(found >= services as usize, "{found} of {services} Services are in the kernel");
        Ok(took * 1e3)
    }

    fn elements(&self) -> Result<usize> {
        let (table, map) = self.who.services();
        let table = Table { family: TableFamily::Ip, name: table };
        let elements =
            self.node.namespace().run(move || NftSocket::open()?.elements(table, map))?;
        Ok(elements.with_context(|| format!("no map {map}"))?.len())
    }

    fn chains(&self, variant: &str) -> Result<usize> {
        let save = format!("iptables-{variant}-save");
        let listed = self.node.namespace().try_command(&save, &["-t", "nat"]);
        let listed = listed.map_err(anyhow::Error::msg)?;
        Ok(listed.lines().filter(|line| line.starts_with(self.who.chain())).count())
    }

    /// Bytes that the node received through its link, nearly all from the API server.
    pub(super) fn received(&self) -> Result<f64> {
        let text =
            self.node.namespace().run(|| std::fs::read_to_string("/proc/thread-self/net/dev"))?;
        let line = text.lines().find_map(|line| line.trim().strip_prefix("eth0:"));
        let bytes = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        bytes.context("the node's link")
    }

    pub(super) fn cpu(&self) -> Result<f64> {
        process::cpu(self.program.pid())
    }

    pub(super) fn peak_memory(&self) -> Result<f64> {
        process::peak_memory(self.program.pid())
    }

    pub(super) fn stop(self) -> Result<()> {
        self.program.stop()
    }

    fn log(&self) -> String {
        let text = std::fs::read_to_string(self.node.folder().join("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines.iter().skip(lines.len().saturating_sub(10)).copied().collect::<Vec<_>>().join("\n")
    }

    fn get(&self, port: u16, path: &'static str) -> Result<String> {
        self.node.namespace().run(move || {
            let mut stream = TcpStream::connect(("127.0.0.1", port))?;
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            write!(stream, "GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            if text.is_empty() {
                bail!("no answer");
            }
            Ok(text)
        })
    }
}

/// When the last sync of IPv4 ended, if one has.
fn last_synced(page: &str) -> Option<f64> {
    let name = "kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=\"IPv4\"} ";
    let value = page.lines().find_map(|line| line.strip_prefix(name))?;
    value.trim().parse().ok().filter(|at| *at > 0.0)
}
