//! Admission of messages and proposals, by the room that the member has on disk and in memory.

mod disk_full;
mod messages;
mod room;
mod skipping;

use std::time::{Duration, Instant};

use raft::eraftpb::Message;

use super::Core;
use super::Proposal;
use super::proposals::{refuse, refuse_but};
use room::Allowance;

pub use room::LONGEST_WAIT;

pub(super) struct Admission {
    /// The log has only its reserve of spare segments: writes that make the state grow are rejected.
    is_log_short: bool,
    short_since: Instant,
    allowance: Allowance,
    /// The last append that this follower dropped for lack of room, as an append without entries after those dropped.
    dropped: Option<Message>,
}

impl Admission {
    pub fn new(now: Instant) -> Self {
        Self { is_log_short: false, short_since: now, allowance: Allowance::new(now), dropped: None }
    }

    pub fn set_log_short(&mut self, is_short: bool, now: Instant) {
        self.is_log_short = is_short;
        self.short_since = now;
    }

    pub fn is_log_short(&self) -> bool {
        self.is_log_short
    }

    /// Whether the log has had only its reserve for at least `time`.
    pub fn is_log_short_for(&self, time: Duration, now: Instant) -> bool {
        self.is_log_short && now.duration_since(self.short_since) >= time
    }
}

impl Core {
    /// Rejects the proposals that a member cannot read, and returns the others.
    pub(super) fn refuse_unreadable(&self, proposals: Vec<Proposal>, lowest: u32) -> Vec<Proposal> {
        if proposals.iter().all(|proposal| proposal.format <= lowest) {
            return proposals;
        }
        let mut readable = Vec::with_capacity(proposals.len());
        for proposal in proposals {
            match self.members.formats().check(proposal.format, &self.membership, self.settings.id) {
                Ok(()) => readable.push(proposal),
                Err(error) => refuse(vec![proposal], &error),
            }
        }
        readable
    }
}
