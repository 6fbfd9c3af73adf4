//! Errors of the engine.

use std::io;
use std::path::{Path, PathBuf};

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {doing} {path}: {source}", path = path.display())]
    Io { doing: &'static str, path: PathBuf, source: io::Error },

    /// Stored bytes are not those that were written, or a file is missing.
    #[error("{path} is damaged: {reason}", path = path.display())]
    Corrupt { path: PathBuf, reason: String },

    /// A file of a newer build.
    #[error("{path} has format {found}; this build reads up to {known}: run the build that wrote it, or a newer one", path = path.display())]
    Newer { path: PathBuf, found: u32, known: u32 },
}

impl Error {
    /// Returns a conversion of I/O errors at `path`. A missing file or one that is too short is damage: all files that
    /// the manifest names were durable before it named them.
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| match source.kind() {
            io::ErrorKind::NotFound => Self::corrupt(path, "it is missing"),
            io::ErrorKind::UnexpectedEof => Self::corrupt(path, "it is truncated"),
            _ => Self::Io { doing, path: path.to_owned(), source },
        }
    }

    pub(crate) fn corrupt(path: &Path, reason: impl Into<String>) -> Self {
        Self::Corrupt { path: path.to_owned(), reason: reason.into() }
    }

    pub fn is_disk_full(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        matches!(self, Self::Io { source, .. } if matches!(source.kind(), QuotaExceeded | StorageFull))
    }

    /// Whether stored bytes are wrong or missing, as opposed to a cause in the machine.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Corrupt { .. })
    }
}
