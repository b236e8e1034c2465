//! Notices what others do to our tables.

use std::collections::BTreeMap;

use netlink::Errno;
use netlink::nftables::{NftEvent, NftMonitor, TableFamily};

/// How the kernel layer calls that.
const TABLE_DELETED: &str = "table deleted";

/// What is listened to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Watched {
    /// Tables `ip viaduct` and `ip6 viaduct`.
    Services,
    /// Tables `inet viaduct-policy` and `bridge viaduct-policy`.
    Policies,
}

impl Watched {
    /// What a table is called in the log, if it is one of these.
    fn title(self, event: &NftEvent) -> Option<&'static str> {
        match self {
            Watched::Services if event.table == "viaduct" && event.is_of(TableFamily::Ip) => {
                Some(" (IPv4)")
            }
            Watched::Services if event.table == "viaduct" && event.is_of(TableFamily::Ip6) => {
                Some(" (IPv6)")
            }
            Watched::Policies
                if event.table == "viaduct-policy" && event.is_of(TableFamily::Inet) =>
            {
                Some("")
            }
            Watched::Policies
                if event.table == "viaduct-policy" && event.is_of(TableFamily::Bridge) =>
            {
                Some(" (bridges)")
            }
            _ => None,
        }
    }

    /// When changes are found that nobody tells.
    fn otherwise(self) -> &'static str {
        match self {
            Watched::Services => "only every sync period",
            Watched::Policies => "when somebody can listen again, or the daemon starts",
        }
    }
}

/// What was heard.
#[derive(Debug)]
pub enum Told {
    /// Somebody else changed something, in these ways.
    Changes(Vec<String>),
    /// Nothing will be heard any more.
    Deaf,
}

/// Listens on a thread of its own; changes made through the socket `own_port` are ours. Ends when `tell` says
/// that nobody listens. `false` if it is not possible.
pub(super) fn listen(
    watched: Watched,
    own_port: u32,
    tell: impl Fn(Told) -> bool + Send + 'static,
) -> bool {
    let monitor = match NftMonitor::open() {
        Ok(monitor) => monitor,
        Err(error) => {
            tracing::warn!("{error}: changes that others make are found {}", watched.otherwise());
            return false;
        }
    };
    let listen = move || watch(monitor, watched, own_port, &tell);
    let started = std::thread::Builder::new().name("drift".into()).spawn(listen);
    if let Err(error) = &started {
        tracing::warn!("cannot listen for changes of nftables: {error}");
    }
    started.is_ok()
}

fn watch(mut monitor: NftMonitor, watched: Watched, own_port: u32, tell: &impl Fn(Told) -> bool) {
    loop {
        // What happened how often, in one datagram.
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        let waited = monitor.wait(|event| {
            if let Some(title) = watched.title(&event)
                && event.port != own_port
            {
                *seen.entry(format!("{}{title}", event.what)).or_default() += 1;
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
                let otherwise = watched.otherwise();
                tracing::warn!("{error}: changes that others make are found {otherwise}");
                tell(Told::Deaf);
                return;
            }
        };
        if !tell(Told::Changes(what)) {
            return;
        }
    }
}
