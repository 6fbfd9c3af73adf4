//! Clusters that the last pass found with nothing to do. As long as nothing of such a cluster changes in
//! Kubernetes, a pass asks its nodes only, and costs the API server nothing. **No decision is made from
//! what is kept here**: as soon as there is one to make, everything is read anew.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::names::Key;

/// However quiet, everything is read again after this time, for the case that a watch missed something.
const LONGEST: Duration = Duration::from_hours(1);

#[derive(Debug)]
enum Entry<T> {
    /// A pass reads the cluster, and nothing has changed since it began.
    Reading,
    Still {
        /// Of the HeliosCluster.
        version: String,
        read: Arc<T>,
        since: Instant,
    },
}

/// What was read of quiet clusters, as `T`; one entry for each existing cluster at most.
#[derive(Debug)]
pub struct Quiet<T>(Mutex<HashMap<Key, Entry<T>>>);

impl<T> Default for Quiet<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Quiet<T> {
    /// A pass is about to read the cluster.
    pub fn begin(&self, cluster: &Key) {
        self.entries().insert(cluster.clone(), Entry::Reading);
    }

    /// Something of the cluster changed, or it is gone.
    pub fn touch(&self, cluster: &Key) {
        self.entries().remove(cluster);
    }

    /// Keeps what was read of the HeliosCluster in `version`, unless something changed since: what was
    /// read may be older than the change.
    pub fn settle(&self, cluster: &Key, version: String, read: T, now: Instant) {
        if let Some(entry) = self.entries().get_mut(cluster) {
            *entry = Entry::Still { version, read: Arc::new(read), since: now };
        }
    }

    /// What the last pass read, if it is still all there is to know.
    pub fn get(&self, cluster: &Key, present: &str, now: Instant) -> Option<Arc<T>> {
        match self.entries().get(cluster)? {
            Entry::Still { version, read, since } => {
                (version == present && now.duration_since(*since) < lifetime(cluster)).then(|| read.clone())
            }
            Entry::Reading => None,
        }
    }

    /// Forgets what is known of all clusters, because a watch has a gap; answers which.
    pub fn touch_all(&self) -> Vec<Key> {
        self.entries().drain().map(|(cluster, _)| cluster).collect()
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<Key, Entry<T>>> {
        // No method can leave the map half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Between half of [`LONGEST`] and all of it, so that clusters which were seen first at the same time, at
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

    fn settle(quiet: &Quiet<&'static str>) -> Instant {
        let now = Instant::now();
        quiet.settle(&demo(), "7".to_owned(), "read", now);
        now
    }

    #[test]
    fn what_was_read_holds_for_the_version_that_was_read() {
        let quiet = Quiet::default();
        quiet.begin(&demo());
        let now = settle(&quiet);
        assert!(quiet.get(&demo(), "7", now).is_some());
        assert!(quiet.get(&demo(), "8", now).is_none(), "the HeliosCluster was changed");
    }

    #[test]
    fn a_change_ends_it_before_and_after_it_was_kept() {
        let quiet = Quiet::default();
        quiet.begin(&demo());
        quiet.touch(&demo());
        let now = settle(&quiet);
        assert!(quiet.get(&demo(), "7", now).is_none(), "changed while it was read");
        quiet.begin(&demo());
        settle(&quiet);
        quiet.touch(&demo());
        assert!(quiet.get(&demo(), "7", now).is_none(), "changed afterwards");
    }

    #[test]
    fn a_gap_in_a_watch_ends_it_for_all() {
        let quiet = Quiet::default();
        quiet.begin(&demo());
        let now = settle(&quiet);
        assert_eq!(quiet.touch_all(), [demo()]);
        assert!(quiet.get(&demo(), "7", now).is_none());
    }

    #[test]
    fn nothing_is_believed_for_ever() {
        let quiet = Quiet::default();
        quiet.begin(&demo());
        let now = settle(&quiet);
        assert!(quiet.get(&demo(), "7", now + LONGEST / 2).is_some());
        assert!(quiet.get(&demo(), "7", now + LONGEST).is_none());
    }
}
