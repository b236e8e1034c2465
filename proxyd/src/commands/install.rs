//! `proxyd install`.

#![allow(clippy::print_stdout, reason = "the command's output")]

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use netlink::Prefix;

use crate::agent::install::{remove, write_if_changed};
use crate::agent::{Network, conflist};
use crate::cluster::Node;

/// What goes where.
#[derive(Args)]
pub(super) struct Options {
    /// The host's folder of plugins
    #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
    bin_dir: PathBuf,
    /// The plugin [default: viaduct beside this program]
    #[arg(long, value_name = "FILE")]
    plugin: Option<PathBuf>,
    /// network.yaml: where the configuration is; with --pod-cidr it is written too
    #[arg(long, value_name = "FILE")]
    network_config: Option<PathBuf>,
    /// This node's pods; the daemon writes the configuration itself once it knows them
    #[arg(long, value_name = "CIDR", value_delimiter = ',', requires = "network_config")]
    pod_cidr: Vec<Prefix>,
    /// The cluster's pods, which are not masqueraded
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    cluster_cidr: Vec<Prefix>,
    /// This node's name
    #[arg(long, value_name = "NAME", default_value = "")]
    node_name: String,
    /// Remove the plugin and its configuration
    #[arg(long)]
    remove: bool,
}

/// Writes or removes the files.
pub(super) fn install(options: &Options) -> Result<()> {
    let network = match &options.network_config {
        Some(file) => Network::read(file)?,
        None => Network::default(),
    };
    let target = options.bin_dir.join("viaduct");
    let conf = network.conf_dir.join(&network.conf_name);
    if options.remove {
        // First the configuration: nobody calls a plugin that is gone.
        for path in [&conf, &target] {
            if remove(path)? {
                println!("removed {}", path.display());
            }
        }
        return Ok(());
    }
    let plugin = match &options.plugin {
        Some(plugin) => plugin.clone(),
        None => std::env::current_exe().context("find this program")?.with_file_name("viaduct"),
    };
    let content = std::fs::read(&plugin).with_context(|| format!("read {}", plugin.display()))?;
    if write_if_changed(&target, &content, 0o755)? {
        println!("wrote {}", target.display());
    }
    if !options.pod_cidr.is_empty() {
        let node = Node { pod_cidrs: options.pod_cidr.clone(), ..Node::default() };
        let text = conflist(&network, &options.node_name, &node, &options.cluster_cidr);
        if write_if_changed(&conf, text.as_bytes(), 0o644)? {
            println!("wrote {}", conf.display());
        }
    }
    Ok(())
}
