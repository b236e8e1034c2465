//! [`Proxyd`]: the daemon of a node, on a folder of manifests.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::host::Host;
use crate::node::Node;
use crate::programs;
use crate::wait::eventually;

/// How long a change may take until it is in force.
pub const IN_FORCE: Duration = Duration::from_secs(5);

/// The daemon of a node; it is killed when this is dropped, and what it programmed stays.
pub struct Proxyd<'a> {
    node: &'a Node,
    arguments: Vec<String>,
    process: Option<Child>,
}

/// What a page of the daemon's answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// HTTP status.
    pub status: u16,
    /// Headers, as they came.
    pub headers: String,
    /// Body.
    pub body: String,
}

impl<'a> Proxyd<'a> {
    /// Starts the daemon with an empty folder and further arguments, and waits until it has
    /// programmed that.
    #[track_caller]
    pub fn start(node: &'a Node, arguments: &[&str]) -> Proxyd<'a> {
        let mut proxyd = Proxyd::new(node, arguments);
        proxyd.restart();
        proxyd
    }

    /// The daemon before its start.
    pub fn new(node: &'a Node, arguments: &[&str]) -> Proxyd<'a> {
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let proxyd = Proxyd { node, arguments, process: None };
        fs::create_dir_all(proxyd.folder()).expect("a folder for manifests");
        proxyd
    }

    /// The folder of manifests.
    pub fn folder(&self) -> PathBuf {
        self.node.folder().join("manifests")
    }

    /// A subcommand on the same folder, ready to be started in the node.
    fn command(&self, subcommand: &str) -> Command {
        let mut command = Command::new(programs::built().join("proxyd"));
        command
            .arg(subcommand)
            .arg("--manifests")
            .arg(self.folder())
            .args(["--hostname-override", self.node.name()])
            .args(["--cluster-cidr", "10.244.0.0/16,fd00:10::/32"])
            .args(&self.arguments)
            .stdin(Stdio::null());
        command
    }

    /// Starts it (again), and waits until everything is programmed.
    #[track_caller]
    pub fn restart(&mut self) {
        assert!(self.process.is_none(), "it runs already");
        let log = fs::File::options().create(true).append(true).open(self.log_path());
        let mut command = self.command("run");
        command.args(["-v", "4"]).stdout(Stdio::null()).stderr(log.expect("a log file"));
        let child = self.node.namespace().run(move || command.spawn());
        self.process = Some(child.expect("start proxyd: cargo build -p proxyd"));
        eventually("proxyd is programmed", IN_FORCE, || {
            let state = self.status().ok_or("no answer")?;
            if state.contains("\"state\":\"programmed\"") { Ok(()) } else { Err("not yet") }
        });
    }

    fn status(&self) -> Option<String> {
        self.try_get(10249, "/status").map(|page| page.body)
    }

    /// Runs `run --oneshot` to its end: how it ended, and what it said.
    pub fn oneshot(&self) -> (ExitStatus, String) {
        let mut command = self.command("run");
        command.arg("--oneshot");
        let output = self.node.namespace().run(move || command.output()).expect("run proxyd");
        (output.status, String::from_utf8_lossy(&output.stderr).into_owned())
    }

    fn log_path(&self) -> PathBuf {
        self.node.folder().join("proxyd.log")
    }

    /// Everything that it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Replaces a manifest at once, and waits until it is in force.
    #[track_caller]
    pub fn apply(&self, name: &str, text: &str) {
        self.write(name, text);
        self.settle();
    }

    /// Replaces a manifest at once.
    pub fn write(&self, name: &str, text: &str) {
        let temporary = self.folder().join(format!(".{name}"));
        fs::write(&temporary, text).expect("write a manifest");
        fs::rename(&temporary, self.folder().join(name)).expect("rename a manifest");
    }

    /// Removes a manifest, and waits until that is in force.
    #[track_caller]
    pub fn remove(&self, name: &str) {
        fs::remove_file(self.folder().join(name)).expect("remove a manifest");
        self.settle();
    }

    /// Waits until everything in the folder is in force: a Service of a new name, written last, is
    /// programmed.
    #[track_caller]
    pub fn settle(&self) {
        let marker = self.folder().join("zz-marker.yaml");
        let before = fs::read_to_string(&marker).unwrap_or_default();
        let port = if before.contains("port: 1}") { 2 } else { 1 };
        self.write(
            "zz-marker.yaml",
            &format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{name: zz-marker, namespace: default}}\n\
                 spec: {{clusterIP: 10.111.255.255, ports: [{{port: {port}}}]}}\n"
            ),
        );
        let key = format!("10.111.255.255 . tcp . {port} ");
        eventually("the manifests are in force", IN_FORCE, || {
            let map = self
                .node
                .namespace()
                .try_command("nft", &["list", "map", "ip", "viaduct", "no-endpoints"]);
            map.is_ok_and(|map| map.contains(&key))
        });
    }

    /// A page of the daemon's, asked in the node.
    #[track_caller]
    pub fn get(&self, port: u16, path: &str) -> Page {
        self.try_get(port, path).unwrap_or_else(|| panic!("no answer on port {port} to {path}"))
    }

    fn try_get(&self, port: u16, path: &str) -> Option<Page> {
        let path = path.to_owned();
        self.node.namespace().run(move || {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            let mut stream = TcpStream::connect_timeout(&address, IN_FORCE).ok()?;
            stream.set_read_timeout(Some(IN_FORCE)).ok()?;
            write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).ok()?;
            let (headers, body) = answer.split_once("\r\n\r\n")?;
            let status = headers.split(' ').nth(1)?.parse().ok()?;
            Some(Page { status, headers: headers.to_owned(), body: body.to_owned() })
        })
    }

    /// The value of a metric without labels, or with these, as they are printed.
    pub fn metric(&self, name: &str) -> Option<f64> {
        let page = self.get(10249, "/metrics").body;
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        line.trim().parse().ok()
    }

    /// Ends it in the orderly way.
    #[track_caller]
    pub fn terminate(&mut self) -> ExitStatus {
        let mut child = self.process.take().expect("a running proxyd");
        let pid = Pid::from_child(&child);
        kill_process(pid, Signal::TERM).expect("signal proxyd");
        eventually("proxyd ends", IN_FORCE, || child.try_wait().ok().flatten())
    }

    /// Kills it.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.process.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Proxyd<'_> {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- what proxyd on {} said:\n{}", self.node.name(), self.log());
        }
    }
}
