//! STATUS: whether an ADD could be served now.

use crate::addresses::AddressSource;
use crate::environment::Environment;
use crate::error::{CniError, Result, code};
use crate::teardown::Teardown;

pub(super) fn status(environment: &Environment, config: &Teardown) -> Result<()> {
    let network = config.network.as_deref().unwrap_or_default();
    let source = AddressSource::for_teardown(network, config, environment);
    source.status().map_err(|error| match error.code {
        // A delegate's answer has its own code.
        code::UNAVAILABLE | code::LIMITED => error,
        _ => CniError { code: code::UNAVAILABLE, ..error },
    })?;
    match &config.daemon {
        Some(daemon) => daemon.status(),
        None => Ok(()),
    }
}
