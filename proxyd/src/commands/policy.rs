//! `proxyd policy`: what policies of manifests amount to, without a cluster.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the command's output")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Subcommand, ValueEnum};
use netpol::World;
use netpol::compile::Compiler;

use crate::daemon::take_judged;
use crate::reachability::{self, Port};
use crate::source::{Manifests, Source};

/// What is asked.
#[derive(Subcommand)]
pub(super) enum Question {
    /// Who can talk to whom: all pods of a folder of manifests, by its policies
    Matrix {
        /// Folder with Pods, Namespaces, NetworkPolicies, ClusterNetworkPolicies, Nodes
        #[arg(long, value_name = "DIR")]
        manifests: PathBuf,
        /// Ask for this port alone, such as 80/TCP or ICMP [default: the TCP ports that each pod names]
        #[arg(long, value_name = "PORT/PROTOCOL")]
        port: Option<Port>,
        /// How it is printed
        #[arg(long, value_enum, default_value = "text")]
        output: Output,
    },
    /// What opens and what closes between two folders of manifests; exits with 1 if anything does, with 2 if that
    /// cannot be told
    Diff {
        /// Folder with the objects as they are
        old: PathBuf,
        /// Folder with the objects as they will be
        new: PathBuf,
        /// How it is printed
        #[arg(long, value_enum, default_value = "text")]
        output: DiffOutput,
    },
}

#[derive(Clone, Copy, ValueEnum)]
pub(super) enum Output {
    Text,
    Json,
    Html,
}

#[derive(Clone, Copy, ValueEnum)]
pub(super) enum DiffOutput {
    Text,
    Json,
}

/// Prints the answer.
pub(super) fn policy(question: &Question) -> Result<ExitCode> {
    match question {
        Question::Matrix { manifests, port, output } => {
            let (world, problems) = read(manifests)?;
            let matrix = reachability::matrix(&world, *port);
            match output {
                Output::Text => print!("{}", matrix.to_text()),
                Output::Json => println!("{:#}", matrix.to_json()),
                Output::Html => print!("{}", reachability::page(&matrix)),
            }
            if problems > 0 {
                bail!("{problems} problems in the manifests; the matrix is of everything else");
            }
            Ok(ExitCode::SUCCESS)
        }
        Question::Diff { old, new, output } => match diff(old, new, *output) {
            Ok(same) => Ok(if same { ExitCode::SUCCESS } else { ExitCode::from(1) }),
            Err(error) => {
                eprintln!("proxyd: {error:#}");
                Ok(ExitCode::from(2))
            }
        },
    }
}

/// Whether nothing changes.
fn diff(old: &Path, new: &Path, output: DiffOutput) -> Result<bool> {
    let ((old, some), (new, more)) = (read(old)?, read(new)?);
    let diff = reachability::diff(&old, &new);
    match output {
        DiffOutput::Text => print!("{}", diff.to_text()),
        DiffOutput::Json => println!("{:#}", diff.to_json()),
    }
    if some + more > 0 {
        bail!("{} problems in the manifests", some + more);
    }
    Ok(diff.is_empty())
}

/// What policies are about, and how much of the folder is in error, which is told.
fn read(folder: &Path) -> Result<(World, usize)> {
    let mut update = Manifests::open(folder)?.read()?;
    let mut compiler = Compiler::new("");
    take_judged(&mut update.changes).into_iter().for_each(|change| compiler.apply(change));
    let problems = update.problems.unwrap_or_default();
    for problem in &problems {
        eprintln!("{problem}");
    }
    Ok((compiler.world().clone(), problems.len()))
}
