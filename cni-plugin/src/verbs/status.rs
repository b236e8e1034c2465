//! STATUS: whether an ADD could be served now.

use super::Request;
use crate::addresses::AddressSource;
use crate::error::{CniError, Result, code};

pub(super) fn status(request: &Request) -> Result<()> {
    AddressSource::new(&request.config, &request.environment).status().map_err(|error| {
        match error.code {
            // A delegate's own answer has its own code.
            code::UNAVAILABLE | 51 => error,
            _ => CniError { code: code::UNAVAILABLE, ..error },
        }
    })?;
    match &request.config.daemon {
        Some(daemon) => daemon.status(),
        None => Ok(()),
    }
}
