//! What others may know of the core, and what it tells the log when its role changes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use helios_proto::v1::{Member, Progress};
use raft::eraftpb::{Message, MessageType};
use raft::{ProgressState, StateRole};

use super::super::types::*;
use super::super::{membership, transfer};
use super::{Core, Settings};

/// Longest election timeouts without a leader after which a candidate says what may help.
const ADVICE_AFTER_TIMEOUTS: u32 = 8;

impl Core {
    pub(crate) fn is_active(&self, id: u64, now: Instant) -> bool {
        id == self.settings.id
            || self
                .last_heard
                .get(&id)
                .is_some_and(|heard| now.duration_since(*heard) < 2 * self.settings.election_min)
    }

    pub(super) fn note_role(&mut self, now: Instant) {
        let raft = &self.raft;
        let current = (raft.role(), raft.term(), raft.leader_id());
        let (old_state, old_term, old_leader) = self.last_role;
        if current == self.last_role {
            return;
        }
        self.last_role = current;
        let (state, term, leader_id) = current;
        self.note_candidacy(old_state, old_term, now);
        if state != old_state || term != old_term {
            self.reads.give_up_round();
            self.raft.log_mut().forget_unfinished();
            match state {
                StateRole::Candidate | StateRole::PreCandidate => {
                    self.elections += u64::from(state == StateRole::Candidate);
                    self.votes = BTreeSet::from([self.settings.id]);
                    tracing::info!(term, ?state, "starting election");
                }
                StateRole::Leader => {
                    let votes = std::mem::take(&mut self.votes).len().max(1);
                    tracing::info!(term, votes, node = %self.own_name(), "Became leader: won election, entering leader state");
                }
                StateRole::Follower if old_state != StateRole::Follower => {
                    tracing::info!(term, "entering follower state");
                }
                StateRole::Follower => {}
            }
        }
        if leader_id != old_leader && leader_id != 0 {
            self.leader_changes += 1;
            self.is_advised = false;
            tracing::info!(term, leader = %self.leader_name(), "leader known");
        } else if leader_id == 0 && old_leader != 0 {
            self.leaderless_since = now;
            tracing::info!(term, "no leader known");
        }
    }

    pub(crate) fn leader(&self) -> Option<&Member> {
        membership::member(&self.membership, self.raft.leader_id())
    }

    pub(super) fn leader_name(&self) -> String {
        self.leader().map(|leader| leader.name.clone()).unwrap_or_default()
    }

    pub(super) fn note_answer(&mut self, message: &Message) {
        let raft = &self.raft;
        match message.get_msg_type() {
            MessageType::MsgRequestVoteResponse
                if raft.role() == StateRole::Candidate && message.term == raft.term() && !message.reject =>
            {
                self.votes.insert(message.from);
            }
            MessageType::MsgAppendResponse if !message.reject => {
                let peer = message.from;
                tracing::debug!(
                    peer,
                    match_index = message.index,
                    term = message.term,
                    "log replicated to peer"
                );
            }
            _ => {}
        }
    }

    /// Elections that go on without a winner are told of once, with what most often helps.
    pub(super) fn advise(&mut self, now: Instant) {
        let Settings { election_min, election_max, .. } = self.settings;
        let is_standing = self.raft.is_candidate();
        let leaderless = now.duration_since(self.leaderless_since);
        if self.is_advised || !is_standing || leaderless < ADVICE_AFTER_TIMEOUTS * election_max {
            return;
        }
        self.is_advised = true;
        tracing::warn!(
            ?leaderless,
            "repeated elections without a winner: check that most members run and reach each other; if they do and \
             are slow to answer, raise raft.election_timeout on all members, for instance to 1s (now from {election_min:?} \
             to {election_max:?})"
        );
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
            snapshot_index: self.snapshot_index,
            log_bytes: self.raft.log().bytes(),
            membership: Arc::clone(&self.membership),
            progress,
            durable: self.durable(now),
            elections: self.elections,
            last_election: self.last_election,
            may_lead,
            transfer_target: self.transfer.as_ref().map(|transfer| transfer.target),
            stale_learners: self.stale_learners(now),
            leader_changes: self.leader_changes,
            pending_proposals: self.proposals.len() as u64,
            read_rounds: self.read_rounds,
            lease_reads: self.lease_reads,
            snapshot_failures: self.snapshot_failures,
            disk_transfers: self.disk_transfers,
            lowest_format: self.formats.lowest(&self.membership, self.settings.id),
            disk_is_bad: self.disk_is_bad(),
            unappliable: self.unappliable.clone(),
            skipped_entries: self.skipped_entries,
            last_skipped: self.last_skipped,
        }
    }

    fn successors(&self, now: Instant) -> Vec<u64> {
        let mut found: Vec<u64> = transfer::candidates(self, now)
            .map(|(id, _)| id)
            .filter(|id| !self.bad_disks.contains(id))
            .collect();
        found.sort_unstable();
        found
    }

    /// Whether this leader knows of a change of members that is not over.
    #[cfg(feature = "simulation")]
    pub fn is_changing(&self) -> bool {
        self.raft.has_pending_change() || membership::is_joint(&self.membership)
    }

    /// Term of an entry that this member's log has.
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
