//! Fast failover: a follower campaigns as soon as the connection from the leader is closed, which is the sign that its
//! process ended, instead of after the election timeout (docs/design/node.md, decision 6).
//!
//! A voter that still hears the leader rejects the pre-vote. So if only the link broke, the follower merely knows no
//! leader until the next heartbeat. A lease relies on voters that wait for the whole timeout: with leases there
//! is no fast failover.

use std::time::Instant;

use raft::StateRole;

use super::super::{Core, ticks};
use crate::membership;

/// A lost leader, and the campaign to replace it.
pub(super) struct FastFailover {
    leader: u64,
    /// Term of that leader; the failover is valid in no other.
    term: u64,
    /// Ticks until the campaign; 0: it was started or given up.
    ticks: usize,
}

impl FastFailover {
    /// Whether the leader of `term` was lost and this member campaigned to replace it.
    pub fn has_campaigned(&self, term: u64) -> bool {
        self.term == term && self.ticks == 0
    }
}

impl Core {
    /// Schedules a campaign if the closed connection was the leader's. There is no newer connection from member `id`.
    pub(in crate::core) fn link_lost(&mut self, id: u64, now: Instant) {
        let is_promised = self.settings.lease.is_some() || now < self.started + self.settings.election_min;
        let raft = &mut self.raft;
        if raft.role() != StateRole::Follower || raft.leader_id() != id || is_promised {
            return;
        }
        let mut others = membership::electorate(&self.membership).into_iter().filter(|voter| *voter != id);
        let Some(rank) = others.position(|voter| voter == self.settings.id) else { return };
        tracing::info!(leader = id, term = raft.term(), "the connection from the leader ended");
        raft.forget_leader();
        // One tick, in which the other members notice it, too. Two simultaneous campaigns may split the vote, which
        // costs a whole election timeout: each further voter waits for another half heartbeat.
        let spread = ticks(self.settings.heartbeat / 2);
        let failover = FastFailover { leader: id, term: raft.term(), ticks: 1 + rank * spread };
        self.elections.failover = Some(failover);
    }

    /// Follows the leader again whose process is connected again: only the link broke. Otherwise the next member whose
    /// link breaks might find two members that know no leader, and win their votes.
    pub(in crate::core) fn link_found(&mut self, id: u64) {
        let raft = &mut self.raft;
        let is_of_link = |lost: &mut FastFailover| lost.leader == id && lost.term == raft.term();
        let is_lost = self.elections.failover.take_if(is_of_link).is_some();
        let may_follow = matches!(raft.role(), StateRole::Follower | StateRole::PreCandidate);
        if is_lost && may_follow && !raft.has_leader() {
            raft.follow_again(id);
        }
    }

    /// Counts one tick, and campaigns when the failover is due.
    pub(in crate::core) fn tick_failover(&mut self) {
        let Some(failover) = self.elections.failover.as_mut().filter(|failover| failover.ticks > 0) else {
            return;
        };
        failover.ticks -= 1;
        let raft = &self.raft;
        let is_leaderless = raft.role() == StateRole::Follower && !raft.has_leader();
        if failover.ticks > 0
            || !is_leaderless
            || raft.term() != failover.term
            || self.pipeline.is_restoring()
        {
            return;
        }
        tracing::info!(term = raft.term(), "campaigning without waiting for the election timeout");
        if let Err(error) = self.raft.campaign() {
            tracing::debug!(%error, "fast failover did not campaign");
        }
    }
}
