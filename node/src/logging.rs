//! Structured logs to standard error.

use std::io::IsTerminal;
use std::sync::OnceLock;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::reload::Handle;

use crate::config::ConfigError;

type SetFilter = Box<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>;

/// Logging belongs to the process, and so does its level. Unset where a program brings its own.
static SET_FILTER: OnceLock<SetFilter> = OnceLock::new();

/// Starts logging once for the process; a filter that cannot be read falls back on `info`.
pub fn start(level: &str, json: bool) {
    let filter = EnvFilter::try_new(level).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    // Already started: tests and embedders bring their own.
    if json {
        let builder = builder.json().flatten_event(true).with_filter_reloading();
        let handle = builder.reload_handle();
        builder.try_init().is_ok().then(|| keep(handle));
    } else {
        let builder = builder.with_target(false).with_filter_reloading();
        let handle = builder.reload_handle();
        builder.try_init().is_ok().then(|| keep(handle));
    }
}

fn keep<S: 'static>(handle: Handle<EnvFilter, S>) {
    let set = move |filter| handle.reload(filter).map_err(|error| error.to_string());
    drop(SET_FILTER.set(Box::new(set)));
}

/// Another level from now on.
pub fn set_level(level: &str) -> Result<(), ConfigError> {
    let wrong = |reason: String| ConfigError(format!("log.level {level:?}: {reason}"));
    let filter = EnvFilter::try_new(level).map_err(|error| wrong(error.to_string()))?;
    let set = SET_FILTER.get().ok_or_else(|| wrong("logging is the embedding program's".into()))?;
    set(filter).map_err(wrong)
}
