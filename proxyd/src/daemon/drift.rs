//! Notices what others do to our tables.

use std::collections::BTreeMap;
use std::sync::mpsc::Sender;

use netlink::Errno;
use netlink::nftables::{NftMonitor, TableFamily};

use super::Event;

/// How the kernel layer calls that.
const TABLE_DELETED: &str = "table deleted";

/// Listens on a thread of its own; changes made through the socket `own_port` are ours. `false` if that
/// is not possible.
pub(super) fn listen(events: Sender<Event>, own_port: u32) -> bool {
    let monitor = match NftMonitor::open() {
        Ok(monitor) => monitor,
        Err(error) => {
            tracing::warn!("{error}: changes that others make are found only every sync period");
            return false;
        }
    };
    let listen = move || watch(monitor, &events, own_port);
    let started = std::thread::Builder::new().name("drift".into()).spawn(listen);
    if let Err(error) = &started {
        tracing::warn!("cannot listen for changes of nftables: {error}");
    }
    started.is_ok()
}

fn watch(mut monitor: NftMonitor, events: &Sender<Event>, own_port: u32) {
    loop {
        // What happened how often, in one datagram.
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        let waited = monitor.wait(|event| {
            let ours = event.table == "viaduct"
                && (event.is_of(TableFamily::Ip) || event.is_of(TableFamily::Ip6));
            if ours && event.port != own_port {
                let family = if event.is_of(TableFamily::Ip) { "IPv4" } else { "IPv6" };
                *seen.entry(format!("{} ({family})", event.what)).or_default() += 1;
            }
        });
        let what: Vec<String> = match waited {
            Ok(()) if seen.is_empty() => continue,
            Ok(()) => {
                // A table takes everything with it.
                if seen.keys().any(|what| what.starts_with(TABLE_DELETED)) {
                    seen.retain(|what, _| what.starts_with(TABLE_DELETED));
                }
                seen.into_iter().map(|(what, times)| format!("{what}, {times} times")).collect()
            }
            Err(error) if error.errno == Errno::NOBUFS => {
                vec!["more changes at once than could be read".to_owned()]
            }
            Err(error) => {
                tracing::warn!(
                    "{error}: changes that others make are found only every sync period"
                );
                let _ = events.send(Event::Deaf);
                return;
            }
        };
        if events.send(Event::Drift(what)).is_err() {
            return;
        }
    }
}
