//! The daemon under measurement.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal};
use testnet::{Mode, Namespace, programs};

use super::objects::{self, Size};
use crate::process;

/// Longer than anything may take.
pub(super) const LIMIT: Duration = Duration::from_secs(120);
/// How often it is asked whether a change is in force.
const PAUSE: Duration = Duration::from_millis(500);
/// What it counts of syncs that are about what changed.
const SYNCS: &str = "kubeproxy_sync_partial_proxy_rules_duration_seconds";

/// What the first sync did, by the daemon's log.
#[derive(Clone, Debug)]
pub(super) struct FirstSync {
    /// From the start of the process to the log line, in milliseconds.
    pub(super) wall: f64,
    /// Of this, planning and writing.
    pub(super) sync: f64,
    pub(super) elements: u64,
}

/// A running daemon; killed when dropped.
pub(super) struct Daemon {
    child: Child,
    pub(super) first: FirstSync,
}

impl Daemon {
    /// Starts it and waits for the first sync.
    pub(super) fn start(namespace: &Namespace, folder: &Path) -> Result<Daemon> {
        Daemon::start_in_mode(namespace, folder, Mode::Nftables)
    }

    /// The same in another mode.
    pub(super) fn start_in_mode(
        namespace: &Namespace,
        folder: &Path,
        mode: Mode,
    ) -> Result<Daemon> {
        let folder: PathBuf = folder.to_owned();
        let lock = namespace.xtables_lock().to_owned();
        let started = Instant::now();
        let mut child = namespace
            .run(move || {
                let mut command = Command::new(programs::proxyd());
                if let Mode::Iptables(variant) = mode {
                    command.env("VIADUCT_IPTABLES", variant).env("XTABLES_LOCKFILE", lock);
                }
                command
                    .args([
                        "run",
                        "--proxy-mode",
                        mode.name(),
                        "--hostname-override",
                        "node-0",
                        "--cluster-cidr",
                        "10.128.0.0/9",
                    ])
                    .arg("--manifests")
                    .arg(folder)
                    .stdin(Stdio::null())
                    .stdout(Stdio::null())
                    .stderr(Stdio::piped())
                    .spawn()
            })
            .context("start proxyd")?;
        let stderr = child.stderr.take().context("the daemon's log")?;
        let (lines, log) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                // The log is read to its end, so that the daemon never waits for us.
                let _ = lines.send((Instant::now(), line));
            }
        });
        let first = first_sync(started, &log);
        if first.is_err() {
            let _ = child.kill();
            let _ = child.wait();
        }
        Ok(Daemon { child, first: first? })
    }

    /// Starts on an empty node, and again on what that left; the milliseconds of both first syncs.
    pub(super) fn start_twice(
        namespace: &Namespace,
        folder: &Path,
        mode: Mode,
    ) -> Result<[f64; 2]> {
        let start = || -> Result<FirstSync> {
            let daemon = Daemon::start_in_mode(namespace, folder, mode)?;
            let first = daemon.first.clone();
            daemon.stop()?;
            Ok(first)
        };
        let (cold, restart) = (start()?, start()?);
        ensure!(restart.elements == 0, "a restart wrote {} elements", restart.elements);
        Ok([cold.sync, restart.sync])
    }

    /// The most memory that it had in use, in MB.
    pub(super) fn peak_memory(&self) -> Result<f64> {
        process::peak_memory(self.child.id())
    }

    /// The processor time that it used, in milliseconds.
    pub(super) fn cpu(&self) -> Result<f64> {
        process::cpu(self.child.id())
    }

    /// A metric without labels.
    pub(super) fn metric(&self, namespace: &Namespace, name: &str) -> Result<f64> {
        let name = name.to_owned();
        let text = namespace.run(|| get("/metrics")).context("read /metrics")?;
        let value = text.lines().find_map(|line| line.strip_prefix(&name)?.trim().parse().ok());
        value.with_context(|| format!("no metric {name}"))
    }

    /// Replaces an endpoint of one Service, waits until that is in force, and tells what the sync took, in
    /// milliseconds.
    pub(super) fn change_one_endpoint(
        &self,
        namespace: &Namespace,
        folder: &Path,
        size: Size,
        number: u32,
    ) -> Result<f64> {
        let syncs = || {
            let metric = |what: &str| {
                self.metric(namespace, &format!("{SYNCS}_{what}{{ip_family=\"IPv4\"}}"))
            };
            // Without any sync there is no such series yet.
            (metric("sum").unwrap_or_default(), metric("count").unwrap_or_default())
        };
        let service = (number * 7919) % size.services;
        let before = syncs();
        let text = objects::documents(size, service, Some(objects::other_endpoint(number)));
        objects::put(folder, &objects::file_of(service), &text)?;
        let started = Instant::now();
        loop {
            std::thread::sleep(PAUSE);
            let after = syncs();
            if after.1 > before.1 {
                return Ok((after.0 - before.0) / (after.1 - before.1) * 1e3);
            }
            ensure!(started.elapsed() < LIMIT, "a change was not committed");
        }
    }

    /// Ends it as an upgrade does.
    pub(super) fn stop(mut self) -> Result<()> {
        rustix::process::kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        let until = Instant::now() + Duration::from_secs(20);
        while Instant::now() < until {
            if self.child.try_wait()?.is_some() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        bail!("proxyd does not end")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn get(path: &str) -> std::io::Result<String> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect("127.0.0.1:10249")?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn first_sync(started: Instant, log: &Receiver<(Instant, String)>) -> Result<FirstSync> {
    let until = started + LIMIT;
    let mut said = Vec::new();
    while let Ok((at, line)) = log.recv_timeout(until.saturating_duration_since(Instant::now())) {
        if let Some((_, rest)) = line.split_once("synced in ") {
            let numbers: Vec<f64> = rest.split(' ').filter_map(|word| word.parse().ok()).collect();
            let &[sync, elements, ..] = numbers.as_slice() else {
                bail!("unknown log line: {line}")
            };
            return Ok(FirstSync {
                wall: (at - started).as_secs_f64() * 1e3,
                sync,
                elements: elements as u64,
            });
        }
        said.push(line);
    }
    bail!("proxyd did not sync: {}", said.join("\n"))
}
