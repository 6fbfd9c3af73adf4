//! Priorities: a leader gives way to a voter with a higher one, once that voter could take over at once. Votes are
//! not refused for a priority, as the raft crate would: whoever can be elected is better than nobody.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::super::{membership, transfer};
use super::Core;

/// Between two attempts: what kept the one who is preferred from taking over may last.
const PAUSE: Duration = Duration::from_secs(10);
/// How long it has to take over.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Entries that it may be behind. Writes wait while it catches up.
const MAX_LAG: u64 = 1_000;

pub(super) struct Preference {
    /// By member, as each says when it connects.
    priorities: BTreeMap<u64, u32>,
    not_before: Instant,
}

impl Preference {
    pub fn new(now: Instant) -> Self {
        Self { priorities: BTreeMap::new(), not_before: now }
    }

    pub fn heard(&mut self, id: u64, priority: u32) {
        self.priorities.insert(id, priority);
    }

    fn of(&self, id: u64) -> u32 {
        self.priorities.get(&id).copied().unwrap_or(0)
    }
}

impl Core {
    pub(super) fn give_way_to_preferred(&mut self, now: Instant) {
        let raft = &self.raft;
        let may_leave = raft.is_leader()
            && raft.has_committed_in_term()
            && self.transfer.is_none()
            && !raft.has_pending_change()
            && now >= self.preference.not_before;
        if !may_leave {
            return;
        }
        let (own, last) = (self.settings.priority, raft.last_index());
        let higher = transfer::candidates(self, now)
            .filter(|(id, matched)| !self.bad_disks.contains(id) && last - matched <= MAX_LAG)
            .map(|(id, _)| (self.preference.of(id), id))
            .filter(|(priority, _)| *priority > own);
        let Some((priority, target)) = higher.max() else { return };
        let name = membership::name_of(&self.membership, target);
        tracing::info!(target = name, priority, own, "a voter with a higher priority is to lead");
        self.preference.not_before = now + PAUSE;
        // Nobody waits for the outcome; it shows in who leads.
        let (waiter, _) = tokio::sync::oneshot::channel();
        transfer::start(self, Some(target), now, TIMEOUT, waiter);
    }
}
