//! Durable ordered maps under the overlay. An engine holds a rebuildable view, never the only copy:
//! the log and the snapshots hold the truth (docs/design/node.md, decision 3).

mod memory;
mod redb;
#[cfg(any(test, feature = "simulation"))]
mod simulated;
#[allow(clippy::disallowed_methods, reason = "sled opens its own files")]
mod sled;

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use bytes::Bytes;

use helios_storage::disk::Disk;

pub use self::memory::MemoryEngine;
pub use self::redb::RedbEngine;
#[cfg(any(test, feature = "simulation"))]
pub use self::simulated::SimulatedEngine;
pub use self::sled::SledEngine;

/// Key and value, both raw: namespaced key, encoded value.
pub type Pair = (Bytes, Bytes);

/// A raw key and its new value; `None` removes the key.
pub type RawWrite = (Bytes, Option<Bytes>);

/// An ordered map of raw pairs, written by one thread and read by many.
pub trait StateEngine: Send + Sync {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError>;

    /// Pairs in key order from `start` (inclusive) to `end` (exclusive; `None`: to the last key).
    fn range<'a>(&'a self, start: &[u8], end: Option<&[u8]>) -> PairIter<'a>;

    /// Writes and removes, in order. If the process dies any part of it may have happened.
    fn write(&self, writes: &[RawWrite]) -> Result<(), EngineError>;

    /// Returns once everything written so far survives a power cut.
    fn sync(&self) -> Result<(), EngineError>;

    /// Bytes on disk, or in memory where there is no disk; approximate.
    fn size_bytes(&self) -> u64;
}

pub type PairIter<'a> = Box<dyn Iterator<Item = Result<Pair, EngineError>> + 'a>;

#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("{0}")]
    Io(#[from] io::Error),

    #[error("corrupted: {0}")]
    Corrupt(String),

    /// The engine's own code panicked; nothing it holds in memory can be trusted any more.
    #[error("panicked: {0}")]
    Panicked(String),
}

impl EngineError {
    /// Whether the machine, not the stored bytes, is to blame.
    pub fn is_environmental(&self) -> bool {
        use io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull, WouldBlock};
        match self {
            Self::Io(error) => matches!(
                error.kind(),
                PermissionDenied | QuotaExceeded | ReadOnlyFilesystem | StorageFull | WouldBlock
            ),
            Self::Corrupt(_) | Self::Panicked(_) => false,
        }
    }
}

/// Which engine holds the checkpointed state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EngineKind {
    #[default]
    Sled,
    Redb,
    /// Nothing outlives the process.
    Memory,
    /// Lives on the store's own disk, and only there: for one that is simulated.
    #[cfg(any(test, feature = "simulation"))]
    Simulated,
}

impl EngineKind {
    /// The one that made what is in the directory `path`.
    pub fn of(disk: &dyn Disk, path: &Path) -> Self {
        #[cfg(any(test, feature = "simulation"))]
        if disk.exists(&path.join(SimulatedEngine::FILE)) {
            return Self::Simulated;
        }
        if disk.exists(&path.join(RedbEngine::FILE)) { Self::Redb } else { Self::Sled }
    }
}

/// Makes a panic of an engine's own code an error: what it holds can be rebuilt.
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
