//! HTTP connections that cannot pile up: bounded in number, cut when idle, ended with the listener.
//!
//! `axum::serve` alone waits for a silent client for ever, and for the rest of a request even beyond
//! its listener's end. These ports are open to the network, so each connection brings its own limits
//! along.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, Sleep, sleep};

/// What one listener allows its clients.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Connections at one time; more wait in the backlog.
    pub(super) connections: usize,
    /// Without a byte in either direction.
    pub(super) idle: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        // Longer than the minute after which Prometheus usually comes again.
        Limits { connections: 256, idle: Duration::from_secs(90) }
    }
}

/// A listener for `axum::serve` whose connections end when it is dropped.
pub(super) struct BoundedListener {
    socket: TcpListener,
    slots: Arc<Semaphore>,
    idle: Duration,
    /// Never sends: its receivers see it go.
    alive: watch::Sender<()>,
}

impl BoundedListener {
    pub(super) fn new(socket: TcpListener, limits: Limits) -> BoundedListener {
        let slots = Arc::new(Semaphore::new(limits.connections));
        BoundedListener { socket, slots, idle: limits.idle, alive: watch::Sender::new(()) }
    }

    fn bounded(&self, stream: TcpStream, slot: OwnedSemaphorePermit) -> BoundedStream {
        let mut alive = self.alive.subscribe();
        let listener_gone = Box::pin(async move { while alive.changed().await.is_ok() {} });
        BoundedStream {
            stream,
            listener_gone,
            limit: self.idle,
            idle: Box::pin(sleep(self.idle)),
            over: false,
            _slot: slot,
        }
    }
}

impl axum::serve::Listener for BoundedListener {
    type Io = BoundedStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (BoundedStream, SocketAddr) {
        let slot = Arc::clone(&self.slots).acquire_owned().await;
        let slot = slot.expect("this semaphore is never closed");
        let (stream, peer) = accept(&self.socket).await;
        (self.bounded(stream, slot), peer)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}

/// The next connection, through errors that pass: a client that gave up, or no free descriptor.
pub(super) async fn accept(socket: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match socket.accept().await {
            Ok((stream, peer)) => {
                // Only delays small answers, so its failure is of no interest.
                let _ = stream.set_nodelay(true);
                return (stream, peer);
            }
            Err(error) if gave_up(&error) => {}
            Err(error) => {
                tracing::warn!("cannot accept a connection, trying again in 1 s: {error}");
                sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

fn gave_up(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// A connection of a [`BoundedListener`].
pub(super) struct BoundedStream {
    stream: TcpStream,
    listener_gone: Pin<Box<dyn Future<Output = ()> + Send>>,
    limit: Duration,
    idle: Pin<Box<Sleep>>,
    over: bool,
    _slot: OwnedSemaphorePermit,
}

impl BoundedStream {
    /// Whether the connection must end; if not, the task is woken when it must.
    fn is_over(&mut self, context: &mut Context<'_>) -> bool {
        self.over = self.over
            || self.listener_gone.as_mut().poll(context).is_ready()
            || self.idle.as_mut().poll(context).is_ready();
        self.over
    }

    fn progress(&mut self) {
        self.idle.as_mut().reset(Instant::now() + self.limit);
    }
}

impl AsyncRead for BoundedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_over(context) {
            // An end of file: the HTTP server closes without a complaint.
            return Poll::Ready(Ok(()));
        }
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        self.progress();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for BoundedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.is_over(context) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let written = ready!(Pin::new(&mut self.stream).poll_write(context, data))?;
        self.progress();
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::task::JoinHandle;
    use tokio::time::timeout;

    use super::*;
    use crate::server::testing::{LOCALHOST, PATIENCE, run};

    async fn serve(limits: Limits) -> (SocketAddr, JoinHandle<()>) {
        let socket = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
        let address = socket.local_addr().unwrap();
        let router = Router::new().fallback(|| async { "hello" });
        let listener = BoundedListener::new(socket, limits);
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        (address, task)
    }

    /// One request on a connection that stays open.
    async fn ask(stream: &mut TcpStream) -> String {
        stream.write_all(b"GET / HTTP/1.1\r\nhost: t\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        while !answer.ends_with("hello") {
            let mut buffer = [0; 512];
            let length = stream.read(&mut buffer).await.unwrap();
            assert_ne!(length, 0, "closed after {answer:?}");
            answer.push_str(&String::from_utf8_lossy(&buffer[..length]));
        }
        answer
    }

    async fn assert_closed(stream: &mut TcpStream, why: &str) {
        let read = timeout(PATIENCE, stream.read_u8()).await;
        assert!(read.unwrap_or_else(|_| panic!("still open: {why}")).is_err(), "{why}");
    }

    #[test]
    fn connections_end_with_their_listener() {
        run(async {
            let (address, task) = serve(Limits::default()).await;
            let mut silent = TcpStream::connect(address).await.unwrap();
            let mut kept_alive = TcpStream::connect(address).await.unwrap();
            ask(&mut kept_alive).await;
            let mut half = TcpStream::connect(address).await.unwrap();
            half.write_all(b"GET / HT").await.unwrap();
            // Connections are accepted in order, and each has read what it was sent before.
            ask(&mut kept_alive).await;
            ask(&mut TcpStream::connect(address).await.unwrap()).await;
            task.abort();
            assert_closed(&mut silent, "it never asked").await;
            assert_closed(&mut half, "it was in the middle of a request").await;
            assert_closed(&mut kept_alive, "it waits for the next request").await;
        });
    }

    #[test]
    fn an_idle_connection_is_closed() {
        run(async {
            let idle = Duration::from_millis(50);
            let (address, _task) = serve(Limits { idle, ..Limits::default() }).await;
            let mut silent = TcpStream::connect(address).await.unwrap();
            assert_closed(&mut silent, "it never asked").await;
            let mut slow = TcpStream::connect(address).await.unwrap();
            slow.write_all(b"GET / HT").await.unwrap();
            assert_closed(&mut slow, "it never finished its request").await;
        });
    }

    #[test]
    fn connections_beyond_the_limit_wait_for_a_free_place() {
        run(async {
            let (address, _task) = serve(Limits { connections: 1, ..Limits::default() }).await;
            let mut first = TcpStream::connect(address).await.unwrap();
            ask(&mut first).await;
            let mut second = TcpStream::connect(address).await.unwrap();
            let refused = timeout(Duration::from_millis(100), ask(&mut second)).await;
            assert!(refused.is_err(), "two connections were served at once");
            drop(first);
            let mut buffer = [0; 512];
            let length = timeout(PATIENCE, second.read(&mut buffer)).await.unwrap().unwrap();
            assert!(buffer[..length].ends_with(b"hello"));
        });
    }
}
