//! [`CniError`]: what the runtime is told when a verb fails.

use serde_json::{Value, json};

/// Error codes of the CNI specification, and ours from 100 on. docs/cni.md lists them.
pub(crate) mod code {
    /// The configuration's version is not supported, or lacks the verb.
    pub(crate) const INCOMPATIBLE_VERSION: u32 = 1;
    /// An environment variable (`CNI_*`) is missing or wrong.
    pub(crate) const INVALID_ENVIRONMENT: u32 = 4;
    /// A file, a socket or the kernel refused.
    pub(crate) const IO: u32 = 5;
    /// The input is not what it says it is.
    pub(crate) const DECODE: u32 = 6;
    /// The network configuration is wrong.
    pub(crate) const INVALID_CONFIG: u32 = 7;
    /// The network namespace is the plugin's own, or none.
    pub(crate) const INVALID_NAMESPACE: u32 = 8;
    /// Something needed is not there now; try again later.
    pub(crate) const TRY_LATER: u32 = 11;
    /// STATUS: no ADD can be served now.
    pub(crate) const UNAVAILABLE: u32 = 50;
    /// STATUS: ADD can be served, but containers that run have limited connectivity.
    pub(crate) const LIMITED: u32 = 51;
    /// A name or an address is taken: the interface, the bridge, a host port.
    pub(crate) const CONFLICT: u32 = 113;
    /// Every address of a range set is reserved.
    pub(crate) const EXHAUSTED: u32 = 110;
    /// The attachment has an address already, or the requested one is not free.
    pub(crate) const ADDRESS_TAKEN: u32 = 111;
    /// CHECK: something that ADD made is missing or different.
    pub(crate) const CHECK_FAILED: u32 = 112;
    /// The kernel lacks a feature that the configuration asks for.
    pub(crate) const UNSUPPORTED_BY_KERNEL: u32 = 114;
}

/// A failed verb: code, one sentence, more words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CniError {
    /// One of [`code`].
    pub(crate) code: u32,
    /// One sentence that names the object.
    pub(crate) message: String,
    /// What else helps: supported versions, what to do.
    pub(crate) details: String,
}

/// The result of a step of a verb.
pub(crate) type Result<T> = std::result::Result<T, CniError>;

impl CniError {
    pub(crate) fn new(code: u32, message: impl Into<String>) -> CniError {
        CniError { code, message: message.into(), details: String::new() }
    }

    pub(crate) fn config(message: impl Into<String>) -> CniError {
        CniError::new(code::INVALID_CONFIG, message)
    }

    pub(crate) fn details(mut self, details: impl Into<String>) -> CniError {
        self.details = details.into();
        self
    }

    /// The error object of the specification, section 5.
    pub(crate) fn to_json(&self, cni_version: &str) -> Value {
        json!({
            "cniVersion": cni_version,
            "code": self.code,
            "msg": self.message,
            "details": self.details,
        })
    }
}

impl std::fmt::Display for CniError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)?;
        if self.details.is_empty() { Ok(()) } else { write!(f, " ({})", self.details) }
    }
}

impl From<netlink::Error> for CniError {
    fn from(error: netlink::Error) -> CniError {
        CniError::new(code::IO, error.to_string())
    }
}

impl From<attachment::Error> for CniError {
    fn from(error: attachment::Error) -> CniError {
        use attachment::Error;
        let (code, details) = match &error {
            Error::Kernel(_) | Error::Record { .. } => (code::IO, ""),
            Error::HostPortTaken { .. } => (
                code::CONFLICT,
                "the holder is network/containerID/interface; its DEL frees the port",
            ),
            Error::Contention(_) => (code::TRY_LATER, ""),
            Error::NotABridge { .. } => (code::CONFLICT, ""),
            Error::GatewayConflict { .. } => (code::CONFLICT, "\"forceAddress\": true replaces it"),
            Error::NoNetfilter { .. } | Error::NoVlanFiltering | Error::NoIpv6 { .. } => {
                (code::UNSUPPORTED_BY_KERNEL, "")
            }
        };
        CniError::new(code, error.to_string()).details(details)
    }
}

impl From<overlay::Error> for CniError {
    fn from(error: overlay::Error) -> CniError {
        let code = match error {
            overlay::Error::Kernel(_) => code::IO,
            overlay::Error::NotVxlan { .. }
            | overlay::Error::Rival { .. }
            | overlay::Error::PortInUse(_) => code::CONFLICT,
            _ => code::INVALID_CONFIG,
        };
        CniError::new(code, format!("overlay: {error}"))
    }
}

impl From<crate::ipam::Error> for CniError {
    fn from(error: crate::ipam::Error) -> CniError {
        CniError::new(error.code(), error.to_string())
    }
}

/// Collects the failures of steps that must all be tried, as teardown does.
#[derive(Default)]
pub(crate) struct Failures(Vec<CniError>);

impl Failures {
    /// Notes a failure; the value of a success is handed on.
    pub(crate) fn note<T, E: Into<CniError>>(
        &mut self,
        result: std::result::Result<T, E>,
    ) -> Option<T> {
        result.map_err(|error| self.0.push(error.into())).ok()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All failures as one error with the first one's code.
    pub(crate) fn into_result(self) -> Result<()> {
        let Some(first) = self.0.first() else { return Ok(()) };
        let messages: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        Err(CniError::new(first.code, messages.join("; ")))
    }
}
