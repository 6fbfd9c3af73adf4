//! The seam for this crate's seeded bugs. The code of the engine calls these functions unconditionally; each does what
//! its first line says unless the [`SeededBug`] that it names is on, which it never is without the feature `simulation`.

use std::io;

use bytes::Bytes;
use helios_storage::seeded_bug::SeededBug;

use crate::format::Id;
use crate::manifest::Frame;
use crate::view::Slice;

/// Runs the last sync of a run. Seeded bug: [`SeededBug::RunNotSynced`].
pub fn sync_run(sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    if SeededBug::RunNotSynced.is_on() { Ok(()) } else { sync() }
}

/// Runs the sync of the directory after a new run. Seeded bug: [`SeededBug::RunNameNotSynced`].
pub fn sync_run_name(sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    if SeededBug::RunNameNotSynced.is_on() { Ok(()) } else { sync() }
}

/// Runs of a set that are installed: all. Seeded bug: [`SeededBug::SetLacksRun`].
pub fn installed(frame: &Frame) -> Frame {
    let mut frame = frame.clone();
    if SeededBug::SetLacksRun.is_on() && !frame.uppers.is_empty() {
        frame.uppers.remove(0);
    }
    frame
}

/// Runs the sync of an appended frame. Seeded bug: [`SeededBug::ManifestNotSynced`].
pub fn sync_manifest(sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    if SeededBug::ManifestNotSynced.is_on() { Ok(()) } else { sync() }
}

/// Runs the sync of the directory after a new manifest. Seeded bug: [`SeededBug::ManifestNameNotSynced`].
pub fn sync_names(sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    if SeededBug::ManifestNameNotSynced.is_on() { Ok(()) } else { sync() }
}

/// Whether a frame is incomplete. Seeded bug: [`SeededBug::TornFrameAccepted`].
pub fn is_frame_damaged(differs: bool) -> bool {
    differs && !SeededBug::TornFrameAccepted.is_on()
}

/// Whether a block is rejected for its checksum. Seeded bug: [`SeededBug::BlockNotVerified`].
pub fn is_block_damaged(differs: bool) -> bool {
    differs && !SeededBug::BlockNotVerified.is_on()
}

/// Hash by which a filter's block is selected. Seeded bug: [`SeededBug::FilterOfOtherKey`].
pub fn filter_hash(hash: u64) -> u64 {
    if SeededBug::FilterOfOtherKey.is_on() { hash.rotate_left(7) } else { hash }
}

/// Run in the key of a cached block. Seeded bug: [`SeededBug::CacheIgnoresRun`].
pub fn cached_run(run: Id) -> Id {
    if SeededBug::CacheIgnoresRun.is_on() { 0 } else { run }
}

/// Age of a source in a merge, 0 for the newest. Seeded bug: [`SeededBug::OldestRunDecides`].
pub fn merge_rank(rank: usize) -> usize {
    if SeededBug::OldestRunDecides.is_on() { usize::MAX - rank } else { rank }
}

/// Whether a tombstone is kept: if an older run may have its key. Seeded bug: [`SeededBug::TombstoneDroppedEarly`].
pub fn keeps_tombstone(may_be_older: bool) -> bool {
    may_be_older && !SeededBug::TombstoneDroppedEarly.is_on()
}

/// Whether the inputs of a merge are still live when it ends. Seeded bug: [`SeededBug::MergeOverClear`].
pub fn inputs_are_live(are_live: bool) -> bool {
    are_live || SeededBug::MergeOverClear.is_on()
}

/// Key from which the inputs of an unfinished bottom merge are left. Seeded bug: [`SeededBug::MergeSkipsKey`].
pub fn next_key(next: &Bytes) -> Bytes {
    if SeededBug::MergeSkipsKey.is_on() { [next, [0].as_slice()].concat().into() } else { next.clone() }
}

/// Uppers after a merge. Seeded bug: [`SeededBug::LiveRunDropped`].
pub fn kept_uppers(mut uppers: Vec<Slice>) -> Vec<Slice> {
    if SeededBug::LiveRunDropped.is_on() {
        uppers.pop();
    }
    uppers
}

/// First key that a range reads from a slice that begins at `from`. Seeded bug: [`SeededBug::MergedKeysRead`].
pub fn slice_start(from: &Bytes, start: &Bytes) -> Bytes {
    if SeededBug::MergedKeysRead.is_on() { start.clone() } else { from.max(start).clone() }
}

/// First key that a read finds in a slice that begins at `from`. Seeded bug: [`SeededBug::MergedKeysRead`].
pub fn slice_from(from: &[u8]) -> &[u8] {
    if SeededBug::MergedKeysRead.is_on() { &[] } else { from }
}

/// Whether a file is live at the start. Seeded bug: [`SeededBug::LiveFileRemoved`].
pub fn is_live(is_live: bool) -> bool {
    is_live && !SeededBug::LiveFileRemoved.is_on()
}

/// Runs that a clear keeps: none. Seeded bug: [`SeededBug::ClearKeepsBottom`].
pub fn kept_by_clear(bottom: &[Slice]) -> Vec<Slice> {
    if SeededBug::ClearKeepsBottom.is_on() { bottom.to_vec() } else { Vec::new() }
}
