//! Who waits for which log entry. An answer is given only when the entry's fate is certain:
//! applied under the proposal's own term, or overwritten and therefore never to be applied.

use std::collections::VecDeque;

use raft::eraftpb::Entry;

use super::types::Waiter;
use crate::error::Error;

#[derive(Default)]
pub struct Proposals {
    /// Ascending by index.
    pending: VecDeque<Pending>,
}

struct Pending {
    index: u64,
    term: u64,
    waiter: Waiter,
}

impl Proposals {
    pub fn push(&mut self, index: u64, term: u64, waiter: Waiter) {
        debug_assert!(self.pending.back().is_none_or(|last| last.index < index));
        self.pending.push_back(Pending { index, term, waiter });
    }

    /// Takes the waiter of a committed entry. Waiters at or below its index whose entry lost its
    /// place are told so: Raft's leader completeness makes that final (Raft paper, 5.4.3).
    pub fn committed(&mut self, entry: &Entry, leader_hint: Option<&str>) -> Option<Waiter> {
        while self.pending.front().is_some_and(|front| front.index <= entry.index) {
            let front = self.pending.pop_front()?;
            if front.index == entry.index && front.term == entry.term {
                return Some(front.waiter);
            }
            front.waiter.fail(Error::not_leader(leader_hint.map(str::to_owned)));
        }
        None
    }

    /// Another leader's entry took the place `index`: what this node proposed at or after it under
    /// another term was not committed and never will be.
    pub fn overwritten(&mut self, index: u64, term: u64, leader_hint: Option<&str>) {
        while self.pending.back().is_some_and(|last| last.index >= index && last.term != term) {
            if let Some(last) = self.pending.pop_back() {
                last.waiter.fail(Error::not_leader(leader_hint.map(str::to_owned)));
            }
        }
    }

    /// A snapshot replaced the log up to `index`: the fate of what stood there is not known here.
    pub fn skipped(&mut self, index: u64) {
        while self.pending.front().is_some_and(|front| front.index <= index) {
            if let Some(front) = self.pending.pop_front() {
                front.waiter.fail(Error::outcome_unknown());
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
        proposals.push(index, term, Waiter::Write(sender));
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
        assert!(proposals.committed(&entry(6, 3), Some("b")).is_none());
        assert_eq!(code(&mut lost), ErrorCode::NotLeader);
        assert_eq!(proposals.len(), 0);
    }

    #[test]
    fn an_overwritten_suffix_fails_for_certain_and_the_rest_keeps_waiting() {
        let mut proposals = Proposals::default();
        let mut kept = pending(&mut proposals, 5, 2);
        let mut lost = pending(&mut proposals, 7, 2);
        proposals.overwritten(6, 3, None);
        assert_eq!(code(&mut lost), ErrorCode::NotLeader);
        assert_eq!(kept.try_recv().unwrap_err(), TryRecvError::Empty);
    }

    #[test]
    fn what_a_snapshot_skipped_is_of_unknown_outcome() {
        let mut proposals = Proposals::default();
        let mut skipped = pending(&mut proposals, 5, 2);
        proposals.skipped(9);
        assert_eq!(code(&mut skipped), ErrorCode::OutcomeUnknown);
    }
}
