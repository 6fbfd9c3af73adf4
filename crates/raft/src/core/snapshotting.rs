//! When a snapshot is due, and what of the log may go once it is there (C9).

use std::time::{Duration, Instant};

use raft::{ProgressState, Storage};

use super::{Core, Effect, LogJob, MAX_LOG_BYTES};
use crate::faults;
use helios_state::SnapshotMeta;
use helios_storage::wal::Base;

/// How long after a snapshot that failed the next is tried.
const SNAPSHOT_RETRY: Duration = Duration::from_secs(5);
/// Of the log, kept at most for members that are behind: what they lack beyond comes as a snapshot.
pub const MAX_HELD_BYTES: u64 = MAX_LOG_BYTES / 2;
/// And for those that a snapshot is on its way to, or broke off: less, and it might be of no use when it
/// arrives.
const MAX_AWAITED_BYTES: u64 = 4 * MAX_LOG_BYTES;

impl Core {
    pub(super) fn snapshot_due(&self, now: Instant) -> bool {
        let new_entries = self.applied_index.saturating_sub(self.snapshot_index);
        if new_entries == 0 {
            return false;
        }
        let log_bytes = self.raft.log().bytes().saturating_sub(self.kept_bytes);
        // Well before a leader has to slow down.
        let due_bytes = MAX_LOG_BYTES.min(self.settings.max_log_bytes / 4);
        // A snapshot writes the whole state, so it waits until the log has grown by as much, or by
        // half of what makes one due.
        let paid_for = log_bytes >= self.snapshot_bytes.min(due_bytes / 2);
        (new_entries >= self.settings.snapshot_entries && paid_for)
            || log_bytes >= due_bytes
            || now.duration_since(self.snapshot_at) >= self.settings.snapshot_interval
    }

    pub(super) fn build_snapshot(&mut self) {
        if !self.building_snapshot {
            self.building_snapshot = true;
            self.effects.push(Effect::BuildSnapshot);
        }
    }

    /// The cause, a full disk for one, is still there at once.
    pub(super) fn snapshot_failed(&mut self, now: Instant) {
        self.building_snapshot = false;
        self.wants_another = false;
        self.snapshot_failures += 1;
        self.snapshot_not_before = now + SNAPSHOT_RETRY;
    }

    pub(super) fn snapshot_built(&mut self, meta: &SnapshotMeta, now: Instant) {
        self.building_snapshot = false;
        self.snapshot_at = now;
        if std::mem::take(&mut self.wants_another) && meta.index < self.applied_index {
            self.build_snapshot();
        }
        if meta.index < self.snapshot_index {
            return;
        }
        self.offer_snapshot(meta);
        let floor = faults::purge_floor(self.purge_floor(meta.index, now), self.applied_index);
        if floor > self.raft.log().base().index
            && let Ok(term) = self.raft.log().term(floor)
        {
            let base = Base { index: floor, term };
            self.raft.log_mut().purge(base);
            self.effects.push(Effect::Log(LogJob::Purge(base)));
        }
        self.kept_bytes = self.raft.log().bytes();
    }

    fn max_held_bytes(&self) -> u64 {
        MAX_HELD_BYTES.min(self.settings.max_log_bytes / 8)
    }

    /// What may go: below the snapshot by the trailing entries, and, up to a cap, not what a member needs that
    /// is there and behind, nor what one will need right after the snapshot that is on its way to it.
    fn purge_floor(&self, snapshot_index: u64, now: Instant) -> u64 {
        let log = self.raft.log();
        // Trailing entries are few, or large and fewer.
        let trailing = snapshot_index.saturating_sub(self.settings.trailing_entries);
        let floor = trailing.max(log.index_before(self.max_held_bytes()).min(snapshot_index));
        if !self.raft.is_leader() {
            return floor;
        }
        let awaited = MAX_AWAITED_BYTES.min(self.settings.max_log_bytes / 2);
        let held = self.settings.held_bytes.min(self.max_held_bytes());
        let (held, awaited) = (log.index_before(held), log.index_before(awaited));
        let others = self.raft.progresses().filter(|(id, _)| *id != self.settings.id);
        let needed = others.filter_map(|(id, progress)| {
            let unfinished = log.unfinished(id).filter(|index| *index > progress.matched);
            match (progress.state, unfinished) {
                (ProgressState::Snapshot, _) => Some(progress.pending_snapshot.max(awaited)),
                _ if !self.is_active(id, now) => None,
                (_, Some(unfinished)) => Some(unfinished.max(awaited)),
                (_, None) => Some(progress.matched.max(held)),
            }
        });
        needed.fold(floor, u64::min)
    }
}
