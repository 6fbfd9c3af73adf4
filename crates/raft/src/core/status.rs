//! The status of the core, for the rest of the process.

use std::sync::Arc;
use std::time::Instant;

use helios_proto::v1::{Member, Progress};
use raft::{ProgressState, StateRole};

use super::super::membership;
use super::super::types::*;
use super::Core;

impl Core {
    pub(crate) fn leader(&self) -> Option<&Member> {
        membership::member(&self.membership, self.raft.leader_id())
    }

    pub(super) fn leader_name(&self) -> String {
        self.leader().map(|leader| leader.name.clone()).unwrap_or_default()
    }

    pub(super) fn own_name(&self) -> String {
        membership::name_of(&self.membership, self.settings.id).unwrap_or_default()
    }

    pub fn status(&self, now: Instant) -> RaftStatus {
        let raft = &self.raft;
        let role = match raft.role() {
            StateRole::Leader => Role::Leader,
            StateRole::Candidate | StateRole::PreCandidate => Role::Candidate,
            StateRole::Follower if self.membership.learners.contains(&self.settings.id) => Role::Learner,
            StateRole::Follower => Role::Follower,
        };
        let is_leader = role == Role::Leader;
        let progress = if is_leader { self.progress(now) } else { Vec::new() };
        let may_lead = if is_leader { self.successors(now) } else { Vec::new() };
        RaftStatus {
            role,
            term: raft.term(),
            leader_id: raft.leader_id(),
            commit_index: raft.commit_index(),
            last_index: raft.last_index(),
            last_log_term: raft.last_term(),
            first_index: self.raft.log().base().index + 1,
            snapshot_index: self.snapshots.index(),
            covered_index: self.snapshots.covered(),
            log_bytes: self.raft.log().bytes(),
            log_memory_bytes: self.raft.log().memory_bytes(),
            membership: Arc::clone(&self.membership),
            progress,
            durable: self.durable(now),
            elections: self.elections.started(),
            last_election: self.elections.last(),
            may_lead,
            transfer_target: self.leadership.transfer_target(),
            stale_learners: self.stale_learners(now),
            leader_changes: self.elections.leader_changes(),
            pending_proposals: self.proposals.pending() as u64,
            read_rounds: self.reads.rounds_started(),
            lease_reads: self.reads.lease_reads(),
            snapshot_failures: self.snapshots.failures(),
            disk_transfers: self.leadership.disk_transfers(),
            lowest_format: self.lowest_format(),
            disk_is_bad: self.disk_is_bad(),
            unappliable: self.applying.held().cloned(),
            skipped_entries: self.applying.skipped_entries(),
            last_skipped: self.applying.last_skipped(),
            held_bytes: self.held_bytes(now),
            holds_dropped: self.holds.dropped(),
        }
    }

    /// Bytes of the log from the first entry on that is kept for an archiver.
    fn held_bytes(&self, now: Instant) -> u64 {
        let log = self.raft.log();
        self.holds.first_held(now).map_or(0, |from| log.bytes_between(from - 1, log.last()))
    }

    /// Whether a membership change is pending in the log, or joint consensus is in progress.
    #[cfg(feature = "simulation")]
    pub fn is_changing(&self) -> bool {
        self.raft.has_pending_change() || membership::is_joint(&self.membership)
    }

    /// Term of entry `index`; `None` if this member's log does not have it.
    #[cfg(feature = "simulation")]
    pub fn term_of(&self, index: u64) -> Option<u64> {
        raft::Storage::term(self.raft.log(), index).ok()
    }

    fn progress(&self, now: Instant) -> Vec<Progress> {
        let others = self.raft.progresses().filter(|(id, _)| *id != self.settings.id);
        let mut found: Vec<Progress> = others
            .map(|(id, progress)| Progress {
                id,
                match_index: progress.matched,
                active: self.is_active(id, now),
                snapshotting: progress.state == ProgressState::Snapshot,
            })
            .collect();
        found.sort_by_key(|progress| progress.id);
        found
    }
}
