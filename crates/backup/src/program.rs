//! The programs `heliosd archive` and `heliosd backup`. Exit codes: 0 done, 1 failed, 2 invalid command line.

use std::ffi::OsString;
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::args::{ArchiveArgs, BackupCommand};
use crate::documents::Answer;
use crate::{Failure, archiver, commands};

const EX_USAGE: u8 = 2;
const WORKERS: usize = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Table,
    Json,
}

// No doc comment: clap would take it for the description of the command.
#[derive(Debug, Clone, Args)]
pub struct ReportArgs {
    /// Also write the answer, or the error, as a JSON document to this file, e.g. /dev/termination-log.
    #[arg(long, global = true, value_name = "FILE")]
    pub report_file: Option<PathBuf>,
}

/// Takes, lists, checks, deletes and restores backups of a cluster in an object store.
#[derive(Debug, Parser)]
#[command(name = "heliosd backup", bin_name = "heliosd backup")]
struct BackupLine {
    /// Output format.
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    output: Format,
    #[command(flatten)]
    report: ReportArgs,
    #[command(subcommand)]
    command: BackupCommand,
}

#[derive(Debug, Parser)]
#[command(name = "heliosd archive", bin_name = "heliosd archive")]
struct ArchiveLine {
    #[command(flatten)]
    args: ArchiveArgs,
    #[command(flatten)]
    report: ReportArgs,
}

/// Runs `heliosd backup` with the arguments after these two words.
pub fn backup(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let BackupLine { output, report, command } = match parse(args) {
        Ok(line) => line,
        Err(code) => return code,
    };
    log("warn");
    let ended = block_on(commands::run(&command)).and_then(|ended| ended);
    finish("heliosd", ended, report.report_file.as_deref(), |answer| match output {
        Format::Table => answer.text.clone(),
        Format::Json => format!("{:#}\n", answer.document),
    })
}

/// Runs `heliosd archive` with the arguments after these two words.
pub fn archive(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let ArchiveLine { args, report } = match parse(args) {
        Ok(line) => line,
        Err(code) => return code,
    };
    log("info");
    let running = async {
        let stop = CancellationToken::new();
        let failed = |error| Failure::new("Signals", format!("signals: {error}"));
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let stopping = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            stopping.cancel();
        });
        archiver::run(&args, stop).await
    };
    let ended = block_on(running).and_then(|ended| ended);
    let ended = ended.map(|()| Answer::new(serde_json::json!({"stopped": true}), ""));
    finish("heliosd", ended, report.report_file.as_deref(), |answer| answer.text.clone())
}

/// Writes the report and what the user sees; returns the exit code.
pub fn finish(
    program: &str,
    ended: Result<Answer, Failure>,
    report_file: Option<&Path>,
    show: impl FnOnce(&Answer) -> String,
) -> ExitCode {
    let document = match &ended {
        Ok(answer) => answer.document.clone(),
        Err(failure) => failure.document(),
    };
    if let Some(file) = report_file
        && let Err(error) = std::fs::write(file, format!("{document}\n"))
    {
        eprintln!("{program}: warning: --report-file {}: {error}", file.display());
    }
    let problem = match &ended {
        Ok(answer) => {
            // The reader of the pipe may be gone.
            _ = std::io::stdout().write_all(show(answer).as_bytes());
            answer.problem.clone()
        }
        Err(failure) => Some(failure.message.clone()),
    };
    match problem {
        None => ExitCode::SUCCESS,
        Some(problem) => {
            eprintln!("{program}: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn parse<T: Parser>(args: impl IntoIterator<Item = OsString>) -> Result<T, ExitCode> {
    // The name of the program, which clap leaves out.
    let args = std::iter::once(OsString::new()).chain(args);
    T::try_parse_from(args).map_err(|error| {
        let is_usage = error.use_stderr();
        drop(error.print());
        if is_usage { EX_USAGE.into() } else { ExitCode::SUCCESS }
    })
}

fn log(level: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    // A second subscriber of one process is a test's.
    let is_terminal = std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(is_terminal);
    drop(log.with_writer(std::io::stderr).try_init());
}

fn block_on<T>(work: impl Future<Output = T>) -> Result<T, Failure> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(WORKERS).enable_all().build();
    let runtime =
        runtime.map_err(|e| Failure::new("Runtime", format!("the async runtime does not start: {e}")))?;
    Ok(runtime.block_on(work))
}
