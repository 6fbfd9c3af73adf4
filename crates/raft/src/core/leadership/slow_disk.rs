//! A leader whose disk is slow or full transfers leadership to another voter (docs/design/node.md, pitfall 29).

use std::time::{Duration, Instant};

use super::{Core, TIMEOUT};

/// Number of bad seconds in a row after which a leader transfers leadership.
const PATIENCE_SECONDS: u32 = 3;
/// Time after such a transfer in which a member that becomes leader again does not start another: leadership must not
/// oscillate between members whose disks are bad in turn.
const STAY: Duration = Duration::from_secs(300);
const SECOND: Duration = Duration::from_secs(1);

/// Durations of the log's writes, evaluated once a second.
pub(super) struct DiskWatch {
    /// Duration from which on a write is slow.
    limit: Duration,
    /// Begin of the current write.
    busy_since: Option<Instant>,
    second_ends: Instant,
    writes: u64,
    slow: u64,
    bad_seconds: u32,
}

impl DiskWatch {
    pub fn new(limit: Duration, now: Instant) -> Self {
        Self { limit, busy_since: None, second_ends: now + SECOND, writes: 0, slow: 0, bad_seconds: 0 }
    }

    /// Records the begin of a write, unless one is in progress.
    pub fn began(&mut self, now: Instant) {
        self.busy_since.get_or_insert(now);
    }

    /// Records the end of a write; `is_busy`: the next write begins at once.
    pub fn ended(&mut self, is_busy: bool, now: Instant) {
        if let Some(since) = self.busy_since {
            self.writes += 1;
            self.slow += u64::from(now.duration_since(since) > self.limit);
        }
        self.busy_since = is_busy.then_some(now);
    }

    /// Whether in each of the last `PATIENCE_SECONDS` more than one write in a hundred was slow, or one hung.
    pub fn is_slow(&mut self, now: Instant) -> bool {
        if now >= self.second_ends {
            let hangs = self.busy_since.is_some_and(|since| now.duration_since(since) > self.limit);
            let is_bad = hangs || self.slow * 100 > self.writes;
            self.bad_seconds = if is_bad { self.bad_seconds.saturating_add(1) } else { 0 };
            (self.writes, self.slow) = (0, 0);
            self.second_ends = now + SECOND;
        }
        self.bad_seconds >= PATIENCE_SECONDS
    }

    /// Whether the last second was slow: a leader with a bad disk should not choose this member.
    pub fn is_strained(&self) -> bool {
        self.bad_seconds > 0
    }
}

impl Core {
    /// Whether other members should not transfer leadership to this one, because of its disk or an entry that it cannot
    /// apply.
    pub(in crate::core) fn disk_is_bad(&self) -> bool {
        self.admission.is_log_short()
            || self.leadership.disk_watch.is_strained()
            || self.applying.held().is_some()
    }

    pub(in crate::core) fn leave_bad_disk(&mut self, now: Instant) {
        let is_slow = self.leadership.disk_watch.is_slow(now);
        let is_full = self.admission.is_log_short_for(PATIENCE_SECONDS * SECOND, now);
        let may_leave = self.raft.is_leader()
            && !self.leadership.is_transferring()
            && !self.raft.has_pending_change()
            && now >= self.leadership.stay_until;
        // The other members may be able to apply the entry, if the fault is in this process.
        let is_held = self.applying.held().is_some();
        if !may_leave || !(is_slow || is_full || is_held) {
            return;
        }
        let Some((target, _)) = self.good_candidates(now).max_by_key(|(_, matched)| *matched) else { return };
        let reason = match (is_full, is_slow) {
            (true, _) => "the disk here is full",
            (_, true) => "the disk here is slow",
            _ => "an entry of the log cannot be applied here",
        };
        tracing::warn!("{reason}: transferring leadership to another member");
        self.leadership.stay_until = now + STAY;
        self.leadership.disk_transfers += 1;
        self.hand_over(Some(target), now, TIMEOUT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(150);
    const MS: Duration = Duration::from_millis(1);

    struct Rig {
        watch: DiskWatch,
        now: Instant,
    }

    impl Rig {
        fn new() -> Self {
            let now = Instant::now();
            Self { watch: DiskWatch::new(LIMIT, now), now }
        }

        /// Runs writes of `took` each, one after another, for `time`. Returns whether the disk was ever slow.
        fn write(&mut self, took: Duration, time: Duration) -> bool {
            let end = self.now + time;
            let mut was_slow = false;
            while self.now < end {
                self.watch.began(self.now);
                self.now += took;
                self.watch.ended(false, self.now);
                was_slow |= self.watch.is_slow(self.now);
            }
            was_slow
        }
    }

    #[test]
    fn disk_is_slow_after_three_slow_seconds_and_recovers() {
        let mut rig = Rig::new();
        assert!(!rig.write(10 * MS, 10 * SECOND));
        assert!(!rig.write(200 * MS, 2 * SECOND), "two seconds are no reason yet");
        assert!(rig.write(200 * MS, 3 * SECOND));
        rig.write(10 * MS, 3 * SECOND);
        assert!(!rig.write(10 * MS, SECOND));
    }

    #[test]
    fn disk_is_slow_at_one_slow_write_in_twenty_and_not_in_a_thousand() {
        let mut rig = Rig::new();
        for _ in 0..10 {
            assert!(!rig.write(MS, 1_000 * MS) && !rig.write(200 * MS, MS));
            assert!(!rig.write(MS, 4 * SECOND));
        }
        let was_slow = (0..30).any(|_| rig.write(10 * MS, 190 * MS) | rig.write(200 * MS, MS));
        assert!(was_slow);
    }

    #[test]
    fn write_that_hangs_counts_before_it_ends_and_an_idle_disk_does_not() {
        let mut rig = Rig::new();
        rig.watch.began(rig.now);
        let mut seconds = 0;
        while !rig.watch.is_slow(rig.now) {
            rig.now += SECOND;
            seconds += 1;
        }
        assert_eq!(seconds, PATIENCE_SECONDS);
        rig.watch.ended(false, rig.now);
        for _ in 0..2 {
            rig.now += SECOND;
            rig.watch.is_slow(rig.now);
        }
        assert!(!rig.watch.is_slow(rig.now));
    }

    #[test]
    fn time_behind_other_writes_does_not_make_a_disk_slow() {
        let mut rig = Rig::new();
        for _ in 0..500 {
            rig.watch.began(rig.now);
            rig.now += 100 * MS;
            rig.watch.ended(true, rig.now);
            assert!(!rig.watch.is_slow(rig.now));
        }
    }
}
