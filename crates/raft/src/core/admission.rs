//! Admission of messages and proposals, by the room on disk and in memory.

mod disk_full;
mod messages;
mod room;
mod skipping;

use std::time::{Duration, Instant};

use super::Core;
use super::Proposal;
use super::proposals::{refuse, refuse_but};
use room::Allowance;

pub use room::LONGEST_WAIT;

pub(super) struct Admission {
    /// The log lives on its reserve: what makes the state grow is refused.
    is_log_short: bool,
    short_since: Instant,
    allowance: Allowance,
}

impl Admission {
    pub fn new(now: Instant) -> Self {
        Self { is_log_short: false, short_since: now, allowance: Allowance::new(now) }
    }

    pub fn set_log_short(&mut self, is_short: bool, now: Instant) {
        self.is_log_short = is_short;
        self.short_since = now;
    }

    pub fn is_log_short(&self) -> bool {
        self.is_log_short
    }

    /// Whether the log has lived on its reserve for as long as `time`.
    pub fn is_log_short_for(&self, time: Duration, now: Instant) -> bool {
        self.is_log_short && now.duration_since(self.short_since) >= time
    }
}

impl Core {
    /// Refuses what a member cannot read, and returns the other proposals.
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
