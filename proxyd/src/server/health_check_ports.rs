//! `healthCheckNodePort`: tells load balancers whether this node has endpoints of a Service.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::health::Health;
use super::http::serve_on;
use super::listeners::{RETRY, keep_open};

/// What one health-check port answers for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceHealth {
    /// The Service's namespace.
    pub namespace: String,
    /// The Service's name.
    pub name: String,
    /// Distinct addresses of ready endpoints on this node; terminating ones never count.
    pub local_endpoints: usize,
}

#[derive(Default)]
struct Wanted {
    services: BTreeMap<u16, ServiceHealth>,
    /// None: all addresses.
    addresses: Option<Vec<IpAddr>>,
}

/// The health-check ports of all Services. Clones are handles to the same ports.
#[derive(Clone)]
pub struct HealthCheckPorts {
    wanted: Arc<watch::Sender<Wanted>>,
    health: Health,
}

impl HealthCheckPorts {
    /// No ports yet. `health` is what `serviceProxyHealthy` reports.
    pub fn new(health: Health) -> HealthCheckPorts {
        HealthCheckPorts { wanted: Arc::new(watch::Sender::new(Wanted::default())), health }
    }

    /// Replaces all ports. Answers change at once, sockets soon after. A port that stays is not
    /// reopened, even if it now belongs to another Service.
    pub fn update(&self, services: BTreeMap<u16, ServiceHealth>) {
        self.wanted.send_modify(|wanted| wanted.services = services);
    }

    /// Where to listen: on these addresses (`nodePortAddresses`), or on all of them.
    pub fn set_addresses(&self, addresses: Option<Vec<IpAddr>>) {
        self.wanted.send_modify(|wanted| wanted.addresses = addresses);
    }

    /// Serves until dropped. A port that cannot be bound is a warning, and is tried again at every
    /// update and every 5 s.
    pub async fn run(self) {
        let serve = |address: SocketAddr, socket: TcpListener| {
            let (ports, port) = (self.clone(), address.port());
            let answer = move || std::future::ready(ports.answer(port));
            serve_on(socket, Router::new().fallback(answer))
        };
        keep_open(self.wanted.subscribe(), RETRY, sockets, serve).await;
    }

