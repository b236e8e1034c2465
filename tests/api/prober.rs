//! [`Prober`]: new connections to a service, one after the other, for as long as something goes on.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use testnet::{Host, Pod};

/// However long the test takes, probes end.
const LONGEST: Duration = Duration::from_secs(300);
const PAUSE: Duration = Duration::from_millis(5);
/// However short the test is, there are so many.
const ENOUGH: usize = 21;

/// What came of the probes.
#[derive(Debug, Default)]
pub(crate) struct Probes {
    pub(crate) answered: usize,
    /// When, and why not.
    pub(crate) failed: Vec<String>,
}

pub(crate) struct Prober {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Probes>>,
}

impl Prober {
    /// Begins in a pod.
    pub(crate) fn start(from: &Pod<'_>, to: SocketAddr) -> Prober {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = from.namespace().spawn(move || probe(to, &told));
        Prober { stop, thread: Some(thread) }
    }

    /// Ends, and tells.
    pub(crate) fn end(mut self) -> Probes {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().expect("a thread").join().expect("probes")
    }

    /// Ends; all probes must have been answered.
    #[track_caller]
    pub(crate) fn assert_undisturbed(self) {
        let probes = self.end();
        assert!(probes.failed.is_empty(), "{probes:?}");
        assert!(probes.answered >= ENOUGH, "too few to tell: {probes:?}");
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn probe(to: SocketAddr, stop: &AtomicBool) -> Probes {
    let began = Instant::now();
    let mut probes = Probes::default();
    let enough = |probes: &Probes| probes.answered + probes.failed.len() >= ENOUGH;
    while (!stop.load(Ordering::Relaxed) || !enough(&probes)) && began.elapsed() < LONGEST {
        match testnet::traffic::ask_once(to, Duration::from_secs(3)) {
            Ok(_) => probes.answered += 1,
            Err(error) => probes.failed.push(format!("after {:?}: {error}", began.elapsed())),
        }
        std::thread::sleep(PAUSE);
    }
    probes
}
