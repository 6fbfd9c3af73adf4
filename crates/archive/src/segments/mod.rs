//! The log as segments, each of which has the hash of the log before it. The chain is what detects a segment that was left
//! out, or replaced by an older one.

mod format;
mod read;
mod write;

use bytes::Bytes;

pub use format::{Header, SegmentBuilder};
pub use read::{SegmentReader, Stop, Verified, check_link, read_header, read_segment};
pub use write::SegmentWriter;

use crate::base::Manifest;
use crate::crypto::Hash;

/// A committed entry of the log, with its payload as the log has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub index: u64,
    pub term: u64,
    /// Wall clock of the leader that proposed it; 0 if it has none. The log's clock is the maximum.
    pub now_ms: u64,
    pub payload: Bytes,
}

/// The end of a log, which the next segment continues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    pub next_index: u64,
    /// Term of the entry before.
    pub term: u64,
    /// The log's clock: the maximum `now_ms` of the entries before.
    pub now_ms: u64,
    /// Hash of the log before; zeros if the archive has none.
    pub previous: Hash,
}

impl Position {
    /// The begin of a log that continues a base and no segment.
    pub fn after_base(manifest: &Manifest) -> Self {
        let Manifest { index, term, now_ms, .. } = *manifest;
        Self { next_index: index + 1, term, now_ms, previous: Hash::default() }
    }
}

#[cfg(test)]
mod tests;
