//! The state engine `runs`: a log-structured merge tree of immutable sorted files (docs/adr/0022-runs.md).
//!
//! A checkpoint writes one sorted file, a *run*, and one frame of the manifest, and reads nothing. Runs are merged in
//! the background. There is no journal: the Raft log has every change that no checkpoint covers yet.
//!
//! - A run ([`run`]) is written once and never changed. Every block has a checksum that depends on the identity of its
//!   file and on its position, so that a block of another file or of another place is detected when it is read.
//! - The [`manifest`] is a log of the lists of live runs. Its last complete frame decides which files are the state.
//! - A [`View`] is one such list. It does not change, and its files stay until the last clone is dropped: readers,
//!   snapshots and transfers hold one and block nobody.
//!
//! The order of the runs of a view, newest first: *uppers*, each over any range of keys, then the *bottom*, whose runs
//! do not overlap. The newest run with a key decides its value; a removal is recorded by a tombstone until it is merged
//! into the bottom.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests measure with the machine's clock"))]

mod block;
mod cache;
mod compaction;
mod engine;
mod error;
mod faults;
mod fence;
mod filter;
mod format;
mod manifest;
mod merge;
mod run;
mod set;
#[cfg(test)]
mod tests;
mod view;
mod writer;

pub use self::cache::CacheStats;
pub use self::compaction::{Job, Merged};
pub use self::engine::{Checked, Options, Pending, Runs};
pub use self::error::{Error, Result};
pub use self::manifest::CURRENT;
pub use self::run::RunId;
pub use self::set::{HEAD, Set};
pub use self::view::{Stats, View};

use bytes::Bytes;

/// The new value of a key, or `None` if the key was removed.
pub type Slot = Option<Bytes>;
