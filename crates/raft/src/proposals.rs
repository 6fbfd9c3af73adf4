//! Who waits for which log entry. An answer is given only when the entry's fate is certain: it is
//! committed, or another is in its place. Being overwritten in this node's log says nothing yet: a
//! later leader may hold the entry still and commit it (Raft paper, figure 8).

use std::collections::VecDeque;

use helios_proto::v1::Member;
use raft::eraftpb::Entry;

use super::types::Waiter;
use crate::faults;
use helios_proto::Error;

#[derive(Default)]
pub struct Proposals {
    /// Ascending by index; several at one index where this node led, lost its place and led again.
    pending: VecDeque<Pending>,
}

struct Pending {
    index: u64,
    term: u64,
    waiter: Waiter,
}

impl Proposals {
    pub fn push(&mut self, index: u64, term: u64, waiter: Waiter) {
        let at = self.pending.partition_point(|other| other.index <= index);
        self.pending.insert(at, Pending { index, term, waiter });
    }

    /// Takes the waiter of a committed entry. Waiters at or below its index whose entry lost its
    /// place are told so: Raft's leader completeness makes that final (Raft paper, 5.4.3).
    pub fn committed(&mut self, entry: &Entry, leader: Option<&Member>) -> Option<Waiter> {
        while self.pending.front().is_some_and(|front| front.index <= entry.index) {
            let front = self.pending.pop_front()?;
            let is_same = faults::is_own_proposal(front.term == entry.term);
            if front.index == entry.index && is_same {
                return Some(front.waiter);
            }
            front.waiter.fail(Error::not_leader(leader));
        }
        None
    }

    /// A snapshot replaced the log up to `index`: the fate of what stood there is not known here.
    pub fn skipped(&mut self, index: u64) {
        while self.pending.front().is_some_and(|front| front.index <= index) {
            if let Some(front) = self.pending.pop_front() {
                front.waiter.fail(faults::outcome_below_snapshot());
            }
        }
    }

    pub fn len(&self) -> usize {
        self.pending.len()
    }
}

#[cfg(test)]
mod tests {
    use helios_proto::v1::{ErrorCode, Reply};
    use tokio::sync::oneshot::{self, error::TryRecvError};

    use super::*;

    type Receiver = oneshot::Receiver<Result<Reply, Error>>;

    fn pending(proposals: &mut Proposals, index: u64, term: u64) -> Receiver {
        let (sender, receiver) = oneshot::channel();
        proposals.push(index, term, Waiter::Write(sender.into()));
        receiver
    }

    fn entry(index: u64, term: u64) -> Entry {
        Entry { index, term, ..Entry::default() }
    }

    fn code(receiver: &mut Receiver) -> ErrorCode {
        receiver.try_recv().unwrap().unwrap_err().code
    }

    #[test]
    fn only_the_entry_of_the_same_term_is_the_proposal() {
        let mut proposals = Proposals::default();
        let _kept = pending(&mut proposals, 5, 2);
        let mut lost = pending(&mut proposals, 6, 2);
        assert!(proposals.committed(&entry(4, 2), None).is_none());
        assert!(proposals.committed(&entry(5, 2), None).is_some());
        assert!(proposals.committed(&entry(6, 3), Some(&Member::default())).is_none());
        assert_eq!(code(&mut lost), ErrorCode::NotLeader);
        assert_eq!(proposals.len(), 0);
    }

    #[test]
    fn one_who_led_lost_its_place_and_led_again_answers_each_when_its_place_is_committed() {
        let mut proposals = Proposals::default();
        let mut first = pending(&mut proposals, 5, 2);
        let mut displaced = pending(&mut proposals, 6, 2);
        let mut second = pending(&mut proposals, 5, 4);
        assert_eq!(displaced.try_recv().unwrap_err(), TryRecvError::Empty);
        assert!(proposals.committed(&entry(5, 4), None).is_some_and(|waiter| {
            waiter.fail(Error::outcome_unknown());
            true
        }));
        assert_eq!(code(&mut second), ErrorCode::OutcomeUnknown, "the second was handed out");
        assert_eq!(code(&mut first), ErrorCode::NotLeader);
        assert!(proposals.committed(&entry(6, 4), None).is_none());
        assert_eq!(code(&mut displaced), ErrorCode::NotLeader);
    }

    #[test]
    fn a_displaced_entry_that_is_committed_after_all_is_answered_as_such() {
        let mut proposals = Proposals::default();
        let _displaced = pending(&mut proposals, 5, 2);
        let mut later = pending(&mut proposals, 5, 4);
        assert!(proposals.committed(&entry(5, 2), None).is_some());
        assert!(proposals.committed(&entry(6, 5), None).is_none());
        assert_eq!(code(&mut later), ErrorCode::NotLeader);
    }

    #[test]
    fn what_a_snapshot_skipped_is_of_unknown_outcome() {
        let mut proposals = Proposals::default();
        let mut skipped = pending(&mut proposals, 5, 2);
        proposals.skipped(9);
        assert_eq!(code(&mut skipped), ErrorCode::OutcomeUnknown);
    }
}
