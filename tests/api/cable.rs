//! [`Cable`]: a TCP relay in front of the API server that can be cut, stalled and slowed.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::server::{self, ADDRESS, Server};

/// How often a waiting thread looks whether something changed.
const TICK: Duration = Duration::from_millis(20);
/// A slow cable passes so many bytes at once, and then rests for a tick.
const SLOW_BYTES: usize = 64;

#[derive(Default)]
struct State {
    ended: AtomicBool,
    /// Whether bytes wait.
    stalled: AtomicBool,
    slow: AtomicBool,
    accepted: AtomicU64,
    /// Bytes from the server that were passed on.
    bytes: AtomicUsize,
    open: Mutex<Vec<TcpStream>>,
}

/// It ends when dropped, and its connections with it.
pub(crate) struct Cable {
    port: u16,
    state: Arc<State>,
    listener: Option<JoinHandle<()>>,
}

impl Cable {
    /// A cable at a port of the server's own.
    pub(crate) fn of(server: &Server) -> Cable {
        let state = Arc::new(State::default());
        let (listener, port) = server.namespace().run(|| {
            let listener = TcpListener::bind((ADDRESS, 0)).expect("a port for a cable");
            let port = listener.local_addr().expect("a port").port();
            listener.set_nonblocking(true).expect("a listener that does not block");
            (listener, port)
        });
        let shared = Arc::clone(&state);
        let listener = server.namespace().spawn(move || accept(&listener, &shared));
        Cable { port, state, listener: Some(listener) }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Ends all connections; new ones are served.
    pub(crate) fn cut(&self) {
        let mut open = self.state.open.lock().unwrap_or_else(PoisonError::into_inner);
        for stream in open.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Nothing passes any more, on no connection, and nobody is told; what was sent meanwhile arrives later.
    pub(crate) fn stall(&self, stalled: bool) {
        self.state.stalled.store(stalled, Ordering::Relaxed);
    }

    /// Whether answers come a few bytes at a time.
    pub(crate) fn slow(&self, slow: bool) {
        self.state.slow.store(slow, Ordering::Relaxed);
    }

    /// Connections so far.
    pub(crate) fn accepted(&self) -> u64 {
        self.state.accepted.load(Ordering::Relaxed)
    }

    /// Bytes of answers so far.
    pub(crate) fn bytes(&self) -> usize {
        self.state.bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::Relaxed);
        self.cut();
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
    }
}

fn accept(listener: &TcpListener, state: &Arc<State>) {
    while !state.ended.load(Ordering::Relaxed) {
        let Ok((client, _)) = listener.accept() else {
            std::thread::sleep(Duration::from_millis(2));
            continue;
        };
        state.accepted.fetch_add(1, Ordering::Relaxed);
        // The server may be away.
        let Ok(upstream) = TcpStream::connect(SocketAddr::from((ADDRESS, server::PORT))) else {
            continue;
        };
        for (from, to, answers) in [(&client, &upstream, false), (&upstream, &client, true)] {
            let (Ok(from), Ok(to)) = (from.try_clone(), to.try_clone()) else { continue };
            let _ = from.set_nonblocking(false);
            let _ = from.set_read_timeout(Some(TICK));
            let state = Arc::clone(state);
            std::thread::spawn(move || relay(from, to, answers, &state));
        }
        let mut open = state.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.extend([client, upstream]);
    }
}

/// Passes bytes on in one direction, until either end is gone.
fn relay(mut from: TcpStream, mut to: TcpStream, answers: bool, state: &State) {
    let mut buffer = vec![0; 1 << 16];
    while !state.ended.load(Ordering::Relaxed) {
        if state.stalled.load(Ordering::Relaxed) {
            std::thread::sleep(TICK);
            continue;
        }
        let slow = answers && state.slow.load(Ordering::Relaxed);
        let most = if slow { SLOW_BYTES } else { buffer.len() };
        let length = match from.read(&mut buffer[..most]) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                continue;
            }
            Err(_) => break,
        };
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
        if answers {
            state.bytes.fetch_add(length, Ordering::Relaxed);
        }
        if slow {
            std::thread::sleep(TICK / 10);
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
