//! [`Server`]: answers each message with one line, its own name and the peer it saw.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::namespace::Namespace;

/// How often a server looks whether it is to end.
const TICK: Duration = Duration::from_millis(50);

/// How long a closed socket may linger in a program that is being started.
const COPIES_LAST: Duration = Duration::from_millis(300);

/// Where a [`Server`] listens: a port of every address, or of one.
#[derive(Clone, Copy, Debug)]
pub struct Listen {
    address: Option<IpAddr>,
    port: u16,
}

impl From<u16> for Listen {
    fn from(port: u16) -> Listen {
        Listen { address: None, port }
    }
}

impl From<SocketAddr> for Listen {
    fn from(at: SocketAddr) -> Listen {
        Listen { address: Some(at.ip()), port: at.port() }
    }
}

impl From<(IpAddr, u16)> for Listen {
    fn from((address, port): (IpAddr, u16)) -> Listen {
        Listen { address: Some(address), port }
    }
}

impl From<&str> for Listen {
    /// `ADDRESS:PORT`.
    fn from(at: &str) -> Listen {
        let at: SocketAddr = at.parse().unwrap_or_else(|error| panic!("serve {at:?}: {error}"));
        at.into()
    }
}

/// Serve TCP.
pub struct Tcp;
/// Serve UDP.
pub struct Udp;

/// What the threads of a [`Server`] share.
#[derive(Clone, Default)]
pub struct State {
    name: String,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
}

impl State {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn answer(&self, peer: SocketAddr, message: &str) -> String {
        self.answered.fetch_add(1, Ordering::Relaxed);
        format!("{} {peer} {message}", self.name)
    }
}

/// A transport that a [`Server`] can speak.
pub trait Transport: Send + 'static {
    /// The socket's type and protocol.
    const KIND: (Type, Protocol);
    /// The addresses, besides the wildcard, that need a socket of their own.
    fn own_sockets(namespace: &Namespace) -> Vec<IpAddr>;
    /// Serves a bound socket until it is to stop.
    fn serve(socket: Socket, state: State);
}

/// A server; it ends when dropped.
pub struct Server {
    state: State,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    /// Serves in a namespace, with a socket for each family, so that peers are seen as they are.
    ///
    /// # Panics
    ///
    /// If the port is in use, or the address is not the namespace's.
    #[track_caller]
    pub fn start<T: Transport>(namespace: &Namespace, _: T, listen: Listen) -> Server {
        let state = State { name: namespace.name().to_owned(), ..State::default() };
        let mut server = Server { state, threads: Vec::new() };
        let wildcards = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        let addresses = listen.address.map_or(wildcards.to_vec(), |address| vec![address]);
        for address in addresses {
            let at = SocketAddr::new(address, listen.port);
            let socket = namespace.run(move || bind::<T>(at, false));
            let socket = socket.unwrap_or_else(|error| panic!("serve {at}: {error}"));
            server.serve::<T>(namespace, socket);
        }
        if listen.address.is_none() {
            for address in T::own_sockets(namespace) {
                let at = SocketAddr::new(address, listen.port);
                // An address that cannot be bound now is served by the wildcard's socket.
                if let Ok(socket) = namespace.run(move || bind::<T>(at, true)) {
                    server.serve::<T>(namespace, socket);
                }
            }
        }
        server
    }

    fn serve<T: Transport>(&mut self, namespace: &Namespace, socket: Socket) {
        let state = self.state.clone();
        self.threads.push(namespace.spawn(move || T::serve(socket, state)));
    }

    /// Messages answered so far.
    pub fn answered(&self) -> usize {
        self.state.answered.load(Ordering::Relaxed)
    }

    /// TCP connections accepted so far.
    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// A socket to serve with. `beside` lets it have a datagram port of which the wildcard is taken.
pub(crate) fn bind<T: Transport>(address: SocketAddr, beside: bool) -> io::Result<Socket> {
    let (kind, protocol) = T::KIND;
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    socket.set_reuse_address(beside || kind == Type::STREAM)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // A program that is just being started anywhere in this process holds copies of its sockets, also
    // of one that was closed here, until it is executed.
    let deadline = Instant::now() + COPIES_LAST;
    loop {
        let bound = socket.bind(&address.into()).and_then(|()| match kind {
            Type::STREAM => socket.listen(1024),
            _ => Ok(()),
        });
        match bound {
            Ok(()) => break,
            Err(error) if error.kind() != io::ErrorKind::AddrInUse => return Err(error),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
    // Only now, so that a port of another server was noticed, and ours can have more sockets.
    socket.set_reuse_address(true)?;
    // It bounds accept as well.
    socket.set_read_timeout(Some(TICK))?;
    Ok(socket)
}

impl Transport for Tcp {
    const KIND: (Type, Protocol) = (Type::STREAM, Protocol::TCP);

    fn own_sockets(_: &Namespace) -> Vec<IpAddr> {
        Vec::new()
    }

    fn serve(socket: Socket, state: State) {
        let listener = TcpListener::from(socket);
        let mut conversations = Vec::new();
        while !state.stopped() {
            let Ok((stream, peer)) = listener.accept() else { continue };
            state.connections.fetch_add(1, Ordering::Relaxed);
            let state = state.clone();
            conversations.push(std::thread::spawn(move || converse(stream, peer, &state)));
        }
        for conversation in conversations {
            let _ = conversation.join();
        }
    }
}

fn converse(stream: TcpStream, peer: SocketAddr, state: &State) -> io::Result<()> {
    stream.set_read_timeout(Some(TICK))?;
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    while !state.stopped() {
        match reader.read_line(&mut line) {
            Ok(0) => return Ok(()),
            Ok(_) => {
                writer.write_all((state.answer(peer, line.trim_end()) + "\n").as_bytes())?;
                line.clear();
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl Transport for Udp {
    const KIND: (Type, Protocol) = (Type::DGRAM, Protocol::UDP);

    /// All addresses: the wildcard's socket would answer from the address of the route back, which
    /// need not be the one that was asked.
    fn own_sockets(namespace: &Namespace) -> Vec<IpAddr> {
        let links = namespace.ip_json("address show");
        let links = links.as_array().into_iter().flatten();
        let addresses = links.flat_map(|link| link["addr_info"].as_array().into_iter().flatten());
        let global = addresses.filter(|address| address["scope"] != "link");
        global.filter_map(|address| address["local"].as_str()?.parse().ok()).collect()
    }

    fn serve(socket: Socket, state: State) {
        let socket = UdpSocket::from(socket);
        let mut buffer = vec![0; 1 << 16];
        while !state.stopped() {
            let Ok((length, peer)) = socket.recv_from(&mut buffer) else { continue };
            let message = String::from_utf8_lossy(&buffer[..length]).into_owned();
            let _ = socket.send_to(state.answer(peer, &message).as_bytes(), peer);
        }
    }
}
