//! Servers and probes: one thread each, no process.
//!
//! A server answers each message with one line: its own name, and the peer it saw.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::namespace::Namespace;

/// How often a server looks whether it is to end.
const TICK: Duration = Duration::from_millis(50);

/// What a server said of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The name of the server's namespace.
    pub server: String,
    /// The address from which the server saw the message come.
    pub peer: IpAddr,
    /// The message, sent back.
    pub echo: String,
}

impl Answer {
    fn parse(line: &str) -> io::Result<Answer> {
        let mut words = line.trim_end().splitn(3, ' ');
        let malformed = || io::Error::new(io::ErrorKind::InvalidData, format!("answer {line:?}"));
        let mut next = || words.next().ok_or_else(malformed);
        let (server, peer, echo) = (next()?, next()?, next()?);
        let peer = peer.parse().map_err(|_| malformed())?;
        Ok(Answer { server: server.to_owned(), peer, echo: echo.to_owned() })
    }
}

/// Serve TCP.
pub struct Tcp;
/// Serve UDP.
pub struct Udp;

/// A transport that a [`Server`] can speak.
pub trait Transport: Send + 'static {
    /// Serves a bound socket until `stop`; counts what was answered.
    fn serve(socket: Socket, name: String, stop: Arc<AtomicBool>, count: Arc<AtomicUsize>);
    /// The socket's type and protocol.
    fn kind() -> (Type, Protocol);
}

/// A server on one port; it ends when dropped.
pub struct Server {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    /// Serves on a port of a namespace, both families with a socket each, so that peers are seen as
    /// they are.
    ///
    /// # Panics
    ///
    /// If the port is in use.
    pub fn start<T: Transport>(namespace: &Namespace, _transport: T, port: u16) -> Server {
        let stop = Arc::new(AtomicBool::new(false));
        let count = Arc::new(AtomicUsize::new(0));
        let mut threads = Vec::new();
        for any in ["0.0.0.0", "::"] {
            let address = SocketAddr::new(any.parse().expect("an address"), port);
            let socket = namespace.run(move || bind::<T>(address));
            let socket = socket.unwrap_or_else(|e| panic!("serve {address}: {e}"));
            let (name, stop, count) =
                (namespace.name().to_owned(), Arc::clone(&stop), Arc::clone(&count));
            threads.push(namespace.spawn(move || T::serve(socket, name, stop, count)));
        }
        Server { stop, count, threads }
    }

