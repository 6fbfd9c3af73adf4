//! The leader's lease: for how long after a round it needs no other to know that it still leads
//! (docs/design/node.md, section 2).
//!
//! A voter that heard the leader refuses every vote for the least election timeout (check-quorum).
//! So once a majority has answered a round, nobody else can lead until that long after the round
//! was *sent*. What would break this promise ends or prevents the lease: a transfer, whose target
//! campaigns against it; a change of configuration, after which another majority decides; a voter
//! that restarts and has forgotten whom it heard (`boot_quiet`).

use std::time::{Duration, Instant};

use super::super::TICK;

/// Ticks that the driver makes up for after a pause. A process that was stopped for seconds must not
/// campaign before it has read what its peers said meanwhile. A voter that was held up may count so
/// many right after it heard the leader, and is that much earlier ready to vote.
pub const MAX_TICKS_PER_TURN: u32 = 3;
/// Margin for what happens between two readings of the clock.
const MARGIN: Duration = Duration::from_millis(10);
/// Two clocks that NTP slews apart by 500 ppm each: one part in a thousand.
const DRIFT_PER_MILLE: u32 = 1;

/// The longest lease that voters with this least election timeout keep; zero when it is too short
/// for any. One tick for their own rounding, and what they may make up for.
pub fn longest(election_min: Duration) -> Duration {
    let sure = election_min.saturating_sub(TICK * (1 + MAX_TICKS_PER_TURN));
    (sure * (1_000 - DRIFT_PER_MILLE) / 1_000).saturating_sub(MARGIN)
}

pub struct Lease {
    /// `None`: leases are off.
    length: Option<Duration>,
    held: Option<Held>,
    /// Rounds that were sent before this give none.
    not_before: Instant,
    /// No lease in this term any more.
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

    /// Renews the lease: a majority has answered the round that was about to be sent at `sent`, in `term`.
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

    /// Ends the lease: another majority may decide from now on.
    pub fn revoke(&mut self, now: Instant) {
        self.held = None;
        self.not_before = now;
    }

    /// Ends the lease for the rest of the term: a member is asked to campaign against this leader, at a time that
    /// nobody knows, since the message may be delayed beyond the end of the transfer.
    pub fn bar(&mut self, term: u64) {
        self.held = None;
        self.barred_term = term;
    }
}
