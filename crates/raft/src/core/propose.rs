//! Writes on their way into the log, and why one may not go.

use std::time::Instant;

use helios_proto::v1::{Command, ErrorCode};
use prost::Message as _;
use raft::eraftpb::{Entry, Message, MessageType};

use super::{Core, MAX_APPLYING_BYTES, MAX_UNCOMMITTED_BYTES, Proposal, Waiter};
use crate::format::BUDGETS;
use helios_proto::Error;
use helios_state::ENTRY_BUDGET;

/// Proposals kept back during a leadership transfer.
const MAX_PARKED: usize = 8_192;

impl Core {
    pub(super) fn propose_waiting(&mut self, now: Instant) {
        if !self.leadership.is_transferring() && !self.parked.is_empty() {
            let mut parked = std::mem::take(&mut self.parked);
            parked.append(&mut self.proposed);
            self.proposed = parked;
        }
        if self.proposed.is_empty() {
            return;
        }
        let mut proposals = std::mem::take(&mut self.proposed);
        if !self.raft.is_leader() {
            return self.refuse(proposals, Error::not_leader(self.leader()));
        }
        // Before what refuses writes because too much waits: that ends with the skip only.
        proposals = self.refuse_but_skip(proposals);
        if self.leadership.is_transferring() || self.raft.is_transferring() {
            let room = MAX_PARKED.saturating_sub(self.parked.len()).min(proposals.len());
            let excess = proposals.split_off(room);
            self.parked.extend(proposals);
            let what = format!("{MAX_PARKED} writes wait for the end of a transfer of leadership");
            return self.refuse(excess, overloaded(&what));
        }
        if self.unappliable.is_none() && self.applying_bytes > MAX_APPLYING_BYTES {
            let what = format!("{MAX_APPLYING_BYTES} bytes of writes are committed and not applied yet");
            return self.refuse(proposals, overloaded(&what));
        }
        let lowest = self.formats.lowest(&self.membership, self.settings.id);
        proposals = self.refuse_unreadable(proposals, lowest);
        if self.log_is_short {
            proposals = self.refuse_growth(proposals);
        }
        proposals = self.admit(proposals, now);
        if !proposals.is_empty() {
            if lowest >= BUDGETS {
                proposals.iter_mut().for_each(|proposal| name_budget(&mut proposal.data));
            }
            self.propose(proposals);
        }
    }

    /// Gives back what all members can read.
    fn refuse_unreadable(&self, proposals: Vec<Proposal>, lowest: u32) -> Vec<Proposal> {
        let id = self.settings.id;
        if proposals.iter().all(|proposal| proposal.format <= lowest) {
            return proposals;
        }
        let mut readable = Vec::with_capacity(proposals.len());
        for proposal in proposals {
            match self.formats.check(proposal.format, &self.membership, id) {
                Ok(()) => readable.push(proposal),
                Err(error) => self.refuse(vec![proposal], error),
            }
        }
        readable
    }

    /// Proposes many entries as one message: one append message per peer, not one per entry.
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
                    self.proposals.push(index, self.raft.term(), Waiter::Write(proposal.waiter));
                }
            }
            Err(_) => self.refuse(proposals, overloaded(&uncommitted())),
        }
    }

    pub(super) fn refuse(&self, proposals: Vec<Proposal>, error: Error) {
        for proposal in proposals {
            proposal.waiter.send(Err(error.clone()));
        }
    }
}

/// Sets [`Command::budget`] of an encoded command: only the leader knows what all members can read, and by then it is
/// encoded. A field may stand anywhere in a message, and the last of its kind counts (protobuf encoding).
fn name_budget(data: &mut Vec<u8>) {
    let budget = Command { budget: ENTRY_BUDGET, ..Command::default() };
    budget.encode(data).expect("a vector grows as needed");
}

/// The raft crate takes no more than [`MAX_UNCOMMITTED_BYTES`].
pub(super) fn uncommitted() -> String {
    format!("{MAX_UNCOMMITTED_BYTES} bytes of writes are not committed yet")
}

pub(super) fn overloaded(what: &str) -> Error {
    Error::new(
        ErrorCode::Overloaded,
        format!("{what}, as many as this member takes (fixed limit); try again"),
    )
}
