//! Pause after a failed reconcile: longer with each failure of the same cluster, and not in step with other clusters
//! that fail for the same reason.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::names::Key;

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);
/// More clusters than that which fail at once wait for the longest time.
const MOST: usize = 4096;

/// Failures in a row, by cluster. A cluster that succeeds or is deleted is forgotten.
#[derive(Debug, Default)]
pub struct Backoff(Mutex<HashMap<Key, u32>>);

impl Backoff {
    /// Counts a failed reconcile; returns the pause before the next one.
    pub fn failed(&self, cluster: &Key) -> Duration {
        let mut failures = self.failures();
        if failures.len() >= MOST && !failures.contains_key(cluster) {
            return LONGEST;
        }
        let count = failures.entry(cluster.clone()).or_default();
        *count = count.saturating_add(1);
        delay(cluster, *count)
    }

    pub fn forget(&self, cluster: &Key) {
        self.failures().remove(cluster);
    }

    fn failures(&self) -> MutexGuard<'_, HashMap<Key, u32>> {
        // Counting cannot leave the map half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Doubles up to [`LONGEST`]; with a jitter of half of that. The jitter follows from the cluster's
/// name and the count, so that it needs no source of randomness.
fn delay(cluster: &Key, failures: u32) -> Duration {
    let doubled = 2_u32.saturating_pow(failures.saturating_sub(1));
    let whole = FIRST.saturating_mul(doubled).min(LONGEST);
    let lot = crc32c::crc32c(format!("{cluster} {failures}").as_bytes());
    whole.mul_f64(0.5 + 0.5 * f64::from(lot) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key { namespace: "default".to_owned(), name: name.to_owned() }
    }

    #[test]
    fn backoff_grows_to_a_limit_when_a_cluster_keeps_failing() {
        let backoff = Backoff::default();
        let waits: Vec<_> = (0..12).map(|_| backoff.failed(&key("demo"))).collect();
        for (failures, wait) in waits.iter().enumerate() {
            let whole = (FIRST * 2_u32.pow(failures as u32)).min(LONGEST);
            assert!((whole / 2..=whole).contains(wait), "{wait:?} after {failures}");
        }
        assert!(waits[11] >= LONGEST / 2);
    }

    #[test]
    fn backoff_is_reset_when_a_cluster_succeeds_or_is_deleted() {
        let backoff = Backoff::default();
        for _ in 0..5 {
            backoff.failed(&key("demo"));
        }
        backoff.forget(&key("demo"));
        assert!(backoff.failures().is_empty());
        assert!(backoff.failed(&key("demo")) <= FIRST);
    }

    #[test]
    fn backoff_differs_between_clusters() {
        let backoff = Backoff::default();
        for _ in 0..5 {
            backoff.failed(&key("broken"));
        }
        assert!(backoff.failed(&key("other")) <= FIRST);
        let waits: std::collections::BTreeSet<_> = (0..50).map(|n| delay(&key(&n.to_string()), 3)).collect();
        assert!(waits.len() > 40, "50 clusters wait for only {} different times", waits.len());
    }

    #[test]
    fn backoff_is_bounded_when_many_clusters_fail() {
        let backoff = Backoff::default();
        for n in 0..MOST + 10 {
            backoff.failed(&key(&n.to_string()));
        }
        assert_eq!(backoff.failures().len(), MOST);
        assert_eq!(backoff.failed(&key("one more")), LONGEST);
    }
}
