//! What the leader knows of the voters' disks.

use std::time::Instant;

use raft::StateRole;

use super::super::acks::Durable;
use super::Core;

impl Core {
    pub(super) fn durable(&self, now: Instant) -> Durable {
        let mut durable = Durable::default();
        if self.node.raft.state != StateRole::Leader {
            return durable;
        }
        for (id, progress) in self.node.raft.prs().iter() {
            if !self.membership.voters.contains(id) {
                continue;
            }
            if *id == self.settings.id {
                durable.own = Some(progress.matched);
            } else {
                durable.others.push(progress.matched);
                if !self.is_active(*id, now) {
                    durable.silent.push(*id);
                }
            }
        }
        // The tracker keeps no order, and a status that only looks changed would wake all who wait.
        durable.others.sort_unstable();
        durable.silent.sort_unstable();
        durable
    }
}
