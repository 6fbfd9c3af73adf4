//! The elections of this member: start and cause of a campaign, granted votes, and the time until a leader is known.

mod fast_failover;
mod timeout;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use raft::StateRole;
use raft::eraftpb::{Message, MessageType};

use super::super::types::{Cause, Election};
use super::raft_rs::RaftRs;
use super::{Core, Effect, Settings};
use fast_failover::FastFailover;
use timeout::ElectionTimeout;

/// Time without a leader, in longest election timeouts, after which a candidate logs a hint.
const ADVICE_AFTER_TIMEOUTS: u32 = 8;

pub(super) struct Elections {
    timeout: ElectionTimeout,
    failover: Option<FastFailover>,
    /// Role, term and leader at the end of the last drain.
    last_role: (StateRole, u64, u64),
    /// Time at which the last leader was lost; meaningless while a leader is known.
    leaderless_since: Instant,
    /// Votes granted to this candidate; the raft crate clears its tally when the election is won.
    votes: BTreeSet<u64>,
    /// Whether "repeated elections without a winner" was logged since a leader was last known.
    is_advised: bool,
    started: u64,
    last: Option<Election>,
    leader_changes: u64,
}

impl Elections {
    /// `seed` determines the election timeouts.
    pub fn new(settings: &Settings, raft: &RaftRs, seed: u64, now: Instant) -> Self {
        Self {
            timeout: ElectionTimeout::new(settings.election_min, settings.election_max, seed),
            failover: None,
            last_role: (raft.role(), raft.term(), raft.leader_id()),
            leaderless_since: now,
            votes: BTreeSet::new(),
            is_advised: false,
            started: 0,
            last: None,
            leader_changes: 0,
        }
    }

    pub fn before_tick(&mut self, raft: &mut RaftRs) {
        let timeout = self.timeout.before_tick(raft.election_elapsed());
        raft.set_election_timeout(timeout);
    }

    /// Number of candidacies since the start, without those that did not pass the pre-vote.
    pub fn started(&self) -> u64 {
        self.started
    }

    pub fn last(&self) -> Option<Election> {
        self.last
    }

    pub fn leader_changes(&self) -> u64 {
        self.leader_changes
    }

    /// Time since the last leader was lost; meaningless while a leader is known.
    pub fn leaderless_for(&self, now: Instant) -> Duration {
        now.duration_since(self.leaderless_since)
    }

    /// Records a vote that `message` grants this candidate.
    pub fn record_vote(&mut self, raft: &RaftRs, message: &Message) {
        let is_granted = message.get_msg_type() == MessageType::MsgRequestVoteResponse
            && raft.role() == StateRole::Candidate
            && message.term == raft.term()
            && !message.reject;
        if is_granted {
            self.votes.insert(message.from);
        }
    }

    /// Records a candidacy that began or ended since the role was `before` in term `term`. Returns the duration of the
    /// election if it ended.
    fn record_candidacy(
        &mut self,
        raft: &RaftRs,
        before: StateRole,
        term: u64,
        now: Instant,
    ) -> Option<Duration> {
        let stood_before = matches!(before, StateRole::Candidate | StateRole::PreCandidate);
        // A single voter becomes leader within one step.
        let won_at_once = before == StateRole::Follower && raft.is_leader();
        let is_open = self.last.is_some_and(|election| election.took.is_none());
        if won_at_once || raft.is_candidate() && !stood_before && !is_open {
            let cause = self.cause(raft, term);
            self.last = Some(Election { cause, began: now, took: None });
        }
        let election = self.last.as_mut().filter(|election| raft.has_leader() && election.took.is_none())?;
        let took = now.saturating_duration_since(election.began);
        election.took = Some(took);
        Some(took)
    }

    /// Cause of a candidacy that has just begun, by a member that was a follower in `term`.
    fn cause(&self, raft: &RaftRs, term: u64) -> Cause {
        // Only the target of a transfer requests votes without a pre-vote.
        if raft.role() == StateRole::Candidate {
            return Cause::Handover;
        }
        let is_failover = self.failover.as_ref().is_some_and(|failover| failover.has_campaigned(term));
        if is_failover { Cause::LeaderLost } else { Cause::Timeout }
    }
}

impl Core {
    /// Compares role, term and leader with those of the last drain; logs and counts what changed.
    pub(super) fn observe_role(&mut self, now: Instant) {
        let raft = &self.raft;
        let current = (raft.role(), raft.term(), raft.leader_id());
        if current == self.elections.last_role {
            return;
        }
        let (old_state, old_term, old_leader) = std::mem::replace(&mut self.elections.last_role, current);
        let (state, term, leader_id) = current;
        let took = self.elections.record_candidacy(raft, old_state, old_term, now);
        self.effects.extend(took.map(Effect::ElectionOver));
        if state != old_state || term != old_term {
            self.reads.give_up_round();
            self.raft.log_mut().forget_unfinished();
            self.enter_role(old_state, state, term);
        }
        if leader_id != old_leader && leader_id != 0 {
            self.elections.leader_changes += 1;
            self.elections.is_advised = false;
            tracing::info!(term, leader = %self.leader_name(), "leader known");
        } else if leader_id == 0 && old_leader != 0 {
            self.elections.leaderless_since = now;
            tracing::info!(term, "no leader known");
        }
    }

    fn enter_role(&mut self, old: StateRole, new: StateRole, term: u64) {
        match new {
            StateRole::Candidate | StateRole::PreCandidate => {
                self.elections.started += u64::from(new == StateRole::Candidate);
                self.elections.votes = BTreeSet::from([self.settings.id]);
                tracing::info!(term, state = ?new, "starting election");
            }
            StateRole::Leader => {
                let votes = std::mem::take(&mut self.elections.votes).len().max(1);
                tracing::info!(term, votes, node = %self.own_name(), "Became leader: won election, entering leader state");
            }
            StateRole::Follower if old != StateRole::Follower => {
                tracing::info!(term, "entering follower state");
            }
            StateRole::Follower => {}
        }
    }

    /// Logs repeated elections without a winner once, with the most frequent remedy.
    pub(super) fn warn_of_repeated_elections(&mut self, now: Instant) {
        let Settings { election_min, election_max, .. } = self.settings;
        let leaderless = self.elections.leaderless_for(now);
        let is_long = leaderless >= ADVICE_AFTER_TIMEOUTS * election_max;
        if self.elections.is_advised || !self.raft.is_candidate() || !is_long {
            return;
        }
        self.elections.is_advised = true;
        tracing::warn!(
            ?leaderless,
            "repeated elections without a winner: check that most members run and reach each other; if they do and \
             are slow to answer, raise raft.election_timeout on all members, for instance to 1s (now from {election_min:?} \
             to {election_max:?})"
        );
    }
}
