//! The command line.

mod check;
mod cleanup;
mod explain;
mod install;
mod logging;
mod policy;
mod render;
mod status;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

use crate::config::{self, Flags, Loaded};
use crate::daemon;

/// Service VIPs, node ports and load balancing for one node, in nftables, iptables or IPVS.
#[derive(Parser)]
#[command(name = "proxyd", version, propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Program the kernel and keep it so, until SIGTERM; the rules stay
    Run(Box<Flags>),
    /// Validate configuration and manifests, print the plan's summary, touch nothing
    Check(Box<Flags>),
    /// Print what would be programmed, as `nft -f`, `iptables-restore` or `ipvsadm -R` takes it, touch nothing
    Render(Box<Flags>),
    /// Show what the running daemon has programmed
    Status {
        /// Address of the daemon's metrics server
        #[arg(long, default_value = "127.0.0.1:10249")]
        server: String,
    },
    /// Tell what becomes of a connection, and which rule says so
    Explain(explain::Question),
    /// Tell who can talk to whom by the policies of manifests, and what a change of them opens or closes
    #[command(subcommand)]
    Policy(policy::Question),
    /// Write the CNI plugin onto a host, or remove it and its configuration
    Install(install::Options),
    /// Remove what any mode of proxyd, or kube-proxy, left in the kernel
    Cleanup(cleanup::Options),
}

/// Runs the command line; the exit status says how it went.
pub fn main() -> Result<ExitCode> {
    let done = match Arguments::parse().command {
        Command::Policy(question) => return policy::policy(&question),
        Command::Run(flags) => run(&flags),
        Command::Check(flags) => check::check(&load(&flags)?),
        Command::Render(flags) => render::render(&load(&flags)?),
        Command::Status { server } => status::status(&server),
        Command::Explain(question) => explain::explain(&question),
        Command::Install(options) => install::install(&options),
        Command::Cleanup(options) => cleanup::cleanup(&options.load()?),
    };
    done.map(|()| ExitCode::SUCCESS)
}

fn load(flags: &Flags) -> Result<config::Config> {
    let Loaded { config, warnings } = config::load(flags)?;
    logging::start(&config.log);
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    Ok(config)
}

fn run(flags: &Flags) -> Result<()> {
    let config = load(flags)?;
    if flags.cleanup == Some(true) {
        return cleanup::cleanup(&config);
    }
    if let Some(root) = &config.proc_sys {
        netlink::sysctl::set_root(root.clone());
    }
    if let Some(file) = &flags.write_config_to {
        return write_config(&config, file);
    }
    if config.init_only {
        daemon::node::prepare(&config);
        return Ok(());
    }
    if config.oneshot { daemon::oneshot(&config) } else { daemon::run(&config) }
}

fn write_config(config: &config::Config, file: &PathBuf) -> Result<()> {
    std::fs::write(file, config.to_kube_proxy_file())
        .with_context(|| format!("write {}", file.display()))
}
