//! When an endpoint's address came into the kernel: nf_tables tells its changes once they are committed.

use std::collections::{HashMap, HashSet};
use std::mem::MaybeUninit;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketType, bind, recv, socket, sockopt};
use testnet::Namespace;

/// `NFNLGRP_NFTABLES` (`include/uapi/linux/netfilter/nfnetlink.h`), as a bit.
const GROUP: u32 = 1 << (7 - 1);
const BUFFER: usize = 128 * 1024 * 1024;
/// How the addresses of `other_endpoint` begin; no others do.
const PREFIX: [u8; 2] = [10, 250];

/// The changed endpoints' addresses, by their last two bytes, with the time when each was first seen.
pub(super) struct Notifications {
    queue: Receiver<(u32, Instant)>,
    seen: HashMap<u32, Instant>,
}

impl Notifications {
    /// Listens in the namespace. Both proxies' messages hold the address as four bytes: ours an element of
    /// a map, kube-proxy's a rule that translates to it.
    pub(super) fn listen(namespace: &Namespace) -> Result<Notifications> {
        let (sender, queue) = channel();
        let listening = namespace.run(|| -> rustix::io::Result<_> {
            let socket = socket(AddressFamily::NETLINK, SocketType::RAW, Some(netlink::NETFILTER))?;
            sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER)?;
            sockopt::set_socket_timeout(
                &socket,
                sockopt::Timeout::Recv,
                Some(Duration::from_secs(1)),
            )?;
            bind(&socket, &SocketAddrNetlink::new(0, GROUP))?;
            Ok(socket)
        });
        let socket = listening.context("listen to nftables notifications")?;
        // Ends soon after nobody listens any more.
        std::thread::spawn(move || {
            let mut buffer = vec![MaybeUninit::uninit(); 1 << 20];
            let mut told = HashSet::new();
            loop {
                let now = match recv(&socket, buffer.as_mut_slice(), RecvFlags::empty()) {
                    Ok(((message, _), _)) => {
                        let now = Instant::now();
                        for number in numbers(message).filter(|number| told.insert(*number)) {
                            let _ = sender.send((number, now));
                        }
                        continue;
                    }
                    Err(error) => error,
                };
                let silent = matches!(now, Errno::AGAIN | Errno::INTR | Errno::NOBUFS);
                // Number 0 is no change; it finds out whether somebody listens.
                if !silent || sender.send((0, Instant::now())).is_err() {
                    return;
                }
            }
        });
        Ok(Notifications { queue, seen: HashMap::new() })
    }

    /// Waits until this address is in the kernel.
    pub(super) fn wait(&mut self, number: u32, until: Instant) -> Option<Instant> {
        loop {
            if let Some(at) = self.seen.get(&number) {
                return Some(*at);
            }
            let left = until.saturating_duration_since(Instant::now());
            let (number, at) = self.queue.recv_timeout(left).ok()?;
            self.seen.insert(number, at);
        }
    }
}

fn numbers(message: &[u8]) -> impl Iterator<Item = u32> + '_ {
    message.windows(4).filter_map(|bytes| match bytes {
        [a, b, high, low] if [*a, *b] == PREFIX => {
            Some(u32::from(u16::from_be_bytes([*high, *low])))
        }
        _ => None,
    })
}
