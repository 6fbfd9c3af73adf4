//! The leader's knowledge of the voters' durable entries.

use std::time::Instant;

use super::super::acks::{Durable, Electorate};
use super::super::membership;
use super::Core;
use crate::faults;

impl Core {
    pub(super) fn durable(&self, now: Instant) -> Durable {
        if !self.raft.is_leader() {
            return Durable::default();
        }
        let mut electorates = vec![self.electorate(&self.membership.voters, now)];
        if faults::counts_outgoing(membership::is_joint(&self.membership)) {
            electorates.push(self.electorate(&self.membership.voters_outgoing, now));
        }
        let silent = membership::electorate(&self.membership)
            .into_iter()
            .filter(|voter| !self.is_active(*voter, now))
            .collect();
        Durable { electorates, silent }
    }

    /// Collects the match indexes of `voters`. For a voter without progress in the raft crate it is 0.
    fn electorate(&self, voters: &[u64], now: Instant) -> Electorate {
        let mut electorate = Electorate::default();
        for voter in voters.iter().filter(|voter| faults::counts_voter(|| self.is_active(**voter, now))) {
            let matched = self.raft.progress(*voter).map_or(0, faults::held_by);
            if *voter == self.settings.id {
                electorate.own = Some(matched);
            } else {
                electorate.others.push(matched);
            }
        }
        // Sorted: another order would count as a change of the status and wake all its watchers.
        electorate.others.sort_unstable();
        electorate
    }
}
