//! Bounded waiting, and skipping with a reason.

use std::fmt::Debug;
use std::io::Write;
use std::time::{Duration, Instant};

/// How often [`eventually`] looks.
const PAUSE: Duration = Duration::from_millis(10);

/// The outcome of one look at what is awaited: a [`Result`], an [`Option`], or a `bool`.
pub trait Look {
    /// What a success gives.
    type Found;
    /// The success, or why not yet.
    fn found(self) -> Result<Self::Found, String>;
}

impl<T, E: Debug> Look for Result<T, E> {
    type Found = T;
    fn found(self) -> Result<T, String> {
        self.map_err(|error| format!("{error:?}"))
    }
}

impl<T> Look for Option<T> {
    type Found = T;
    fn found(self) -> Result<T, String> {
        self.ok_or_else(|| "nothing".to_owned())
    }
}

impl Look for bool {
    type Found = ();
    fn found(self) -> Result<(), String> {
        self.then_some(()).ok_or_else(|| "false".to_owned())
    }
}

/// Looks until there is something, at most for `within` and at least twice.
///
/// # Panics
///
/// When the time is over, with what was awaited and what the last look gave.
#[track_caller]
pub fn eventually<L: Look>(what: &str, within: Duration, mut look: impl FnMut() -> L) -> L::Found {
    let deadline = Instant::now() + within;
    loop {
        let last = Instant::now() >= deadline;
        match look().found() {
            Ok(found) => return found,
            Err(why) if last => panic!("waited {within:?} in vain for: {what}; at last: {why}"),
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

/// Says that a test is skipped, and why.
pub fn skip(reason: &str) {
    let thread = std::thread::current();
    // Written past the test runner, which keeps to itself what passing tests print.
    let _ = writeln!(std::io::stderr(), "SKIPPED {}: {reason}", thread.name().unwrap_or("a test"));
}

/// Whether this process may make namespaces; if not, says that the test is skipped. Tests that do not
/// ask fail without root.
pub fn require_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skip("it needs root");
    }
    root
}
