//! Campaigning as soon as the connection from the leader ends, which is how the death of its process
//! shows, instead of after the election timeout (docs/design/node.md, decision 6).
//!
//! A voter that still hears the leader refuses the pre-vote, so a link that merely broke costs no more
//! than not knowing the leader until its next heartbeat. A lease, though, counts on voters that wait
//! out the timeout: where there may be one, nothing here happens.

use std::time::Instant;

use raft::StateRole;

use super::super::{Core, ticks};
use crate::membership;

/// A leader that was lost, and the campaign for its place.
pub(super) struct FastFailover {
    leader: u64,
    /// Term of that leader; void in any other.
    term: u64,
    /// Ticks until the campaign; 0: it took place.
    ticks: usize,
}

impl FastFailover {
    /// Whether the leader of `term` was lost and this member campaigned for its place.
    pub fn has_campaigned(&self, term: u64) -> bool {
        self.term == term && self.ticks == 0
    }
}

impl Core {
    /// The connection from member `id` ended, and no newer one is there.
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
        // One tick for the others to notice, too. Two that campaign at once may split the vote, which
        // costs the timeout that this is to save: the next one leaves time for a vote.
        let spread = ticks(self.settings.heartbeat / 2);
        let failover = FastFailover { leader: id, term: raft.term(), ticks: 1 + rank * spread };
        self.elections.failover = Some(failover);
    }

    /// The same process is connected again: only the link broke. A member that loses its own link in a moment
    /// must not find two that know no leader.
    pub(in crate::core) fn link_found(&mut self, id: u64) {
        let raft = &mut self.raft;
        let is_of_link = |lost: &mut FastFailover| lost.leader == id && lost.term == raft.term();
        let is_lost = self.elections.failover.take_if(is_of_link).is_some();
        let may_follow = matches!(raft.role(), StateRole::Follower | StateRole::PreCandidate);
        if is_lost && may_follow && !raft.has_leader() {
            raft.follow_again(id);
        }
    }

    /// Counts a tick, and campaigns when it is due.
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
            tracing::debug!(%error, "no early campaign");
        }
    }
}
