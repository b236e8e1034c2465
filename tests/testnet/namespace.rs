//! [`Namespace`]: a thread of this process in a network namespace of its own.

use std::any::Any;
use std::fs;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use rustix::thread::UnshareFlags;
use serde_json::Value;

use crate::mode::lock_file;
use crate::wait::eventually;

type Job = Box<dyn FnOnce() + Send>;

/// Where `ip netns` looks for names.
const NAMED: &str = "/run/netns";

/// A network namespace that lives as long as this value.
pub struct Namespace {
    name: String,
    jobs: Option<Mutex<Sender<Job>>>,
    thread: Option<JoinHandle<()>>,
    path: PathBuf,
    pinned: Mutex<Option<PathBuf>>,
    xtables_lock: PathBuf,
}

static NEXT: AtomicU64 = AtomicU64::new(0);

impl Namespace {
    /// Makes a namespace with its loopback device up. The name is for messages.
    ///
    /// # Panics
    ///
    /// If that is not allowed: the tests need root.
    pub fn new(name: &str) -> Namespace {
        let (jobs, queue) = channel::<Job>();
        let (ready, started) = channel();
        let thread = Builder::new()
            .name(format!("ns-{name}"))
            .spawn(move || {
                let path = unshare().map(|()| own_path());
                let unshared = path.is_ok();
                let _ = ready.send(path.map_err(|error| error.to_string()));
                if unshared {
                    work(queue);
                }
            })
            .expect("a thread for a namespace");
        let path = started.recv().expect("the thread of a namespace");
        let path = path.unwrap_or_else(|error| panic!("{error}: the tests need root"));
        let namespace = Namespace {
            name: name.to_owned(),
            jobs: Some(Mutex::new(jobs)),
            thread: Some(thread),
            path,
            pinned: Mutex::new(None),
            xtables_lock: lock_file(NEXT.fetch_add(1, Ordering::Relaxed)),
        };
        namespace.ip("link set lo up");
        namespace
    }

    /// A new namespace with a name for `ip netns exec`; see [`Namespace::pin`].
    pub fn named(name: &str) -> Namespace {
        let namespace = Namespace::new(name);
        namespace.pin(name);
        namespace
    }

    /// What it was called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A path that leads to it, good as `CNI_NETNS`, while this process lives.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the programs of iptables lock in here (`XTABLES_LOCKFILE`).
    pub fn xtables_lock(&self) -> &Path {
        &self.xtables_lock
    }

