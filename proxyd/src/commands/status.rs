//! `proxyd status`.

#![allow(clippy::print_stdout, reason = "the command's output")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// How long the daemon is waited for.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A page of the daemon's.
pub(super) fn get(server: &str, path: &str) -> Result<Value> {
    let absent = || format!("ask the daemon at {server}: is it running?");
    let mut stream = TcpStream::connect(server).with_context(absent)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {server}\r\n\r\n").with_context(absent)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).with_context(absent)?;
    let Some((head, body)) = answer.split_once("\r\n\r\n") else {
        bail!("{server} does not speak HTTP");
    };
    let status = head.lines().next().unwrap_or_default();
    ensure!(status.contains(" 200 "), "{server}{path}: {status}");
    serde_json::from_str(body).with_context(|| format!("the answer of {server}{path}"))
}

/// Prints what the daemon tells of itself.
pub(super) fn status(server: &str) -> Result<()> {
    let Value::Object(facts) = get(server, "/status")? else {
        bail!("the answer of {server}/status is no object");
    };
    for (name, value) in facts.iter().filter(|(name, _)| *name != "problems") {
        match value {
            Value::String(text) => println!("{name}: {text}"),
            other => println!("{name}: {other}"),
        }
    }
    for problem in facts.get("problems").and_then(Value::as_array).into_iter().flatten() {
        println!("problem: {}", problem.as_str().unwrap_or_default());
    }
    Ok(())
}
