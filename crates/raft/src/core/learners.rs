//! Learners that do not get on. They are told of and counted, and never removed for it: whether one is to be
//! waited for is for who added it to say.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use raft::ProgressState;

use super::super::membership;
use super::Core;

/// A learner that is behind and has acknowledged nothing new for so long is stale.
const STALE_AFTER: Duration = Duration::from_secs(60);

/// How far a learner got, and since when it has been there.
pub(super) struct Stand {
    matched: u64,
    since: Instant,
    is_told: bool,
}

/// Of this leader's learners, by id.
pub(super) type Learners = BTreeMap<u64, Stand>;

impl Core {
    /// To be called now and then.
    pub(super) fn watch_learners(&mut self, now: Instant) {
        let raft = &self.raft;
        if !raft.is_leader() || self.membership.learners.is_empty() {
            self.learners.clear();
            return;
        }
        let last = raft.last_index();
        let present = &self.membership.learners;
        self.learners.retain(|id, _| present.contains(id));
        for id in present {
            let Some(progress) = raft.progress(*id) else { continue };
            // A snapshot on its way to one that answers is progress, which the log does not show.
            let receives = progress.state == ProgressState::Snapshot && self.is_active(*id, now);
            let begun = Stand { matched: progress.matched, since: now, is_told: false };
            let stand = self.learners.entry(*id).or_insert(begun);
            if progress.matched > stand.matched || progress.matched == last || receives {
                *stand = Stand { matched: progress.matched, since: now, is_told: false };
            } else if stand.is_stale(now) && !stand.is_told {
                stand.is_told = true;
                tracing::warn!(
                    learner = membership::name_of(&self.membership, *id),
                    match_index = stand.matched,
                    lag = last - stand.matched,
                    "this learner has taken no entry for {STALE_AFTER:?}: check that it runs and is reached, or remove it"
                );
            }
        }
    }

    pub(super) fn stale_learners(&self, now: Instant) -> Vec<u64> {
        self.learners.iter().filter(|(_, stand)| stand.is_stale(now)).map(|(id, _)| *id).collect()
    }
}

impl Stand {
    fn is_stale(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= STALE_AFTER
    }
}
