//! Errors of the state.

use std::io;
use std::path::{Path, PathBuf};

use helios_proto::v1::ErrorCode;

use super::engines::{EngineError, EngineKind};
use helios_proto::Error;

#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("cannot {doing} {}: {source}", path.display())]
    Io { doing: &'static str, path: PathBuf, source: io::Error },

    #[error("state engine failed to {doing}: {source}")]
    Engine { doing: &'static str, source: EngineError },

    /// The directory's content is inconsistent; it can be rebuilt from log and snapshots.
    #[error("state is damaged: {0}")]
    Damaged(String),

    /// The disk has too little free space. Nothing was changed; the same call may succeed later.
    #[error(
        "no space to {doing}: {free_bytes} bytes are free on the volume of {}, {needed_bytes} are needed; \
         free some or enlarge the volume",
        dir.display()
    )]
    NoRoom { doing: &'static str, dir: PathBuf, free_bytes: u64, needed_bytes: u64 },

    #[error("state directory {} is in use by another process; stop that process first", .0.display())]
    InUse(PathBuf),

    /// The snapshot file is damaged or of an unknown format. The state was not changed.
    #[error("snapshot {} is not usable: {reason}", path.display())]
    BadSnapshot { path: PathBuf, reason: String },

    #[error("snapshot is of index {snapshot}, older than the applied index {applied}")]
    StaleSnapshot { snapshot: u64, applied: u64 },

    /// The copy of the state into another engine failed; the state itself was not changed.
    #[error(
        "the state was not converted from {from:?} to {to:?}: {reason}; it is unchanged: set state.engine to \
         {from:?} (in lower case), or correct the cause and start again"
    )]
    NotConverted { from: EngineKind, to: EngineKind, reason: String },

    /// See [`super::Store::before_chunks`].
    #[error("cannot record that builds from before log format 8 must not open this disk: {0}")]
    NotMarked(String),

    #[error("the embedded state machine failed: {0}")]
    Machine(String),

    /// The engine failed earlier, which stopped this store; a restart opens or rebuilds it.
    #[error("state stopped after a failure of its engine ({0}); restart the node")]
    Stopped(String),
}

impl StateError {
    pub(super) fn io(doing: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { doing, path: path.to_owned(), source }
    }

    pub(super) fn engine(doing: &'static str) -> impl FnOnce(EngineError) -> Self {
        move |source| Self::Engine { doing, source }
    }

    pub(super) fn bad_snapshot(path: &Path, reason: impl Into<String>) -> Self {
        Self::BadSnapshot { path: path.to_owned(), reason: reason.into() }
    }

    /// Whether the cause is a full disk, so that the call may succeed once space is free.
    pub fn is_disk_full(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        let is_full = |source: &io::Error| matches!(source.kind(), QuotaExceeded | StorageFull);
        match self {
            Self::NoRoom { .. } => true,
            Self::Io { source, .. }
            | Self::Engine { source: EngineError::Io(source) | EngineError::Disk(source), .. } => {
                is_full(source)
            }
            _ => false,
        }
    }

    /// Whether the cause is the stored state, so that a rebuild helps. A full disk or a missing permission is
    /// not: a blank state would fail as well.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Damaged(_) => true,
            Self::Engine { source, .. } => !source.is_environmental(),
            Self::Io { .. }
            | Self::NoRoom { .. }
            | Self::InUse(_)
            | Self::BadSnapshot { .. }
            | Self::StaleSnapshot { .. }
            | Self::NotConverted { .. }
            | Self::NotMarked(_)
            | Self::Machine(_)
            | Self::Stopped(_) => false,
        }
    }
}

impl From<StateError> for Error {
    fn from(error: StateError) -> Self {
        let code = match &error {
            error if error.is_disk_full() => ErrorCode::DiskFull,
            StateError::Engine { .. } | StateError::Damaged(_) => ErrorCode::Corruption,
            StateError::BadSnapshot { .. } | StateError::StaleSnapshot { .. } => ErrorCode::SnapshotFailed,
            StateError::Io { .. }
            | StateError::NoRoom { .. }
            | StateError::InUse(_)
            | StateError::NotConverted { .. }
            | StateError::NotMarked(_)
            | StateError::Machine(_)
            | StateError::Stopped(_) => ErrorCode::StorageUnavailable,
        };
        Error::new(code, error.to_string())
    }
}
