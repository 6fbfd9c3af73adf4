//! Membership changes, on the leader: one at a time, and never one that would cost the quorum.

use std::sync::Arc;
use std::time::Instant;

use helios_proto::v1::ErrorCode;
use raft::eraftpb::{Message, MessageType};

use super::super::proposals::{overloaded, uncommitted};
use super::super::{ChangeRequest, ChangeWaiter, Core, Expected, Waiter};
use crate::change::{Change, Fenced};
use crate::membership;
use helios_proto::Error;

impl Core {
    pub(in crate::core) fn change(
        &mut self,
        request: ChangeRequest,
        expected: Expected,
        waiter: ChangeWaiter,
        now: Instant,
    ) -> Result<(), (Error, ChangeWaiter)> {
        let decision = match self.decide_change(request, expected, now) {
            Ok(decision) => decision,
            Err(error) => return Err((error, waiter)),
        };
        let change = match decision {
            membership::Decision::Done => {
                drop(waiter.send(Ok(Arc::clone(&self.membership))));
                return Ok(());
            }
            membership::Decision::Propose(change) => change,
        };
        let index = self.raft.last_index() + 1;
        match self.propose_change(&change.fenced(expected.fencing_token)) {
            Ok(()) => {
                self.proposals.expect(index, self.raft.term(), Waiter::Change(waiter));
                Ok(())
            }
            Err(_) => Err((overloaded(&uncommitted()), waiter)),
        }
    }

    pub(in crate::core) fn propose_change(&mut self, change: &Fenced) -> raft::Result<()> {
        let entries = vec![change.to_entry()];
        let mut message = Message { from: self.settings.id, entries, ..Message::default() };
        message.set_msg_type(MessageType::MsgPropose);
        self.raft.step(message)
    }

    fn decide_change(
        &self,
        request: ChangeRequest,
        expected: Expected,
        now: Instant,
    ) -> Result<membership::Decision, Error> {
        if !self.raft.is_leader() {
            return Err(Error::not_leader(self.leader()));
        }
        if let Some(unappliable) = self.applying.held() {
            // A member with a committed and unapplied change stands in no election (raft crate).
            return Err(unappliable.error());
        }
        membership::check_token(&self.membership, expected.fencing_token)?;
        membership::check_index(&self.membership, expected.index)?;
        let is_changing = self.raft.has_pending_change() || membership::is_joint(&self.membership);
        if is_changing || self.leadership.is_transferring() {
            return Err(Error::new(
                ErrorCode::MembershipChangeInProgress,
                "another membership change or transfer is under way; try again when it is done",
            ));
        }
        match request {
            ChangeRequest::AddLearner(record) => membership::add_learner(&self.membership, record),
            ChangeRequest::Promote { id, max_lag } => {
                let decision = membership::promote(&self.membership, id, self.lag(id), max_lag)?;
                if decision != membership::Decision::Done {
                    self.check_follows(id, now)?;
                    self.check_quorum_beside(id, now)?;
                }
                Ok(decision)
            }
            ChangeRequest::Remove { id } => {
                self.check_quorum_without(id, now)?;
                membership::remove(&self.membership, id)
            }
            ChangeRequest::Several { promote, remove, max_lag } => {
                let lag = |id| self.lag(id);
                let decision = membership::change_several(&self.membership, &promote, &remove, lag, max_lag)?;
                self.check_several(&decision, now)?;
                Ok(decision)
            }
        }
    }

    /// Number of entries by which the log of member `id` is behind the commit index.
    fn lag(&self, id: u64) -> u64 {
        let matched = self.raft.progress(id).map_or(0, |progress| progress.matched);
        self.raft.commit_index().saturating_sub(matched)
    }

    /// While a joint change is under way both the old and the new voters must have a quorum, and after it
    /// the new ones.
    fn check_several(&self, decision: &membership::Decision, now: Instant) -> Result<(), Error> {
        let (promote, remove) = match decision {
            membership::Decision::Done => return Ok(()),
            membership::Decision::Propose(Change::Joint { promote, remove }) => (promote, remove),
            membership::Decision::Propose(Change::Promote(id)) => {
                self.check_follows(*id, now)?;
                return self.check_quorum_beside(*id, now);
            }
            membership::Decision::Propose(Change::Remove(id)) => return self.check_quorum_without(*id, now),
            membership::Decision::Propose(Change::AddLearner(_) | Change::LeaveJoint) => return Ok(()),
        };
        promote.iter().try_for_each(|id| self.check_follows(*id, now))?;
        let old = &self.membership.voters;
        let kept = old.iter().filter(|voter| !remove.contains(voter));
        let new: Vec<u64> = kept.chain(promote).copied().collect();
        for (voters, which) in [(old, "voters now"), (&new, "voters then")] {
            let live = voters.iter().filter(|voter| self.is_active(**voter, now)).count();
            let quorum = voters.len() / 2 + 1;
            if live < quorum {
                return Err(Error::new(
                    ErrorCode::NoQuorum,
                    format!("of the {} {which} {live} are live, {quorum} are needed", voters.len()),
                ));
            }
        }
        Ok(())
    }

    /// A voter counts for the quorum at once: one that is down, or still to receive its first
    /// snapshot, could cost it (docs/design/node.md, pitfall 18).
    fn check_follows(&self, id: u64, now: Instant) -> Result<(), Error> {
        let has_begun = self.raft.progress(id).is_some_and(|progress| progress.matched > 0);
        if has_begun && self.is_active(id, now) {
            return Ok(());
        }
        let reason = if has_begun { "does not answer" } else { "holds nothing yet" };
        Err(Error::new(
            ErrorCode::LearnerLagging,
            format!("learner {id} {reason}; see that it runs and is reached, then try again"),
        ))
    }

    /// Those who vote already must be quorum enough if the new voter dies at once, as etcd's strict
    /// reconfiguration check has it. One voter alone may take a second.
    fn check_quorum_beside(&self, id: u64, now: Instant) -> Result<(), Error> {
        let voters = &self.membership.voters;
        let live = voters.iter().filter(|voter| self.is_active(**voter, now)).count();
        let quorum = voters.len().div_ceil(2) + 1;
        if live >= quorum || voters.len() == 1 {
            return Ok(());
        }
        Err(Error::new(
            ErrorCode::NoQuorum,
            format!(
                "with member {id} as a voter {quorum} live voters are needed, and {live} of {} are: bring the others back, \
                 or remove them, first",
                voters.len()
            ),
        ))
    }

    /// A removal that would leave fewer live voters than a quorum of the rest is refused.
    fn check_quorum_without(&self, id: u64, now: Instant) -> Result<(), Error> {
        if !self.membership.voters.contains(&id) {
            return Ok(());
        }
        let rest: Vec<u64> = self.membership.voters.iter().copied().filter(|voter| *voter != id).collect();
        let live = rest.iter().filter(|voter| self.is_active(**voter, now)).count();
        let quorum = rest.len() / 2 + 1;
        if live >= quorum || rest.is_empty() {
            return Ok(());
        }
        Err(Error::new(
            ErrorCode::NoQuorum,
            format!("without member {id} only {live} of {} voters are live, {quorum} are needed", rest.len()),
        ))
    }
}
