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
    sysctls_are_read_only: bool,
}

/// Runs its arguments where `/proc/sys` is read-only, as in a container inside a container.
const READ_ONLY: &str = "mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
exec \"$@\"";

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
            sysctls_are_read_only: false,
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
            let mut command = match cni.sysctls_are_read_only {
                false => Command::new(&cni.binary),
                true => {
                    let mut command = Command::new("unshare");
                    command.args(["-m", "sh", "-ec", READ_ONLY, "sh"]).arg(&cni.binary);
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
        self.sysctls_are_read_only = true;
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
