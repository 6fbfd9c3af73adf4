//! Standard output: text for users, or the same as JSON or YAML.

use std::io::{ErrorKind, IsTerminal, Write};

use serde::Serialize;

use crate::args::Format;
use crate::error::Error;
use crate::render::Colour;

/// Returns whether to colour: standard output is a terminal and NO_COLOR (no-color.org) is not set.
pub fn colour() -> Colour {
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    Colour(std::io::stdout().is_terminal() && !unwanted)
}

/// Writes `value` in `format`; `text` is called for the text format only.
///
/// # Errors
/// When standard output cannot be written to. A reader that closes the pipe is no error.
pub fn show<T: Serialize>(format: Format, value: &T, text: impl FnOnce() -> String) -> Result<(), Error> {
    let unwritable = |error: &dyn std::error::Error| Error::Output(error.to_string());
    let shown = match format {
        Format::Table => text(),
        Format::Json => serde_json::to_string_pretty(value).map_err(|error| unwritable(&error))? + "\n",
        Format::Yaml => serde_saphyr::to_string(value).map_err(|error| unwritable(&error))?,
    };
    write(&shown)
}

/// # Errors
/// As [`show`].
pub fn line(text: &str) -> Result<(), Error> {
    write(&format!("{text}\n"))
}

fn write(text: &str) -> Result<(), Error> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Error::Output(error.to_string())),
        _ => Ok(()),
    }
}
