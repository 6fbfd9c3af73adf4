//! The raft crate's node. No other file uses the crate's node and log types or their fields, so that a newer release of
//! the crate, or another implementation of Raft, replaces only this file. `testing/tests/tidy.rs` checks this.
//!
//! Five functions write the crate's internal fields, beyond the API of `RawNode`; each states its reason:
//! [`RaftRs::hold_election`], [`RaftRs::set_election_timeout`], [`RaftRs::forget_leader`], [`RaftRs::follow_again`] and
//! [`RaftRs::step_down_if_removed`].

use raft::eraftpb::{ConfChangeType, ConfChangeV2, Entry, Message};
use raft::{GetEntriesContext, INVALID_ID, ProgressState, RawNode, Ready, SnapshotStatus, StateRole};

use super::{MAX_UNCOMMITTED_BYTES, Settings, ticks};
use crate::faults;
use crate::log::Log;
use helios_storage::wal::Base;

pub struct RaftRs {
    node: RawNode<Log>,
}

/// The leader's knowledge of one member's log. The crate drops it when leadership ends.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// Last entry that the member acknowledged as durable.
    pub matched: u64,
    /// Last entry that was sent to it.
    pub sent: u64,
    pub state: ProgressState,
    /// Index of the snapshot that is being sent to the member; 0: none.
    pub pending_snapshot: u64,
}

impl Progress {
    fn of(progress: &raft::Progress) -> Self {
        Self {
            matched: progress.matched,
            sent: progress.next_idx.saturating_sub(1),
            state: progress.state,
            pending_snapshot: progress.pending_snapshot,
        }
    }
}

/// Construction, and the crate's own steps.
impl RaftRs {
    /// A node on `log` whose state machine is at `applied`.
    pub fn new(settings: &Settings, log: Log, applied: u64) -> raft::Result<Self> {
        let config = raft::Config {
            id: settings.id,
            election_tick: ticks(settings.election_min),
            min_election_tick: ticks(settings.election_min),
            max_election_tick: ticks(settings.election_max),
            heartbeat_tick: ticks(settings.heartbeat),
            applied,
            max_size_per_msg: 1 << 20,
            max_inflight_msgs: 256,
            check_quorum: true,
            pre_vote: true,
            // Off: the crate adds entries to an empty append at another position, whose answer then
            // acknowledges entries that the follower does not have (ADR 0006).
            batch_append: faults::batches_appends(),
            // The next append has the commit index; `announce_commit` sends it if there is none.
            skip_bcast_commit: true,
            max_uncommitted_size: MAX_UNCOMMITTED_BYTES,
            max_committed_size_per_ready: 4 << 20,
            ..raft::Config::default()
        };
        // The crate requires a slog logger; the core logs role changes with `tracing` instead.
        let node = RawNode::new(&config, log, &slog::Logger::root(slog::Discard, slog::o!()))?;
        Ok(Self { node })
    }

    pub fn tick(&mut self) {
        self.node.tick();
    }

    pub fn step(&mut self, message: Message) -> raft::Result<()> {
        self.node.step(message)
    }

    pub fn campaign(&mut self) -> raft::Result<()> {
        self.node.campaign()
    }

    /// Sends the commit index to all members if no append that is yet to be sent or acknowledged will have it: all entries are
    /// committed. `announced` is the commit index that was sent last.
    pub fn announce_commit(&mut self, announced: &mut u64) {
        let commit = self.commit_index();
        if self.is_leader() && commit == self.last_index() && *announced != commit {
            *announced = commit;
            self.node.raft.bcast_append();
        }
    }

    /// Starts a ReadIndex round; its result is a read state of a later [`Ready`].
    pub fn read_index(&mut self, context: Vec<u8>) {
        self.node.read_index(context);
    }

    pub fn transfer_leader(&mut self, target: u64) {
        self.node.transfer_leader(target);
    }

    /// Sends `target` another `TimeoutNow`; the crate ignores a second transfer to the same one.
    pub fn transfer_leader_again(&mut self, target: u64) {
        self.node.raft.abort_leader_transfer();
        self.node.transfer_leader(target);
    }

    pub fn report_unreachable(&mut self, id: u64) {
        self.node.report_unreachable(id);
    }

    /// Commits the log up to the entry at `known`, if it has it: that entry is committed, and two logs with the same entry
    /// are the same up to it (Log Matching, Raft paper, 5.3).
    pub fn learn_commit(&mut self, known: Base) {
        self.node.raft.raft_log.maybe_commit(known.index, known.term);
    }

    pub fn report_snapshot(&mut self, id: u64, status: SnapshotStatus) {
        self.node.report_snapshot(id, status);
    }

    pub fn has_ready(&self) -> bool {
        self.node.has_ready()
    }

    pub fn ready(&mut self) -> Ready {
        self.node.ready()
    }

    /// Reports that the entries of `ready` were handed to the log writer.
    pub fn advance_append(&mut self, ready: Ready) {
        self.node.advance_append_async(ready);
    }

    /// Reports that every [`Ready`] up to `number` is durable.
    pub fn persisted(&mut self, number: u64) {
        self.node.on_persist_ready(number);
    }

    /// Repeats a call for entries that had to be fetched.
    pub fn entries_fetched(&mut self, context: GetEntriesContext) {
        self.node.on_entries_fetched(context);
    }

