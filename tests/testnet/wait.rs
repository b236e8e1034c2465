//! Bounded waiting, and skipping with a reason.

use std::io::Write;
use std::time::{Duration, Instant};

/// Calls `probe` until it gives something, at most for `within`.
///
/// # Panics
///
/// When the time is over, with what was awaited.
pub fn eventually<T>(what: &str, within: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + within;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {within:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Says that a test is skipped, and why.
pub fn skip(reason: &str) {
    let thread = std::thread::current();
    // Written past the test runner, which keeps to itself what passing tests print.
    let _ = writeln!(std::io::stderr(), "SKIPPED {}: {reason}", thread.name().unwrap_or("a test"));
}
