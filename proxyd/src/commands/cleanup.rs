//! `proxyd cleanup`.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the command's output")]

use anyhow::{Result, bail};

use crate::dataplane::leftovers;

/// Removes what any mode of ours or of kube-proxy made.
pub(super) fn cleanup() -> Result<()> {
    let removal = leftovers::remove_all(&[]);
    for removed in &removal.removed {
        println!("removed {removed}");
    }
    let left = removal.left();
    for why in &left {
        eprintln!("Error: {why}");
    }
    match left.len() {
        0 => Ok(()),
        failed => bail!("{failed} kinds of objects could not be removed"),
    }
}
