//! Learners without progress. They are logged and counted, and never removed automatically: that is the decision of
//! the operator or admin that added them.

use std::time::{Duration, Instant};

use raft::ProgressState;

use super::super::Core;
use crate::membership;

/// Time without progress after which a learner that is behind is stale.
const STALE_AFTER: Duration = Duration::from_secs(60);

/// Match index of a learner, and the time of its last progress.
pub(super) struct Stand {
    matched: u64,
    since: Instant,
    is_logged: bool,
}

impl Core {
    /// Logs each learner once when it becomes stale.
    pub(in crate::core) fn watch_learners(&mut self, now: Instant) {
        let raft = &self.raft;
        if !raft.is_leader() || self.membership.learners.is_empty() {
            self.members.learners.clear();
            return;
        }
        let last = raft.last_index();
        let present = &self.membership.learners;
        self.members.learners.retain(|id, _| present.contains(id));
        for id in present {
            let Some(progress) = raft.progress(*id) else { continue };
            // A snapshot transfer to an active learner is progress that the match index does not show.
            let receives = progress.state == ProgressState::Snapshot && self.is_active(*id, now);
            let begun = Stand { matched: progress.matched, since: now, is_logged: false };
            let stand = self.members.learners.entry(*id).or_insert(begun);
            if progress.matched > stand.matched || progress.matched == last || receives {
                *stand = Stand { matched: progress.matched, since: now, is_logged: false };
            } else if stand.is_stale(now) && !stand.is_logged {
                stand.is_logged = true;
                tracing::warn!(
                    learner = membership::name_of(&self.membership, *id),
                    match_index = stand.matched,
                    lag = last - stand.matched,
                    "this learner has acknowledged no entry for {STALE_AFTER:?}: check that it runs and can be reached, or remove it"
                );
            }
        }
    }

    pub(in crate::core) fn stale_learners(&self, now: Instant) -> Vec<u64> {
        self.members.learners.iter().filter(|(_, stand)| stand.is_stale(now)).map(|(id, _)| *id).collect()
    }
}

impl Stand {
    fn is_stale(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= STALE_AFTER
    }
}
