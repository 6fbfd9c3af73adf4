//! Linearizable reads: ReadIndex rounds (Raft thesis, 6.4), and the leader's lease, which replaces them.

mod lease;
mod rounds;

use std::time::Instant;

use helios_proto::v1::ErrorCode;
use raft::eraftpb::{Message, MessageType};
use raft::{ReadState, StateRole};

use super::super::types::ReadWaiter;
use super::{Core, Settings};
use crate::faults;
use helios_proto::Error;
use lease::Lease;
use rounds::ReadRounds;

pub use lease::{MAX_TICKS_PER_TURN, longest as longest_lease};

pub(super) struct Reads {
    rounds: ReadRounds<ReadWaiter>,
    lease: Lease,
    /// Readers that the lease may serve; empty between two drains.
    lease_readers: Vec<ReadWaiter>,
    rounds_started: u64,
    lease_reads: u64,
}

impl Reads {
    pub fn new(settings: &Settings, boot_nonce: u64, now: Instant) -> Self {
        Self {
            rounds: ReadRounds::new(settings.id, boot_nonce),
            lease: Lease::new(settings.lease, now),
            lease_readers: Vec::new(),
            rounds_started: 0,
            lease_reads: 0,
        }
    }

    pub fn await_round(&mut self, waiter: ReadWaiter) {
        if let Err(waiter) = self.rounds.push(waiter) {
            drop(waiter.send(Err(Error::new(
                ErrorCode::Overloaded,
                "too many reads are waiting for this member; try again",
            ))));
        }
    }

    pub fn await_lease(&mut self, waiter: ReadWaiter) {
        self.lease_readers.push(waiter);
    }

    /// Gives up the current round, which will not be answered in this role or term; its readers wait for the next one.
    pub fn give_up_round(&mut self) {
        self.rounds.give_up_round();
    }

    /// Drops readers that timed out.
    pub fn drop_closed(&mut self) {
        self.rounds.retain(|waiter| !waiter.is_closed());
    }

    /// Ends the lease, because another majority decides from now on.
    pub fn revoke_lease(&mut self, now: Instant) {
        self.lease.revoke(now);
    }

    /// Ends the lease for the rest of `term`, because another member may campaign against this leader.
    pub fn bar_lease(&mut self, term: u64) {
        self.lease.bar(term);
    }

    pub fn rounds_started(&self) -> u64 {
        self.rounds_started
    }

    pub fn lease_reads(&self) -> u64 {
        self.lease_reads
    }
}

impl Core {
    /// Serves readers from the lease, and starts a round for the others if one is possible.
    pub(super) fn serve_reads(&mut self, now: Instant) {
        self.serve_lease_reads(now);
        if self.reads.rounds.round_older_than(self.settings.election_min, now) {
            self.reads.give_up_round();
        }
        // A leader answers only after an entry of its own term is committed (Raft thesis, 6.4).
        let is_possible = match self.raft.role() {
            StateRole::Leader => self.raft.has_committed_in_term(),
            StateRole::Follower => self.raft.has_leader(),
            _ => false,
        };
        if is_possible && let Some(context) = self.reads.rounds.start_round(now) {
            self.reads.rounds_started += 1;
            self.raft.read_index(context.to_vec());
        }
    }

    /// Serves the readers that wait for a lease, or queues them for a round. `now` must be later than the arrival of
    /// each: after a pause of the process an earlier `now` would make an expired lease valid.
    fn serve_lease_reads(&mut self, now: Instant) {
        let waiting = std::mem::take(&mut self.reads.lease_readers);
        if self.has_lease(now) {
            let index = self.raft.commit_index();
            self.reads.lease_reads += waiting.len() as u64;
            waiting.into_iter().for_each(|waiter| drop(waiter.send(Ok(index))));
        } else {
            // Their round renews the lease.
            waiting.into_iter().for_each(|waiter| self.reads.await_round(waiter));
        }
    }

    /// Renews the lease and answers the readers for rounds that a majority has answered.
    pub(super) fn confirm_rounds(&mut self, confirmed: Vec<ReadState>) {
        for ReadState { index, request_ctx: context } in confirmed {
            if let Some(sent) = self.reads.rounds.sent(&context)
                && self.may_lease()
            {
                self.reads.lease.confirm(self.raft.term(), sent);
            }
            let index = faults::read_index(index);
            for waiter in self.reads.rounds.finish_round(&context) {
                drop(waiter.send(Ok(index)));
            }
        }
    }

    fn has_lease(&self, now: Instant) -> bool {
        self.may_lease() && self.reads.lease.covers(self.raft.term(), now)
    }

    /// Whether this leader may hold a lease. Writes acknowledged in earlier terms are known for certain only once an
    /// entry of this term is committed (Raft thesis, 6.4).
    fn may_lease(&self) -> bool {
        self.raft.is_leader()
            && self.raft.has_committed_in_term()
            && self.membership.voters.contains(&self.settings.id)
    }

    /// Whether a request for leadership must be ignored because this member has just started: before the restart it may
    /// have answered a leader whose lease relies on it, and has forgotten that. So it behaves as if it had heard a
    /// leader at its start. This does not depend on this member's setting for leases, but on the leader's.
    pub(super) fn breaks_boot_quiet(&self, message: &Message, now: Instant) -> bool {
        let asks_for_leadership = matches!(
            message.get_msg_type(),
            MessageType::MsgRequestVote | MessageType::MsgRequestPreVote | MessageType::MsgTimeoutNow
        );
        asks_for_leadership && now < self.started + self.settings.election_min
    }
}
