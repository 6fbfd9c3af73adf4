//! Limits of the log and the overlay in memory. Entries are in memory until they are applied, the overlay until a
//! checkpoint. Near a limit a leader slows down writes and then rejects them; a follower drops entries; and committed
//! entries wait in the log until there is room in the overlay.

use std::time::{Duration, Instant};

use helios_proto::v1::ErrorCode;
use raft::eraftpb::Entry;

use super::super::MAX_APPLYING_BYTES;
use super::disk_full::is_frugal;
use super::{Core, Proposal, refuse, refuse_but};
use crate::unappliable::skip_in;
use helios_proto::Error;

/// Burst of a leader that slows down writes: the allowance of this time may be used at once.
const BURST: Duration = Duration::from_millis(20);
/// Longest time that a slowed-down write waits; further writes are rejected.
pub const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// Bytes held in memory by the log or the overlay, with their limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::core) struct Held {
    what: &'static str,
    frees: &'static str,
    setting: &'static str,
    bytes: u64,
    limit: u64,
}

impl Held {
    /// Whether the reserve above the limit is used up, in which commands that free room are still accepted.
    fn is_over_reserve(self) -> bool {
        self.bytes >= self.limit + self.limit / 8
    }

    fn is_full(self) -> bool {
        self.bytes >= self.limit
    }

    /// Whether the limit of a follower, and of committed entries, is exceeded: 1.25 times the limit of a leader.
    pub fn is_over_all(self) -> bool {
        self.bytes >= self.limit + self.limit / 4
    }

    /// Rate of writes on a leader, bytes per second; `None`: unlimited. It decreases from half of the limit on.
    fn bytes_per_second(self) -> Option<u64> {
        let half = self.limit / 2;
        (self.bytes > half).then(|| self.limit.saturating_sub(self.bytes) / 4)
    }

    fn refusal(self, leader: &str) -> Error {
        let Self { what, frees, setting, bytes, limit } = self;
        let message = format!(
            "{what} of the leader {leader} holds {bytes} bytes in memory, the limit is {limit} ({setting}): {frees}; \
             try again"
        );
        Error::new(ErrorCode::Overloaded, message)
    }
}

/// Token bucket of a leader that slows down writes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Allowance {
    /// Bytes that may be proposed now. Negative after a write that was larger than the rest.
    bytes: i64,
    at: Instant,
}

impl Allowance {
    pub fn new(now: Instant) -> Self {
        Self { bytes: 0, at: now }
    }

    fn grow(&mut self, per_second: u64, now: Instant) {
        let since = now.saturating_duration_since(self.at);
        let grown = self.bytes.saturating_add_unsigned(bytes_in(since, per_second));
        self.bytes = grown.min(bytes_in(BURST, per_second).max(1).cast_signed());
        self.at = now;
    }

    fn take(&mut self, bytes: u64) -> bool {
        let is_left = self.bytes > 0;
        if is_left {
            self.bytes = self.bytes.saturating_sub_unsigned(bytes);
        }
        is_left
    }
}

impl Core {
    fn held_log(&self) -> Held {
        Held {
            what: "the log",
            frees: "its entries wait for other members, for the disk, or to be applied",
            setting: "raft.max_log_bytes",
            // Entries that wait for the disk are in memory twice.
            bytes: self.raft.log().memory_bytes() + self.raft.unstable_bytes(),
            limit: self.settings.max_log_bytes,
        }
    }

    pub(in crate::core) fn held_overlay(&self) -> Held {
        Held {
            what: "the state that is not on disk yet",
            frees: "it is freed by the next checkpoint, which is being written or finds no room on the disk",
            setting: "state.max_overlay_bytes",
            bytes: self.applying.overlay_bytes(),
            limit: self.settings.max_overlay_bytes,
        }
    }

    /// Whether a follower has room for `entries`; without it, it drops the message. While an entry is held, later ones
    /// wait in the log, and a `SkipEntry` is accepted even if the log is full.
    pub(super) fn has_room_for(&self, entries: &[Entry]) -> bool {
        let is_held = self.applying.held().is_some();
        let is_skip = |entry: &Entry| entry.data.is_empty() || skip_in(&entry.data).is_some();
        let has_room = !self.held_log().is_over_all();
        (is_held || self.applying.bytes() <= 2 * MAX_APPLYING_BYTES)
            && (has_room || is_held && entries.iter().all(is_skip))
    }

    /// Whether a follower that dropped entries can take many again, so that not each of the next ones is dropped, too.
    pub(super) fn has_much_room(&self) -> bool {
        let is_held = self.applying.held().is_some();
        (is_held || self.applying.bytes() <= MAX_APPLYING_BYTES) && !self.held_log().is_full()
    }

    /// Returns the proposals that may be proposed now; the others are rejected, or queued again.
    pub(in crate::core) fn admit(&mut self, mut proposals: Vec<Proposal>, now: Instant) -> Vec<Proposal> {
        if self.applying.held().is_some() {
            // Only the skip of the held entry comes to this point, and only that frees room.
            return proposals;
        }
        let held = [self.held_log(), self.held_overlay()];
        if let Some(full) = held.into_iter().find(|held| held.is_full()) {
            let error = full.refusal(&self.own_name());
            let is_reserve_left = !held.into_iter().any(Held::is_over_reserve);
            proposals =
                refuse_but(proposals, &error, |proposal| is_reserve_left && is_frugal(&proposal.data));
        } else if let Some(per_second) = held.into_iter().filter_map(Held::bytes_per_second).min() {
            self.admission.allowance.grow(per_second, now);
            let fits = |proposal: &Proposal, allowance: &mut Allowance| allowance.take(size(proposal));
            let taken =
                proposals.iter().take_while(|proposal| fits(proposal, &mut self.admission.allowance)).count();
            let mut waiting = proposals.split_off(taken);
            // The queue holds no more than the rate admits within `LONGEST_WAIT`.
            let mut left =
                self.admission.allowance.bytes.saturating_add_unsigned(bytes_in(LONGEST_WAIT, per_second));
            let kept = waiting
                .iter()
                .take_while(|proposal| {
                    let is_soon = left > 0;
                    left = left.saturating_sub_unsigned(size(proposal));
                    is_soon
                })
                .count();
            let excess = waiting.split_off(kept);
            self.proposals.requeue(waiting);
            if !excess.is_empty() {
                let [log, overlay] = held;
                let nearer = if overlay.bytes_per_second() == Some(per_second) { overlay } else { log };
                refuse(excess, &nearer.refusal(&self.own_name()));
            }
        }
        proposals
    }
}

fn bytes_in(time: Duration, per_second: u64) -> u64 {
    // The product fits: the time is bounded by the age of the process, the rate by the memory.
    (u128::from(per_second) * time.as_micros() / 1_000_000).min(u128::from(u32::MAX)) as u64
}

fn size(proposal: &Proposal) -> u64 {
    proposal.data.len() as u64 + 64
}
