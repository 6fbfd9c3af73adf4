//! Structured logs to standard error; with the features `otel` and `tokio-console` also traces and console data.

use std::fs::OpenOptions;
use std::io::IsTerminal;
use std::path::Path;
use std::sync::OnceLock;

use tracing_appender::non_blocking::{NonBlocking, WorkerGuard};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, Registry, fmt};

use crate::config::ConfigError;

/// Filter of the process's logs. Unset if the embedding application has installed its own logging.
static FILTER: OnceLock<Handle<EnvFilter, Registry>> = OnceLock::new();

/// Guard of the log file: dropping it writes the buffered lines.
#[must_use]
pub struct Written(#[allow(dead_code, reason = "writes when it is dropped")] Option<WorkerGuard>);

/// Starts logging once for the process; a malformed filter falls back to `info`. Must be called within a tokio runtime.
///
/// # Errors
/// `file` or its directory cannot be created.
pub fn start(level: &str, json: bool, file: Option<&Path>) -> Result<Written, ConfigError> {
    let filter = filter(level).unwrap_or_else(|_| EnvFilter::new("info"));
    let (filter, handle) = reload::Layer::new(filter);
    let lines = fmt::layer().with_ansi(std::io::stderr().is_terminal()).with_writer(std::io::stderr);
    let lines =
        if json { lines.json().flatten_event(true).boxed() } else { lines.with_target(false).boxed() };
    let (writer, guard) = file.map(writer).transpose()?.unzip();
    let copy = writer.map(|writer| {
        let lines = fmt::layer().with_ansi(false).with_writer(writer);
        if json { lines.json().flatten_event(true).boxed() } else { lines.with_target(false).boxed() }
    });
    let all = tracing_subscriber::registry().with(lines.and_then(copy).with_filter(filter));
    #[cfg(feature = "otel")]
    let all = all.with(crate::trace::layer());
    #[cfg(feature = "tokio-console")]
    let all = all.with(console_subscriber::spawn());
    // An error means that tests or the embedding application have installed their own logging.
    if all.try_init().is_ok() {
        drop(FILTER.set(handle));
    }
    Ok(Written(guard))
}

/// Opens the log file. Writing never waits for the disk, as the thread that logs may be the one that sends heartbeats.
fn writer(file: &Path) -> Result<(NonBlocking, WorkerGuard), ConfigError> {
    let opened = match file.parent() {
        Some(dir) => std::fs::create_dir_all(dir),
        None => Ok(()),
    }
    .and_then(|()| OpenOptions::new().append(true).create(true).open(file));
    let opened = opened.map_err(|error| ConfigError(format!("log.dir: {}: {error}", file.display())))?;
    Ok(tracing_appender::non_blocking(opened))
}

/// Changes the log level of the running process.
///
/// # Errors
/// The level is malformed, or the embedding application has installed its own logging.
pub fn set_level(level: &str) -> Result<(), ConfigError> {
    let wrong = |reason: String| ConfigError(format!("log.level {level:?}: {reason}"));
    let filter = filter(level).map_err(|error| wrong(error.to_string()))?;
    let handle = FILTER
        .get()
        .ok_or_else(|| wrong("the embedding application has installed its own logging".into()))?;
    handle.reload(filter).map_err(|error| wrong(error.to_string()))
}

fn filter(level: &str) -> Result<EnvFilter, tracing_subscriber::filter::ParseError> {
    #[cfg(feature = "otel")]
    let level = &format!("{level},{}=off", crate::trace::TARGET);
    EnvFilter::try_new(level)
}
