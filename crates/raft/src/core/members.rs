//! The other members as this one knows them, and changes of the membership.

mod changes;
mod joint;
mod learners;

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use super::Core;
use crate::format::{self, Formats};
use learners::Stand;

pub(super) struct Members {
    /// Time of the last message of each.
    last_heard: HashMap<u64, Instant>,
    /// Log formats that they can read.
    formats: Formats,
    /// Progress of this leader's learners, by id.
    learners: BTreeMap<u64, Stand>,
    /// When a leader on its way out hands over again.
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
    /// Whether member `id` was heard lately, or is this one.
    pub(crate) fn is_active(&self, id: u64, now: Instant) -> bool {
        let is_recent = |heard: &Instant| now.duration_since(*heard) < 2 * self.settings.election_min;
        id == self.settings.id || self.members.last_heard.get(&id).is_some_and(is_recent)
    }

    /// Highest log format that every member can read.
    pub(super) fn lowest_format(&self) -> u32 {
        self.members.formats.lowest(&self.membership, self.settings.id)
    }
}
