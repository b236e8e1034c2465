//! etcd and kube-apiserver, in the network namespace of the LAN's gateway.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;
use testnet::{Host, Lan};

use super::api::{Api, Connection};
use crate::process::Program;

/// The gateway of [`Lan`].
const ADDRESS: &str = "192.168.0.254:6443";
const TOKEN: &str = "bench";

/// A running control plane without controllers; it ends when dropped.
pub(super) struct ControlPlane {
    pub(super) lan: Lan,
    pub(super) api: Api,
    folder: TempDir,
    _programs: [Program; 2],
}

/// The folder of Kubernetes' programs: `VIADUCT_CLUSTER_BIN`.
pub(super) fn kubernetes_program(name: &str) -> Result<PathBuf> {
    let folder = std::env::var_os("VIADUCT_CLUSTER_BIN");
    let folder = folder.context("VIADUCT_CLUSTER_BIN is not set: run scripts/bench cluster")?;
    let program = Path::new(&folder).join(name);
    anyhow::ensure!(program.is_file(), "there is no {}", program.display());
    Ok(program)
}

impl ControlPlane {
    /// Starts it, and waits until it answers.
    pub(super) fn start() -> Result<ControlPlane> {
        let lan = Lan::new();
        let folder = TempDir::with_prefix("bench-cluster-")?;
        let path = |name: &str| folder.path().join(name).display().to_string();
        fs::write(path("tokens.csv"), format!("{TOKEN},bench,1,\"system:masters\"\n"))?;
        let key = path("sa.key");
        lan.namespace().command("openssl", &["genrsa", "-out", &key, "2048"]);
        let etcd = kubernetes_program("etcd")?;
        let apiserver = kubernetes_program("kube-apiserver")?;
        let etcd = [
            &etcd.display().to_string(),
            &format!("--data-dir={}", path("etcd")),
            "--unsafe-no-fsync",
            "--log-level=error",
            "--listen-client-urls=http://127.0.0.1:2379",
            "--advertise-client-urls=http://127.0.0.1:2379",
            "--listen-peer-urls=http://127.0.0.1:2380",
            "--initial-advertise-peer-urls=http://127.0.0.1:2380",
            "--initial-cluster=default=http://127.0.0.1:2380",
        ]
        .map(str::to_owned);
        let apiserver = [
            &apiserver.display().to_string(),
            "--etcd-servers=http://127.0.0.1:2379",
            "--advertise-address=192.168.0.254",
            "--secure-port=6443",
            &format!("--cert-dir={}", path("certs")),
            &format!("--service-account-key-file={key}"),
            &format!("--service-account-signing-key-file={key}"),
            "--service-account-issuer=https://kubernetes.default.svc",
            "--service-cluster-ip-range=10.96.0.0/12",
            &format!("--token-auth-file={}", path("tokens.csv")),
            "--authorization-mode=RBAC",
        ]
        .map(str::to_owned);
        let spawn = |name: &'static str, line: Vec<String>| -> Result<Program> {
            let log = File::create(path(&format!("{name}.log")))?;
            lan.namespace().run(move || Program::start(name, &line, log))
        };
        let mut programs =
            [spawn("etcd", etcd.to_vec())?, spawn("kube-apiserver", apiserver.to_vec())?];
        let certificates = folder.path().join("certs/apiserver.crt");
        let until = Instant::now() + Duration::from_secs(60);
        let api = loop {
            for program in &mut programs {
                program.check()?;
            }
            match ready(&lan, &certificates) {
                Ok(api) => break api,
                Err(error) if Instant::now() > until => {
                    let log = fs::read_to_string(path("kube-apiserver.log")).unwrap_or_default();
                    let from = log.len().saturating_sub(2000);
                    bail!("the API server: {error:#}\n{}", log.get(from..).unwrap_or_default());
                }
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
        };
        fs::write(
            path("kubeconfig"),
            format!(
                r#"{{"apiVersion":"v1","kind":"Config","current-context":"bench",
"clusters":[{{"name":"bench","cluster":{{"server":"https://{ADDRESS}","certificate-authority":"{}"}}}}],
"users":[{{"name":"bench","user":{{"token":"{TOKEN}"}}}}],
"contexts":[{{"name":"bench","context":{{"cluster":"bench","user":"bench"}}}}]}}"#,
                certificates.display()
            ),
        )?;
        Ok(ControlPlane { lan, api, folder, _programs: programs })
    }

    /// What the proxies are given.
    pub(super) fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    /// A connection for the bench's own requests, which do not pass the node's link.
    pub(super) fn connect(&self) -> Result<Connection> {
        let api = self.api.clone();
        self.lan.namespace().run(move || api.connect())
    }
}

fn ready(lan: &Lan, certificates: &Path) -> Result<Api> {
    let api = Api::new(ADDRESS.parse()?, certificates, TOKEN)?;
    let asked = api.clone();
    lan.namespace().run(move || asked.connect()?.request("GET", "/readyz", ""))?;
    Ok(api)
}
