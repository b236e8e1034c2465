//! [`Error`]: what the kernel refused, what was tried, and the kernel's own words.

use std::fmt;

use rustix::io::Errno;

/// A kernel operation that failed.
///
/// Displays as `create link "viaduct0": No such device (os error 19): kernel says "…"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// What was tried, with the object's name.
    pub operation: String,
    /// The kernel's error number.
    pub errno: Errno,
    /// The extended-acknowledgement text (`NLMSGERR_ATTR_MSG`), or which message of a transaction.
    pub detail: Option<String>,
}

/// The result of a kernel operation.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error from a system call, during `operation`.
    pub fn new(operation: impl Into<String>, errno: Errno) -> Error {
        Error { operation: operation.into(), errno, detail: None }
    }

    /// An answer from the kernel that cannot be what it says it is.
    pub(crate) fn malformed(operation: impl Into<String>) -> Error {
        Error {
            operation: operation.into(),
            errno: Errno::BADMSG,
            detail: Some("the kernel's answer is malformed".to_owned()),
        }
    }

    /// The same error with the operation as the caller knows it.
    pub(crate) fn during(mut self, operation: impl Into<String>) -> Error {
        self.operation = operation.into();
        self
    }

    /// Whether the object was already there.
    pub fn already_exists(&self) -> bool {
        self.errno == Errno::EXIST
    }

    /// Whether the object was not there.
    pub fn not_found(&self) -> bool {
        matches!(self.errno, Errno::NOENT | Errno::NODEV | Errno::SRCH | Errno::ADDRNOTAVAIL)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let errno = std::io::Error::from(self.errno);
        write!(f, "{}: {errno}", self.operation)?;
        match &self.detail {
            Some(detail) => write!(f, ": {detail}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

/// Makes an absent object a normal answer: `Ok(None)`.
pub(crate) fn found<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.not_found() => Ok(None),
        Err(error) => Err(error),
    }
}
