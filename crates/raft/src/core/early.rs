//! Campaigning as soon as the connection from the leader ends, which is how the death of its process
//! shows, instead of after the election timeout (docs/design/node.md, decision 6).
//!
//! A voter that still hears the leader refuses the pre-vote, so a link that merely broke costs no more
//! than not knowing the leader until its next heartbeat. A lease, though, counts on voters that wait
//! out the timeout: where there may be one, nothing here happens.

use std::time::Instant;

use raft::StateRole;

use super::super::membership;
use super::{Core, ticks};

/// A leader that was lost, and the campaign for its place.
pub(super) struct Early {
    leader: u64,
    /// Its term; void in any other.
    term: u64,
    /// How many ticks from now to campaign; 0: done.
    ticks: usize,
}

impl Core {
    /// The connection from member `id` ended, and no newer one is there.
    pub(super) fn link_lost(&mut self, id: u64, now: Instant) {
        let is_promised = self.settings.lease.is_some() || now < self.started + self.settings.election_min;
        let raft = &mut self.raft;
        if raft.role() != StateRole::Follower || raft.leader_id() != id || is_promised {
            return;
        }
        let mut others = membership::electorate(&self.membership).into_iter().filter(|voter| *voter != id);
        let Some(rank) = others.position(|voter| voter == self.settings.id) else { return };
        tracing::info!(leader = id, term = raft.term(), "the connection from the leader ended");
        raft.forget_leader();
        // One tick for the others to notice, too. Two who campaign at once may split the vote, which
        // costs the timeout that this is to save: the next one leaves time for a vote.
        let spread = ticks(self.settings.heartbeat / 2);
        self.early = Some(Early { leader: id, term: raft.term(), ticks: 1 + rank * spread });
    }

    /// The same process is connected again: it was the link that broke, and whoever loses its own in a
    /// moment must not find two who know no leader.
    pub(super) fn link_found(&mut self, id: u64) {
        let raft = &mut self.raft;
        let is_lost = self.early.take_if(|early| early.leader == id && early.term == raft.term()).is_some();
        let may_follow = matches!(raft.role(), StateRole::Follower | StateRole::PreCandidate);
        if is_lost && may_follow && !raft.has_leader() {
            raft.follow_again(id);
        }
    }

    /// Whether the leader of `term` was lost and this member campaigned for its place at once.
    pub(super) fn is_early_campaign(&self, term: u64) -> bool {
        self.early.as_ref().is_some_and(|early| early.term == term && early.ticks == 0)
    }

    /// To be called at each tick.
    pub(super) fn tick_early(&mut self) {
        let Some(early) = &mut self.early else { return };
        if early.ticks == 0 {
            return;
        }
        early.ticks -= 1;
        let raft = &self.raft;
        let is_leaderless = raft.role() == StateRole::Follower && !raft.has_leader();
        if early.ticks > 0 || !is_leaderless || raft.term() != early.term || self.restoring {
            return;
        }
        tracing::info!(term = raft.term(), "campaigning without waiting for the election timeout");
        if let Err(error) = self.raft.campaign() {
            tracing::debug!(%error, "no early campaign");
        }
    }
}
