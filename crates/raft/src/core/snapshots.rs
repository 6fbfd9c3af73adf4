//! Snapshots: when one is due, and which part of the log is purged after it (C9). `holds` keeps more for archivers.

use std::time::{Duration, Instant};

use raft::{ProgressState, Storage};

use super::raft_rs::Progress;
use super::{Core, Effect, LogJob, MAX_LOG_BYTES, Settings, raft_snapshot};
use crate::{faults, format};
use helios_state::SnapshotMeta;
use helios_storage::wal::Base;

/// Time for which the log is kept for a member without contact: long enough for a restart of its host.
const RETAINED_FOR: Duration = Duration::from_secs(600);
/// Pause between a failed snapshot and the next attempt.
const SNAPSHOT_RETRY: Duration = Duration::from_secs(5);
/// Limit of the log that every member keeps before its newest snapshot, bytes.
pub(super) const MAX_TRAILING_BYTES: u64 = MAX_LOG_BYTES / 2;
/// Log kept at least for members with a snapshot that is not installed yet, bytes: with less, the log might begin after
/// the snapshot when it is, so that it is useless.
const MIN_AWAITED_BYTES: u64 = 4 * MAX_LOG_BYTES;

/// Log that is kept at least for members that lag, if the limit is not lower, bytes.
const MIN_HELD_BYTES: u64 = 128 << 20;
/// Log that is kept for members that lag if they can get a set of runs: one of this many parts of the state. A member
/// applies 5 to 10 MB/s of small entries and fetches 300 MB/s of runs (bench/reports/2026-11-29-scale.md).
const HELD_PART_OF_STATE: u64 = 16;

pub(super) struct Snapshots {
    is_building: bool,
    /// A snapshot was requested while one is being built, which may lack entries that the request has to cover.
    wants_another: bool,
    /// Index of the newest snapshot.
    index: u64,
    /// Highest index that a snapshot or a trusted checkpoint covers.
    covered: u64,
    /// Size of the newest snapshot.
    bytes: u64,
    /// Size of the state at the last checkpoint.
    state_bytes: u64,
    /// Bytes of the log that the last purge left.
    kept_bytes: u64,
    built_at: Instant,
    /// Earliest time of the next attempt after a failure.
    not_before: Instant,
    failures: u64,
}

impl Snapshots {
    pub fn new(index: u64, now: Instant) -> Self {
        Self {
            is_building: false,
            wants_another: false,
            index,
            covered: index,
            bytes: 0,
            state_bytes: 0,
            kept_bytes: 0,
            built_at: now,
            not_before: now,
            failures: 0,
        }
    }

    pub fn index(&self) -> u64 {
        self.index
    }

    /// Highest index that a snapshot or a trusted checkpoint covers.
    pub fn covered(&self) -> u64 {
        self.covered.max(self.index)
    }

    pub fn set_state_bytes(&mut self, bytes: u64) {
        self.state_bytes = bytes;
    }

    pub fn failures(&self) -> u64 {
        self.failures
    }

    /// Records that the log was reset to a received snapshot.
    pub fn record_installed(&mut self, index: u64) {
        self.index = index;
        self.kept_bytes = 0;
    }

    /// Records a failed snapshot. The next attempt is delayed, because the cause, such as a full disk, may last.
    pub fn record_failure(&mut self, now: Instant) {
        self.is_building = false;
        self.wants_another = false;
        self.failures += 1;
        self.not_before = now + SNAPSHOT_RETRY;
    }

    /// Whether a snapshot is due for a log of `log_bytes` and a state at `applied`.
    fn is_due(&self, settings: &Settings, log_bytes: u64, applied: u64, now: Instant) -> bool {
        let new_entries = applied.saturating_sub(self.index);
        if new_entries == 0 || settings.snapshots_on_demand {
            return false;
        }
        let log_bytes = log_bytes.saturating_sub(self.kept_bytes);
        // Due well before a leader slows down writes.
        let due_bytes = MAX_LOG_BYTES.min(settings.max_log_bytes / 4);
        // A snapshot writes the whole state, so it waits until the log has grown by as much, or by
        // half of what makes one due.
        let paid_for = log_bytes >= self.bytes.min(due_bytes / 2);
        (new_entries >= settings.snapshot_entries && paid_for)
            || log_bytes >= due_bytes
            || now.duration_since(self.built_at) >= settings.snapshot_interval
    }
}

impl Core {
    /// Makes a snapshot on disk the newest one, which may be sent.
    pub fn offer_snapshot(&mut self, meta: &SnapshotMeta) {
        self.snapshots.index = meta.index;
        self.snapshots.bytes = meta.size_bytes;
        self.raft.log_mut().set_snapshot(raft_snapshot(meta));
    }

    pub(super) fn build_due_snapshot(&mut self, now: Instant) {
        if now < self.snapshots.not_before {
            return;
        }
        let (log, applied) = (self.raft.log(), self.applying.index());
        if self.snapshots.is_due(&self.settings, log.bytes(), applied, now) || log.take_snapshot_wanted() {
            self.build_snapshot();
        }
    }

    pub(super) fn build_snapshot(&mut self) {
        if !std::mem::replace(&mut self.snapshots.is_building, true) {
            let as_set = self.lowest_format() >= format::SNAPSHOT_SETS;
            self.effects.push(Effect::BuildSnapshot { as_set });
        }
    }

