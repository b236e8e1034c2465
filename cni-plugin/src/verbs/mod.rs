//! The verbs of the specification, a file each.

mod add;
mod chained;
mod check;
mod del;
mod gc;
mod network;
mod status;

use serde_json::Value;

use crate::config::Config;
use crate::environment::{Command, Environment};
use crate::error::{CniError, Result, code};
use crate::ipam::Attachment;
use crate::result::{Version, version_json};
use crate::teardown::Teardown;
use attachment::Owner;

/// An invocation: the environment and the configuration.
pub(crate) struct Request {
    pub(crate) environment: Environment,
    pub(crate) config: Config,
}

impl Request {
    pub(crate) fn owner(&self) -> Owner {
        owner(&self.config.name, &self.environment)
    }
}

fn owner(network: &str, environment: &Environment) -> Owner {
    let attachment = Attachment {
        container_id: environment.container_id.clone(),
        ifname: environment.ifname.clone(),
    };
    Owner { network: network.to_owned(), attachment }
}

/// Carries out a verb; what is returned is printed.
pub(crate) fn run(
    environment: Environment,
    input: impl FnOnce() -> Result<Vec<u8>>,
) -> Result<Option<Value>> {
    let command = environment.command;
    if command == Command::Version {
        return Ok(Some(version_json()));
    }
    let input = input()?;
    match command {
        Command::Add | Command::Check => {
            let config = Config::parse(input, &environment)?;
            require_version(command, config.version)?;
            let request = Request { environment, config };
            match command {
                Command::Add => add::add(&request).map(Some),
                _ => check::check(&request).map(|()| None),
            }
        }
        Command::Del => del::del(&environment, &Teardown::parse(input)?).map(|()| None),
        Command::Gc => {
            require_version(command, crate::config::version_in(&input)?)?;
            gc::gc(&environment, &Teardown::parse(input)?).map(|()| None)
        }
        Command::Status => {
            require_version(command, crate::config::version_in(&input)?)?;
            status::status(&environment, &Teardown::parse_for_status(input)?).map(|()| None)
        }
        Command::Version => Ok(Some(version_json())),
    }
}

/// CHECK came with 0.4.0, GC and STATUS with 1.1.0.
fn require_version(command: Command, version: Version) -> Result<()> {
    let since = match command {
        Command::Check => Version::V0_4_0,
        Command::Gc | Command::Status => Version::V1_1_0,
        _ => return Ok(()),
    };
    if version >= since {
        return Ok(());
    }
    let (name, since) = (format!("{command:?}").to_uppercase(), since.as_str());
    Err(CniError::new(
        code::INCOMPATIBLE_VERSION,
        format!("{name} needs cniVersion {since}, the configuration has {:?}", version.as_str()),
    ))
}
