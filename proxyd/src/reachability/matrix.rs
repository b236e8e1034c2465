//! All pods against all pods.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use netpol::evaluate::{End, Family, Flow, Verdict, evaluate};
use netpol::{PodName, World};
use serde_json::{Value, json};

use super::ports::{Port, named};
use super::{prepared, why, word};

/// What becomes of all connections from one pod to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All are allowed.
    Allowed,
    /// None is.
    Denied,
    /// Some are.
    Partly,
    /// It is not known.
    Unknown,
    /// There is nothing to ask: the other pod names no port, or they have no family in common.
    Nothing,
}

impl Outcome {
    /// In the table.
    pub(super) fn sign(self) -> char {
        match self {
            Outcome::Allowed => '+',
            Outcome::Denied => '-',
            Outcome::Partly => '~',
            Outcome::Unknown => '?',
            Outcome::Nothing => ' ',
        }
    }
}

/// One connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Over IPv4 or IPv6.
    pub family: Family,
    /// At this port.
    pub port: Port,
    /// What becomes of it.
    pub verdict: Verdict,
    /// Why.
    pub reason: String,
}

/// All connections from one pod to another that were asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    /// They.
    pub asked: Vec<Asked>,
}

impl Cell {
    /// All together.
    pub fn outcome(&self) -> Outcome {
        let all = |verdict| self.asked.iter().all(|asked| asked.verdict == verdict);
        if self.asked.is_empty() {
            Outcome::Nothing
        } else if all(Verdict::Allowed) {
            Outcome::Allowed
        } else if all(Verdict::Denied) {
            Outcome::Denied
        } else if self.asked.iter().any(|asked| asked.verdict == Verdict::Unspecified) {
            Outcome::Unknown
        } else {
            Outcome::Partly
        }
    }
}

/// Who can talk to whom.
#[derive(Clone, Debug)]
pub struct Matrix {
    /// Rows, who opens a connection, and columns, who answers.
    pub pods: Vec<PodName>,
    /// Row by row.
    pub cells: Vec<Vec<Cell>>,
    /// What cannot be told exactly.
    pub notes: Vec<String>,
}

/// Asks for all pods: at one port, or at the TCP ports that each names.
pub fn matrix(world: &World, port: Option<Port>) -> Matrix {
    let (world, notes) = prepared(world);
    let pods: Vec<PodName> = world.pods.keys().cloned().collect();
    let ask = |from: &PodName, to: &PodName| {
        let ports = match (port, world.pods.get(to)) {
            (Some(port), _) => BTreeSet::from([port]),
            (None, Some(pod)) => named(pod),
            (None, None) => BTreeSet::new(),
        };
        let mut asked = Vec::new();
        for family in Family::ALL {
            for port in &ports {
                let (from, to) = (End::Pod(from.clone()), End::Pod(to.clone()));
                let flow = Flow::between(&world, &from, &to, family, port.protocol, port.number);
                let Ok(flow) = flow else { continue };
                let found = evaluate(&world, &flow);
                let (verdict, reason) = (found.verdict, why(&found));
                asked.push(Asked { family, port: *port, verdict, reason });
            }
        }
        Cell { asked }
    };
    let row = |from| pods.iter().map(|to| ask(from, to)).collect();
    let cells = pods.iter().map(row).collect();
    Matrix { pods, cells, notes }
}

impl Matrix {
    /// For each pair of pods: from, to, and what becomes of it.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (&PodName, &PodName, &Cell)> {
        self.pods.iter().zip(&self.cells).flat_map(move |(from, row)| {
            self.pods.iter().zip(row).map(move |(to, cell)| (from, to, cell))
        })
    }

    /// A table for people; what is allowed in part is told below it.
    pub fn to_text(&self) -> String {
        let mut out = String::from(
            "from the row to the column: + allowed, - denied, ~ in part, ? unknown, blank: names no port\n\n",
        );
        let digits = self.pods.len().to_string().len();
        let width = self.pods.iter().map(|pod| pod.to_string().len()).max().unwrap_or(0);
        let _ = write!(out, "{:digits$} {:width$}", "", "");
        for column in 1..=self.pods.len() {
            let _ = write!(out, " {column:>digits$}");
        }
        out.push('\n');
        for (row, (pod, cells)) in self.pods.iter().zip(&self.cells).enumerate() {
            let _ = write!(out, "{:>digits$} {:width$}", row + 1, pod.to_string());
            for cell in cells {
                let _ = write!(out, " {:>digits$}", cell.outcome().sign());
            }
            out.truncate(out.trim_end().len());
            out.push('\n');
        }
        let in_part = self
            .pairs()
            .filter(|(_, _, cell)| matches!(cell.outcome(), Outcome::Partly | Outcome::Unknown));
        for (from, to, cell) in in_part {
            let _ = write!(out, "\n{from} to {to}:\n");
            for Asked { family, port, verdict, reason } in &cell.asked {
                let _ = writeln!(out, "  {port} over {family}: {}: {reason}", word(*verdict));
            }
        }
        for note in &self.notes {
            let _ = write!(out, "\nnote: {note}");
        }
        out.truncate(out.trim_end().len());
        out.push('\n');
        out
    }

    /// For programs: every connection that was asked for.
    pub fn to_json(&self) -> Value {
        let pods: Vec<String> = self.pods.iter().map(ToString::to_string).collect();
        let mut flows = Vec::new();
        for (from, to, cell) in self.pairs() {
            for Asked { family, port, verdict, reason } in &cell.asked {
                flows.push(json!({
                    "from": from.to_string(), "to": to.to_string(),
                    "port": port.to_string(), "family": family.to_string(),
                    "verdict": word(*verdict), "reason": reason,
                }));
            }
        }
        json!({"pods": pods, "flows": flows, "notes": self.notes})
    }
}
