//! The clock that a member stamps entries and checks expiry with: its wall clock, bounded by the log's clock and the
//! clocks of a majority (ADR 0019). A single wall clock that is ahead expires nothing early.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use helios_proto::v1::Membership;

/// Tolerated difference of the clocks of a majority, and the most that the log's clock may gain on real time in one
/// term.
pub const SLACK: Duration = Duration::from_secs(1);
/// Age from which the reported clock of a member is ignored.
const MEMORY: Duration = Duration::from_secs(60);
/// Time for which [`Clock`] reuses the last computed bound, in milliseconds.
const REFRESH_MS: u64 = 50;

/// Upper bound of a wall clock. Pure: the caller passes the time.
#[derive(Debug, Default)]
pub struct Bound {
    /// The first observation in this term.
    anchor: Option<Anchor>,
    /// Last reported wall clock of each other member, in milliseconds, and its time of arrival. `None`: a build that
    /// does not report its clock.
    heard: BTreeMap<u64, (Option<u64>, Instant)>,
}

#[derive(Debug, Clone, Copy)]
struct Anchor {
    term: u64,
    log_ms: u64,
    at: Instant,
}

/// Inputs of the bound, as a member observes them at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Look<'a> {
    pub wall_ms: u64,
    pub now: Instant,
    pub log_ms: u64,
    pub term: u64,
    pub own_id: u64,
    pub membership: &'a Membership,
}

impl Bound {
    pub fn heard(&mut self, from: u64, wall_ms: Option<u64>, now: Instant) {
        self.heard.insert(from, (wall_ms, now));
    }

    /// Returns the latest time at which the wall clock is trusted, in milliseconds: the later of the log's clock at the
    /// start of the term plus monotonic time since then, and the time that a majority's clocks have reached; plus
    /// [`SLACK`].
    pub fn latest_ms(&mut self, look: &Look<'_>) -> u64 {
        let anchor = match self.anchor {
            Some(anchor) if anchor.term == look.term => anchor,
            _ => *self.anchor.insert(Anchor { term: look.term, log_ms: look.log_ms, at: look.now }),
        };
        let since_anchor =
            anchor.log_ms.saturating_add(millis(look.now.saturating_duration_since(anchor.at)));
        let agreed = self.agreed_ms(look).unwrap_or_default();
        since_anchor.max(agreed).saturating_add(millis(SLACK))
    }

    /// Returns the latest time that the clocks of a majority have reached; `None` if fewer clocks are known.
    fn agreed_ms(&mut self, look: &Look<'_>) -> Option<u64> {
        let Membership { voters, voters_outgoing, .. } = look.membership;
        self.heard.retain(|id, _| voters.contains(id) || voters_outgoing.contains(id));
        let of = |voters: &[u64]| {
            let mut clocks: Vec<_> = voters.iter().filter_map(|id| self.clock_of(*id, look)).collect();
            clocks.sort_unstable_by(|a, b| b.cmp(a));
            clocks.get(voters.len() / 2).copied()
        };
        let agreed = of(voters);
        if voters_outgoing.is_empty() {
            agreed
        } else {
            agreed.zip(of(voters_outgoing)).map(|(a, b)| a.min(b))
        }
    }

    fn clock_of(&self, id: u64, look: &Look<'_>) -> Option<u64> {
        if id == look.own_id {
            return Some(look.wall_ms);
        }
        let (wall_ms, at) = self.heard.get(&id)?;
        let age = look.now.saturating_duration_since(*at);
        if age >= MEMORY {
            return None;
        }
        // A build that does not report its clock never lowers the bound, so the clock is unbounded as before until all
        // members are upgraded.
        Some(wall_ms.map_or(u64::MAX / 2, |wall_ms| wall_ms.saturating_add(millis(age))))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The bounded clock of one node.
#[derive(Debug)]
pub struct Clock {
    started: Instant,
    bound: Mutex<Bound>,
    /// `latest_ms` of the last observation minus the milliseconds since `started`, and those milliseconds in
    /// `looked_ms`.
    offset_ms: AtomicU64,
    looked_ms: AtomicU64,
}

impl Default for Clock {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            bound: Mutex::default(),
            offset_ms: AtomicU64::new(0),
            looked_ms: AtomicU64::new(u64::MAX),
        }
    }
}

