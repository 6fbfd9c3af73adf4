//! A transfer of leadership to another voter (Raft thesis, 3.10). At most one at a time; new proposals wait until it
//! is settled.

use std::time::{Duration, Instant};

use helios_proto::v1::ErrorCode;
use raft::ProgressState;

use super::Core;
use crate::membership;
use crate::types::TransferWaiter;
use helios_proto::Error;

pub(super) struct Transfer {
    target: u64,
    /// Time of the next `TimeoutNow` to the target.
    again_at: Instant,
    /// Time after which no `TimeoutNow` is sent.
    last_asked: Instant,
    deadline: Instant,
    waiter: TransferWaiter,
}

impl Transfer {
    pub fn target(&self) -> u64 {
        self.target
    }
}

impl Core {
    /// Starts a transfer to `target`, or to the most caught-up voter. Answers `waiter` once it is settled.
    pub(in crate::core) fn start_transfer(
        &mut self,
        target: Option<u64>,
        now: Instant,
        timeout: Duration,
        waiter: TransferWaiter,
    ) {
        match self.choose_target(target, now) {
            Ok(target) if target == self.settings.id => {
                drop(waiter.send(Ok((target, self.raft.term()))));
            }
            Ok(target) => {
                tracing::info!(
                    target = membership::name_of(&self.membership, target),
                    "handing over leadership"
                );
                // The lease ends before the target can receive the request.
                self.reads.bar_lease(self.raft.term());
                self.raft.transfer_leader(target);
                self.leadership.transfer = Some(Transfer {
                    target,
                    again_at: now + self.settings.heartbeat,
                    last_asked: now + self.settings.election_min,
                    deadline: now + timeout,
                    waiter,
                });
            }
            Err(error) => drop(waiter.send(Err(error))),
        }
    }

    fn choose_target(&self, target: Option<u64>, now: Instant) -> Result<u64, Error> {
        if !self.raft.is_leader() {
            return Err(Error::not_leader(self.leader()));
        }
        if self.leadership.is_transferring() {
            return Err(failed("another transfer is under way; try again when it is done"));
        }
        if let Some(id) = target {
            if !self.membership.voters.contains(&id) {
                return Err(Error::new(
                    ErrorCode::NodeNotFound,
                    format!("member {id} is no voter of this cluster"),
                ));
            }
            return Ok(id);
        }
        // Not `recent_active`: the raft crate clears it for all once per election timeout.
        self.transfer_candidates(now)
            .max_by_key(|(_, matched)| *matched)
            .map(|(id, _)| id)
            .ok_or_else(|| failed("no other voter is caught up and live, so leadership stays here"))
    }

    /// Voters that could take over at once, with the match index of each.
    pub(super) fn transfer_candidates(&self, now: Instant) -> impl Iterator<Item = (u64, u64)> {
        self.raft
            .progresses()
            .filter(move |(id, progress)| {
                *id != self.settings.id
                    && self.membership.voters.contains(id)
                    && progress.state == ProgressState::Replicate
                    && self.is_active(*id, now)
            })
            .map(|(id, progress)| (id, progress.matched))
    }

    /// Sends `TimeoutNow` again with each heartbeat, for an election timeout: a target with an unapplied membership
    /// change ignores the request (raft crate, `hup`), and messages get lost.
    pub(in crate::core) fn retry_transfer(&mut self, now: Instant) {
        let is_due = |transfer: &&mut Transfer| now >= transfer.again_at;
        let Some(transfer) = self.leadership.transfer.as_mut().filter(is_due) else { return };
        if now > transfer.last_asked || !self.raft.is_transferring() {
            return;
        }
        transfer.again_at = now + self.settings.heartbeat;
        self.raft.transfer_leader_again(transfer.target);
    }

    /// Answers the waiter of the transfer once its outcome is known.
    pub(in crate::core) fn settle_transfer(&mut self, now: Instant) {
        let Some(transfer) = &self.leadership.transfer else { return };
        let raft = &self.raft;
        let outcome = if raft.leader_id() == transfer.target {
            Ok((transfer.target, raft.term()))
        } else if raft.is_leader() && !raft.is_transferring() {
            Err(failed("the target did not take over within an election timeout; leadership stays here"))
        } else if !raft.is_leader() && raft.has_leader() {
            Err(Error::not_leader(self.leader()))
        } else if now >= transfer.deadline {
            Err(failed("the target did not take over in time; ask for the status before trying again"))
        } else {
            return;
        };
        if let Some(transfer) = self.leadership.transfer.take() {
            drop(transfer.waiter.send(outcome));
        }
    }
}

fn failed(message: &str) -> Error {
    Error::new(ErrorCode::TransferFailed, message)
}
