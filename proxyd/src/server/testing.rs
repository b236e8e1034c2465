//! What several test modules here need.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener as StdListener};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, UNIX_EPOCH};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::clock::{Clock, Moment};

pub(super) const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// More than anything here takes on a busy machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// A clock that stands still until told otherwise. Its wall clock begins in 1970.
pub(super) struct FakeClock {
    now: Arc<Mutex<Moment>>,
}

impl FakeClock {
    pub(super) fn new() -> FakeClock {
        let now = Moment { monotonic: Instant::now(), wall: UNIX_EPOCH };
        FakeClock { now: Arc::new(Mutex::new(now)) }
    }

    pub(super) fn advance(&self, by: Duration) {
        let mut now = self.now.lock().unwrap();
        now.monotonic += by;
        now.wall += by;
    }

    pub(super) fn clock(&self) -> Clock {
        let now = Arc::clone(&self.now);
        Arc::new(move || *now.lock().unwrap())
    }
}

/// Runs a test on a runtime like the daemon's; ends it if it takes too long.
pub(super) fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let limit = tokio::time::timeout(PATIENCE * 3, test);
        limit.await.expect("the test did not end in time");
    });
}

/// Waits until a condition holds that nothing announces.
pub(super) async fn eventually<F: Future<Output = bool>>(what: &str, condition: impl Fn() -> F) {
    let deadline = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A port for one test alone. It is below those that the kernel hands out, lest another test's
/// socket takes it before it is bound.
pub(super) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % 1000).unwrap() * 20;
    let port = || 10_000 + start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000;
    let mut ports = std::iter::repeat_with(port).take(20_000);
    ports.find(|&port| StdListener::bind((LOCALHOST, port)).is_ok()).unwrap()
}

/// Whether somebody listens.
pub(super) async fn answers(address: SocketAddr) -> bool {
    TcpStream::connect(address).await.is_ok()
}

/// A response, with its header names in lower case.
pub(super) struct Response {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: String,
}

/// One GET on a connection of its own.
pub(super) async fn get(address: SocketAddr, target: &str, headers: &str) -> Response {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {target} HTTP/1.1\r\nhost: t\r\nconnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Response { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
}