    /// Runs a closure in the namespace and returns what it returns; a panic goes to the caller.
    pub fn run<R: Send + 'static>(&self, work: impl FnOnce() -> R + Send + 'static) -> R {
        let (done, result) = channel::<Result<R, Box<dyn Any + Send>>>();
        let job: Job = Box::new(move || {
            let _ = done.send(catch_unwind(AssertUnwindSafe(work)));
        });
        let jobs = self.jobs.as_ref().expect("a namespace that was not dropped");
        jobs.lock().expect("the queue of a namespace").send(job).expect("a living namespace");
        match result.recv().expect("an answer of a namespace") {
            Ok(result) => result,
            Err(panic) => resume_unwind(panic),
        }
    }

    /// Starts a thread in the namespace; it is inside for all its life.
    pub fn spawn<R: Send + 'static>(
        &self,
        work: impl FnOnce() -> R + Send + 'static,
    ) -> JoinHandle<R> {
        // A new thread begins where its parent is.
        self.run(move || std::thread::spawn(work))
    }

    /// Runs a program inside; returns its standard output.
    ///
    /// # Panics
    ///
    /// If it fails, with all that it printed.
    pub fn command(&self, program: &str, arguments: &[&str]) -> String {
        self.try_command(program, arguments)
            .unwrap_or_else(|error| panic!("in {}: {program} {arguments:?}: {error}", self.name))
    }

    /// Like [`Namespace::command`]; the error is what the program printed.
    pub fn try_command(&self, program: &str, arguments: &[&str]) -> Result<String, String> {
        let program = program.to_owned();
        let arguments: Vec<String> = arguments.iter().map(|a| (*a).to_owned()).collect();
        let lock = self.xtables_lock.clone();
        self.run(move || {
            let mut command = Command::new(&program);
            let output = command.args(&arguments).env("XTABLES_LOCKFILE", lock).output();
            let output = output.map_err(|error| error.to_string())?;
            if output.status.success() {
                Ok(String::from_utf8_lossy(&output.stdout).into_owned())
            } else {
                let all = [output.stdout, output.stderr].concat();
                Err(String::from_utf8_lossy(&all).into_owned())
            }
        })
    }

    /// `ip` with these arguments, split at spaces.
    pub fn ip(&self, arguments: &str) -> String {
        self.command("ip", &arguments.split_whitespace().collect::<Vec<_>>())
    }

    /// `ip -j` with these arguments, parsed.
    pub fn ip_json(&self, arguments: &str) -> Value {
        let output = self.ip(&format!("-j -d {arguments}"));
        if output.trim().is_empty() {
            return Value::Array(Vec::new());
        }
        serde_json::from_str(&output).unwrap_or_else(|error| panic!("ip {arguments}: {error}"))
    }

    /// Waits until an IPv6 address is in use: its route to this host comes some time after the address,
    /// and what arrives in between is lost.
    pub(crate) fn await_address(&self, address: &str) {
        let what = format!("{address} in {}", self.name);
        eventually(&what, Duration::from_secs(5), || {
            self.ip(&format!("-6 route show table local {address}")).contains("local")
        });
    }

    /// Waits until an address that was added is in use.
    pub fn await_address_of(&self, address: IpAddr) {
        if address.is_ipv6() {
            self.await_address(&address.to_string());
        }
    }

    /// The names of its links, but the loopback device.
    pub fn links(&self) -> Vec<String> {
        let links = self.ip_json("link show");
        let names = links.as_array().into_iter().flatten();
        names
            .filter_map(|link| link["ifname"].as_str())
            .filter(|name| *name != "lo")
            .map(str::to_owned)
            .collect()
    }

    /// `nft list ruleset`.
    pub fn ruleset(&self) -> String {
        self.command("nft", &["list", "ruleset"])
    }

    /// Reads a setting below `/proc/sys`, without the line's end.
    ///
    /// # Panics
    ///
    /// If there is none of that name.
    pub fn sysctl(&self, name: &str) -> String {
        let path = format!("/proc/sys/{name}");
        self.run(move || match fs::read_to_string(&path) {
            Ok(value) => value.trim().to_owned(),
            Err(error) => panic!("read {path}: {error}"),
        })
    }

    /// Writes a setting below `/proc/sys`.
    pub fn set_sysctl(&self, name: &str, value: &str) {
        let (path, value) = (format!("/proc/sys/{name}"), value.to_owned());
        self.run(move || {
            fs::write(&path, value).unwrap_or_else(|error| panic!("write {path}: {error}"));
        });
    }

    /// Gives the namespace a name for `ip netns exec`, until it is dropped or [`Namespace::keep`] is
    /// called. Returns the path.
    pub fn pin(&self, name: &str) -> PathBuf {
        fs::create_dir_all(NAMED).expect("the folder of named namespaces");
        let path = Path::new(NAMED).join(name);
        fs::write(&path, "").expect("a file to mount the namespace on");
        if let Err(error) = rustix::mount::mount_bind(&self.path, &path) {
            let _ = fs::remove_file(&path);
            panic!("name the namespace {}: {error}", path.display());
        }
        *self.pinned.lock().expect("the name of a namespace") = Some(path.clone());
        path
    }

    /// Leaves the name, and with it the namespace, in place after this value is dropped.
    pub fn keep(&self) {
        self.pinned.lock().expect("the name of a namespace").take();
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Some(path) = self.pinned.get_mut().ok().and_then(Option::take) {
            unpin(&path);
        }
        let _ = fs::remove_file(&self.xtables_lock);
        // The plugin's records of a node that ends with its namespace.
        if self.jobs.is_some()
            && let Ok(cookie) = self.run(netlink::Namespace::current_cookie)
        {
            let _ = fs::remove_dir_all(format!("/run/viaduct/netns-{cookie}"));
        }
        self.jobs.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Takes the calling thread, and the threads and programs that it starts, into a new namespace.
#[expect(
    deprecated,
    reason = "of its flags only FILES is unsound; the other function needs `unsafe`"
)]
fn unshare() -> rustix::io::Result<()> {
    rustix::thread::unshare(UnshareFlags::NEWNET)
}

fn own_path() -> PathBuf {
    let thread = fs::read_link("/proc/thread-self").expect("/proc");
    Path::new("/proc").join(thread).join("ns/net")
}

fn work(queue: Receiver<Job>) {
    for job in queue {
        job();
    }
}

fn unpin(path: &Path) {
    let _ = rustix::mount::unmount(path, rustix::mount::UnmountFlags::DETACH);
    let _ = fs::remove_file(path);
}

/// Removes every named namespace whose name begins with `prefix`; returns the names.
pub fn unpin_all(prefix: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(NAMED) else { return Vec::new() };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| name.starts_with(prefix)).collect();
    names.sort();
    for name in &names {
        unpin(&Path::new(NAMED).join(name));
    }
    names
}
