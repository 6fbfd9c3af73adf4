//! Leader priorities: a leader transfers leadership to a voter with a higher priority, once that voter could take over
//! at once. A vote is never rejected because of a priority, as the raft crate's priorities do: any leader is better
//! than none.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::{Core, TIMEOUT};
use crate::membership;

/// Pause between two attempts: the cause of a failed one may last.
const PAUSE: Duration = Duration::from_secs(10);
/// Number of entries that the preferred voter may be behind. Writes wait while it catches up.
const MAX_LAG: u64 = 1_000;

pub(super) struct Priorities {
    /// Priorities by member, from their handshakes.
    known: BTreeMap<u64, u32>,
    not_before: Instant,
}

impl Priorities {
    pub fn new(now: Instant) -> Self {
        Self { known: BTreeMap::new(), not_before: now }
    }

    pub fn set(&mut self, id: u64, priority: u32) {
        self.known.insert(id, priority);
    }

    fn get(&self, id: u64) -> u32 {
        self.known.get(&id).copied().unwrap_or(0)
    }
}

impl Core {
    pub(in crate::core) fn hand_over_to_priority(&mut self, now: Instant) {
        let raft = &self.raft;
        let may_leave = raft.is_leader()
            && raft.has_committed_in_term()
            && !self.leadership.is_transferring()
            && !raft.has_pending_change()
            && now >= self.leadership.priorities.not_before;
        if !may_leave {
            return;
        }
        let (own, last) = (self.settings.priority, raft.last_index());
        let higher = self
            .good_candidates(now)
            .filter(|(_, matched)| last - matched <= MAX_LAG)
            .map(|(id, _)| (self.leadership.priorities.get(id), id))
            .filter(|(priority, _)| *priority > own);
        let Some((priority, target)) = higher.max() else { return };
        let name = membership::name_of(&self.membership, target);
        tracing::info!(
            target = name,
            priority,
            own,
            "transferring leadership to a voter with a higher priority"
        );
        self.leadership.priorities.not_before = now + PAUSE;
        self.hand_over(Some(target), now, TIMEOUT);
    }
}
