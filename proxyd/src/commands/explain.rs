//! `proxyd explain`.

#![allow(clippy::print_stdout, reason = "the command's output")]

use anyhow::Result;
use clap::{Args, ValueEnum};
use serde_json::Value;

use super::{check, load, status};
use crate::agent::Network;
use crate::config::Flags;
use crate::daemon::node;
use crate::explain::{View, answer, to_text};

/// What is asked, and of whom.
#[derive(Args)]
pub(super) struct Question {
    /// Who connects: pod/NS/NAME, node/NAME or an address
    #[arg(long)]
    from: String,
    /// Where to: svc/NS/NAME, pod/NS/NAME, node/NAME or an address, with :PORT and /PROTOCOL; a pod may also be
    /// asked for /ICMP, or without a port for all that it names
    #[arg(long)]
    to: String,
    /// How the answer is printed
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
    /// Address of the running daemon's metrics server; with --manifests no daemon is asked
    #[arg(long, default_value = "127.0.0.1:10249")]
    server: String,
    #[command(flatten)]
    flags: Box<Flags>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    Text,
    Json,
}

/// Prints the answer; whatever it is, that is a success.
pub(super) fn explain(question: &Question) -> Result<()> {
    let Question { from, to, .. } = question;
    let answer = if question.flags.manifests.is_some() {
        offline(question)?
    } else {
        let path = format!("/explain?from={}&to={}", escape(from), escape(to));
        status::get(&question.server, &path)?
    };
    match question.output {
        Output::Text => print!("{}", to_text(&answer)),
        Output::Json => println!("{answer:#}"),
    }
    Ok(())
}

fn offline(question: &Question) -> Result<Value> {
    let config = load(&question.flags)?;
    let check::Planned { table, cluster, world, .. } = check::plan_source(&config)?;
    let nodes = node::tables(&config, &cluster, node::be_liberal());
    let network = config.network_config.as_deref().map(Network::read).transpose()?;
    let enforced = network.is_none_or(|network| network.policies);
    let world = enforced.then_some(&world);
    let view = View { table: &table, cluster: &cluster, nodes: &nodes, mode: config.mode, world };
    Ok(answer(view, &question.from, &question.to))
}

/// For a query.
fn escape(text: &str) -> String {
    let one = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b':' | b'.' | b'-' => {
            char::from(byte).to_string()
        }
        other => format!("%{other:02X}"),
    };
    text.bytes().map(one).collect()
}
