//! Handing leadership to another voter (Raft thesis, 3.10). At most one transfer at a time; new
//! proposals are kept back until it is settled.

use std::time::{Duration, Instant};

use helios_proto::v1::ErrorCode;
use raft::ProgressState;

use super::core::Core;
use super::membership;
use super::types::TransferWaiter;
use helios_proto::Error;

pub struct Transfer {
    pub target: u64,
    /// When the target is asked once more.
    again_at: Instant,
    /// It is not asked any more.
    last_asked: Instant,
    deadline: Instant,
    waiter: TransferWaiter,
}

pub fn start(core: &mut Core, target: Option<u64>, now: Instant, timeout: Duration, waiter: TransferWaiter) {
    match choose(core, target, now) {
        Ok(target) if target == core.settings.id => {
            drop(waiter.send(Ok((target, core.raft.term()))));
        }
        Ok(target) => {
            tracing::info!(target = membership::name_of(&core.membership, target), "handing over leadership");
            // Before the target can hear of it.
            core.lease.bar(core.raft.term());
            core.raft.transfer_leader(target);
            core.transfer = Some(Transfer {
                target,
                again_at: now + core.settings.heartbeat,
                last_asked: now + core.settings.election_min,
                deadline: now + timeout,
                waiter,
            });
        }
        Err(error) => drop(waiter.send(Err(error))),
    }
}

fn choose(core: &Core, target: Option<u64>, now: Instant) -> Result<u64, Error> {
    let raft = &core.raft;
    if !raft.is_leader() {
        return Err(Error::not_leader(core.leader()));
    }
    if core.transfer.is_some() {
        return Err(failed("another transfer is under way; try again when it is done"));
    }
    if let Some(id) = target {
        if !core.membership.voters.contains(&id) {
            return Err(Error::new(
                ErrorCode::NodeNotFound,
                format!("member {id} is no voter of this cluster"),
            ));
        }
        return Ok(id);
    }
    // Not `recent_active`: the raft crate clears it for all once per election timeout.
    candidates(core, now)
        .max_by_key(|(_, matched)| *matched)
        .map(|(id, _)| id)
        .ok_or_else(|| failed("no other voter is caught up and live, so leadership stays here"))
}

/// Voters that could take over at once, and what of the log each holds.
pub fn candidates(core: &Core, now: Instant) -> impl Iterator<Item = (u64, u64)> {
    core.raft
        .progresses()
        .filter(move |(id, progress)| {
            *id != core.settings.id
                && core.membership.voters.contains(id)
                && progress.state == ProgressState::Replicate
                && core.is_active(*id, now)
        })
        .map(|(id, progress)| (id, progress.matched))
}

/// A target that still has a change of members to apply takes no notice (raft-rs `hup`), and messages get
/// lost: it is asked again with each heartbeat, for an election timeout.
pub fn ask_again(core: &mut Core, now: Instant) {
    let heartbeat = core.settings.heartbeat;
    let Some(transfer) = core.transfer.as_mut().filter(|transfer| now >= transfer.again_at) else { return };
    if now > transfer.last_asked || !core.raft.is_transferring() {
        return;
    }
    transfer.again_at = now + heartbeat;
    core.raft.transfer_leader_again(transfer.target);
}

/// Answers the one who waits once the outcome is known.
pub fn settle(core: &mut Core, now: Instant) {
    let Some(transfer) = &core.transfer else { return };
    let raft = &core.raft;
    let outcome = if raft.leader_id() == transfer.target {
        Ok((transfer.target, raft.term()))
    } else if raft.is_leader() && !raft.is_transferring() {
        Err(failed("the target did not take over within an election timeout; leadership stays here"))
    } else if !raft.is_leader() && raft.leader_id() != 0 {
        Err(Error::not_leader(core.leader()))
    } else if now >= transfer.deadline {
        Err(failed("the target did not take over in time; ask for the status before trying again"))
    } else {
        return;
    };
    if let Some(transfer) = core.transfer.take() {
        drop(transfer.waiter.send(outcome));
    }
}

fn failed(message: &str) -> Error {
    Error::new(ErrorCode::TransferFailed, message)
}
