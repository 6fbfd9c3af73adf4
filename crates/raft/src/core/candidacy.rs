//! The elections that this member stands in: why, since when, how long until a leader was known.

use std::time::Instant;

use raft::StateRole;

use super::super::types::{Cause, Election};
use super::{Core, Effect};

impl Core {
    /// The role was `before` in term `term` and is another one now, or a leader is known now.
    pub(super) fn note_candidacy(&mut self, before: StateRole, term: u64, now: Instant) {
        let raft = &self.raft;
        let stood_before = matches!(before, StateRole::Candidate | StateRole::PreCandidate);
        let stands = raft.is_candidate();
        // A member that is alone has won before anyone looked.
        let won_at_once = before == StateRole::Follower && raft.is_leader();
        let is_open = self.last_election.is_some_and(|election| election.took.is_none());
        if won_at_once || stands && !stood_before && !is_open {
            let cause = self.cause(term);
            self.last_election = Some(Election { cause, began: now, took: None });
        }
        if raft.has_leader()
            && let Some(election) = self.last_election.as_mut().filter(|election| election.took.is_none())
        {
            let took = now.saturating_duration_since(election.began);
            election.took = Some(took);
            self.effects.push(Effect::ElectionOver(took));
        }
    }

    /// Of a candidacy that has just begun, by one that was a follower in `term`.
    fn cause(&self, term: u64) -> Cause {
        // Only who was told to by its leader asks for votes without asking first whether it would get them.
        if self.raft.role() == StateRole::Candidate {
            return Cause::Handover;
        }
        if self.is_early_campaign(term) { Cause::LeaderLost } else { Cause::Timeout }
    }
}
