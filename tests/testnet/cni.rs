//! [`Cni`]: one invocation of a plugin, as a runtime makes it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use serde_json::Value;

use crate::namespace::Namespace;
use crate::programs;

/// An invocation in the making.
#[derive(Clone, Debug)]
pub struct Cni {
    input: Vec<u8>,
    binary: PathBuf,
    variables: Vec<(String, String)>,
    /// A program with arguments that runs the plugin.
    wrapper: &'static [&'static str],
}

/// Runs its arguments where `/proc/sys` is read-only, as in a container inside a container.
const READ_ONLY: &str = "mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
exec \"$@\"";

/// Runs its arguments with a seccomp filter that refuses netlink sockets of netfilter (EPROTONOSUPPORT).
const WITHOUT_NETFILTER: &str = r"
import ctypes, os, struct, sys
AF_NETLINK, NETFILTER, EPROTONOSUPPORT, ALLOW, ERRNO = 16, 12, 93, 0x7fff0000, 0x00050000
SOCKET = {'x86_64': 41, 'aarch64': 198}[os.uname().machine]
load = lambda at: (0x20, 0, 0, at)
equal = lambda value, yes, no: (0x15, yes, no, value)
program = [load(0), equal(SOCKET, 0, 5), load(16), equal(AF_NETLINK, 0, 3), load(32), equal(NETFILTER, 0, 1),
    (6, 0, 0, ERRNO | EPROTONOSUPPORT), (6, 0, 0, ALLOW)]
code = b''.join(struct.pack('HBBI', *line) for line in program)
buffer = ctypes.create_string_buffer(code, len(code))
filter = struct.pack('HxxxxxxQ', len(program), ctypes.addressof(buffer))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, filter, 0, 0) == 0, ctypes.get_errno()
os.execv(sys.argv[1], sys.argv[1:])
";

/// What a plugin answered.
#[derive(Debug)]
pub struct CniOutput {
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Cni {
    /// A verb with a configuration; the configuration's `type` names the plugin.
    pub fn new(verb: &str, config: &Value) -> Cni {
        let plugin = config["type"].as_str().unwrap_or("viaduct");
        let cni = Cni {
            input: config.to_string().into_bytes(),
            binary: programs::plugin(plugin),
            variables: Vec::new(),
            wrapper: &[],
        };
        let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
        cni.env("PATH", &path).env("CNI_COMMAND", verb).env("CNI_PATH", &programs::plugin_path())
    }

    /// With this standard input instead.
    pub fn input(mut self, input: &[u8]) -> Cni {
        self.input = input.to_vec();
        self
    }

    /// For a container.
    pub fn container(self, id: &str, netns: &Path) -> Cni {
        self.env("CNI_CONTAINERID", id)
            .env("CNI_NETNS", &netns.display().to_string())
            .env("CNI_IFNAME", "eth0")
    }

    /// For another interface of the container than `eth0`.
    pub fn ifname(self, name: &str) -> Cni {
        self.env("CNI_IFNAME", name)
    }

    /// With `CNI_ARGS`: `KEY=VALUE` pairs, separated by semicolons.
    pub fn args(self, pairs: &str) -> Cni {
        self.env("CNI_ARGS", pairs)
    }

    /// With a variable of the environment; a later value replaces an earlier one.
    pub fn env(mut self, name: &str, value: &str) -> Cni {
        self.variables.retain(|(other, _)| other != name);
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Without a variable.
    pub fn without(mut self, name: &str) -> Cni {
        self.variables.retain(|(other, _)| other != name);
        self
    }

    /// Starts it in a namespace, its input written.
    pub fn start(&self, node: &Namespace) -> Child {
        let cni = self.clone();
        node.run(move || {
            let mut command = match cni.wrapper {
                [] => Command::new(&cni.binary),
                [program, arguments @ ..] => {
                    let mut command = Command::new(program);
                    command.args(arguments).arg(&cni.binary);
                    command
                }
            };
            let mut child = command
                .env_clear()
                .envs(cni.variables)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap_or_else(|error| panic!("start {}: {error}", cni.binary.display()));
            if let Some(mut stdin) = child.stdin.take() {
                // A plugin that ends without reading closes the pipe.
                let _ = stdin.write_all(&cni.input);
            }
            child
        })
    }

    /// Runs it in a namespace, where `/proc/sys` is read-only.
    pub fn run_read_only(mut self, node: &Namespace) -> CniOutput {
        self.wrapper = &["unshare", "-m", "sh", "-ec", READ_ONLY, "sh"];
        self.run(node)
    }

    /// Runs it in a namespace, as on a kernel without nfnetlink.
    pub fn run_without_netfilter(mut self, node: &Namespace) -> CniOutput {
        self.wrapper = &["python3", "-c", WITHOUT_NETFILTER];
        self.run(node)
    }

    /// Runs it in a namespace.
    pub fn run(&self, node: &Namespace) -> CniOutput {
        let output = self.start(node).wait_with_output().expect("the plugin's output");
        CniOutput {
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl CniOutput {
    /// The result of a success.
    ///
    /// # Panics
    ///
    /// If it failed, with all that it printed.
    #[track_caller]
    pub fn result(&self) -> Value {
        assert!(self.status.success(), "the plugin failed: {} {}", self.stdout, self.stderr);
        if self.stdout.is_empty() {
            return Value::Null;
        }
        serde_json::from_str(&self.stdout).expect("JSON on standard output")
    }

    /// The error code and the message (with its details) of a failure.
    ///
    /// # Panics
    ///
    /// If it succeeded, or printed anything but an error object.
    #[track_caller]
    pub fn error(&self) -> (u64, String) {
        assert!(!self.status.success(), "the plugin did not fail: {}", self.stdout);
        let error: Value = serde_json::from_str(&self.stdout)
            .unwrap_or_else(|e| panic!("{e}: {:?} {:?}", self.stdout, self.stderr));
        let text = |key: &str| error[key].as_str().expect("a text").to_owned();
        (error["code"].as_u64().expect("a code"), format!("{} {}", text("msg"), text("details")))
    }
}
