//! The API server's client: HTTP/1.1 over TLS, one request at a time.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// Longer than any answer takes.
const LIMIT: Duration = Duration::from_secs(30);

/// Who to ask, and as whom.
#[derive(Clone)]
pub(super) struct Api {
    address: SocketAddr,
    tls: Arc<ClientConfig>,
    token: &'static str,
}

impl Api {
    /// The server at this address, whose certificate, or whose authority's, is in the file.
    pub(super) fn new(
        address: SocketAddr,
        certificates: &Path,
        token: &'static str,
    ) -> Result<Api> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(certificates)? {
            roots.add(certificate?)?;
        }
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        Ok(Api { address, tls: Arc::new(config), token })
    }

    /// Connects from the calling thread's network namespace.
    pub(super) fn connect(&self) -> Result<Connection> {
        let stream = TcpStream::connect(self.address).context("connect to the API server")?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LIMIT))?;
        let name = ServerName::IpAddress(self.address.ip().into());
        let tls = ClientConnection::new(Arc::clone(&self.tls), name)?;
        let stream = BufReader::new(StreamOwned::new(tls, stream));
        Ok(Connection { stream, token: self.token })
    }
}

/// A connection that is used again and again.
pub(super) struct Connection {
    stream: BufReader<StreamOwned<ClientConnection, TcpStream>>,
    token: &'static str,
}

impl Connection {
    /// Sends a request, and returns the answer's body; an error if the server does not agree.
    pub(super) fn request(&mut self, method: &str, path: &str, body: &str) -> Result<String> {
        let failed = || format!("{method} {path}");
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: kubernetes\r\nAuthorization: Bearer {}\r\nAccept: application/json\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.token,
            body.len()
        );
        let stream = self.stream.get_mut();
        stream.write_all(request.as_bytes()).and_then(|()| stream.flush()).with_context(failed)?;
        let (status, body) = self.answer().with_context(failed)?;
        ensure!((200..300).contains(&status), "{method} {path}: {status}: {body}");
        Ok(body)
    }

    fn answer(&mut self) -> Result<(u16, String)> {
        let first = self.line()?;
        let status = first.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.with_context(|| format!("not HTTP: {first:?}"))?;
        let (mut length, mut chunked) = (0, false);
        loop {
            let line = self.line()?.to_ascii_lowercase();
            match line.split_once(':') {
                Some(("content-length", value)) => length = value.trim().parse()?,
                Some(("transfer-encoding", value)) => chunked = value.trim() == "chunked",
                Some(_) => {}
                None if line.is_empty() => break,
                None => bail!("not a header: {line:?}"),
            }
        }
        let mut body = Vec::new();
        while chunked {
            let size = usize::from_str_radix(&self.line()?, 16)?;
            self.read(size, &mut body)?;
            self.line()?;
            chunked = size > 0;
        }
        self.read(length, &mut body)?;
        Ok((status, String::from_utf8(body)?))
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        ensure!(self.stream.read_line(&mut line)? > 0, "the server closed the connection");
        Ok(line.trim_end().to_owned())
    }

    fn read(&mut self, count: usize, to: &mut Vec<u8>) -> Result<()> {
        let before = to.len();
        to.resize(before + count, 0);
        self.stream.read_exact(to.get_mut(before..).unwrap_or_default())?;
        Ok(())
    }
}
