//! How often the status and the Secrets of a cluster are written: some writes at once, and then one in a while. A lag that
//! changes with the load of clients must not become a write to the API server in every reconcile. To withhold a
//! status is safe: nothing follows from a decision before it is written.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::names::Key;
use crate::report::News;

/// Words and counts.
const DETAILS: Allowance = Allowance { burst: 4, every: Duration::from_secs(15) };
/// More than seven members need to come to life, or to be restarted one after the other.
const DECISIONS: Allowance = Allowance { burst: 64, every: Duration::from_secs(8) };

/// Writes of Secrets: a new cluster needs three, a replaced authority two or three at a time.
const SECRETS: Allowance = Allowance { burst: 8, every: Duration::from_secs(15) };

struct Allowance {
    /// Writes that may follow each other without waiting.
    burst: u32,
    every: Duration,
}

/// Until when each cluster has used its allowances; one entry for each existing cluster at most.
#[derive(Debug, Default)]
pub struct Pace(Mutex<HashMap<Key, Used>>);

#[derive(Debug, Default)]
struct Used {
    details: Option<Instant>,
    decisions: Option<Instant>,
    secrets: Option<Instant>,
}

impl Pace {
    /// True if a status with `news` may be written `now`; then it counts as written.
    pub fn may_write(&self, cluster: &Key, news: News, now: Instant) -> bool {
        let mut all = self.all();
        let used = all.entry(cluster.clone()).or_default();
        match news {
            News::Nothing => false,
            News::Detail => DETAILS.take(&mut used.details, now),
            News::Decision => DECISIONS.take(&mut used.decisions, now),
        }
    }

    /// True if a Secret may be written `now`. Another controller that changes Secrets against the operator must not cause
    /// a loop of writes.
    pub fn may_write_secret(&self, cluster: &Key, now: Instant) -> bool {
        SECRETS.next(self.all().get(cluster).and_then(|used| used.secrets), now).is_some()
    }

    /// A Secret was written; a write that the API server refuses does not count.
    pub fn secret_written(&self, cluster: &Key, now: Instant) {
        SECRETS.take(&mut self.all().entry(cluster.clone()).or_default().secrets, now);
    }

    /// The cluster is gone.
    pub fn forget(&self, cluster: &Key) {
        self.all().remove(cluster);
    }

    fn all(&self) -> MutexGuard<'_, HashMap<Key, Used>> {
        // No method can leave the map half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Allowance {
    fn take(&self, used: &mut Option<Instant>, now: Instant) -> bool {
        let next = self.next(*used, now);
        *used = next.or(*used);
        next.is_some()
    }

    /// Until when the allowance is used after a write `now`; `None` if there may be none.
    fn next(&self, used: Option<Instant>, now: Instant) -> Option<Instant> {
        let next = used.map_or(now, |until| until.max(now)) + self.every;
        (next.duration_since(now) <= self.every * self.burst).then_some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key { namespace: "default".to_owned(), name: name.to_owned() }
    }

    #[test]
    fn details_are_written_four_at_once_and_then_four_a_minute() {
        let pace = Pace::default();
        let began = Instant::now();
        let each_second = |from: u64, to: u64| {
            let may = |s| pace.may_write(&key("demo"), News::Detail, began + Duration::from_secs(s));
            (from..to).filter(|s| may(*s)).count()
        };
        assert_eq!(each_second(0, 10), 4, "the burst");
        assert_eq!(each_second(10, 610), 40, "600 s");
        assert_eq!(each_second(900, 910), 4, "after some quiet");
        assert!(pace.may_write(&key("other"), News::Detail, began), "clusters do not wait for each other");
    }

    #[test]
    fn secrets_are_bounded_when_another_controller_changes_them_and_refused_writes_do_not_count() {
        let pace = Pace::default();
        let began = Instant::now();
        let second = |n: u64| began + Duration::from_secs(n);
        assert!((0..100).all(|_| pace.may_write_secret(&key("demo"), began)), "none was written");
        let mut written = 0;
        for now in (0..600).map(second) {
            if pace.may_write_secret(&key("demo"), now) {
                pace.secret_written(&key("demo"), now);
                written += 1;
            }
        }
        assert_eq!(written, 8 + 600 / 15 - 1);
    }

    /// A decision that changes in every reconcile, ten of them a second.
    #[test]
    fn decisions_are_bounded_and_do_not_wait_for_details() {
        let pace = Pace::default();
        let began = Instant::now();
        let tenth = |n: u32| began + Duration::from_millis(100) * n;
        while pace.may_write(&key("demo"), News::Detail, began) {}
        let written = |range: std::ops::Range<u32>| {
            range.filter(|n| pace.may_write(&key("demo"), News::Decision, tenth(*n))).count()
        };
        assert_eq!(written(0..64), 64);
        assert!(written(64..6064) < 600 / 5, "less than 0.2 a second");
        pace.forget(&key("demo"));
        assert!(pace.all().is_empty());
    }
}