    /// The response of a port, whatever the path.
    fn answer(&self, port: u16) -> Response {
        let Some(service) = self.wanted.borrow().services.get(&port).cloned() else {
            // Its socket is about to be closed.
            return StatusCode::SERVICE_UNAVAILABLE.into_response();
        };
        let healthy = self.health.is_healthy();
        let code = if healthy && service.local_endpoints > 0 {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        // KEP-3836: lets a load balancer weigh nodes.
        let weight = HeaderName::from_static("x-load-balancing-endpoint-weight");
        let headers = [
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
            (weight, service.local_endpoints.to_string()),
        ];
        (code, headers, Json(Body::new(&service, healthy))).into_response()
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    service: ServiceName<'a>,
    local_endpoints: usize,
    service_proxy_healthy: bool,
}

#[derive(Serialize)]
struct ServiceName<'a> {
    namespace: &'a str,
    name: &'a str,
}

impl<'a> Body<'a> {
    fn new(service: &'a ServiceHealth, service_proxy_healthy: bool) -> Body<'a> {
        let name = ServiceName { namespace: &service.namespace, name: &service.name };
        Body { service: name, local_endpoints: service.local_endpoints, service_proxy_healthy }
    }
}

fn sockets(wanted: &Wanted) -> BTreeMap<SocketAddr, String> {
    let everywhere = [IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
    let addresses = match wanted.addresses.as_deref() {
        // A wildcard covers the others, which could not be bound beside it.
        Some(list) if !list.iter().any(IpAddr::is_unspecified) => list,
        _ => &everywhere,
    };
    let of = |(&port, service): (&u16, &ServiceHealth)| {
        let what = format!("health check of service {}/{}", service.namespace, service.name);
        let at = move |&address: &IpAddr| (SocketAddr::new(address, port), what.clone());
        addresses.iter().map(at).collect::<Vec<_>>()
    };
    wanted.services.iter().flat_map(of).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use netlink::Family;
    use serde_json::{Value, json};
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpStream;
    use tokio::task::JoinHandle;
    use tokio::time::timeout;

    use super::*;
    use crate::server::testing::{
        FakeClock, LOCALHOST, PATIENCE, answers, eventually, free_port, get, run,
    };

    const PERIOD: Duration = Duration::from_secs(30);

    fn service(name: &str, local_endpoints: usize) -> ServiceHealth {
        ServiceHealth { namespace: "shop".to_owned(), name: name.to_owned(), local_endpoints }
    }

    fn start(health: Health) -> (HealthCheckPorts, JoinHandle<()>) {
        let ports = HealthCheckPorts::new(health);
        ports.set_addresses(Some(vec![LOCALHOST]));
        (ports.clone(), tokio::spawn(ports.run()))
    }

    fn healthy() -> Health {
        Health::new(&[Family::V4], PERIOD)
    }

    #[test]
    fn answers_tell_of_endpoints_and_of_the_proxy() {
        run(async {
            let clock = FakeClock::new();
            let health = Health::with_clock(&[Family::V4], PERIOD, clock.clock());
            let (ports, _task) = start(health.clone());
            let port = free_port();
            let address = (LOCALHOST, port).into();
            ports.update(BTreeMap::from([(port, service("cart", 2))]));
            eventually("the port is open", || answers(address)).await;
            let response = get(address, "/any/path?at=all", "").await;
            assert_eq!(response.status, 200);
            let headers = [
                "content-type: application/json\r\n",
                "x-content-type-options: nosniff\r\n",
                "x-load-balancing-endpoint-weight: 2\r\n",
            ];
            for header in headers {
                assert!(response.head.contains(header), "{header} in {}", response.head);
            }
            let body = |response: &str| serde_json::from_str::<Value>(response).unwrap();
            let expected = |endpoints: usize, healthy: bool| {
                json!({
                    "service": {"namespace": "shop", "name": "cart"},
                    "localEndpoints": endpoints,
                    "serviceProxyHealthy": healthy,
                })
            };
            assert_eq!(body(&response.body), expected(2, true));

            ports.update(BTreeMap::from([(port, service("cart", 0))]));
            let response = get(address, "/", "").await;
            assert_eq!((response.status, body(&response.body)), (503, expected(0, true)));

            ports.update(BTreeMap::from([(port, service("cart", 1))]));
            health.set_node_eligible(false);
            assert_eq!(get(address, "/", "").await.status, 200, "the node does not matter here");
            health.queued(Family::V4);
            clock.advance(PERIOD * 2);
            let response = get(address, "/", "").await;
            assert_eq!((response.status, body(&response.body)), (503, expected(1, false)));
        });
    }

    #[test]
    fn a_service_that_goes_takes_its_connections_along() {
        run(async {
            let (ports, _task) = start(healthy());
            let (goes, stays) = (free_port(), free_port());
            let both = [(goes, service("cart", 1)), (stays, service("till", 1))];
            ports.update(BTreeMap::from(both));
            eventually("both ports are open", || async {
                answers((LOCALHOST, goes).into()).await && answers((LOCALHOST, stays).into()).await
            })
            .await;
            let mut idle_goes = TcpStream::connect((LOCALHOST, goes)).await.unwrap();
            let mut idle_stays = TcpStream::connect((LOCALHOST, stays)).await.unwrap();
            // The server has accepted both once it has served a later connection to each.
            get((LOCALHOST, goes).into(), "/", "").await;
            get((LOCALHOST, stays).into(), "/", "").await;
            ports.update(BTreeMap::from([(stays, service("till", 1))]));
            let end = timeout(PATIENCE, idle_goes.read_u8()).await.expect("the connection leaks");
            assert!(end.is_err());
            assert!(!answers((LOCALHOST, goes).into()).await);
            let quiet = timeout(Duration::from_millis(50), idle_stays.read_u8()).await;
            assert!(quiet.is_err(), "a connection to a port that stays was closed");
        });
    }

    #[test]
    fn a_port_that_changes_hands_answers_for_its_new_service() {
        run(async {
            let (ports, _task) = start(healthy());
            let (old, new) = (free_port(), free_port());
            ports.update(BTreeMap::from([(old, service("cart", 1))]));
            eventually("the port is open", || answers((LOCALHOST, old).into())).await;
            let swapped = [(old, service("till", 3)), (new, service("cart", 1))];
            ports.update(BTreeMap::from(swapped));
            assert!(get((LOCALHOST, old).into(), "/", "").await.body.contains("till"));
            eventually("the new port is open", || answers((LOCALHOST, new).into())).await;
            assert!(get((LOCALHOST, new).into(), "/", "").await.body.contains("cart"));
        });
    }

    #[test]
    fn a_port_in_use_is_tried_again_at_the_next_update() {
        run(async {
            let (ports, _task) = start(healthy());
            let (blocked, free) = (free_port(), free_port());
            let taken = TcpListener::bind((LOCALHOST, blocked)).await.unwrap();
            let services =
                BTreeMap::from([(blocked, service("cart", 1)), (free, service("till", 1))]);
            ports.update(services.clone());
            eventually("the other port is open", || answers((LOCALHOST, free).into())).await;
            drop(taken);
            assert!(!answers((LOCALHOST, blocked).into()).await);
            ports.update(services);
            let open = eventually("the port is open", || answers((LOCALHOST, blocked).into()));
            timeout(RETRY - Duration::from_secs(1), open).await.expect("only the timer opened it");
        });
    }

    #[test]
    fn addresses_default_to_all_and_can_be_changed() {
        let mut wanted = Wanted {
            services: BTreeMap::from([(30_000, service("cart", 1))]),
            addresses: Some(vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()]),
        };
        let addresses = |wanted: &Wanted| -> Vec<String> {
            sockets(wanted).keys().map(ToString::to_string).collect()
        };
        assert_eq!(addresses(&wanted), ["192.0.2.1:30000", "[2001:db8::1]:30000"]);
        assert!(sockets(&wanted).values().all(|what| what.ends_with("service shop/cart")));
        wanted.addresses = Some(vec!["192.0.2.1".parse().unwrap(), "0.0.0.0".parse().unwrap()]);
        assert_eq!(addresses(&wanted), ["[::]:30000"]);
        wanted.addresses = None;
        assert_eq!(addresses(&wanted), ["[::]:30000"]);
    }
}
