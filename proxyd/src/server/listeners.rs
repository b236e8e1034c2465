//! A set of listening sockets that follows what is wanted.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::set_ipv6_v6only;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// How long until a socket that could not be bound is tried again.
pub(super) const RETRY: Duration = Duration::from_secs(5);
const BACKLOG: u32 = 1024;

/// A listening socket. Either wildcard address means all addresses of both families, as it does for
/// kube-proxy (Go's `net.Listen`), or of IPv4 where the kernel lacks IPv6.
pub(super) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    if !address.ip().is_unspecified() {
        return listen(address, true);
    }
    match listen((Ipv6Addr::UNSPECIFIED, address.port()).into(), false) {
        Err(error) if lacks_ipv6(&error) => {
            listen((Ipv4Addr::UNSPECIFIED, address.port()).into(), true)
        }
        other => other,
    }
}

fn lacks_ipv6(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL))
}

fn listen(address: SocketAddr, one_family: bool) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A restarted daemon must not wait for its predecessor's closed connections.
    socket.set_reuseaddr(true)?;
    if address.is_ipv6() {
        set_ipv6_v6only(&socket, one_family)?;
    }
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Sockets by address, each with the task that serves it.
#[derive(Default)]
struct Listeners {
    open: BTreeMap<SocketAddr, JoinSet<()>>,
    /// Why an address could not be bound: warned about once, then only if the reason changes.
    failed: BTreeMap<SocketAddr, String>,
}

impl Listeners {
    /// Returns once the sockets are closed, so that their addresses can be bound again.
    async fn close_all_but(&mut self, wanted: &BTreeMap<SocketAddr, String>) {
        let unwanted: Vec<_> =
            self.open.keys().filter(|address| !wanted.contains_key(address)).copied().collect();
        for address in unwanted {
            if let Some(mut task) = self.open.remove(&address) {
                task.shutdown().await;
                tracing::debug!("closed {address}");
            }
        }
        self.failed.retain(|address, _| wanted.contains_key(address));
    }

    fn open<F>(&mut self, address: SocketAddr, what: &str, serve: impl FnOnce(TcpListener) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        match bind(address) {
            Ok(socket) => {
                tracing::debug!("{what}: listening on {address}");
                self.failed.remove(&address);
                self.open.entry(address).or_default().spawn(serve(socket));
            }
            Err(error) => {
                let reason = error.to_string();
                if self.failed.get(&address) != Some(&reason) {
                    tracing::warn!("{what}: cannot listen on {address}, trying again: {error}");
                    self.failed.insert(address, reason);
                }
            }
        }
    }
}

/// Keeps a socket open, and `serve` running on it, at each address of `addresses(wanted)`, whose
/// values say in the log what a socket is for. Those that stay wanted are left alone. What cannot
/// be bound is tried again at every change and every `retry`. Ends with the sender of `wanted`.
pub(super) async fn keep_open<T, F>(
    mut wanted: watch::Receiver<T>,
    retry: Duration,
    addresses: impl Fn(&T) -> BTreeMap<SocketAddr, String>,
    serve: impl Fn(SocketAddr, TcpListener) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let mut listeners = Listeners::default();
    loop {
        let addresses = addresses(&wanted.borrow_and_update());
        listeners.close_all_but(&addresses).await;
        for (address, what) in addresses {
            if !listeners.open.contains_key(&address) {
                listeners.open(address, &what, |socket| serve(address, socket));
            }
        }
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            () = sleep(retry), if !listeners.failed.is_empty() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;
    use crate::server::testing::{LOCALHOST, answers, eventually, free_port, run};

    #[test]
    fn a_wildcard_answers_on_both_families() {
        run(async {
            for wildcard in ["0.0.0.0:0", "[::]:0"] {
                let port = bind(wildcard.parse().unwrap()).unwrap();
                let number = port.local_addr().unwrap().port();
                assert!(answers((Ipv4Addr::LOCALHOST, number).into()).await, "{wildcard}");
                if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await.is_ok() {
                    assert!(answers((Ipv6Addr::LOCALHOST, number).into()).await, "{wildcard}");
                }
            }
        });
    }

    #[test]
    fn a_port_that_is_taken_is_opened_once_it_is_free() {
        run(async {
            let address = SocketAddr::new(LOCALHOST, free_port());
            let taken = TcpListener::bind(address).await.unwrap();
            let wanted = watch::Sender::new(BTreeMap::from([(address, "test".to_owned())]));
            let hold = |_, socket: TcpListener| async move {
                pending::<()>().await;
                drop(socket);
            };
            let retry = Duration::from_millis(20);
            let task = keep_open(wanted.subscribe(), retry, BTreeMap::clone, hold);
            let task = tokio::spawn(task);
            // On this one thread, the task makes its first attempt now.
            tokio::task::yield_now().await;
            drop(taken);
            eventually("the port is taken over", || answers(address)).await;
            drop(wanted);
            task.await.unwrap();
            assert!(!answers(address).await, "closed with the sender");
        });
    }

    #[test]
    fn a_socket_that_stays_wanted_is_not_reopened() {
        run(async {
            let (stays, goes, comes) = (free_port(), free_port(), free_port());
            let ports = |ports: &[u16]| -> BTreeMap<SocketAddr, String> {
                let address = |&port: &u16| (SocketAddr::new(LOCALHOST, port), "test".to_owned());
                ports.iter().map(address).collect()
            };
            let wanted = watch::Sender::new(ports(&[stays, goes]));
            let (started, mut starts) = tokio::sync::mpsc::unbounded_channel();
            let serve = move |address: SocketAddr, socket: TcpListener| {
                started.send(address.port()).unwrap();
                async move {
                    pending::<()>().await;
                    drop(socket);
                }
            };
            let task = keep_open(wanted.subscribe(), RETRY, BTreeMap::clone, serve);
            let _task = tokio::spawn(task);
            let mut first = [starts.recv().await.unwrap(), starts.recv().await.unwrap()];
            first.sort_unstable();
            let mut expected = [stays, goes];
            expected.sort_unstable();
            assert_eq!(first, expected);
            wanted.send_replace(ports(&[stays, comes]));
            assert_eq!(starts.recv().await.unwrap(), comes);
            assert!(starts.try_recv().is_err(), "a socket was opened again");
            assert!(answers((LOCALHOST, stays).into()).await);
            assert!(!answers((LOCALHOST, goes).into()).await);
        });
    }
}
