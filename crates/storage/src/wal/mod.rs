//! The Raft log on disk: a write-ahead log of segments, group-committed with one `fdatasync`.
//!
//! It knows nothing of Raft beyond indices, terms and the hard state, starts no thread, and is
//! owned by one: the log writer. Three promises hold across any crash:
//!
//! - what [`Wal::append`] returned from is read back by the next [`Wal::open`];
//! - what it did not return from is read back as a prefix, cut at an entry, never mixed with the
//!   suffix that it replaced;
//! - damage to bytes known to have been durable is [`WalError::Corrupt`], and then nothing on
//!   disk is changed. It is never cut off as if it were an interrupted write.
//!
//! One thing no log can tell: the last append of all has nothing after it to prove that it was
//! durable, so damage to that one reads as an interrupted write.
//!
//! The disk is trusted to keep the neighbours of a 512-byte sector that it was writing when power
//! failed, and to have written what `fdatasync` returned from.

mod directory;
mod format;
mod pack;
mod recovery;
mod spare;
mod state;
mod writer;

#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;

pub use recovery::{Report, verify};
pub use writer::Wal;

/// Name of the file that holds segment `generation`, in the directory of the log.
pub fn segment_file_name(generation: u64) -> String {
    format!("{generation:020}.{}", directory::SEGMENT)
}

/// Largest payload of one entry, in bytes, in segments of at least four times that.
pub const MAX_ENTRY_BYTES: u64 = 8 << 20;

/// One Raft entry; `payload` is the encoded entry, opaque here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    pub index: u64,
    pub term: u64,
    pub payload: Bytes,
}

/// What a member must remember before it answers (Raft paper, figure 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HardState {
    pub term: u64,
    /// Raft id voted for in `term`; 0 for none.
    pub vote: u64,
    pub commit: u64,
}

/// The entry after which the log starts: covered by a snapshot, or 0/0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Base {
    pub index: u64,
    pub term: u64,
}

/// One unit of work for the log, done in the order of the fields.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Batch {
    /// Drops every entry; the log then starts after this base and counts as committed up to it.
    pub reset: Option<Base>,
    /// Consecutive. The first may overlap the log, which truncates it there, but not its committed part.
    pub entries: Vec<LogEntry>,
    /// `commit` is at most the last index.
    pub hard_state: Option<HardState>,
}

/// What a restart finds. `base.index <= hard_state.commit <= last index`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recovered {
    pub base: Base,
    /// `None` until the first one was appended.
    pub hard_state: Option<HardState>,
    /// From `base.index + 1`, without a gap.
    pub entries: Vec<LogEntry>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalOptions {
    /// Size of a new segment file: a multiple of 4096, from 4 KiB to 1 GiB.
    pub segment_bytes: u64,
    /// Segments kept ready beside the live ones, 1 to 16. They are also the reserve with which a
    /// node on a full disk can still vote.
    pub spare_segments: usize,
}

impl Default for WalOptions {
    fn default() -> Self {
        Self { segment_bytes: 64 << 20, spare_segments: 2 }
    }
}

impl WalOptions {
    /// Largest entry payload, in bytes, that segments of this size take.
    pub fn max_entry_bytes(&self) -> u64 {
        MAX_ENTRY_BYTES.min(self.segment_bytes / 4)
    }

    fn validate(&self) -> Result<(), WalError> {
        let Self { segment_bytes, spare_segments } = *self;
        if !(4096..=1 << 30).contains(&segment_bytes) || !segment_bytes.is_multiple_of(4096) {
            return Err(WalError::Options(format!(
                "segment size {segment_bytes} is not a multiple of 4096 bytes from 4 KiB to 1 GiB"
            )));
        }
        if !(1..=16).contains(&spare_segments) {
            return Err(WalError::Options(format!("{spare_segments} spare segments; choose 1 to 16")));
        }
        Ok(())
    }
}

/// After [`WalError::Io`] the log is poisoned; every other error leaves it as it was before the call.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// A write, sync, rename or removal failed: what is on disk is known again only after a restart.
    #[error("log: cannot {action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    /// An earlier call failed. Never retried: a second `fdatasync` may report success for pages that were dropped.
    #[error("log: an earlier write failed, so this process must stop writing; restart it")]
    Poisoned,
    /// A new segment cannot be made, most likely because the disk is full. Nothing was written; retry later.
    #[error("log: no room for a new segment; free space on the volume of {}: {source}", dir.display())]
    NoSpare { dir: PathBuf, source: io::Error },
    /// Bytes that were durable are damaged or missing. Nothing on disk was changed.
    #[error(
        "log: segment {segment} is corrupt at byte {offset}: {what}; rebuild this member from the leader"
    )]
    Corrupt { segment: u64, offset: u64, what: String },
    #[error(
        "log: segment {segment} has format {found}, this program reads {supported}; run the newer release"
    )]
    Version { segment: u64, found: u32, supported: u32 },
    #[error("log: entry {index} of {bytes} bytes exceeds the limit of {limit}")]
    TooLarge { index: u64, bytes: u64, limit: u64 },
    /// The batch contradicts the log: a gap, a truncation of committed entries, a term that goes back.
    #[error("log: refused: {0}")]
    Refused(String),
    #[error("log: {0}")]
    Options(String),
    #[error("log: {} is in use by another process", dir.display())]
    Locked { dir: PathBuf },
}

impl WalError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }
}
