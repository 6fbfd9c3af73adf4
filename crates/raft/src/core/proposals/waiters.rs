//! Requests that wait for a log entry. One is answered only when the outcome is certain: the entry is
//! committed, or another is committed at its index. An entry that is overwritten in this member's log may still be
//! committed, by a later leader that has it (Raft paper, figure 8).

use std::collections::VecDeque;

use helios_proto::v1::Member;
use raft::eraftpb::Entry;

use crate::faults;
use crate::types::Waiter;
use helios_proto::Error;

#[derive(Default)]
pub struct Waiters {
    /// Ascending by index. There are several at one index if this member was leader in several terms.
    pending: VecDeque<Pending>,
}

struct Pending {
    index: u64,
    term: u64,
    waiter: Waiter,
}

impl Waiters {
    pub fn push(&mut self, index: u64, term: u64, waiter: Waiter) {
        let at = self.pending.partition_point(|other| other.index <= index);
        self.pending.insert(at, Pending { index, term, waiter });
    }

    /// Takes the waiter of a committed entry. Waiters at or below its index whose entry was replaced
    /// get the error NOT_LEADER: by leader completeness that is final (Raft paper, 5.4.3).
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

    /// Answers the waiters up to `index` with OUTCOME_UNKNOWN: a snapshot replaced the log there, so this member does
    /// not know whether their entries were committed.
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

    fn pending(waiters: &mut Waiters, index: u64, term: u64) -> Receiver {
        let (sender, receiver) = oneshot::channel();
        waiters.push(index, term, Waiter::Write(sender.into()));
        receiver
    }

    fn entry(index: u64, term: u64) -> Entry {
        Entry { index, term, ..Entry::default() }
    }

    fn code(receiver: &mut Receiver) -> ErrorCode {
        receiver.try_recv().unwrap().unwrap_err().code
    }

    #[test]
    fn waiter_of_another_term_is_refused_on_commit() {
        let mut waiters = Waiters::default();
        let _kept = pending(&mut waiters, 5, 2);
        let mut lost = pending(&mut waiters, 6, 2);
        assert!(waiters.committed(&entry(4, 2), None).is_none());
        assert!(waiters.committed(&entry(5, 2), None).is_some());
        assert!(waiters.committed(&entry(6, 3), Some(&Member::default())).is_none());
        assert_eq!(code(&mut lost), ErrorCode::NotLeader);
        assert_eq!(waiters.len(), 0);
    }

    #[test]
    fn waiters_of_reproposed_indexes_are_resolved_on_commit() {
        let mut waiters = Waiters::default();
        let mut first = pending(&mut waiters, 5, 2);
        let mut displaced = pending(&mut waiters, 6, 2);
        let mut second = pending(&mut waiters, 5, 4);
        assert_eq!(displaced.try_recv().unwrap_err(), TryRecvError::Empty);
        assert!(waiters.committed(&entry(5, 4), None).is_some_and(|waiter| {
            waiter.fail(Error::outcome_unknown());
            true
        }));
        assert_eq!(code(&mut second), ErrorCode::OutcomeUnknown, "the second was handed out");
        assert_eq!(code(&mut first), ErrorCode::NotLeader);
        assert!(waiters.committed(&entry(6, 4), None).is_none());
        assert_eq!(code(&mut displaced), ErrorCode::NotLeader);
    }

    #[test]
    fn waiter_of_a_displaced_entry_is_resolved_when_it_is_committed_after_all() {
        let mut waiters = Waiters::default();
        let _displaced = pending(&mut waiters, 5, 2);
        let mut later = pending(&mut waiters, 5, 4);
        assert!(waiters.committed(&entry(5, 2), None).is_some());
        assert!(waiters.committed(&entry(6, 5), None).is_none());
        assert_eq!(code(&mut later), ErrorCode::NotLeader);
    }

    #[test]
    fn waiter_below_an_installed_snapshot_has_an_unknown_outcome() {
        let mut waiters = Waiters::default();
        let mut skipped = pending(&mut waiters, 5, 2);
        waiters.skipped(9);
        assert_eq!(code(&mut skipped), ErrorCode::OutcomeUnknown);
    }
}
