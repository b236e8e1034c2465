//! [`Server`]: a real API server with its etcd, in a network namespace of its own.

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tempfile::TempDir;
use testnet::{Host, Namespace, Node, eventually};

use super::programs::Programs;

/// Where every node finds the server.
pub(crate) const ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 31, 255, 1);
/// The port of the server itself; a [`super::cable::Cable`] in front of it has another.
pub(crate) const PORT: u16 = 6443;

const READY_WITHIN: Duration = Duration::from_secs(90);
const CLIENT_URL: &str = "http://127.0.0.1:2379";
const PEER_URL: &str = "http://127.0.0.1:2380";
/// The whole of what the daemon's account does, and nothing else, is in the audit log.
const AUDIT_POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
rules:
  - level: Metadata
    users: ["system:serviceaccount:kube-system:viaduct"]
  - level: None
"#;
/// An administrator.
const TOKENS: &str = "admin-token,admin,1,\"system:masters\"\n";

pub(crate) struct Server {
    namespace: Namespace,
    programs: Programs,
    folder: TempDir,
    etcd: Option<Child>,
    apiserver: Mutex<Option<Child>>,
    /// Removes the folder when this process ends without having done so.
    _janitor: Child,
}

impl Server {
    /// Starts both and waits until the server is ready.
    #[track_caller]
    pub(crate) fn start(programs: Programs) -> Server {
        let namespace = Namespace::new("apiserver");
        namespace.ip(&format!("address add {ADDRESS}/32 dev lo"));
        let folder = TempDir::with_prefix("testnet-api-").expect("a folder");
        let janitor = janitor(folder.path());
        let mut server = Server {
            namespace,
            programs,
            folder,
            etcd: None,
            apiserver: Mutex::new(None),
            _janitor: janitor,
        };
        server.write("tokens.csv", TOKENS);
        server.write("audit.yaml", AUDIT_POLICY);
        server
            .namespace
            .command("openssl", &["genrsa", "-out", &server.path("service-accounts.key"), "2048"]);
        server.etcd = Some(server.start_etcd());
        server.start_apiserver();
        server.write("admin.kubeconfig", &server.kubeconfig(PORT, "token: admin-token"));
        server.await_ready();
        server
    }

    fn start_etcd(&self) -> Child {
        self.spawn(
            "etcd",
            &self.programs.etcd,
            &[
                format!("--data-dir={}", self.path("etcd")),
                "--unsafe-no-fsync".to_owned(),
                format!("--listen-client-urls={CLIENT_URL}"),
                format!("--advertise-client-urls={CLIENT_URL}"),
                format!("--listen-peer-urls={PEER_URL}"),
                format!("--initial-advertise-peer-urls={PEER_URL}"),
                format!("--initial-cluster=default={PEER_URL}"),
            ],
        )
    }

    /// Starts the API server after [`Server::kill_apiserver`] and waits for nothing.
    pub(crate) fn start_apiserver(&self) {
        let key = self.path("service-accounts.key");
        let child = self.spawn(
            "kube-apiserver",
            &self.programs.apiserver,
            &[
                format!("--etcd-servers={CLIENT_URL}"),
                format!("--advertise-address={ADDRESS}"),
                format!("--bind-address={ADDRESS}"),
                format!("--secure-port={PORT}"),
                format!("--cert-dir={}", self.path("certificates")),
                format!("--service-account-key-file={key}"),
                format!("--service-account-signing-key-file={key}"),
                "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
                "--service-cluster-ip-range=10.96.0.0/16,fd00:96::/112".to_owned(),
                format!("--token-auth-file={}", self.path("tokens.csv")),
                "--authorization-mode=Node,RBAC".to_owned(),
                "--allow-privileged=true".to_owned(),
                format!("--audit-policy-file={}", self.path("audit.yaml")),
                format!("--audit-log-path={}", self.path("audit.log")),
                "--audit-log-mode=blocking".to_owned(),
            ],
        );
        *self.child() = Some(child);
    }

