//! The end of joint consensus. The leader proposes it as soon as the joint membership is applied.
//!
//! The raft crate's automatic leave is not used, because an outgoing leader would also do it: members use a
//! membership when they apply it, so it would stop sending while the remaining voters may not know
//! yet that they decide alone, and wait for it forever. It transfers leadership to one of them first.

use std::time::Instant;

use super::super::Core;
use crate::change::Change;
use crate::membership;

impl Core {
    pub(in crate::core) fn leave_joint(&mut self, now: Instant) {
        let raft = &self.raft;
        let is_moved = self.leadership.is_transferring() || raft.is_transferring();
        let is_due = raft.is_leader() && membership::is_joint(&self.membership);
        if !is_due || is_moved || raft.has_pending_change() {
            return;
        }
        if self.membership.voters.contains(&self.settings.id) {
            // Rejected if too much is uncommitted; the next drain proposes it again.
            drop(self.propose_change(&Change::LeaveJoint.fenced(0)));
        } else if now >= self.members.hand_over_at {
            self.members.hand_over_at = now + self.settings.election_min;
            self.hand_over_to_any(now);
        }
    }
}
