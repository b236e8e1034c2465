//! Kernel settings under `/proc/sys`, of the calling thread's network namespace where they have one.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::OnceLock;

use rustix::io::Errno;

use crate::error::{Error, Result};

static ROOT: OnceLock<PathBuf> = OnceLock::new();

/// Says where `/proc/sys` is, for all of this process: in a container its own may be read-only while the
/// host's is mounted elsewhere. Only the first call counts, and only before any setting is read.
pub fn set_root(path: PathBuf) {
    ROOT.get_or_init(|| path);
}

fn path(name: &str) -> String {
    let root = ROOT.get_or_init(|| "/proc/sys".into());
    root.join(name).display().to_string()
}

fn failed(operation: &str, name: &str, error: &io::Error) -> Error {
    Error::new(
        format!("{operation} {}", path(name)),
        Errno::from_io_error(error).unwrap_or(Errno::IO),
    )
}

/// The value of a setting, such as `net/ipv4/ip_forward`, without its line end.
///
/// Names are paths, since device names may contain dots. `ENOENT` if the kernel lacks the setting.
pub fn read(name: &str) -> Result<String> {
    fs::read_to_string(path(name))
        .map(|value| value.trim_end().to_owned())
        .map_err(|error| failed("read", name, &error))
}

/// Sets a value, if it is not already so; tells whether it wrote.
///
/// A read costs less than a write, may be allowed where writing is not (read-only `/proc/sys`), and
/// writing some settings has side effects even if nothing changes.
pub fn ensure(name: &str, value: &str) -> Result<bool> {
    if read(name)? == value {
        return Ok(false);
    }
    fs::write(path(name), value).map_err(|error| failed("write", name, &error))?;
    Ok(true)
}

/// Like [`ensure`], where the kernel may lack the setting (IPv6 switched off).
pub fn ensure_if_present(name: &str, value: &str) -> Result<bool> {
    match ensure(name, value) {
        Err(error) if error.errno == Errno::NOENT => Ok(false),
        other => other,
    }
}

/// Sets a value without which packets pass too. Returns the error if `/proc/sys` is read-only, as in a
/// container inside a container. Succeeds if the kernel lacks the setting.
pub fn harden(name: &str, value: &str) -> Result<Option<Error>> {
    match ensure_if_present(name, value) {
        Err(error) if matches!(error.errno, Errno::ROFS | Errno::ACCESS | Errno::PERM) => {
            Ok(Some(error))
        }
        other => other.map(|_| None),
    }
}
