//! Observations of clusters that the last reconcile found with nothing to do. As long as nothing of such a cluster changes
//! in Kubernetes, a reconcile asks its members only, and costs the API server nothing. **No decision is made from
//! what is kept here**: as soon as there is one to make, everything is read again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::names::Key;

/// Everything is read again after this time, in case a watch missed a change.
const LONGEST: Duration = Duration::from_hours(1);

#[derive(Debug)]
enum Entry<T> {
    /// A reconcile reads the cluster, and nothing has changed since it began.
    Reading,
    Idle {
        /// Resource version of the HeliosCluster.
        version: String,
        read: Arc<T>,
        since: Instant,
    },
}

/// Observations of idle clusters, as `T`; one entry for each existing cluster at most.
#[derive(Debug)]
pub struct IdleCache<T>(Mutex<HashMap<Key, Entry<T>>>);

impl<T> Default for IdleCache<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> IdleCache<T> {
    /// A reconcile is about to read the cluster.
    pub fn begin(&self, cluster: &Key) {
        self.entries().insert(cluster.clone(), Entry::Reading);
    }

    /// A change of the cluster, or its deletion.
    pub fn invalidate(&self, cluster: &Key) {
        self.entries().remove(cluster);
    }

    /// Keeps the observation of the HeliosCluster in `version`, unless something changed since [`IdleCache::begin`]: the
    /// observation may be older than the change.
    pub fn keep(&self, cluster: &Key, version: String, read: T, now: Instant) {
        if let Some(entry) = self.entries().get_mut(cluster) {
            *entry = Entry::Idle { version, read: Arc::new(read), since: now };
        }
    }

    /// The observation of the last reconcile, if nothing has changed since.
    pub fn get(&self, cluster: &Key, present: &str, now: Instant) -> Option<Arc<T>> {
        match self.entries().get(cluster)? {
            Entry::Idle { version, read, since } => {
                (version == present && now.duration_since(*since) < lifetime(cluster)).then(|| read.clone())
            }
            Entry::Reading => None,
        }
    }

    /// Removes all clusters, because a watch has a gap; returns them.
    pub fn invalidate_all(&self) -> Vec<Key> {
        self.entries().drain().map(|(cluster, _)| cluster).collect()
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<Key, Entry<T>>> {
        // No method can leave the map half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Between half of [`LONGEST`] and all of it, so that clusters which were observed first at the same time, at
/// the operator's start, are not read again at the same time.
fn lifetime(cluster: &Key) -> Duration {
    let lot = crc32c::crc32c(cluster.to_string().as_bytes());
    LONGEST.mul_f64(0.5 + 0.5 * f64::from(lot) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn demo() -> Key {
        Key { namespace: "default".to_owned(), name: "demo".to_owned() }
    }

    fn keep(cache: &IdleCache<&'static str>) -> Instant {
        let now = Instant::now();
        cache.keep(&demo(), "7".to_owned(), "read", now);
        now
    }

    #[test]
    fn observation_is_kept_for_the_version_that_was_read() {
        let cache = IdleCache::default();
        cache.begin(&demo());
        let now = keep(&cache);
        assert!(cache.get(&demo(), "7", now).is_some());
        assert!(cache.get(&demo(), "8", now).is_none(), "the HeliosCluster was changed");
    }

    #[test]
    fn observation_is_dropped_when_the_cluster_changes_during_or_after_the_reads() {
        let cache = IdleCache::default();
        cache.begin(&demo());
        cache.invalidate(&demo());
        let now = keep(&cache);
        assert!(cache.get(&demo(), "7", now).is_none(), "changed while it was read");
        cache.begin(&demo());
        keep(&cache);
        cache.invalidate(&demo());
        assert!(cache.get(&demo(), "7", now).is_none(), "changed afterwards");
    }

    #[test]
    fn all_observations_are_dropped_when_a_watch_has_a_gap() {
        let cache = IdleCache::default();
        cache.begin(&demo());
        let now = keep(&cache);
        assert_eq!(cache.invalidate_all(), [demo()]);
        assert!(cache.get(&demo(), "7", now).is_none());
    }

    #[test]
    fn observation_expires_when_it_is_an_hour_old() {
        let cache = IdleCache::default();
        cache.begin(&demo());
        let now = keep(&cache);
        assert!(cache.get(&demo(), "7", now + LONGEST / 2).is_some());
        assert!(cache.get(&demo(), "7", now + LONGEST).is_none());
    }
}
