//! `heliosctl`, also as `kubectl helios`: manages HeliosDB clusters from a terminal. Effects are in
//! `kubernetes`, `direct`, `place`, `kv` and here; pure functions build the output.

mod archive;
mod args;
mod backup;
mod backup_view;
mod certs;
mod check;
mod complete;
mod direct;
mod error;
mod import;
mod kubernetes;
mod kv;
mod lock;
mod machine;
mod output;
mod persist;
mod place;
mod redact;
#[cfg(test)]
mod reference;
mod render;
mod run;
mod sidecar;
mod sidecars;
mod switchover;
mod table;
mod usage;
mod view;

pub use crate::complete::complete;

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use crate::args::Cli;

/// Exit code of an invalid command line (sysexits.h), which is not 2 because `status` uses that for "down".
const EX_USAGE: u8 = 64;
const UNKNOWN: u8 = 2;

/// Runs the process: parses its arguments, prints at most one line of error, returns its exit code.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            // A closed pipe is ignored.
            drop(error.print());
            return if asked { ExitCode::SUCCESS } else { EX_USAGE.into() };
        }
    };
    let failed = if cli.command.exit_code_is_health() { ExitCode::from(UNKNOWN) } else { ExitCode::FAILURE };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("heliosctl: the async runtime does not start: {error}");
            return failed;
        }
    };
    match runtime.block_on(run::run(&cli)) {
        Ok(code) => code.into(),
        Err(error) => {
            eprintln!("heliosctl: {error}");
            failed
        }
    }
}
