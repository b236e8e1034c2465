//! Another program that writes nftables, and how long it has to wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use netlink::nftables::{
    DataType, Element, ElementChange, Key, NftSocket, Set, Table, TableFamily, Transaction,
};
use testnet::Namespace;

const TABLE: Table<'static> = Table { family: TableFamily::Inet, name: "somebody" };
const SET: &str = "addresses";
/// It writes, and then rests for so long.
const REST: Duration = Duration::from_millis(2);

/// A thread that adds and deletes one element of a table of its own, again and again.
pub(super) struct Writer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<netlink::Result<Vec<f64>>>,
}

impl Writer {
    pub(super) fn start(namespace: &Namespace) -> Writer {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        Writer { stop, thread: namespace.spawn(move || write(&seen)) }
    }

    /// How long each transaction took, in milliseconds.
    pub(super) fn finish(self) -> netlink::Result<Vec<f64>> {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.join() {
            Ok(waits) => waits,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

fn write(stop: &AtomicBool) -> netlink::Result<Vec<f64>> {
    let mut socket = NftSocket::open()?;
    let mut transaction = Transaction::default();
    transaction.add_table(TABLE);
    transaction.add_set(TABLE, &Set::new(SET, &[DataType::Ipv4Addr]));
    socket.commit(transaction)?;
    let element = Element::new(Key::new().ip([192, 0, 2, 1].into()));
    let mut waits = Vec::new();
    for number in 0.. {
        let change = if number % 2 == 0 { ElementChange::Add } else { ElementChange::Delete };
        let mut transaction = Transaction::default();
        transaction.change_element(change, TABLE, SET, element.borrow());
        let started = Instant::now();
        socket.commit(transaction)?;
        waits.push(started.elapsed().as_secs_f64() * 1e3);
        if stop.load(Ordering::Relaxed) {
            break;
        }
        std::thread::sleep(REST);
    }
    Ok(waits)
}
