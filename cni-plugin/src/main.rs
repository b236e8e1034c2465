//! `viaduct`, the CNI plugin: a pod's network in one small program.
//!
//! The verbs are in [`verbs`]; each reads as the list of its steps. Where things are:
//!
//! - input: [`environment`], [`config`] (through [`section`]), [`teardown`], output: [`result`], [`error`]
//! - what an attachment has on the node, and its names: the crate [`attachment`]
//! - addresses: [`addresses`], from [`ipam`] in process or a [`delegate`]
//! - the link: [`link`], [`vlan`], [`bandwidth`]
//! - host ports: [`hostport`]
//! - the daemon: [`daemon`]

#![forbid(unsafe_code)]

mod addresses;
mod bandwidth;
mod config;
mod daemon;
mod delegate;
mod environment;
mod error;
mod hostport;
mod ipam;
mod link;
mod result;
mod section;
mod teardown;
mod verbs;
mod vlan;

use std::io::{Read, Write};
use std::process::ExitCode;

use environment::Environment;
use error::{CniError, Result, code};
use serde_json::Value;

/// The largest configuration that is read.
const INPUT_MAX: u64 = 64 * 1024 * 1024;

fn main() -> ExitCode {
    let Some(environment) = Environment::parse(|name| std::env::var(name).ok()) else {
        eprintln!(
            "viaduct {}: a CNI plugin, to be started by a container runtime (CNI_COMMAND is not set)\nCNI versions: {}",
            env!("CARGO_PKG_VERSION"),
            result::Version::ALL.map(result::Version::as_str).join(", ")
        );
        return ExitCode::SUCCESS;
    };
    let mut version = result::Version::LATEST.as_str().to_owned();
    let outcome = environment.and_then(|environment| {
        verbs::run(environment, || {
            let input = read_input()?;
            version = config::version_of(&input).unwrap_or(version.clone());
            Ok(input)
        })
    });
    match outcome {
        Ok(output) => print(output.as_ref(), ExitCode::SUCCESS),
        Err(error) => print(Some(&error.to_json(&version)), ExitCode::FAILURE),
    }
}

fn read_input() -> Result<Vec<u8>> {
    let mut input = Vec::new();
    let read = std::io::stdin().lock().take(INPUT_MAX).read_to_end(&mut input);
    read.map_err(|error| CniError::new(code::IO, format!("standard input: {error}")))?;
    Ok(input)
}

/// Standard output carries JSON or nothing.
fn print(output: Option<&Value>, code: ExitCode) -> ExitCode {
    let Some(output) = output else { return code };
    match writeln!(std::io::stdout().lock(), "{output}") {
        Ok(()) => code,
        Err(error) => {
            eprintln!("viaduct: standard output: {error}");
            ExitCode::FAILURE
        }
    }
}
