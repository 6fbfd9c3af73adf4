//! Entries for members that lag by more than the cache of the log holds: the leader fetches them from its disk, for each
//! member a bounded part at a time.

use raft::ProgressState;
use raft::eraftpb::Entry;

use super::raft_rs::Progress;
use super::{Core, Effect};

/// Bytes that are sent to a member and not acknowledged, beyond which no more are fetched for it: they wait in the
/// queue of its link.
const MAX_UNACKNOWLEDGED_BYTES: u64 = 8 << 20;

impl Core {
    /// Drops entries from the cache beyond its limit. Raft needs those that are applied only for other members.
    pub(super) fn evict_applied(&mut self) {
        let limit_bytes = self.settings.log_cache_bytes.min(self.settings.max_log_bytes / 4);
        let log = self.raft.log_mut();
        log.evict(crate::faults::evicted_through(self.applying.index(), log.last()), limit_bytes);
    }

    /// Starts the fetches that the raft crate waits for, and drops those that no member needs any more.
    pub(super) fn fetch_entries(&mut self) {
        if !self.raft.log().has_fetches() {
            return;
        }
        if !self.raft.is_leader() {
            return self.raft.log_mut().drop_fetches();
        }
        let is_fed = |progress: &Progress| progress.state != ProgressState::Snapshot;
        let others = self.raft.progresses().filter(|(id, _)| *id != self.settings.id);
        let members: Vec<Progress> = others.map(|(_, progress)| progress).filter(is_fed).collect();
        let next: Vec<u64> = members.iter().map(|progress| progress.sent + 1).collect();
        let log = self.raft.log_mut();
        log.keep_fetches_for(&next);
        for progress in &members {
            let unacknowledged = log.bytes_between(progress.matched, progress.sent);
            let may_send =
                progress.state != ProgressState::Replicate || unacknowledged <= MAX_UNACKNOWLEDGED_BYTES;
            if may_send && let Some(job) = log.begin_fetch(progress.sent + 1, members.len()) {
                self.effects.push(Effect::Fetch(job));
            }
        }
    }

    /// Hands fetched entries to the raft crate, which sends them.
    pub(super) fn fetched(&mut self, number: u64, outcome: Result<Option<Vec<Entry>>, String>) {
        let (contexts, result) = self.raft.log_mut().end_fetch(number, outcome);
        if let Err(reason) = result {
            tracing::error!(
                %reason,
                "the log on disk is damaged; members that lag get a snapshot; replace this member"
            );
        }
        for context in contexts {
            self.raft.entries_fetched(context);
        }
    }
}
