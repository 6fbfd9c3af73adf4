//! Engines: durable ordered maps below the overlay.
//!
//! `runs` writes new files and never changes one ([`helios_runs`]). The others are modified in place: they are not
//! trusted as the only copy of the state, and can be rebuilt from the log and the snapshots (docs/design/node.md,
//! decision 3).

mod memory;
mod redb;
mod runs;
#[cfg(any(test, feature = "simulation"))]
mod simulated;
#[allow(clippy::disallowed_methods, reason = "sled opens its own files")]
mod sled;

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use helios_runs::{Runs, Stats};

use helios_storage::disk::Disk;

pub use self::memory::MemoryEngine;
pub use self::redb::RedbEngine;
#[cfg(any(test, feature = "simulation"))]
pub use self::simulated::SimulatedEngine;
pub use self::sled::SledEngine;

/// A raw pair: namespaced key and encoded value.
pub type Pair = (Bytes, Bytes);

/// A raw key and its new value; `None` removes the key.
pub type RawWrite = (Bytes, Option<Bytes>);

/// An ordered map of raw pairs, read by many threads.
pub trait StateEngine: Send + Sync {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError>;

    /// Returns the pairs in key order from `start` (inclusive) to `end` (exclusive; `None`: to the last key).
    fn range<'a>(&'a self, start: &[u8], end: Option<&[u8]>) -> PairIter<'a>;

    /// Returns the pairs of [`StateEngine::range`] in descending order.
    fn range_back<'a>(&'a self, start: &[u8], end: Option<&[u8]>) -> PairIter<'a>;

    /// Returns all pairs in key order, each read once: they do not replace others in a cache.
    fn all(&self) -> PairIter<'_> {
        self.range(b"", None)
    }

    /// Returns the approximate size in bytes on disk, or in memory for an engine without files.
    fn size_bytes(&self) -> u64;

    /// Returns the sizes of the engine's parts; of an engine that is modified in place only the whole.
    fn stats(&self) -> Stats {
        Stats { bytes: self.size_bytes(), ..Stats::default() }
    }
}

/// An engine that is modified in place, by one thread.
pub trait InPlaceEngine: StateEngine {
    /// Executes `writes` in order. If the process dies, any part of them may be executed.
    fn write(&self, writes: &[RawWrite]) -> Result<(), EngineError>;

    /// Makes all writes so far durable.
    fn sync(&self) -> Result<(), EngineError>;
}

/// The engine of a generation.
#[derive(Clone)]
pub enum Backend {
    InPlace(Arc<dyn InPlaceEngine>),
    Runs(Arc<Runs>),
}

impl Backend {
    pub fn in_place(engine: impl InPlaceEngine + 'static) -> Self {
        Self::InPlace(Arc::new(engine))
    }

    pub fn in_memory() -> Self {
        Self::in_place(MemoryEngine::default())
    }

    /// Returns the content for readers: of `runs` the content now, of the others whatever is written later, too.
    pub fn reader(&self) -> Arc<dyn StateEngine> {
        match self {
            Self::InPlace(engine) => engine.clone(),
            Self::Runs(runs) => Arc::new(runs.view()),
        }
    }
}

pub type PairIter<'a> = Box<dyn Iterator<Item = Result<Pair, EngineError>> + 'a>;

#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("{0}")]
    Io(#[from] io::Error),

    /// An error of the disk in an engine that is the only copy of the state: never taken for damage.
    #[error("{0}")]
    Disk(io::Error),

    #[error("corrupted: {0}")]
    Corrupt(String),

    /// The engine's code panicked; its content in memory cannot be trusted any more.
    #[error("panicked: {0}")]
    Panicked(String),

    /// A newer build wrote it.
    #[error("{0}")]
    Newer(String),
}

impl EngineError {
    /// Whether the cause is the machine and not the stored bytes.
    pub fn is_environmental(&self) -> bool {
        use io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull, WouldBlock};
        match self {
            Self::Io(error) => matches!(
                error.kind(),
                PermissionDenied | QuotaExceeded | ReadOnlyFilesystem | StorageFull | WouldBlock
            ),
            Self::Newer(_) | Self::Disk(_) => true,
            Self::Corrupt(_) | Self::Panicked(_) => false,
        }
    }
}

/// The engine that stores the checkpointed state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EngineKind {
    #[default]
    Sled,
    Redb,
    Runs,
    /// State in memory only, lost with the process.
    Memory,
    /// A simple engine on a simulated disk.
    #[cfg(any(test, feature = "simulation"))]
    Simulated,
}

impl EngineKind {
    /// Returns the name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sled => "sled",
            Self::Redb => "redb",
            Self::Runs => "runs",
            Self::Memory => "memory",
            #[cfg(any(test, feature = "simulation"))]
            Self::Simulated => "simulated",
        }
    }

    /// Returns the engine that created the files in the directory `path`.
    pub fn of(disk: &dyn Disk, path: &Path) -> Self {
        #[cfg(any(test, feature = "simulation"))]
        if disk.exists(&path.join(SimulatedEngine::FILE)) {
            return Self::Simulated;
        }
        if disk.exists(&path.join(helios_runs::CURRENT)) {
            return Self::Runs;
        }
        if disk.exists(&path.join(RedbEngine::FILE)) { Self::Redb } else { Self::Sled }
    }
}

/// Converts a panic in an engine's code to an error: its content can be rebuilt.
fn guarded<T, E: Into<EngineError>>(call: impl FnOnce() -> Result<T, E>) -> Result<T, EngineError> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(Into::into),
        Err(panic) => Err(EngineError::Panicked(panic_text(panic.as_ref()))),
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a message").to_owned()
}