    /// Requests a snapshot that covers everything applied so far.
    pub(super) fn request_snapshot(&mut self) {
        self.snapshots.wants_another = self.snapshots.is_building;
        self.build_snapshot();
    }

    pub(super) fn snapshot_built(&mut self, meta: &SnapshotMeta, now: Instant) {
        self.snapshots.is_building = false;
        self.snapshots.built_at = now;
        if std::mem::take(&mut self.snapshots.wants_another) && meta.index < self.applying.index() {
            self.build_snapshot();
        }
        if meta.index < self.snapshots.index {
            return;
        }
        self.offer_snapshot(meta);
        self.purge(meta.index, now);
        self.snapshots.kept_bytes = self.raft.log().bytes();
    }

    /// Handles a checkpoint at `durable`; 0 if its engine is not trusted. Snapshots that the log does not continue from
    /// any more are of no use.
    pub(super) fn checkpointed(&mut self, durable: u64, now: Instant) {
        if durable > 0 && self.purge(durable, now) {
            let before = self.raft.log().base().index;
            self.effects.push(Effect::RemoveSnapshots { before });
        }
    }

    /// Purges the log up to an index that a snapshot or a trusted checkpoint covers. Returns whether it changed.
    pub(super) fn purge(&mut self, covered: u64, now: Instant) -> bool {
        self.settle_snapshots();
        // A checkpoint may be reported before the apply of its last entries is: the raft crate reads those that it does
        // not know to be applied when it campaigns.
        let covered = covered.min(self.applying.index());
        self.snapshots.covered = self.snapshots.covered.max(covered);
        let floor = self.purge_floor(covered, now);
        let log = self.raft.log();
        let (first, bytes_from) = (log.base().index + 1, |from| log.bytes_between(from - 1, log.last()));
        let floor = self.holds.purge_floor(floor, first, self.admission.is_log_short(), bytes_from, now);
        let floor = faults::purge_floor(floor, self.applying.index());
        if floor > self.raft.log().base().index
            && let Ok(term) = self.raft.log().term(floor)
        {
            let base = Base { index: floor, term };
            let before = self.raft.log().bytes();
            self.raft.log_mut().purge(base);
            self.effects.push(Effect::Log(LogJob::Purge(base)));
            let freed = before - self.raft.log().bytes();
            self.snapshots.kept_bytes = self.snapshots.kept_bytes.saturating_sub(freed);
            return true;
        }
        false
    }

    /// Ends the snapshot transfers whose members acknowledged the snapshot's index: only then their logs continue from
    /// it. A complete transfer is not enough, because a member may take longer to install it than the log lasts.
    fn settle_snapshots(&mut self) {
        let installed = |(id, progress): (u64, Progress)| {
            self.raft.log().unfinished(id).is_some_and(|index| progress.matched >= index).then_some(id)
        };
        let settled: Vec<u64> = self.raft.progresses().filter_map(installed).collect();
        settled.into_iter().for_each(|id| self.raft.log_mut().snapshot_settled(id));
    }

    fn max_trailing_bytes(&self) -> u64 {
        MAX_TRAILING_BYTES.min(self.settings.max_log_bytes / 8)
    }

    /// Limit of the log kept for members that lag, bytes.
    pub(super) fn max_held_bytes(&self) -> u64 {
        let mut limit = self.settings.held_bytes;
        if self.settings.snapshots_on_demand {
            // Entries cost a member far more than the same bytes of a snapshot, which is sent and linked: with a longer
            // log it would take longer to catch up, or never would under load.
            limit = limit.min(MIN_HELD_BYTES.max(self.snapshots.state_bytes / HELD_PART_OF_STATE));
        }
        if self.admission.is_log_short() { limit.min(self.max_trailing_bytes()) } else { limit }
    }

    /// Returns the last entry to purge but for holds. The trailing entries before the snapshot are kept; a leader also keeps, up to a
    /// limit each, the entries that a lagging member needs which was heard of lately, and those after a snapshot until it is installed.
    fn purge_floor(&self, snapshot_index: u64, now: Instant) -> u64 {
        let log = self.raft.log();
        // The trailing entries are limited by their number and by their bytes.
        let trailing = snapshot_index.saturating_sub(self.settings.trailing_entries);
        let floor = trailing.max(log.index_before(self.max_trailing_bytes()).min(snapshot_index));
        if !self.raft.is_leader() {
            return floor;
        }
        let held = self.max_held_bytes();
        let awaited = held.max(MIN_AWAITED_BYTES);
        let (held, awaited) = (log.index_before(held), log.index_before(awaited));
        let others = self.raft.progresses().filter(|(id, _)| *id != self.settings.id);
        let needed = others.filter_map(|(id, progress)| {
            let unfinished = log.unfinished(id).filter(|index| *index > progress.matched);
            match (progress.state, unfinished) {
                (ProgressState::Snapshot, _) => Some(progress.pending_snapshot.max(awaited)),
                _ if !self.was_heard(id, RETAINED_FOR, now) => None,
                (_, Some(unfinished)) => Some(unfinished.max(awaited)),
                (_, None) => Some(progress.matched.max(held)),
            }
        });
        needed.fold(floor, u64::min)
    }
}
