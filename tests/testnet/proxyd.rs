//! [`Proxyd`]: the daemon on a node, and [`Manifests`], the folder that it reads.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal};

use crate::host::Host;
use crate::manifest::Service;
use crate::mode::Mode;
use crate::node::Node;
use crate::programs;
use crate::wait::eventually;

/// The pod networks of every test.
const CLUSTER_CIDR: &str = "10.244.0.0/16,fd00:10::/32";

/// How long a change may take to be in force.
const SYNC_WITHIN: Duration = Duration::from_secs(20);

/// How much of the daemon's output a failed test shows, in bytes.
const SHOWN: usize = 4000;

/// A folder of objects.
#[derive(Clone, Debug)]
pub struct Manifests(PathBuf);

impl Manifests {
    /// The folder of a node, made if there is none.
    pub fn of(node: &Node) -> Manifests {
        let folder = node.folder().join("manifests");
        fs::create_dir_all(&folder).expect("a folder for manifests");
        Manifests(folder)
    }

    /// The path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes `NAME.yaml` as a whole: nobody sees half of it.
    pub fn write(&self, name: &str, text: &str) {
        let hidden = self.0.join(format!(".{name}.tmp"));
        fs::write(&hidden, text).expect("a manifest");
        fs::rename(&hidden, self.0.join(format!("{name}.yaml"))).expect("a manifest in its place");
    }

    /// Removes `NAME.yaml`.
    pub fn remove(&self, name: &str) {
        fs::remove_file(self.0.join(format!("{name}.yaml"))).expect("a manifest to remove");
    }
}

/// What an HTTP server answered.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The header lines, in small letters.
    pub headers: String,
    /// The body.
    pub body: String,
}

impl Response {
    fn parse(text: &str) -> Option<Response> {
        let (head, body) = text.split_once("\r\n\r\n")?;
        let status = head.split_whitespace().nth(1)?.parse().ok()?;
        Some(Response { status, headers: head.to_lowercase(), body: body.to_owned() })
    }
}

/// A running daemon in a node's namespace; it is killed when dropped, and what it made stays.
pub struct Proxyd<'n> {
    node: &'n Node,
    manifests: Manifests,
    arguments: Vec<String>,
    child: Option<Child>,
    next_marker: AtomicU16,
}

