//! Leadership that moves on purpose: transfers, and the reasons for which a leader starts one without a request: its
//! disk is slow or full, or a voter with a higher priority is ready.

mod priority;
mod slow_disk;
mod transfer;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::{Core, Settings};
use priority::Priorities;
use slow_disk::DiskWatch;
use transfer::Transfer;

/// Time for the target of a transfer that no request started.
const TIMEOUT: Duration = Duration::from_secs(2);

pub(super) struct Leadership {
    transfer: Option<Transfer>,
    priorities: Priorities,
    disk_watch: DiskWatch,
    /// Members whose log lives on its reserve, or is written slowly.
    bad_disks: BTreeSet<u64>,
    /// After leadership was given up for the disk's sake.
    stay_until: Instant,
    disk_transfers: u64,
}

impl Leadership {
    pub fn new(settings: &Settings, now: Instant) -> Self {
        Self {
            transfer: None,
            priorities: Priorities::new(now),
            disk_watch: DiskWatch::new(settings.election_min / 2, now),
            bad_disks: BTreeSet::new(),
            stay_until: now,
            disk_transfers: 0,
        }
    }

    /// Whether a transfer is under way, or its waiter has no answer yet.
    pub fn is_transferring(&self) -> bool {
        self.transfer.is_some()
    }

    pub fn transfer_target(&self) -> Option<u64> {
        self.transfer.as_ref().map(Transfer::target)
    }

    /// Transfers that were started because the disk was slow or full.
    pub fn disk_transfers(&self) -> u64 {
        self.disk_transfers
    }

    pub fn set_peer_disk(&mut self, id: u64, is_bad: bool) {
        if is_bad {
            self.bad_disks.insert(id);
        } else {
            self.bad_disks.remove(&id);
        }
    }

    pub fn set_peer_priority(&mut self, id: u64, priority: u32) {
        self.priorities.set(id, priority);
    }

    /// The log writer was given something to write.
    pub fn write_began(&mut self, now: Instant) {
        self.disk_watch.began(now);
    }

    /// A write of the log ended; `is_busy`: the next begins.
    pub fn write_ended(&mut self, is_busy: bool, now: Instant) {
        self.disk_watch.ended(is_busy, now);
    }
}

impl Core {
    /// Voters that could take over at once and whose disks are good, and the last entry that each holds.
    fn good_candidates(&self, now: Instant) -> impl Iterator<Item = (u64, u64)> {
        self.transfer_candidates(now).filter(|(id, _)| !self.leadership.bad_disks.contains(id))
    }

    /// Ids of the voters that this leader would hand over to.
    pub(super) fn successors(&self, now: Instant) -> Vec<u64> {
        let mut found: Vec<u64> = self.good_candidates(now).map(|(id, _)| id).collect();
        found.sort_unstable();
        found
    }

    /// Starts a transfer that no request waits for; its outcome shows in the known leader.
    fn hand_over(&mut self, target: Option<u64>, now: Instant, timeout: Duration) {
        let (waiter, _) = tokio::sync::oneshot::channel();
        self.start_transfer(target, now, timeout, waiter);
    }

    /// Hands over to any voter, for one that is about to leave the cluster.
    pub(super) fn hand_over_to_any(&mut self, now: Instant) {
        self.hand_over(None, now, self.settings.election_max);
    }
}
