//! The daemon's HTTP pages, at the addresses and under the names that kube-proxy has.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::connection::{BoundedListener, Limits};
use super::health::{Health, HealthReport};
use super::listeners::{RETRY, bind};
use super::metrics::Metrics;

const NO_SNIFF: (header::HeaderName, &str) = (header::X_CONTENT_TYPE_OPTIONS, "nosniff");

/// What the daemon programmed and how it does; may block.
pub type StatusPage = Arc<dyn Fn() -> Value + Send + Sync>;
/// The verdict about traffic from the first to the second argument; may block.
pub type ExplainPage = Arc<dyn Fn(&str, &str) -> Value + Send + Sync>;

/// Why [`serve`] gave up: the address could not be bound and `hard_fail` was asked for.
#[derive(Debug, thiserror::Error)]
#[error("{name}: cannot listen on {address}: {source}")]
pub struct ServeError {
    name: &'static str,
    address: SocketAddr,
    source: io::Error,
}

/// /healthz and /livez, and their counters; /readyz, which says whether everything is in place.
pub fn health_router(health: Health, metrics: Metrics) -> Router {
    let ready = health.clone();
    let (healthz, livez) = ((health.clone(), metrics.clone()), (health, metrics));
    let healthz = move || async move {
        let (health, metrics) = healthz;
        report(&health.healthz(), |code| metrics.healthz_answered(code))
    };
    let livez = move || async move {
        let (health, metrics) = livez;
        report(&health.livez(), |code| metrics.livez_answered(code))
    };
    let readyz = move || async move {
        match ready.missing() {
            missing if missing.is_empty() => (StatusCode::OK, [NO_SNIFF], "ok\n".to_owned()),
            missing => (StatusCode::SERVICE_UNAVAILABLE, [NO_SNIFF], missing.join("\n") + "\n"),
        }
    };
    Router::new()
        .route("/healthz", get(healthz))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
}

fn report(report: &HealthReport, count: impl Fn(u16)) -> Response {
    let code = if report.ok() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    count(code.as_u16());
    (code, [NO_SNIFF], Json(report)).into_response()
}

/// What the metrics address shows.
#[derive(Clone)]
pub struct MetricsPages {
    /// For /metrics.
    pub metrics: Metrics,
    /// For /proxyMode: the name alone, such as `nftables`.
    pub proxy_mode: String,
    /// For /configz: the configuration in force.
    pub configz: Value,
    /// For /status.
    pub status: StatusPage,
    /// For /explain?from=…&to=….
    pub explain: ExplainPage,
}

impl fmt::Debug for MetricsPages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetricsPages").field("proxy_mode", &self.proxy_mode).finish_non_exhaustive()
    }
}

/// /metrics, /proxyMode, /configz, /healthz (`ok`), /status and /explain.
pub fn metrics_router(pages: MetricsPages) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/proxyMode", get(proxy_mode))
        .route("/configz", get(configz))
        .route("/healthz", get(|| async { ([NO_SNIFF], "ok") }))
        .route("/status", get(status))
        .route("/explain", get(explain))
        .with_state(Arc::new(pages))
}

type Pages = State<Arc<MetricsPages>>;

async fn metrics(State(pages): Pages, headers: HeaderMap) -> Response {
    const OPEN_METRICS: &str = "application/openmetrics-text";
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    // The same text is valid in both formats; who does not ask for the newer one may not know it.
    let content_type = if accepted.into_iter().any(|types| types.contains(OPEN_METRICS)) {
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    } else {
        "text/plain; version=0.0.4; charset=utf-8"
    };
    blocking(move || ([(header::CONTENT_TYPE, content_type)], pages.metrics.render())).await
}

async fn proxy_mode(State(pages): Pages) -> impl IntoResponse {
    ([NO_SNIFF], pages.proxy_mode.clone())
}

async fn configz(State(pages): Pages) -> Json<Value> {
    Json(pages.configz.clone())
}

async fn status(State(pages): Pages) -> Response {
    blocking(move || Json((pages.status)())).await
}

#[derive(Deserialize)]
struct Path {
    from: String,
    to: String,
}

async fn explain(State(pages): Pages, Query(path): Query<Path>) -> Response {
    blocking(move || Json((pages.explain)(&path.from, &path.to))).await
}

