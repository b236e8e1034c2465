//! `proxyd`.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    match proxyd::commands::main() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("proxyd: {error:#}");
            ExitCode::FAILURE
        }
    }
}
