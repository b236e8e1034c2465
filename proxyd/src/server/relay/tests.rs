//! The relay over real sockets.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;

use super::*;
use crate::server::testing::{LOCALHOST, PATIENCE, answers, eventually, free_port, run};

/// An endpoint that reads all of a request, then answers with its name and the request.
async fn endpoint(name: &'static str, address: IpAddr) -> SocketAddr {
    let socket = TcpListener::bind((address, 0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = socket.accept().await.unwrap();
            tokio::spawn(async move {
                let mut request = name.to_owned();
                stream.read_to_string(&mut request).await.unwrap();
                stream.write_all(request.as_bytes()).await.unwrap();
            });
        }
    });
    address
}

/// Sends a request, ends this direction, and reads the answer.
async fn ask(address: SocketAddr, request: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    finish(&mut stream, request).await
}

async fn finish(stream: &mut TcpStream, request: &str) -> io::Result<String> {
    stream.write_all(request.as_bytes()).await?;
    stream.shutdown().await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

fn v4(endpoints: &[SocketAddr]) -> RelayTarget {
    RelayTarget { v4: endpoints.to_vec(), ..RelayTarget::default() }
}

fn start() -> (NodePortRelay, JoinHandle<()>) {
    let relay = NodePortRelay::new();
    (relay.clone(), tokio::spawn(relay.run()))
}

#[test]
fn bytes_and_ends_pass_in_both_directions() {
    run(async {
        let (relay, _task) = start();
        let (port, target) = (free_port(), endpoint("a:", LOCALHOST).await);
        relay.update(BTreeMap::from([(port, v4(&[target]))]));
        let address = SocketAddr::new(LOCALHOST, port);
        eventually("the NodePort answers", || answers(address)).await;
        assert_eq!(ask(address, "hello").await.unwrap(), "a:hello");
        let long = "x".repeat(1_000_000);
        assert_eq!(ask(address, &long).await.unwrap().len(), long.len() + 2);
    });
}

#[test]
fn each_family_has_its_endpoints_and_its_listener() {
    run(async {
        if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await.is_err() {
            println!("skipped: no IPv6 here");
            return;
        }
        let (relay, _task) = start();
        let port = free_port();
        let six = endpoint("six:", Ipv6Addr::LOCALHOST.into()).await;
        let (on_v4, on_v6) =
            (SocketAddr::new(LOCALHOST, port), SocketAddr::new(Ipv6Addr::LOCALHOST.into(), port));
        let only_v6 = RelayTarget { v6: vec![six], ..RelayTarget::default() };
        relay.update(BTreeMap::from([(port, only_v6)]));
        eventually("[::1] answers", || answers(on_v6)).await;
        assert_eq!(ask(on_v6, "hi").await.unwrap(), "six:hi");
        assert!(!answers(on_v4).await, "there is no IPv4 endpoint");
    });
}

#[test]
fn a_nodeport_without_endpoints_is_refused_and_its_connections_live_on() {
    run(async {
        let (relay, _task) = start();
        let (port, target) = (free_port(), endpoint("a:", LOCALHOST).await);
        let address = SocketAddr::new(LOCALHOST, port);
        relay.update(BTreeMap::from([(port, v4(&[target]))]));
        eventually("the NodePort answers", || answers(address)).await;
        let mut established = TcpStream::connect(address).await.unwrap();
        // Accepted, as connections are accepted in order.
        ask(address, "").await.unwrap();
        relay.update(BTreeMap::from([(port, v4(&[]))]));
        eventually("the NodePort is closed", || async { !answers(address).await }).await;
        let error = TcpStream::connect(address).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(finish(&mut established, "still here").await.unwrap(), "a:still here");
    });
}

#[test]
fn another_endpoint_is_tried_when_one_refuses() {
    run(async {
        let (relay, _task) = start();
        let alive = endpoint("a:", LOCALHOST).await;
        let dead = |_| SocketAddr::new(LOCALHOST, free_port());
        let port = free_port();
        let address = SocketAddr::new(LOCALHOST, port);
        relay.update(BTreeMap::from([(port, v4(&[dead(0), dead(1), alive]))]));
        eventually("the NodePort answers", || answers(address)).await;
        // All three are tried at most, so one that lives is always found. It is first each time
        // with a chance of 3^-30.
        for _ in 0..30 {
            assert_eq!(ask(address, "x").await.unwrap(), "a:x");
        }
    });
}

#[test]
fn a_client_is_reset_when_no_endpoint_answers() {
    run(async {
        let (relay, _task) = start();
        let port = free_port();
        let address = SocketAddr::new(LOCALHOST, port);
        let dead = SocketAddr::new(LOCALHOST, free_port());
        relay.update(BTreeMap::from([(port, v4(&[dead]))]));
        eventually("the NodePort answers", || answers(address)).await;
        let mut client = TcpStream::connect(address).await.unwrap();
        let error = timeout(PATIENCE, client.read_u8()).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    });
}

#[test]
fn affinity_keeps_connections_together() {
    run(async {
        let (relay, _task) = start();
        let endpoints = [endpoint("a:", LOCALHOST).await, endpoint("b:", LOCALHOST).await];
        let port = free_port();
        let address = SocketAddr::new(LOCALHOST, port);
        let affinity = Some(Duration::from_secs(3600));
        relay.update(BTreeMap::from([(port, RelayTarget { affinity, ..v4(&endpoints) })]));
        eventually("the NodePort answers", || answers(address)).await;
        let first = ask(address, "").await.unwrap();
        for _ in 0..30 {
            assert_eq!(ask(address, "").await.unwrap(), first);
        }
        let other = if first == "a:" { ("b:", endpoints[1]) } else { ("a:", endpoints[0]) };
        relay.update(BTreeMap::from([(port, RelayTarget { affinity, ..v4(&[other.1]) })]));
        assert_eq!(ask(address, "").await.unwrap(), other.0, "its endpoint has gone");
    });
}

#[test]
fn connections_beyond_the_limit_wait() {
    run(async {
        let target = endpoint("a:", LOCALHOST).await;
        let socket = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
        let address = socket.local_addr().unwrap();
        let ports = watch::Sender::new(Ports::from([(address.port(), v4(&[target]))]));
        tokio::spawn(relay(socket, address, ports.subscribe(), 1));
        let mut first = TcpStream::connect(address).await.unwrap();
        let second = tokio::spawn(ask(address, "second"));
        let mut third = TcpStream::connect(address).await.unwrap();
        let early = timeout(Duration::from_millis(100), finish(&mut third, "third")).await;
        assert!(early.is_err(), "more than one connection at a time");
        assert!(!second.is_finished());
        assert_eq!(finish(&mut first, "first").await.unwrap(), "a:first");
        drop(first);
        assert_eq!(second.await.unwrap().unwrap(), "a:second");
    });
}
