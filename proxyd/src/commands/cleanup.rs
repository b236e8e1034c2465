//! `proxyd cleanup`.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the command's output")]

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;

use crate::config::{self, Config, Flags};
use crate::dataplane::leftovers;

/// What to leave alone.
#[derive(Args)]
pub(super) struct Options {
    /// KubeProxyConfiguration file, of which ipvs.excludeCIDRs counts here
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// IPVS virtual servers in these ranges are never removed
    #[arg(long, value_name = "CIDRS", value_delimiter = ',', conflicts_with = "config")]
    ipvs_exclude_cidrs: Option<Vec<String>>,
}

impl Options {
    /// As `proxyd run --cleanup` would read them.
    pub(super) fn load(self) -> Result<Config> {
        let flags = Flags {
            config: self.config,
            ipvs_exclude_cidrs: self.ipvs_exclude_cidrs,
            ..Flags::default()
        };
        // What there is to warn of has nothing to do with it.
        Ok(config::load(&flags)?.config)
    }
}

/// Removes what any mode of ours or of kube-proxy made.
pub(super) fn cleanup(config: &Config) -> Result<()> {
    let removal = leftovers::remove_all(&config.ipvs.exclude_cidrs);
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
