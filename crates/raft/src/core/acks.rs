//! The leader's knowledge of the voters' disks.

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

    /// A voter that the raft crate does not know yet, or no more, holds nothing.
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
        // Another order would be a changed status, and wake every waiter.
        electorate.others.sort_unstable();
        electorate
    }
}
