//! The Raft log on disk: a write-ahead log of segments, group-committed with one `fdatasync`.
//!
//! It knows nothing of Raft beyond indices, terms and the hard state, starts no thread, and is owned
//! by one thread, the log writer. Three promises hold across any crash:
//!
//! - a batch for which [`Wal::append`] returned `Ok` is read back by the next [`Wal::open`];
//! - a batch whose append was interrupted is read back as a prefix, cut at an entry, never mixed with
//!   the suffix that it replaced;
//! - damage to bytes known to have been durable is [`WalError::Corrupt`], and then nothing on
//!   disk is changed. It is never truncated as if it were an interrupted write.
//!
//! One limit: nothing follows the last append to prove that it was durable, so damage to it reads as
//! an interrupted write.
//!
//! The disk is trusted in two points: a power cut during the write of a 512-byte sector does not damage
//! its neighbours, and data is durable once `fdatasync` returned.

mod catalog;
mod directory;
mod format;
mod outline;
mod pack;
mod reader;
mod recovery;
mod spare;
mod state;
mod writer;

#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::disk::Disk;

pub use outline::Outline;
pub use reader::Reader;
pub use recovery::{Report, verify};
pub use writer::Wal;

/// Returns the name of the file of segment `generation` in the log's directory.
pub fn segment_file_name(generation: u64) -> String {
    format!("{generation:020}.{}", directory::SEGMENT)
}

/// Removes the log in `dir`, which no process uses; durable when it returns. A crash before leaves a part of it, which may
/// be unreadable: the caller notes before that it removes the log.
pub fn remove(disk: Arc<dyn Disk>, dir: &Path) -> Result<(), WalError> {
    directory::Directory::open(disk, dir)?.remove_all()
}

/// Maximum payload of one entry, in bytes, if segments have at least four times that size.
pub const MAX_ENTRY_BYTES: u64 = 8 << 20;

/// One Raft entry; `payload` is the encoded entry, opaque here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    pub index: u64,
    pub term: u64,
    pub payload: Bytes,
}

/// Raft's persistent state, durable before a member answers a message (Raft paper, figure 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HardState {
    pub term: u64,
    /// Raft id of the candidate that got the vote in `term`; 0 for none.
    pub vote: u64,
    pub commit: u64,
}

/// The position after which the log starts: the last entry that a snapshot covers, or 0/0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Base {
    pub index: u64,
    pub term: u64,
}

/// One unit of work for the log, executed in the order of the fields.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Batch {
    /// Drops every entry; the log then starts after this base and counts as committed up to it.
    pub reset: Option<Base>,
    /// Consecutive entries. The first may overlap the uncommitted end of the log, which is then truncated
    /// there.
    pub entries: Vec<LogEntry>,
    /// New hard state; its `commit` is at most the last index.
    pub hard_state: Option<HardState>,
}

/// The recovered log, without its entries, which [`Wal::reader`] reads. `base <= hard_state.commit <= last index`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recovered {
    /// `None` until the first hard state was appended.
    pub hard_state: Option<HardState>,
    /// Base, last index and terms of the entries from the base on, without a gap.
    pub outline: Outline,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalOptions {
    /// Size of a new segment file: a multiple of 4096, from 4 KiB to 1 GiB.
    pub segment_bytes: u64,
    /// Spare segments besides the live ones, 1 to 16. They are also the reserve that lets a node with a full
    /// disk still vote.
    pub spare_segments: usize,
}

impl Default for WalOptions {
    fn default() -> Self {
        Self { segment_bytes: 64 << 20, spare_segments: 2 }
    }
}

impl WalOptions {
    /// Returns the maximum entry payload, in bytes, for segments of this size.
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

/// An error of the log. After [`WalError::Io`] the log is poisoned; every other error leaves it unchanged.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// A write, sync, rename or removal failed. The content of the disk is unknown until a restart recovers
    /// it.
    #[error("log: cannot {action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    /// An earlier call failed with [`WalError::Io`]. It is not retried: a second `fdatasync` may report
    /// success for pages that were dropped.
    #[error("log: an earlier write failed, so this process must stop writing; restart it")]
    Poisoned,
    /// A new segment cannot be created, most likely because the disk is full. Nothing was written; retry
    /// later.
    #[error("log: no room for a new segment; free space on the volume of {}: {source}", dir.display())]
    NoSpare { dir: PathBuf, source: io::Error },
    /// Bytes that were durable are damaged or missing. Nothing on disk was changed.
    #[error(
        "log: segment {segment} is corrupt at byte {offset}: {what}; rebuild this member from the leader"
    )]
    Corrupt { segment: u64, offset: u64, what: String },
    #[error(
        "log: segment {segment} has format {found}, this version reads {supported}; run the newer release"
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
