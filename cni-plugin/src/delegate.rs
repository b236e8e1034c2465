//! IPAM by another plugin, executed as the specification says (section 4).

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;

use crate::error::{CniError, Result, code};
use crate::result::AddResult;

/// `ETXTBSY`: the binary is being replaced at this moment.
const TEXT_FILE_BUSY: i32 = 26;
const BUSY_ATTEMPTS: u32 = 5;
const BUSY_PAUSE: Duration = Duration::from_secs(1);

/// Another plugin, found in `CNI_PATH`.
pub(crate) struct Delegate<'a> {
    pub(crate) name: &'a str,
    pub(crate) path: &'a [PathBuf],
    /// Its standard input: ours, unchanged.
    pub(crate) input: &'a [u8],
}

impl Delegate<'_> {
    /// ADD; the result has addresses but no interfaces.
    pub(crate) fn add(&self) -> Result<AddResult> {
        let output = self.run("ADD")?;
        if output.trim_ascii().is_empty() {
            return Err(self.failed("ADD", code::DECODE, "it printed no result"));
        }
        let value: Value = serde_json::from_slice(&output).map_err(|error| {
            self.failed("ADD", code::DECODE, &format!("its result is not JSON: {error}"))
        })?;
        AddResult::parse(&value, &format!("result of IPAM plugin {:?}", self.name))
    }

    /// Any verb without a result.
    pub(crate) fn call(&self, verb: &str) -> Result<()> {
        self.run(verb).map(drop)
    }

    fn find(&self) -> Result<PathBuf> {
        let found = self.path.iter().map(|dir| dir.join(self.name)).find(|file| file.is_file());
        found.ok_or_else(|| {
            let dirs: Vec<String> = self.path.iter().map(|dir| dir.display().to_string()).collect();
            CniError::config(format!("ipam.type {:?}: no such plugin in CNI_PATH", self.name))
                .details(format!("searched: {}", dirs.join(", ")))
        })
    }

    fn run(&self, verb: &str) -> Result<Vec<u8>> {
        let binary = self.find()?;
        let (success, output) = self
            .execute(&binary, verb)
            .map_err(|error| self.failed(verb, code::IO, &error.to_string()))?;
        if success {
            return Ok(output);
        }
        // Its own error object, with its own code, says it best.
        let error: Value = serde_json::from_slice(&output).unwrap_or_default();
        let text = |key| error.get(key).and_then(Value::as_str).unwrap_or_default();
        let reason =
            if text("msg").is_empty() { "it failed without saying why" } else { text("msg") };
        let number = error.get("code").and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
        Err(self
            .failed(verb, number.filter(|n| *n != 0).unwrap_or(code::IO), reason)
            .details(text("details")))
    }

    /// Runs the binary; (whether it succeeded, standard output). Its standard error is ours.
    fn execute(&self, binary: &Path, verb: &str) -> std::io::Result<(bool, Vec<u8>)> {
        let mut attempt = 1;
        let mut child = loop {
            let spawned = Command::new(binary)
                .env("CNI_COMMAND", verb)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn();
            match spawned {
                Err(error)
                    if error.raw_os_error() == Some(TEXT_FILE_BUSY) && attempt < BUSY_ATTEMPTS =>
                {
                    attempt += 1;
                    sleep(BUSY_PAUSE);
                }
                other => break other?,
            }
        };
        if let Some(mut stdin) = child.stdin.take() {
            // A plugin that exits without reading closes the pipe; its exit status tells more.
            let _ = stdin.write_all(self.input);
        }
        let output = child.wait_with_output()?;
        Ok((output.status.success(), output.stdout))
    }

    fn failed(&self, verb: &str, code: u32, reason: &str) -> CniError {
        CniError::new(code, format!("IPAM plugin {:?} {verb}: {reason}", self.name))
    }
}