/// Runs what may read from the kernel beside the runtime's only thread.
async fn blocking<T: IntoResponse + Send + 'static>(
    page: impl FnOnce() -> T + Send + 'static,
) -> Response {
    match spawn_blocking(page).await {
        Ok(page) => page.into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Serves `router` at `address` until the future is dropped, which ends all its connections. `name`
/// is what the log calls it. Either wildcard means all addresses of both families.
///
/// An address that cannot be bound is tried again every 5 s, unless `hard_fail` (kube-proxy's
/// `bindAddressHardFail`) makes it an error. There is no other way to return.
pub async fn serve(
    name: &'static str,
    address: SocketAddr,
    hard_fail: bool,
    router: Router,
) -> Result<(), ServeError> {
    let retry = (!hard_fail).then_some(RETRY);
    let socket = bind_in_time(name, address, retry).await?;
    tracing::info!("{name}: listening on {address}");
    serve_on(socket, router).await;
    Ok(())
}

async fn bind_in_time(
    name: &'static str,
    address: SocketAddr,
    retry: Option<Duration>,
) -> Result<TcpListener, ServeError> {
    loop {
        match (bind(address), retry) {
            (Ok(socket), _) => return Ok(socket),
            (Err(source), None) => return Err(ServeError { name, address, source }),
            (Err(error), Some(retry)) => {
                tracing::warn!("{name}: cannot listen on {address}, trying again: {error}");
                sleep(retry).await;
            }
        }
    }
}

/// Serves until dropped, connections included.
pub(super) async fn serve_on(socket: TcpListener, router: Router) {
    // Never ends: `axum::serve` waits through errors of single connections.
    if let Err(error) = axum::serve(BoundedListener::new(socket, Limits::default()), router).await {
        tracing::error!("an HTTP server ended: {error}");
    }
}

#[cfg(test)]
mod tests {
    use netlink::Family;
    use serde_json::json;

    use super::*;
    use crate::server::testing::{FakeClock, LOCALHOST, answers, eventually, free_port, get, run};

    async fn start(router: Router) -> SocketAddr {
        let socket = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::spawn(serve_on(socket, router));
        address
    }

    fn pages() -> MetricsPages {
        MetricsPages {
            metrics: Metrics::default(),
            proxy_mode: "nftables".to_owned(),
            configz: json!({"kubeproxy.config.k8s.io": {"mode": "nftables"}}),
            status: Arc::new(|| json!({"synced": true})),
            explain: Arc::new(|from, to| json!({"path": [from, to]})),
        }
    }

    #[test]
    fn health_pages_answer_and_are_counted() {
        run(async {
            let clock = FakeClock::new();
            let period = Duration::from_secs(30);
            let health = Health::with_clock(&[Family::V4], period, clock.clock());
            let metrics = Metrics::default();
            let address = start(health_router(health.clone(), metrics.clone())).await;
            let healthz = get(address, "/healthz", "").await;
            assert_eq!(healthz.status, 200);
            assert!(healthz.head.contains("content-type: application/json"), "{}", healthz.head);
            assert!(healthz.head.contains("x-content-type-options: nosniff"));
            let body: Value = serde_json::from_str(&healthz.body).unwrap();
            assert_eq!((&body["healthy"], &body["nodeEligible"]), (&json!(true), &json!(true)));

            health.set_node_eligible(false);
            assert_eq!(get(address, "/healthz", "").await.status, 503);
            assert_eq!(get(address, "/livez", "").await.status, 200);
            health.queued(Family::V4);
            clock.advance(period * 2);
            let livez = get(address, "/livez", "").await;
            assert_eq!(livez.status, 503);
            let body: Value = serde_json::from_str(&livez.body).unwrap();
            assert_eq!(body["status"]["IPv4"]["healthy"], json!(false));
            assert_eq!(body.get("nodeEligible"), None);

            let text = metrics.render();
            for sample in ["healthz_total{code=\"200\"} 1", "healthz_total{code=\"503\"} 1"] {
                assert!(text.contains(sample), "{sample}");
            }
            for sample in ["livez_total{code=\"200\"} 1", "livez_total{code=\"503\"} 1"] {
                assert!(text.contains(sample), "{sample}");
            }
        });
    }

    #[test]
    fn the_metrics_address_has_its_pages() {
        run(async {
            let address = start(metrics_router(pages())).await;
            let body = |target: &'static str| async move {
                let response = get(address, target, "").await;
                (response.status, response.body)
            };
            let ok = |text: &str| (200, text.to_owned());
            assert_eq!(body("/proxyMode").await, ok("nftables"));
            assert_eq!(body("/healthz").await, ok("ok"));
            assert_eq!(body("/status").await, ok(r#"{"synced":true}"#));
            let configz = body("/configz").await;
            assert_eq!(configz, ok(r#"{"kubeproxy.config.k8s.io":{"mode":"nftables"}}"#));
            let explained = body("/explain?from=pod/a/b&to=10.0.0.1%3A80%2FTCP").await;
            assert_eq!(explained, ok(r#"{"path":["pod/a/b","10.0.0.1:80/TCP"]}"#));
            assert_eq!(body("/explain?from=pod/a/b").await.0, 400);
            assert_eq!(body("/nothing").await.0, 404);
        });
    }

    #[test]
    fn metrics_come_in_the_format_that_the_client_knows() {
        run(async {
            let address = start(metrics_router(pages())).await;
            let plain = get(address, "/metrics", "").await;
            assert!(
                plain.head.contains("content-type: text/plain; version=0.0.4"),
                "{}",
                plain.head
            );
            assert!(plain.body.contains("viaduct_source_errors 0\n"));
            let accept = "accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5\r\n";
            let open = get(address, "/metrics", accept).await;
            assert!(
                open.head.contains("content-type: application/openmetrics-text; version=1.0.0")
            );
            assert!(open.body.ends_with("# EOF\n"));
        });
    }

    #[test]
    fn an_address_in_use_is_an_error_only_if_asked_for() {
        run(async {
            let address = SocketAddr::new(LOCALHOST, free_port());
            let taken = TcpListener::bind(address).await.unwrap();
            let error = serve("metrics", address, true, Router::new()).await.unwrap_err();
            assert!(error.to_string().starts_with(&format!("metrics: cannot listen on {address}")));

            let patient = tokio::spawn(serve("metrics", address, false, Router::new()));
            let retry = Some(Duration::from_millis(5));
            let bound = tokio::spawn(bind_in_time("metrics", address, retry));
            tokio::task::yield_now().await;
            assert!(!patient.is_finished() && !bound.is_finished());
            drop(taken);
            assert_eq!(bound.await.unwrap().unwrap().local_addr().unwrap(), address);
            patient.abort();
        });
    }

    #[test]
    fn dropping_the_server_closes_its_port() {
        run(async {
            let address = SocketAddr::new(LOCALHOST, free_port());
            let server = tokio::spawn(serve("metrics", address, true, metrics_router(pages())));
            eventually("it listens", || answers(address)).await;
            assert_eq!(get(address, "/healthz", "").await.body, "ok");
            server.abort();
            assert!(server.await.unwrap_err().is_cancelled());
            assert!(!answers(address).await);
        });
    }
}