    /// Messages answered so far.
    pub fn answered(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn bind<T: Transport>(address: SocketAddr) -> io::Result<Socket> {
    let (kind, protocol) = T::kind();
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.set_read_timeout(Some(TICK))?;
    if kind == Type::STREAM {
        socket.listen(1024)?;
        socket.set_nonblocking(true)?;
    }
    Ok(socket)
}

impl Transport for Tcp {
    fn kind() -> (Type, Protocol) {
        (Type::STREAM, Protocol::TCP)
    }

    fn serve(socket: Socket, name: String, stop: Arc<AtomicBool>, count: Arc<AtomicUsize>) {
        let listener = TcpListener::from(socket);
        let mut connections = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            match listener.accept() {
                Ok((stream, peer)) => {
                    let (name, stop, count) = (name.clone(), Arc::clone(&stop), Arc::clone(&count));
                    connections.push(std::thread::spawn(move || {
                        let _ = converse(stream, peer, &name, &stop, &count);
                    }));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(1)),
            }
        }
        for connection in connections {
            let _ = connection.join();
        }
    }
}

fn converse(
    stream: TcpStream,
    peer: SocketAddr,
    name: &str,
    stop: &AtomicBool,
    count: &AtomicUsize,
) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(TICK))?;
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    while !stop.load(Ordering::Relaxed) {
        match reader.read_line(&mut line) {
            Ok(0) => return Ok(()),
            Ok(_) => {
                count.fetch_add(1, Ordering::Relaxed);
                writeln!(writer, "{name} {} {}", peer.ip(), line.trim_end())?;
                line.clear();
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl Transport for Udp {
    fn kind() -> (Type, Protocol) {
        (Type::DGRAM, Protocol::UDP)
    }

    fn serve(socket: Socket, name: String, stop: Arc<AtomicBool>, count: Arc<AtomicUsize>) {
        let socket = UdpSocket::from(socket);
        let mut buffer = [0; 65536];
        while !stop.load(Ordering::Relaxed) {
            let Ok((length, peer)) = socket.recv_from(&mut buffer) else { continue };
            count.fetch_add(1, Ordering::Relaxed);
            let message = String::from_utf8_lossy(&buffer[..length]);
            let answer = format!("{name} {} {message}", peer.ip());
            let _ = socket.send_to(answer.as_bytes(), peer);
        }
    }
}

/// A TCP connection that stays open.
pub struct Connection {
    writer: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Connection {
    pub(crate) fn open(to: SocketAddr, timeout: Duration) -> io::Result<Connection> {
        let writer = TcpStream::connect_timeout(&to, timeout)?;
        writer.set_nodelay(true)?;
        writer.set_read_timeout(Some(timeout))?;
        writer.set_write_timeout(Some(timeout))?;
        Ok(Connection { reader: BufReader::new(writer.try_clone()?), writer })
    }

    /// Sends a line and returns the answer.
    pub fn ask(&mut self, message: &str) -> io::Result<Answer> {
        writeln!(self.writer, "{message}")?;
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Answer::parse(&line)
    }
}

/// A UDP socket that talks to one server.
pub struct UdpFlow {
    socket: UdpSocket,
}

impl UdpFlow {
    pub(crate) fn open(to: SocketAddr, source_port: u16, timeout: Duration) -> io::Result<UdpFlow> {
        let any = if to.is_ipv4() { "0.0.0.0" } else { "::" };
        let socket = UdpSocket::bind((any, source_port))?;
        socket.connect(to)?;
        socket.set_read_timeout(Some(timeout))?;
        Ok(UdpFlow { socket })
    }

    /// Sends a datagram and returns the answer.
    pub fn ask(&mut self, message: &str) -> io::Result<Answer> {
        self.socket.send(message.as_bytes())?;
        let mut buffer = [0; 65536];
        let length = self.socket.recv(&mut buffer)?;
        Answer::parse(&String::from_utf8_lossy(&buffer[..length]))
    }

    /// Sends a datagram and expects no answer.
    pub fn send(&mut self, message: &str) -> io::Result<()> {
        self.socket.send(message.as_bytes()).map(drop)
    }
}

/// Bits per second that one TCP connection carries from `sender` to `receiver`, measured at the
/// receiver over `duration`.
///
/// # Panics
///
/// If there is no connection.
pub fn throughput(
    sender: &Namespace,
    receiver: &Namespace,
    to: SocketAddr,
    duration: Duration,
) -> f64 {
    let listener = receiver.run(move || TcpListener::bind(to)).expect("a port to receive on");
    // Counted from before the first byte: what waits in a socket while this thread does is not fast.
    let start = Instant::now();
    let sending = sender.spawn(move || {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(2))?;
        stream.set_write_timeout(Some(duration))?;
        let block = [0; 16 * 1024];
        let end = Instant::now() + duration;
        while Instant::now() < end {
            stream.write_all(&block)?;
        }
        io::Result::Ok(())
    });
    let (mut stream, _) = listener.accept().expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(2))).expect("a timeout");
    let (mut bytes, mut block) = (0usize, [0; 64 * 1024]);
    while start.elapsed() < duration {
        match stream.read(&mut block) {
            Ok(length) if length > 0 => bytes += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            ended => {
                panic!("the stream ended after {:?}, {bytes} bytes: {ended:?}", start.elapsed())
            }
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    drop(stream);
    let _ = sending.join();
    bytes as f64 * 8.0 / seconds
}
