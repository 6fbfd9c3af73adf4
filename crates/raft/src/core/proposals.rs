//! Proposals of writes: their queue, the order of the checks that reject one, and the waiters of the proposed entries.

mod waiters;

use std::time::Instant;

use helios_proto::v1::{Command, ErrorCode, Member};
use prost::Message as _;
use raft::eraftpb::{Entry, Message, MessageType};

use super::{Core, MAX_APPLYING_BYTES, MAX_UNCOMMITTED_BYTES, Proposal, Waiter};
use crate::format;
use helios_proto::Error;
use waiters::Waiters;

/// Limit of proposals that wait during a transfer of leadership.
const MAX_PARKED: usize = 8_192;

#[derive(Default)]
pub(super) struct Proposals {
    /// Proposals that arrived since the last drain, or wait because the leader slows down writes.
    queued: Vec<Proposal>,
    /// Proposals that wait until a transfer of leadership is settled.
    parked: Vec<Proposal>,
    waiters: Waiters,
}

impl Proposals {
    pub fn queue(&mut self, proposals: Vec<Proposal>) {
        self.queued.extend(proposals);
    }

    /// Queues proposals again that have to wait; nothing else is queued at this time.
    pub fn requeue(&mut self, proposals: Vec<Proposal>) {
        self.queued = proposals;
    }

    pub fn has_parked(&self) -> bool {
        !self.parked.is_empty()
    }

    /// Takes the queued proposals, and the parked ones before them unless a transfer is in progress.
    fn take(&mut self, is_transferring: bool) -> Vec<Proposal> {
        if is_transferring {
            return std::mem::take(&mut self.queued);
        }
        let mut taken = std::mem::take(&mut self.parked);
        taken.append(&mut self.queued);
        taken
    }

    /// Parks proposals, and returns those above the limit.
    fn park(&mut self, mut proposals: Vec<Proposal>) -> Vec<Proposal> {
        let room = MAX_PARKED.saturating_sub(self.parked.len()).min(proposals.len());
        let excess = proposals.split_off(room);
        self.parked.extend(proposals);
        excess
    }

    /// Records that the entry at `index` was proposed in `term` for `waiter`.
    pub fn expect(&mut self, index: u64, term: u64, waiter: Waiter) {
        self.waiters.push(index, term, waiter);
    }

    /// Takes the waiter of a committed entry; waiters of entries that it replaced are answered.
    pub fn take_committed(&mut self, entry: &Entry, leader: Option<&Member>) -> Option<Waiter> {
        self.waiters.committed(entry, leader)
    }

    /// Answers the waiters up to `index`, where a snapshot replaced the log.
    pub fn skip_to(&mut self, index: u64) {
        self.waiters.skipped(index);
    }

    /// Number of proposed entries whose waiters are not answered yet.
    pub fn pending(&self) -> usize {
        self.waiters.len()
    }
}

impl Core {
    pub(super) fn propose_waiting(&mut self, now: Instant) {
        let is_transferring = self.leadership.is_transferring();
        let mut proposals = self.proposals.take(is_transferring);
        if proposals.is_empty() {
            return;
        }
        if !self.raft.is_leader() {
            return refuse(proposals, &Error::not_leader(self.leader()));
        }
        // Before the checks of the limits: while an entry is held, only a skip makes room.
        proposals = self.refuse_but_skip(proposals);
        if is_transferring || self.raft.is_transferring() {
            let excess = self.proposals.park(proposals);
            let what = format!("{MAX_PARKED} writes wait for the end of a transfer of leadership");
            return refuse(excess, &overloaded(&what));
        }
        if self.applying.held().is_none() && self.applying.bytes() > MAX_APPLYING_BYTES {
            let what = format!("{MAX_APPLYING_BYTES} bytes of writes are committed and not applied yet");
            return refuse(proposals, &overloaded(&what));
        }
        let lowest = self.lowest_format();
        proposals = self.refuse_unreadable(proposals, lowest);
        if self.admission.is_log_short() {
            proposals = self.refuse_growth(proposals);
        }
        proposals = self.admit(proposals, now);
        if !proposals.is_empty() {
            let budget = format::budget_of(lowest);
            proposals.iter_mut().for_each(|proposal| name_budget(&mut proposal.data, budget));
            self.propose(proposals);
        }
    }

    /// Proposes all entries in one message, which results in one append message per peer instead of one per entry.
    fn propose(&mut self, mut proposals: Vec<Proposal>) {
        let entries = proposals
            .iter_mut()
            .map(|proposal| Entry { data: std::mem::take(&mut proposal.data), ..Entry::default() })
            .collect();
        let first = self.raft.last_index() + 1;
        let mut message = Message { from: self.settings.id, entries, ..Message::default() };
        message.set_msg_type(MessageType::MsgPropose);
        match self.raft.step(message) {
            Ok(()) => {
                for (index, proposal) in (first..).zip(proposals) {
                    self.proposals.expect(index, self.raft.term(), Waiter::Write(proposal.waiter));
                }
            }
            Err(_) => refuse(proposals, &overloaded(&uncommitted())),
        }
    }
}

pub(super) fn refuse(proposals: Vec<Proposal>, error: &Error) {
    for proposal in proposals {
        proposal.waiter.send(Err(error.clone()));
    }
}

/// Rejects the proposals for which `is_taken` is false, and returns the others.
pub(super) fn refuse_but(
    proposals: Vec<Proposal>,
    error: &Error,
    is_taken: impl Fn(&Proposal) -> bool,
) -> Vec<Proposal> {
    let (taken, refused) = proposals.into_iter().partition(is_taken);
    refuse(refused, error);
    taken
}

/// Sets [`Command::budget`] of an encoded command: only the leader knows which format all members can read, and it
/// receives the command encoded. A field may be anywhere in a message, and its last occurrence counts (protobuf
/// encoding).
fn name_budget(data: &mut Vec<u8>, budget: u32) {
    let budget = Command { budget, ..Command::default() };
    budget.encode(data).expect("a vector grows as needed");
}

/// Reason of a rejection at [`MAX_UNCOMMITTED_BYTES`], which the raft crate enforces.
pub(super) fn uncommitted() -> String {
    format!("{MAX_UNCOMMITTED_BYTES} bytes of writes are not committed yet")
}

pub(super) fn overloaded(what: &str) -> Error {
    Error::new(
        ErrorCode::Overloaded,
        format!("{what}, as many as this member takes (fixed limit); try again"),
    )
}
