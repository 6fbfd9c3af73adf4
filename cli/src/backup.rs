//! `heliosctl backup`: the commands of `helios-backup`, with heliosctl's formats and exit codes.

use std::path::Path;

use helios_backup::args::BackupCommand;
use helios_backup::commands;
use helios_backup::program::ReportArgs;
use serde_json::Value;

use crate::args::Format;
use crate::error::Error;
use crate::output::show;

/// Runs the command.
///
/// # Errors
/// When the command fails, or its answer reports a problem, such as damaged objects.
pub async fn run(format: Format, report: &ReportArgs, command: &BackupCommand) -> Result<u8, Error> {
    let file = report.report_file.as_deref();
    let answer = match commands::run(command).await {
        Ok(answer) => answer,
        Err(failure) => {
            write(file, &failure.document());
            return Err(Error::Backup(failure.message));
        }
    };
    write(file, &answer.document);
    show(format, &answer.document, || answer.text.clone())?;
    match answer.problem {
        None => Ok(0),
        Some(problem) => Err(Error::Backup(problem)),
    }
}

fn write(file: Option<&Path>, document: &Value) {
    let Some(file) = file else { return };
    if let Err(error) = std::fs::write(file, format!("{document}\n")) {
        eprintln!("heliosctl: warning: --report-file {}: {error}", file.display());
    }
}