    /// Reports that the state machine has applied `index`.
    pub fn applied(&mut self, index: u64) {
        self.node.advance_apply_to(index);
    }

    /// Whether a snapshot was accepted that no Ready has handed out yet.
    pub fn has_accepted_snapshot(&self) -> bool {
        self.node.snap().is_some()
    }

    /// Voters of the membership that elections and commits use; the outgoing ones of joint consensus are not among them.
    #[cfg(test)]
    pub fn voters(&self) -> Vec<u64> {
        let mut voters = self.node.raft.prs().conf().to_conf_state().voters;
        voters.sort_unstable();
        voters
    }

    pub fn apply_conf_change(&mut self, change: &ConfChangeV2) -> raft::Result<()> {
        self.node.apply_conf_change(change).map(drop)
    }
}

/// State of the node.
impl RaftRs {
    pub fn role(&self) -> StateRole {
        self.node.raft.state
    }

    pub fn is_leader(&self) -> bool {
        self.role() == StateRole::Leader
    }

    /// Whether the node is a candidate or a pre-candidate.
    pub fn is_candidate(&self) -> bool {
        matches!(self.role(), StateRole::Candidate | StateRole::PreCandidate)
    }

    pub fn term(&self) -> u64 {
        self.node.raft.term
    }

    /// Id of the known leader; 0: none.
    pub fn leader_id(&self) -> u64 {
        self.node.raft.leader_id
    }

    pub fn has_leader(&self) -> bool {
        self.leader_id() != INVALID_ID
    }

    pub fn commit_index(&self) -> u64 {
        self.node.raft.raft_log.committed
    }

    /// Index of the last entry of the log, durable or not.
    pub fn last_index(&self) -> u64 {
        self.node.raft.raft_log.last_index()
    }

    pub fn last_term(&self) -> u64 {
        self.node.raft.raft_log.last_term()
    }

    /// Term of entry `index`; `None` if the log does not have it.
    pub fn term_of(&self, index: u64) -> Option<u64> {
        self.node.raft.raft_log.term(index).ok()
    }

    /// Whether an entry of the leader's own term is committed: until then the leader does not know all entries that
    /// earlier leaders committed (Raft thesis, 6.4).
    pub fn has_committed_in_term(&self) -> bool {
        self.node.raft.commit_to_current_term()
    }

    /// Whether the log contains a membership change that is not applied.
    pub fn has_pending_change(&self) -> bool {
        self.node.raft.has_pending_conf()
    }

    /// Whether the leader waits for the target of a transfer and accepts no proposals.
    pub fn is_transferring(&self) -> bool {
        self.node.raft.lead_transferee.is_some()
    }

    pub fn progress(&self, id: u64) -> Option<Progress> {
        self.node.raft.prs().get(id).map(Progress::of)
    }

    /// Progress of all members that the crate knows, including this one.
    pub fn progresses(&self) -> impl Iterator<Item = (u64, Progress)> {
        self.node.raft.prs().iter().map(|(id, progress)| (*id, Progress::of(progress)))
    }

    /// Entries that are not handed to the log writer, or not durable yet.
    pub fn unstable_entries(&self) -> &[Entry] {
        &self.node.raft.raft_log.unstable.entries
    }

    pub fn unstable_bytes(&self) -> u64 {
        self.node.raft.raft_log.unstable.entries_size as u64
    }

    pub fn log(&self) -> &Log {
        self.node.store()
    }

    pub fn log_mut(&mut self) -> &mut Log {
        self.node.mut_store()
    }
}

/// Access to the crate's internal fields.
impl RaftRs {
    /// Restarts the election timeout, so that no campaign begins.
    pub fn hold_election(&mut self) {
        self.node.raft.election_elapsed = 0;
    }

    /// Ticks since the election timeout began.
    pub fn election_elapsed(&self) -> usize {
        self.node.raft.election_elapsed
    }

    /// Replaces the timeout that the crate drew from the thread's random generator, which a simulation cannot repeat.
    pub fn set_election_timeout(&mut self, ticks: usize) {
        self.node.raft.set_randomized_election_timeout(ticks);
    }

    /// Makes a follower forget the leader of its term: it then grants pre-votes at once and may campaign. The crate
    /// itself forgets a leader only at the end of the election timeout.
    pub fn forget_leader(&mut self) {
        let term = self.term();
        self.node.raft.become_follower(term, INVALID_ID);
    }

    /// Reverts [`Self::forget_leader`], or the pre-vote after it.
    pub fn follow_again(&mut self, leader: u64) {
        let term = self.term();
        self.node.raft.become_follower(term, leader);
    }

    /// Makes a leader that `change` removes step down before it applies `change`: the crate panics when a leader that
    /// is not a member counts itself (0.7, `maybe_commit`). At the begin of joint consensus it still is one of the
    /// old voters.
    pub fn step_down_if_removed(&mut self, change: &ConfChangeV2) {
        let raft = &mut self.node.raft;
        let own = raft.id;
        let removes_self = if change.leave_joint() {
            let next = raft.prs().conf().to_conf_state();
            !next.voters.contains(&own) && !next.learners.contains(&own)
        } else {
            change.enter_joint().is_none()
                && change.changes.iter().any(|single| {
                    single.get_change_type() == ConfChangeType::RemoveNode && single.node_id == own
                })
        };
        if faults::steps_down(removes_self && raft.state == StateRole::Leader) {
            raft.become_follower(raft.term, INVALID_ID);
        }
    }
}