impl Clock {
    pub fn heard(&self, from: u64, wall_ms: Option<u64>) {
        self.bound.lock().unwrap_or_else(PoisonError::into_inner).heard(from, wall_ms, Instant::now());
    }

    /// Returns the wall clock within its bound; `look` supplies the inputs of the bound. Cheap: most calls take no lock
    /// and reuse the last bound (`REFRESH_MS`).
    pub fn now_ms(&self, wall_ms: u64, look: impl FnOnce(&mut dyn FnMut(&Look<'_>))) -> u64 {
        let now = Instant::now();
        let since_ms = millis(now.saturating_duration_since(self.started));
        let looked_ms = self.looked_ms.load(Ordering::Acquire);
        if looked_ms == u64::MAX || since_ms.saturating_sub(looked_ms) >= REFRESH_MS {
            look(&mut |look| {
                let latest_ms = self
                    .bound
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .latest_ms(&Look { now, ..*look });
                self.offset_ms.store(latest_ms.saturating_sub(since_ms), Ordering::Release);
                self.looked_ms.store(since_ms, Ordering::Release);
            });
        }
        wall_ms.min(self.offset_ms.load(Ordering::Acquire).saturating_add(since_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: u64 = 3_600_000;
    const TRUE_MS: u64 = 1_000 * HOUR_MS;
    const SLACK_MS: u64 = 1_000;

    fn voters(count: u64) -> Membership {
        Membership { voters: (1..=count).collect(), ..Membership::default() }
    }

    struct Node {
        bound: Bound,
        start: Instant,
        membership: Membership,
        log_ms: u64,
    }

    impl Node {
        fn new(voters_count: u64, log_ms: u64) -> Self {
            let start = Instant::now();
            Self { bound: Bound::default(), start, membership: voters(voters_count), log_ms }
        }

        /// Returns the stamp of member 1 at `after_ms` of true time, and applies the entry.
        fn stamp(&mut self, term: u64, after_ms: u64, ahead_ms: i64) -> u64 {
            let wall_ms = (TRUE_MS + after_ms).saturating_add_signed(ahead_ms);
            let look = Look {
                wall_ms,
                now: self.start + Duration::from_millis(after_ms),
                log_ms: self.log_ms,
                term,
                own_id: 1,
                membership: &self.membership,
            };
            let stamped = wall_ms.min(self.bound.latest_ms(&look));
            self.log_ms = self.log_ms.max(stamped);
            stamped
        }

        fn heard(&mut self, from: u64, after_ms: u64, ahead_ms: i64) {
            let wall_ms = (TRUE_MS + after_ms).saturating_add_signed(ahead_ms);
            self.bound.heard(from, Some(wall_ms), self.start + Duration::from_millis(after_ms));
        }
    }

    #[test]
    fn a_leader_an_hour_ahead_gains_at_most_one_second_in_its_term() {
        let mut leader = Node::new(3, TRUE_MS);
        for after_ms in (0..600_000).step_by(10) {
            let stamped = leader.stamp(7, after_ms, HOUR_MS as i64);
            assert!(stamped <= TRUE_MS + after_ms + SLACK_MS, "after {after_ms} ms");
            // The log's clock is not slower than real time.
            assert!(stamped >= TRUE_MS + after_ms, "after {after_ms} ms");
        }
    }

    #[test]
    fn a_leader_an_hour_ahead_is_bounded_by_a_majority_that_disagrees() {
        let mut leader = Node::new(3, TRUE_MS - HOUR_MS);
        leader.heard(2, 0, 0);
        assert_eq!(leader.stamp(7, 0, HOUR_MS as i64), TRUE_MS + SLACK_MS);
        leader.heard(3, 100, 0);
        assert_eq!(leader.stamp(7, 100, HOUR_MS as i64), TRUE_MS + 100 + SLACK_MS);
        // A second member of five has the same wrong clock; the clocks of the majority are right.
        let mut leader = Node::new(5, TRUE_MS);
        for (id, ahead_ms) in [(2, HOUR_MS as i64), (3, 0), (4, 0)] {
            leader.heard(id, 0, ahead_ms);
        }
        assert_eq!(leader.stamp(7, 0, HOUR_MS as i64), TRUE_MS + SLACK_MS);
    }

    #[test]
    fn a_majority_that_agrees_moves_the_clock_at_once_after_a_day_of_downtime() {
        let mut leader = Node::new(3, TRUE_MS - 24 * HOUR_MS);
        assert_eq!(leader.stamp(7, 0, 0), TRUE_MS - 24 * HOUR_MS + SLACK_MS, "nobody was heard yet");
        leader.heard(3, 10, 0);
        assert_eq!(leader.stamp(7, 20, 0), TRUE_MS + 20);
        // The only voter is a majority.
        assert_eq!(Node::new(1, 0).stamp(7, 0, 0), TRUE_MS);
    }

    #[test]
    fn a_leader_that_is_ahead_gains_at_most_one_second_per_term() {
        let mut leader = Node::new(3, TRUE_MS);
        leader.heard(2, 0, 0);
        for term in 1..=100 {
            let stamped = leader.stamp(term, term, HOUR_MS as i64);
            assert!(stamped <= TRUE_MS + term + term * SLACK_MS, "term {term}");
        }
    }

    #[test]
    fn old_clock_reports_are_ignored() {
        let mut leader = Node::new(3, TRUE_MS);
        leader.heard(2, 0, 2 * HOUR_MS as i64);
        let later_ms = millis(MEMORY);
        assert_eq!(leader.stamp(7, 0, HOUR_MS as i64), TRUE_MS + HOUR_MS, "two of three agree");
        let mut leader = Node::new(3, TRUE_MS);
        leader.stamp(7, 0, 0);
        leader.heard(2, 0, 2 * HOUR_MS as i64);
        assert_eq!(leader.stamp(7, later_ms, HOUR_MS as i64), TRUE_MS + later_ms + SLACK_MS);
    }

    #[test]
    fn builds_without_clock_reports_leave_the_leaders_clock_unbounded() {
        let mut leader = Node::new(3, TRUE_MS - HOUR_MS);
        leader.bound.heard(2, None, leader.start);
        assert_eq!(leader.stamp(7, 0, 0), TRUE_MS);
    }

    #[test]
    fn in_a_joint_configuration_both_majorities_have_to_agree() {
        let mut leader = Node::new(3, TRUE_MS);
        leader.membership.voters_outgoing = vec![1, 4, 5];
        leader.heard(2, 0, HOUR_MS as i64);
        leader.heard(4, 0, 0);
        assert_eq!(leader.stamp(7, 0, HOUR_MS as i64), TRUE_MS + SLACK_MS);
    }

    #[test]
    fn the_bound_moves_with_monotonic_time_between_observations() {
        let clock = Clock::default();
        let membership = voters(1);
        let at = |wall_ms| {
            clock.now_ms(wall_ms, |give| {
                let now = Instant::now();
                give(&Look { wall_ms, now, log_ms: TRUE_MS, term: 1, own_id: 2, membership: &membership });
            })
        };
        assert_eq!(at(TRUE_MS), TRUE_MS);
        let bounded = at(u64::MAX);
        assert!((TRUE_MS..TRUE_MS + 10 * SLACK_MS).contains(&bounded), "{bounded}");
    }
}