impl<'n> Proxyd<'n> {
    /// Starts it on the node's [`Manifests`] and waits until they are in force. Arguments that are given
    /// win over those that every daemon gets.
    ///
    /// # Panics
    ///
    /// If it is not ready in time.
    #[track_caller]
    pub fn start(node: &'n Node, arguments: &[&str]) -> Proxyd<'n> {
        let proxyd = Proxyd::spawn(node, arguments);
        proxyd.await_sync();
        proxyd
    }

    /// Starts it and waits for nothing.
    pub fn spawn(node: &'n Node, arguments: &[&str]) -> Proxyd<'n> {
        let mut proxyd = Proxyd {
            node,
            manifests: Manifests::of(node),
            arguments: arguments.iter().map(|a| (*a).to_owned()).collect(),
            child: None,
            next_marker: AtomicU16::new(0),
        };
        proxyd.run();
        proxyd
    }

    /// The command line of `proxyd COMMAND` for this node, without the program. With `--kubeconfig` it does
    /// not read the node's [`Manifests`].
    pub fn command_line(node: &Node, command: &str, more: &[&str]) -> Vec<String> {
        let folder = Manifests::of(node).path().display().to_string();
        let mut line = vec![command, "--hostname-override", node.name()];
        if !more.contains(&"--kubeconfig") {
            line.extend(["--manifests", &folder]);
        }
        if !more.contains(&"--cluster-cidr") {
            line.extend(["--cluster-cidr", CLUSTER_CIDR]);
        }
        let mode = Mode::of_tests();
        if mode != Mode::Nftables && !more.contains(&"--proxy-mode") {
            line.extend(["--proxy-mode", mode.name()]);
        }
        line.extend(more);
        line.iter().map(|a| (*a).to_owned()).collect()
    }

    fn run(&mut self) {
        let log = File::options().create(true).append(true).open(self.log_path()).expect("a log");
        let more: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        let line = Proxyd::command_line(self.node, "run", &more);
        let lock = self.node.namespace().xtables_lock().to_owned();
        let child = self.node.namespace().run(move || {
            Command::new(programs::proxyd())
                .args(line)
                .env("XTABLES_LOCKFILE", lock)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log)
                .spawn()
        });
        self.child = Some(child.expect("a running proxyd"));
    }

    fn log_path(&self) -> PathBuf {
        self.node.folder().join("proxyd.stderr")
    }

    /// What it, and those that ran before it on this node, wrote to standard error.
    pub fn log(&self) -> String {
        let bytes = fs::read(self.log_path()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The folder that it reads.
    pub fn manifests(&self) -> &Manifests {
        &self.manifests
    }

    /// Writes a manifest; see [`Manifests::write`].
    pub fn write(&self, name: &str, text: &str) {
        self.manifests.write(name, text);
    }

    /// Removes a manifest.
    pub fn remove(&self, name: &str) {
        self.manifests.remove(name);
    }

    /// Writes a manifest and waits until it is in force.
    #[track_caller]
    pub fn apply(&self, name: &str, text: &str) {
        self.write(name, text);
        self.await_sync();
    }

    /// Waits until all that was written is in force: a Service of its own, written last, is seen in the
    /// tables of both families.
    ///
    /// # Panics
    ///
    /// If that takes too long.
    #[track_caller]
    pub fn await_sync(&self) {
        let number = self.next_marker.fetch_add(1, Ordering::Relaxed);
        // No address is the beginning of another.
        let (page, place) = (number / 100, 100 + number % 100);
        assert!(page < 50, "a test with too many changes");
        let v4 = format!("10.96.{}.{place}", 254 - page);
        let v6 = format!("fd00:96::fe:{:x}", 0x1000 + number);
        let addresses = [v4.parse().expect("an address"), v6.parse().expect("an address")];
        let marker = Service::new("marker").cluster_ips(&addresses).port("", "TCP", 1);
        self.write("zz-marker", &marker.to_string());
        eventually("the daemon's sync", SYNC_WITHIN, || {
            let [four, six] = self.mode().try_listed(self.node.namespace())?;
            let there = four.contains(&v4) && six.contains(&v6);
            if there { Ok(()) } else { Err("the marker is not in the tables".to_owned()) }
        });
    }

    /// Its process.
    ///
    /// # Panics
    ///
    /// If it was stopped.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("a running proxyd").id()
    }

    /// The mode it runs in.
    pub fn mode(&self) -> Mode {
        let mut words = self.arguments.iter().skip_while(|word| *word != "--proxy-mode").skip(1);
        match words.next().map(String::as_str) {
            Some("nftables") => Mode::Nftables,
            Some("ipvs") => Mode::Ipvs,
            Some("iptables") => match Mode::of_tests() {
                Mode::Iptables(variant) => Mode::Iptables(variant),
                Mode::Nftables | Mode::Ipvs => Mode::Iptables("nft"),
            },
            _ => Mode::of_tests(),
        }
    }

    /// Whether it has not ended.
    pub fn is_running(&mut self) -> bool {
        let child = self.child.as_mut();
        child.is_some_and(|child| child.try_wait().is_ok_and(|status| status.is_none()))
    }

    /// Asks it to end and waits for that.
    ///
    /// # Panics
    ///
    /// If it goes on.
    #[track_caller]
    pub fn stop(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("a running proxyd");
        let pid = Pid::from_child(&child);
        rustix::process::kill_process(pid, Signal::TERM).expect("a signal to proxyd");
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually("the daemon's end", Duration::from_secs(10), || child.try_wait().ok()?)
        }));
        ended.unwrap_or_else(|panic| {
            end(&mut child);
            std::panic::resume_unwind(panic)
        })
    }

    /// Kills it, as `kill -9` does.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            end(&mut child);
        }
    }

    /// Starts it again after [`Proxyd::stop`] or [`Proxyd::kill`], and waits until it is in force.
    #[track_caller]
    pub fn start_again(&mut self) {
        self.spawn_again();
        self.await_sync();
    }

    /// Starts it again and waits for nothing.
    #[track_caller]
    pub fn spawn_again(&mut self) {
        assert!(self.child.is_none(), "it is still running");
        self.run();
    }

    /// GET from the node's 127.0.0.1: `:10249` has the metrics, `:10256` the health.
    pub fn http_get(&self, port: u16, path: &str) -> Option<Response> {
        self.http_get_from(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), path)
    }

    /// GET from any address, asked by the node.
    pub fn http_get_from(&self, server: SocketAddr, path: &str) -> Option<Response> {
        http_get(self.node, server, path)
    }

    /// The value of a metric, summed over the series that have this in their labels.
    pub fn metric(&self, name: &str, labels: &str) -> Option<f64> {
        let text = self.http_get(10249, "/metrics")?.body;
        let own = |line: &&str| {
            let rest = line.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with(['{', ' '])) && line.contains(labels)
        };
        let values =
            text.lines().filter(own).filter_map(|line| line.rsplit(' ').next()?.parse().ok());
        values.reduce(|a: f64, b| a + b)
    }
}

impl Drop for Proxyd<'_> {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let start = log.len().saturating_sub(SHOWN);
            let start = (start..log.len()).find(|at| log.is_char_boundary(*at)).unwrap_or(0);
            let _ =
                writeln!(std::io::stderr(), "proxyd on {}:\n{}", self.node.name(), &log[start..]);
        }
    }
}

fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// GET by somebody from any address.
pub fn http_get(who: &impl Host, server: SocketAddr, path: &str) -> Option<Response> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n");
    who.namespace().run(move || {
        let limit = Duration::from_secs(2);
        let mut stream = TcpStream::connect_timeout(&server, limit).ok()?;
        stream.set_read_timeout(Some(limit)).ok()?;
        stream.write_all(request.as_bytes()).ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        Response::parse(&text)
    })
}
