//! Probes, long-lived connections and throughput, all without starting a process.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::namespace::Namespace;
use crate::server::bind;
pub use crate::server::{Listen, Server, Tcp, Udp};

/// What a [`Server`] said of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The name of the server's namespace.
    pub server: String,
    /// The address from which the server saw the message come.
    pub peer: IpAddr,
    /// The port from which the server saw the message come.
    pub peer_port: u16,
    /// The message, sent back.
    pub echo: String,
}

impl Answer {
    fn parse(line: &str) -> io::Result<Answer> {
        let mut words = line.trim_end_matches('\n').splitn(3, ' ');
        let malformed = || io::Error::new(io::ErrorKind::InvalidData, format!("answer {line:?}"));
        let mut next = || words.next().ok_or_else(malformed);
        let (server, peer, echo) = (next()?, next()?, next()?);
        let peer: SocketAddr = peer.parse().map_err(|_| malformed())?;
        Ok(Answer {
            server: server.to_owned(),
            peer: peer.ip(),
            peer_port: peer.port(),
            echo: echo.to_owned(),
        })
    }
}

/// Where a probe goes: an address with a port, as a pair, or as text (`10.0.0.1:80`, `[fd00::1]:80`).
pub trait Destination {
    /// The address.
    ///
    /// # Panics
    ///
    /// If a text is none.
    fn address(self) -> SocketAddr;
}

impl Destination for SocketAddr {
    fn address(self) -> SocketAddr {
        self
    }
}

impl Destination for (IpAddr, u16) {
    fn address(self) -> SocketAddr {
        self.into()
    }
}

impl Destination for &str {
    fn address(self) -> SocketAddr {
        self.parse().unwrap_or_else(|error| panic!("destination {self:?}: {error}"))
    }
}

fn any_address(like: SocketAddr, port: u16) -> SocketAddr {
    match like {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, port).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, port).into(),
    }
}

/// A timeout of a socket, under the name that a timeout of a connection attempt has.
fn timed_out(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::WouldBlock { io::ErrorKind::TimedOut.into() } else { error }
}

/// A TCP connection that stays open.
pub struct Connection {
    writer: TcpStream,
    reader: BufReader<TcpStream>,
    line: String,
    timeout: Duration,
}

impl Connection {
    pub(crate) fn open(
        to: SocketAddr,
        source_port: u16,
        timeout: Duration,
    ) -> io::Result<Connection> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
        if source_port != 0 {
            socket.set_reuse_address(true)?;
            socket.bind(&any_address(to, source_port).into())?;
        }
        socket.connect_timeout(&to.into(), timeout)?;
        let writer = TcpStream::from(socket);
        writer.set_nodelay(true)?;
        writer.set_write_timeout(Some(timeout))?;
        let reader = BufReader::new(writer.try_clone()?);
        Ok(Connection { writer, reader, line: String::new(), timeout })
    }

    /// Its own address and port, before any translation.
    pub fn local(&self) -> io::Result<SocketAddr> {
        self.writer.local_addr()
    }

    /// Sends a line and returns the answer to it; late answers to lines before it are passed over.
    ///
    /// # Errors
    ///
    /// `TimedOut` without an answer in time; `UnexpectedEof` or `ConnectionReset` if the server is gone.
    pub fn ask(&mut self, message: &str) -> io::Result<Answer> {
        let deadline = Instant::now() + self.timeout;
        self.writer.write_all(format!("{message}\n").as_bytes()).map_err(timed_out)?;
        loop {
            self.writer.set_read_timeout(Some(until(deadline)?))?;
            // What came of a line before a timeout stays in it.
            if self.reader.read_line(&mut self.line).map_err(timed_out)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let answer = Answer::parse(&std::mem::take(&mut self.line))?;
            if answer.echo == message {
                return Ok(answer);
            }
        }
    }
}

/// Connects from the calling thread's namespace, sends a line, and returns what the server said of it.
pub fn ask_once(to: SocketAddr, timeout: Duration) -> io::Result<Answer> {
    Connection::open(to, 0, timeout)?.ask("probe")
}

fn until(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// A UDP socket that talks to one server.
pub struct UdpFlow {
    socket: UdpSocket,
    timeout: Duration,
}

impl UdpFlow {
    pub(crate) fn open(to: SocketAddr, source_port: u16, timeout: Duration) -> io::Result<UdpFlow> {
        let socket = UdpSocket::bind(any_address(to, source_port))?;
        socket.connect(to)?;
        Ok(UdpFlow { socket, timeout })
    }

    /// Its own address and port, before any translation.
    pub fn local(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Sends a datagram and returns the answer to it; late answers to others are passed over.
    ///
    /// # Errors
    ///
    /// `TimedOut` without an answer in time; `ConnectionRefused` if nobody serves there.
    pub fn ask(&mut self, message: &str) -> io::Result<Answer> {
        let deadline = Instant::now() + self.timeout;
        self.socket.send(message.as_bytes())?;
        let mut buffer = vec![0; 1 << 16];
        loop {
            self.socket.set_read_timeout(Some(until(deadline)?))?;
            let length = match self.socket.recv(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read.map_err(timed_out)?,
            };
            let answer = Answer::parse(&String::from_utf8_lossy(&buffer[..length]))?;
            if answer.echo == message {
                return Ok(answer);
            }
        }
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
/// If there is no connection within two seconds.
pub fn throughput(
    sender: &Namespace,
    receiver: &Namespace,
    to: SocketAddr,
    duration: Duration,
) -> f64 {
    let listener = receiver.run(move || bind::<Tcp>(to, false)).expect("a port to receive on");
    let listener = TcpListener::from(listener);
    // Counted from before the first byte: what waits in a socket while this thread does is not fast.
    let start = Instant::now();
    let connecting = sender.run(move || TcpStream::connect_timeout(&to, Duration::from_secs(2)));
    // The kernel completes it in the listener's queue, so that accepting cannot wait for ever.
    let mut outgoing = connecting.unwrap_or_else(|error| panic!("connect to {to}: {error}"));
    let sending = std::thread::spawn(move || {
        outgoing.set_write_timeout(Some(duration))?;
        let block = [0; 16 * 1024];
        // Much longer than is measured: the receiver ends the stream.
        let end = Instant::now() + 3 * duration;
        while Instant::now() < end {
            outgoing.write_all(&block)?;
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
