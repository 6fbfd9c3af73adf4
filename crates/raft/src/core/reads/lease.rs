//! The leader's lease: the time after a round in which it knows without another round that it is still the leader
//! (docs/design/node.md, section 2).
//!
//! A voter that heard the leader rejects every vote for the least election timeout (check-quorum).
//! So once a majority has answered a round, no other member can become leader until that long after the round
//! was *sent*. Events that break this promise end or prevent the lease: a transfer, whose target
//! campaigns against the leader; a membership change, after which another majority decides; a voter
//! that restarts and has forgotten the leader (`breaks_boot_quiet`).

use std::time::{Duration, Instant};

use super::super::TICK;

/// Limit of the ticks that the driver runs in one turn after a pause. A process that was stopped for seconds must not
/// campaign before it has handled the messages that its peers sent meanwhile. A delayed voter may count this many ticks
/// right after it heard the leader, and is ready to vote that much earlier.
pub const MAX_TICKS_PER_TURN: u32 = 3;
/// Margin for the time between two readings of the clock.
const MARGIN: Duration = Duration::from_millis(10);
/// Drift of two clocks that NTP slews apart by 500 ppm each: one part in a thousand.
const DRIFT_PER_MILLE: u32 = 1;

/// Returns the longest lease that voters with this least election timeout honour; zero if the timeout is too short
/// for a lease. Subtracted are one tick for rounding, `MAX_TICKS_PER_TURN`, the drift and the margin.
pub fn longest(election_min: Duration) -> Duration {
    let sure = election_min.saturating_sub(TICK * (1 + MAX_TICKS_PER_TURN));
    (sure * (1_000 - DRIFT_PER_MILLE) / 1_000).saturating_sub(MARGIN)
}

pub struct Lease {
    /// `None`: leases are off.
    length: Option<Duration>,
    held: Option<Held>,
    /// Rounds that were sent before this time give no lease.
    not_before: Instant,
    /// Term in which there is no further lease.
    barred_term: u64,
}

struct Held {
    term: u64,
    until: Instant,
}

impl Lease {
    pub fn new(length: Option<Duration>, now: Instant) -> Self {
        Self { length, held: None, not_before: now, barred_term: 0 }
    }

    /// Renews the lease: a majority has answered the round that was sent at `sent` or later, in `term`.
    pub fn confirm(&mut self, term: u64, sent: Instant) {
        let Some(length) = self.length else { return };
        if sent < self.not_before || term == self.barred_term {
            return;
        }
        let until = sent + length;
        let is_later = |held: &Held| held.term != term || held.until < until;
        if self.held.as_ref().is_none_or(is_later) {
            self.held = Some(Held { term, until });
        }
    }

    pub fn covers(&self, term: u64, now: Instant) -> bool {
        self.held.as_ref().is_some_and(|held| held.term == term && now < held.until)
    }

    /// Ends the lease and those of rounds in progress: another majority may decide from now on.
    pub fn revoke(&mut self, now: Instant) {
        self.held = None;
        self.not_before = now;
    }

    /// Ends the lease until the next term: the target of a transfer is asked to campaign against this leader, and may
    /// do so at any time, because the message may be delayed beyond the end of the transfer.
    pub fn bar(&mut self, term: u64) {
        self.held = None;
        self.barred_term = term;
    }
}
