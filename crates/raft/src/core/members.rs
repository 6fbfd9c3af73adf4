//! Knowledge about the other members, and changes of the membership.

mod changes;
mod joint;
mod learners;

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use super::Core;
use crate::format::{self, Formats};
use learners::Stand;

pub(super) struct Members {
    /// Time of the last message, by member.
    last_heard: HashMap<u64, Instant>,
    /// Log formats that the members can read.
    formats: Formats,
    /// Progress of this leader's learners, by id.
    learners: BTreeMap<u64, Stand>,
    /// Earliest time at which an outgoing leader starts another transfer.
    hand_over_at: Instant,
}

impl Members {
    pub fn new(now: Instant) -> Self {
        Self {
            last_heard: HashMap::new(),
            formats: Formats::new(format::FORMAT),
            learners: BTreeMap::new(),
            hand_over_at: now,
        }
    }

    pub fn record_message(&mut self, from: u64, now: Instant) {
        self.last_heard.insert(from, now);
    }

    pub fn set_format(&mut self, id: u64, format: u32) {
        self.formats.heard(id, format);
    }

    pub fn formats(&self) -> &Formats {
        &self.formats
    }

    #[cfg(test)]
    pub fn pretend(&mut self, formats: Formats) {
        self.formats = formats;
    }
}

impl Core {
    /// Whether a message of member `id` arrived within two least election timeouts, or the member is this one.
    pub(crate) fn is_active(&self, id: u64, now: Instant) -> bool {
        let is_recent = |heard: &Instant| now.duration_since(*heard) < 2 * self.settings.election_min;
        id == self.settings.id || self.members.last_heard.get(&id).is_some_and(is_recent)
    }

    /// Whether a message of member `id` arrived within `period`.
    pub(super) fn was_heard(&self, id: u64, period: Duration, now: Instant) -> bool {
        self.members.last_heard.get(&id).is_some_and(|heard| now.duration_since(*heard) < period)
    }

    /// Highest log format that every member can read.
    pub(super) fn lowest_format(&self) -> u32 {
        self.members.formats.lowest(&self.membership, self.settings.id)
    }
}
