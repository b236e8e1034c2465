//! The daemon behind `daemonSocket`: told of every pod, and ADD waits for its word.
//!
//! The protocol is one JSON object per line each way, over a stream socket; docs/cni.md has it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::environment::Environment;
use crate::error::{CniError, Result, code};
use crate::section::Section;

/// How long ADD waits for the daemon: policy must be in force before the pod's first instruction,
/// but a runtime must not wait for ever.
const WAIT: Duration = Duration::from_secs(5);
/// The largest answer that is read.
const ANSWER_MAX: u64 = 64 * 1024;

/// Where the daemon listens, and what happens if it does not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Daemon {
    pub(crate) socket: PathBuf,
    /// ADD goes on without an answer (`"onDaemonTimeout": "allow"`).
    pub(crate) optional: bool,
}

/// What the daemon is told of a pod.
pub(crate) struct PodReport<'a> {
    pub(crate) environment: &'a Environment,
    pub(crate) network: &'a str,
    pub(crate) host_link: &'a str,
    pub(crate) ips: Vec<IpAddr>,
}

impl Daemon {
    pub(crate) fn parse(root: &Section<'_>) -> Result<Option<Daemon>> {
        let optional = match root.string("onDaemonTimeout")?.unwrap_or("deny") {
            "deny" => false,
            "allow" => true,
            _ => return Err(root.error("onDaemonTimeout", "use \"deny\" or \"allow\"")),
        };
        let path = root.string("daemonSocket")?.filter(|path| !path.is_empty());
        Ok(path.map(|path| Daemon { socket: path.into(), optional }))
    }

    /// Where the daemon listens, for a verb that goes on without it.
    pub(crate) fn for_teardown(root: &Section<'_>) -> Option<Daemon> {
        let path = root.string("daemonSocket").ok()??;
        (!path.is_empty()).then(|| Daemon { socket: path.into(), optional: true })
    }

    /// Reports a pod and waits until the daemon has its isolation in force.
    pub(crate) fn add(&self, report: &PodReport<'_>) -> Result<()> {
        match self.ask("ADD", Some(report)) {
            Err(Refusal::Unreachable(reason)) if self.optional => {
                eprintln!("viaduct: going on without the daemon: {reason}");
                Ok(())
            }
            Err(Refusal::Unreachable(reason)) => {
                Err(CniError::new(code::TRY_LATER, reason).details(
                    "the daemon must answer before a pod starts; \"onDaemonTimeout\": \"allow\" goes on without",
                ))
            }
            Err(Refusal::Answer(reason)) => Err(CniError::new(code::TRY_LATER, reason)),
            Ok(()) => Ok(()),
        }
    }

    /// Tells that a pod is gone. The daemon learns it from elsewhere too, so no answer is no failure.
    pub(crate) fn del(&self, report: &PodReport<'_>) {
        if let Err(refusal) = self.ask("DEL", Some(report)) {
            eprintln!("viaduct: {}", refusal.reason());
        }
    }

    /// Whether the daemon is ready to serve pods.
    pub(crate) fn status(&self) -> Result<()> {
        let unavailable = |refusal: Refusal| CniError::new(code::UNAVAILABLE, refusal.reason());
        self.ask("STATUS", None).map_err(unavailable)
    }

    fn ask(&self, verb: &str, report: Option<&PodReport<'_>>) -> std::result::Result<(), Refusal> {
        let unreachable = |error: std::io::Error| {
            Refusal::Unreachable(format!(
                "the daemon at {} does not answer {verb}: {error}",
                self.socket.display()
            ))
        };
        let answer = self.exchange(&request(verb, report)).map_err(unreachable)?;
        if answer.get("ok") == Some(&Value::Bool(true)) {
            return Ok(());
        }
        let reason = answer.get("error").and_then(Value::as_str).unwrap_or("no reason given");
        Err(Refusal::Answer(format!(
            "the daemon at {} refused {verb}: {reason}",
            self.socket.display()
        )))
    }

    fn exchange(&self, request: &Value) -> std::io::Result<Value> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(WAIT))?;
        stream.set_write_timeout(Some(WAIT))?;
        stream.write_all(format!("{request}\n").as_bytes())?;
        let mut line = String::new();
        BufReader::new(stream.take(ANSWER_MAX)).read_line(&mut line)?;
        serde_json::from_str(&line).map_err(std::io::Error::from)
    }
}

enum Refusal {
    /// Nobody answered in time.
    Unreachable(String),
    /// The daemon said no.
    Answer(String),
}

impl Refusal {
    fn reason(self) -> String {
        match self {
            Refusal::Unreachable(reason) | Refusal::Answer(reason) => reason,
        }
    }
}

fn request(verb: &str, report: Option<&PodReport<'_>>) -> Value {
    let Some(report) = report else { return json!({ "verb": verb }) };
    let arg = |key| report.environment.arg(key).unwrap_or_default();
    json!({
        "verb": verb,
        "network": report.network,
        "containerID": report.environment.container_id,
        "ifname": report.environment.ifname,
        "netns": report.environment.netns,
        "interface": report.host_link,
        "ips": report.ips,
        "pod": {
            "namespace": arg("K8S_POD_NAMESPACE"),
            "name": arg("K8S_POD_NAME"),
            "uid": arg("K8S_POD_UID"),
        },
    })
}