    /// A program that ends with this process, however that ends: the signal comes when the namespace's
    /// thread is gone, which starts it.
    fn spawn(&self, name: &str, program: &Path, arguments: &[String]) -> Child {
        let log = File::options().create(true).append(true).open(self.path(&format!("{name}.log")));
        let log = log.expect("a log");
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(program).args(arguments);
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log);
        command.current_dir(self.folder.path());
        let child = self.namespace.run(move || command.spawn());
        child.unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// Waits until it answers as ready.
    #[track_caller]
    pub(crate) fn await_ready(&self) {
        let mut ended = None;
        eventually("the API server is ready", READY_WITHIN, || {
            ended = self.child().as_mut().and_then(|child| child.try_wait().ok()?);
            // It will not come back: there is no need to wait for it.
            assert!(ended.is_none(), "kube-apiserver ended: {ended:?}\n{}", self.log_end());
            match self.try_kubectl(&["get", "--raw", "/readyz"]) {
                Ok(answer) if answer == "ok" => Ok(()),
                Ok(other) | Err(other) => Err(other),
            }
        });
    }

    fn log_end(&self) -> String {
        let log = std::fs::read(self.path("kube-apiserver.log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().rev().take(10).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// Kills the API server, as `kill -9` does; etcd goes on.
    pub(crate) fn kill_apiserver(&self) {
        if let Some(mut child) = self.child().take() {
            end(&mut child);
        }
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.apiserver.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// A cable of its own from a node to the server: the nodes of all tests have the same addresses.
    /// Returns the name of the server's end.
    pub(crate) fn attach(&self, node: &Node, number: u8) -> String {
        let inside = node.namespace();
        let (name, path) = (format!("node{number}"), inside.path().display());
        self.namespace.ip(&format!("link add {name} type veth peer name api0 netns {path}"));
        self.namespace.ip(&format!("address add 172.31.{number}.1/30 dev {name}"));
        self.namespace.ip(&format!("link set {name} up"));
        inside.ip(&format!("address add 172.31.{number}.2/30 dev api0"));
        inside.ip("link set api0 up");
        inside.ip(&format!("route add {ADDRESS} via 172.31.{number}.1"));
        name
    }

    /// The path of one of its files.
    pub(crate) fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).expect("a file of the API server");
    }

    /// A kubeconfig for a user with these credentials, at a port of the server's address.
    pub(crate) fn kubeconfig(&self, port: u16, credentials: &str) -> String {
        let authority = self.path("certificates/apiserver.crt");
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
             clusters: [{{name: c, cluster: {{server: \"https://{ADDRESS}:{port}\", certificate-authority: {authority}}}}}]\n\
             users: [{{name: u, user: {{{credentials}}}}}]\n\
             contexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n"
        )
    }

    /// kubectl as the administrator.
    #[track_caller]
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> String {
        let outcome = self.try_kubectl(arguments);
        outcome.unwrap_or_else(|error| panic!("kubectl {arguments:?}: {error}"))
    }

    /// The same; the error is all that was printed.
    pub(crate) fn try_kubectl(&self, arguments: &[&str]) -> Result<String, String> {
        let config = format!("--kubeconfig={}", self.path("admin.kubeconfig"));
        let cache = format!("--cache-dir={}", self.path("kubectl"));
        let all = [&[&*config, &*cache, "--request-timeout=20s"], arguments].concat();
        self.namespace.try_command(&self.programs.kubectl.display().to_string(), &all)
    }

    /// Makes or changes objects.
    #[track_caller]
    pub(crate) fn apply(&self, text: &str) {
        self.write("apply.yaml", text);
        self.kubectl(&["apply", "-f", &self.path("apply.yaml")]);
    }

    /// Removes them.
    #[track_caller]
    pub(crate) fn delete(&self, text: &str) {
        self.write("delete.yaml", text);
        self.kubectl(&["delete", "--wait=false", "-f", &self.path("delete.yaml")]);
    }

    /// A new token of a service account.
    #[track_caller]
    pub(crate) fn token(&self, namespace: &str, account: &str) -> String {
        self.kubectl(&["-n", namespace, "create", "token", account]).trim().to_owned()
    }

    /// What the daemon's account did so far, one event a line.
    pub(crate) fn audit_log(&self) -> String {
        std::fs::read_to_string(self.path("audit.log")).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill_apiserver();
        if let Some(etcd) = &mut self.etcd {
            end(etcd);
        }
    }
}

fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// A process that waits for the end of this one: nobody drops what lives as long as the process.
fn janitor(folder: &Path) -> Child {
    let script = "read -r _; for _ in 1 2 3 4 5 6 7 8 9 10; do rm -rf \"$0\" 2>/dev/null && exit; sleep 0.2; done";
    let mut command = Command::new("sh");
    command.args(["-c", script]).arg(folder).stdin(Stdio::piped());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("a janitor")
}

/// Makes the path of a file absolute.
pub(crate) fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}
