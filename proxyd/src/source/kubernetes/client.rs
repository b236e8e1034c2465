//! Connections to the API server.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ConfigExt};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tower::{BoxError, ServiceBuilder};

/// A server that vanished without a word (a failed node, a firewall that forgot) is noticed after some 25
/// seconds: by then a watch that is only listened to would otherwise be silent for minutes.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(10);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(5);
const KEEPALIVE_PROBES: u32 = 3;
const UNACKNOWLEDGED: Duration = Duration::from_secs(25);
/// A connection that lives and says nothing for so long is given up. A watch is ended by the server before
/// that; a bookmark each minute is not to be relied upon, there is none where nothing ever changed.
const SILENCE: Duration = Duration::from_secs(310);
/// Attempts follow each other within seconds, so none may take long.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// How to reach the API server.
#[derive(Clone, Copy, Debug)]
pub enum Access<'a> {
    /// By a kubeconfig file.
    Kubeconfig(&'a Path),
    /// By the pod's service account, and `KUBERNETES_SERVICE_HOST` and `…_PORT`.
    InCluster,
}

/// Prepares a client; the server is not asked yet. `server` takes the place of the configured URL.
/// Within a Tokio runtime.
pub async fn client(access: Access<'_>, server: Option<&str>) -> Result<Client> {
    let mut config = config(access).await?;
    if let Some(server) = server {
        config.cluster_url =
            server.parse().with_context(|| format!("--master {server:?} is not a URL"))?;
    }
    ensure!(config.proxy_url.is_none(), "kubeconfig: proxy-url is not supported");
    connect(config).context("set the API client up")
}

fn connect(config: Config) -> Result<Client> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT_WITHIN));
    tcp.set_keepalive(Some(KEEPALIVE_AFTER));
    tcp.set_keepalive_interval(Some(KEEPALIVE_EVERY));
    tcp.set_keepalive_retries(Some(KEEPALIVE_PROBES));
    tcp.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
    let mut connector = TimeoutConnector::new(config.rustls_https_connector_with_connector(tcp)?);
    connector.set_read_timeout(Some(SILENCE));
    connector.set_reset_reader_on_write(true);
    let http: HttpClient<_, Body> = HttpClient::builder(TokioExecutor::new()).build(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(http);
    Ok(Client::new(service, config.default_namespace))
}

async fn config(access: Access<'_>) -> Result<Config> {
    match access {
        Access::Kubeconfig(file) => {
            let failed = || format!("kubeconfig {}", file.display());
            let kubeconfig = Kubeconfig::read_from(file).with_context(failed)?;
            Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
                .await
                .with_context(failed)
        }
        Access::InCluster => Config::incluster_env().context(
            "no --kubeconfig and no --manifests, and this is no pod with a service account",
        ),
    }
}
