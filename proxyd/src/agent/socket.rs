//! The socket at which the plugin asks the daemon: one line of JSON each way (docs/cni.md).

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use netpol::PodName;
use netpol::compile::Attachment;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::daemon::policies::{PolicyEvent, ToPolicies};

/// The longest question that is read.
const QUESTION_MAX: u64 = 64 * 1024;
/// A client that says nothing is not waited for longer.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long the policy thread may take, which answers before that; the plugin waits longer.
const VERDICT: Duration = Duration::from_millis(4500);

/// Whether this node can serve pods, and if not, why.
#[derive(Clone)]
pub(super) struct Ready(Arc<Mutex<Result<(), String>>>);

impl Default for Ready {
    fn default() -> Ready {
        Ready(Arc::new(Mutex::new(Err("the daemon has just started".to_owned()))))
    }
}

impl Ready {
    pub(super) fn set(&self, state: Result<(), String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    fn get(&self) -> Result<(), String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Answers at this path from now on. Only root may ask.
pub(super) fn serve(
    path: &Path,
    ready: Ready,
    policies: Option<ToPolicies>,
) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    // What a daemon that was killed left behind; one that runs would be the same DaemonSet's.
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    std::thread::Builder::new().name("cni-socket".into()).spawn(move || {
        for stream in listener.incoming().flatten() {
            let asked = Asked { ready: ready.clone(), policies: policies.clone() };
            let started = std::thread::Builder::new()
                .name("cni-question".into())
                .spawn(move || respond(stream, &asked));
            if let Err(error) = started {
                tracing::warn!("a question of the plugin's stays without an answer: {error}");
            }
        }
    })?;
    Ok(())
}

/// Who knows the answers.
struct Asked {
    ready: Ready,
    policies: Option<ToPolicies>,
}

/// What the plugin says of a pod.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    #[serde(rename = "containerID")]
    container: String,
    ifname: String,
    #[serde(default)]
    interface: String,
    #[serde(default)]
    ips: Vec<IpAddr>,
    pod: PodIdentity,
}

#[derive(Deserialize)]
struct PodIdentity {
    namespace: String,
    name: String,
    uid: String,
}

impl Report {
    fn id(&self) -> Arc<str> {
        format!("{}.{}", self.container, self.ifname).into()
    }
}

fn respond(stream: UnixStream, asked: &Asked) {
    let answer = || -> std::io::Result<()> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut line = String::new();
        BufReader::new((&stream).take(QUESTION_MAX)).read_line(&mut line)?;
        // The kernel says who asks; the file's mode alone could be changed.
        let asker = netlink::peer_uid(&stream).map_err(std::io::Error::other)?;
        let answer = match asker == 0 {
            true => answer(&line, asked),
            false => json!({"ok": false, "error": "only root may ask"}),
        };
        (&stream).write_all(format!("{answer}\n").as_bytes())
    };
    if let Err(error) = answer() {
        tracing::debug!("a question of the plugin's: {error}");
    }
}

fn answer(line: &str, asked: &Asked) -> Value {
    let refused = |why: String| json!({"ok": false, "error": why});
    let question: Value = match serde_json::from_str(line) {
        Ok(question) => question,
        Err(error) => return refused(format!("not JSON: {error}")),
    };
    match question.get("verb").and_then(Value::as_str) {
        Some("STATUS") => match asked.ready.get() {
            Ok(()) => json!({"ok": true}),
            Err(why) => refused(why),
        },
        Some("ADD") => match asked.ready.get().and_then(|()| asked.isolate(question)) {
            Ok(()) => json!({"ok": true}),
            Err(why) => refused(why),
        },
        Some("DEL") => {
            asked.release(question);
            json!({"ok": true})
        }
        other => refused(format!("verb {} is not known", other.unwrap_or("(none)"))),
    }
}

impl Asked {
    /// Returns when what the pod may do, and may not, is in the kernel.
    fn isolate(&self, question: Value) -> Result<(), String> {
        let Some(policies) = &self.policies else { return Ok(()) };
        let report: Report =
            serde_json::from_value(question).map_err(|error| format!("ADD: {error}"))?;
        if report.pod.name.is_empty() {
            return Ok(()); // no pod of Kubernetes
        }
        let id = report.id();
        let PodIdentity { namespace, name, uid } = report.pod;
        let pod = PodName { namespace: namespace.into(), name: name.into() };
        let attachment = Attachment {
            pod,
            uid: uid.into(),
            addresses: report.ips,
            interface: report.interface.into(),
        };
        let (answer, received) = channel();
        let ended = || "the policy thread has ended".to_owned();
        policies
            .send(PolicyEvent::Attach(Arc::clone(&id), attachment, answer))
            .map_err(|_| ended())?;
        let outcome = received.recv_timeout(VERDICT).unwrap_or_else(|error| match error {
            RecvTimeoutError::Timeout => {
                Err("policies are being written, which takes long".to_owned())
            }
            RecvTimeoutError::Disconnected => Err(ended()),
        });
        if outcome.is_err() {
            let _ = policies.send(PolicyEvent::Detach(id));
        }
        outcome
    }

    fn release(&self, question: Value) {
        if let (Some(policies), Ok(report)) =
            (&self.policies, serde_json::from_value::<Report>(question))
        {
            let _ = policies.send(PolicyEvent::Detach(report.id()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(path: &Path, line: &str) -> Value {
        let mut stream = UnixStream::connect(path).unwrap();
        stream.write_all(line.as_bytes()).unwrap();
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).unwrap();
        serde_json::from_str(&answer).unwrap()
    }

    #[test]
    fn pods_wait_until_the_node_is_ready() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new").join("cni.sock");
        let ready = Ready::default();
        serve(&path, ready.clone(), None).unwrap();
        let add = "{\"verb\":\"ADD\",\"pod\":{\"name\":\"a\"}}\n";
        assert_eq!(ask(&path, add)["ok"], false);
        assert_eq!(ask(&path, "{\"verb\":\"DEL\"}\n")["ok"], true);
        ready.set(Ok(()));
        assert_eq!(ask(&path, add)["ok"], true);
        assert_eq!(ask(&path, "{\"verb\":\"STATUS\"}\n")["ok"], true);
        ready.set(Err("no podCIDR".into()));
        assert_eq!(ask(&path, "{\"verb\":\"STATUS\"}\n")["error"], "no podCIDR");
        assert_eq!(ask(&path, "garbage\n")["ok"], false);
        assert_eq!(ask(&path, "{\"verb\":\"EAT\"}\n")["ok"], false);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        // The next daemon takes the place of one that was killed.
        serve(&path, ready, None).unwrap();
        assert_eq!(ask(&path, "{\"verb\":\"DEL\"}\n")["ok"], true);
    }
}
