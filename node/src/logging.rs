//! Structured logs to standard error; with the features `otel` and `tokio-console` also what these take.

use std::io::IsTerminal;
use std::sync::OnceLock;

use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, Registry, fmt};

use crate::config::ConfigError;

/// Logging belongs to the process, and so does its level. Unset where a program brings its own.
static FILTER: OnceLock<Handle<EnvFilter, Registry>> = OnceLock::new();

/// Starts logging once for the process; a filter that cannot be read falls back on `info`. Within a tokio runtime.
pub fn start(level: &str, json: bool) {
    let filter = filter(level).unwrap_or_else(|_| EnvFilter::new("info"));
    let (filter, handle) = reload::Layer::new(filter);
    let lines = fmt::layer().with_ansi(std::io::stderr().is_terminal()).with_writer(std::io::stderr);
    let lines =
        if json { lines.json().flatten_event(true).boxed() } else { lines.with_target(false).boxed() };
    let all = tracing_subscriber::registry().with(lines.with_filter(filter));
    #[cfg(feature = "otel")]
    let all = all.with(crate::trace::layer());
    #[cfg(feature = "tokio-console")]
    let all = all.with(console_subscriber::spawn());
    // Already started: tests and embedders bring their own.
    if all.try_init().is_ok() {
        drop(FILTER.set(handle));
    }
}

/// Another level from now on.
pub fn set_level(level: &str) -> Result<(), ConfigError> {
    let wrong = |reason: String| ConfigError(format!("log.level {level:?}: {reason}"));
    let filter = filter(level).map_err(|error| wrong(error.to_string()))?;
    let handle = FILTER.get().ok_or_else(|| wrong("logging is the embedding program's".into()))?;
    handle.reload(filter).map_err(|error| wrong(error.to_string()))
}

fn filter(level: &str) -> Result<EnvFilter, tracing_subscriber::filter::ParseError> {
    #[cfg(feature = "otel")]
    let level = &format!("{level},{}=off", crate::trace::TARGET);
    EnvFilter::try_new(level)
}
