//! The seam for this crate's seeded bugs. The code of the state machine calls these functions unconditionally; each
//! does what its first line says unless the [`SeededBug`] that it names is on, which it never is without the feature
//! `simulation`.

use std::io;

use helios_proto::v1::{Guard, Reply, reply::Kind as Answer};
use helios_storage::seeded_bug::SeededBug;

use crate::engines::Pair;
use crate::txn::Txn;
use crate::value;

/// Whether SET keeps the expiry of the value that it replaces: if requested (KEEPTTL). Seeded bug:
/// [`SeededBug::ExpiryKeptBySet`].
pub fn keeps_expiry(is_asked_for: bool) -> bool {
    is_asked_for || SeededBug::ExpiryKeptBySet.is_on()
}

/// Revision of a key whose expiry the entry at `index` changes. Seeded bug: [`SeededBug::RevisionKeptByExpiry`].
pub fn revision_after_expiry(index: u64, old: u64) -> u64 {
    if SeededBug::RevisionKeptByExpiry.is_on() { old } else { index }
}

/// Records of applied requests that a FLUSHALL keeps: all. Seeded bug: [`SeededBug::FlushForgetsRequests`].
pub fn kept_requests(requests: Vec<Pair>) -> Vec<Pair> {
    if SeededBug::FlushForgetsRequests.is_on() { Vec::new() } else { requests }
}

/// Distance between the ids of two collections that one entry creates: 1. Seeded bug:
/// [`SeededBug::CollectionIdShared`].
pub fn collection_step() -> u32 {
    u32::from(!SeededBug::CollectionIdShared.is_on())
}

/// Answer to a request that was applied before. Seeded bug: [`SeededBug::RepeatHasNewIndex`].
pub fn repeated(reply: Reply, txn: &Txn<'_>) -> Reply {
    match reply {
        Reply { kind: Some(answer), .. } if SeededBug::RepeatHasNewIndex.is_on() => txn.reply(answer),
        reply => reply,
    }
}

/// Whether the answer to a request is remembered: also if it was rejected. Seeded bug: [`SeededBug::RefusalForgotten`].
pub fn is_remembered(is_refused: bool) -> bool {
    !(is_refused && SeededBug::RefusalForgotten.is_on())
}

/// Whether a request was applied before. Seeded bug: [`SeededBug::RetryAppliedAgain`].
pub fn is_repeat(is_known: bool, is_retry: bool) -> bool {
    is_known && !(is_retry && SeededBug::RetryAppliedAgain.is_on())
}

/// Whether a transaction ends after the replies so far: never. Seeded bug: [`SeededBug::ExecEndsAtRefusal`].
pub fn ends_after(replies: &[Reply]) -> bool {
    let is_refused = |reply: &Reply| matches!(reply.kind, Some(Answer::Error(_)));
    SeededBug::ExecEndsAtRefusal.is_on() && replies.last().is_some_and(is_refused)
}

/// Whether a guard is compared with the state: always. Seeded bugs: [`SeededBug::GuardsIgnored`] and
/// [`SeededBug::MissingKeyNotGuarded`].
pub fn is_compared(guard: &Guard) -> bool {
    let is_of_missing_key = guard.revision == 0;
    !(SeededBug::GuardsIgnored.is_on() || is_of_missing_key && SeededBug::MissingKeyNotGuarded.is_on())
}

/// Clock of the log before an entry, ms. Seeded bug: [`SeededBug::ClockFollowsLeader`].
pub fn clock_before(clock_ms: u64) -> u64 {
    if SeededBug::ClockFollowsLeader.is_on() { 0 } else { clock_ms }
}

/// Whether a script's entry is guarded by the keys that the script read: always. Seeded bug:
/// [`SeededBug::ScriptNotGuarded`].
pub fn is_script_guarded() -> bool {
    !SeededBug::ScriptNotGuarded.is_on()
}

/// Whether the log holds the random result of a script's command. Seeded bug: [`SeededBug::ScriptDrawsAgain`].
pub fn logs_drawn(is_random: bool) -> bool {
    is_random && !SeededBug::ScriptDrawsAgain.is_on()
}

/// Runs the sync of a snapshot file. Seeded bug: [`SeededBug::SnapshotNotSynced`].
pub fn sync_snapshot(sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    if SeededBug::SnapshotNotSynced.is_on() { Ok(()) } else { sync() }
}

/// Whether the files of a received set are not synced: never. Seeded bug: [`SeededBug::ReceivedNotSynced`].
pub fn skips_sync_of_received() -> bool {
    SeededBug::ReceivedNotSynced.is_on()
}

/// Whether a snapshot is rejected for its checksum. Seeded bug: [`SeededBug::SnapshotNotVerified`].
pub fn is_snapshot_damaged(differs: bool) -> bool {
    differs && !SeededBug::SnapshotNotVerified.is_on()
}

/// Whether a checkpoint replaces the engine: after a FLUSHALL. Seeded bug: [`SeededBug::ClearNotCheckpointed`].
pub fn replaces_engine(is_cleared: bool) -> bool {
    is_cleared && !SeededBug::ClearNotCheckpointed.is_on()
}

/// Applied index that a checkpoint records. Seeded bug: [`SeededBug::CheckpointIndexTooLow`].
pub fn checkpoint_index(applied: u64) -> u64 {
    applied - u64::from(SeededBug::CheckpointIndexTooLow.is_on())
}

/// Whether a checkpoint writes its journal before the engine. Seeded bug: [`SeededBug::CheckpointWithoutJournal`].
pub fn needs_journal(is_in_place: bool) -> bool {
    is_in_place && !SeededBug::CheckpointWithoutJournal.is_on()
}

/// Applied index in a snapshot's header. Seeded bug: [`SeededBug::SnapshotIndexTooHigh`].
pub fn snapshot_index(applied: u64) -> u64 {
    applied + u64::from(SeededBug::SnapshotIndexTooHigh.is_on())
}

/// Whether the record `key` of a snapshot is not restored: never. Seeded bug: [`SeededBug::RequestsNotInSnapshot`].
pub fn is_left_out(key: &[u8]) -> bool {
    SeededBug::RequestsNotInSnapshot.is_on() && key.starts_with(value::REQUESTS_START)
}
