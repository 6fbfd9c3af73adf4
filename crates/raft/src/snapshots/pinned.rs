//! Snapshots that are sent to archivers: they stay on disk, unchanged, while they are pinned.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, MutexGuard, PoisonError};

use super::Snapshots;
use helios_state::{SnapshotSummary, StateError};

/// A snapshot that is not removed or replaced until this is dropped, unless it is found damaged.
pub struct Pinned {
    snapshots: Arc<Snapshots>,
    path: PathBuf,
    index: u64,
}

impl Pinned {
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn index(&self) -> u64 {
        self.index
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let mut pinned = self.snapshots.pinned();
        if let Some(at) = pinned.iter().position(|index| *index == self.index) {
            pinned.swap_remove(at);
        }
    }
}

impl Snapshots {
    /// Pins the snapshot at `index`; `None`: there is none.
    pub fn pin(self: &Arc<Self>, index: u64) -> Option<Pinned> {
        // Found under the lock, so that it is not removed in between.
        let mut pinned = self.pinned();
        let path = self.find(index)?;
        pinned.push(index);
        Some(Pinned { snapshots: Arc::clone(self), path, index })
    }

    /// Removes the snapshot at `index` if it is a set that nothing needs: on a full disk its links may be all that keeps files
    /// that a merge has replaced. A file stays, because a state that is modified in place may be rebuilt from it.
    pub fn discard_set(&self, index: u64) -> io::Result<()> {
        let found = self.list()?;
        let is_set = |(at, term): &(u64, u64)| *at == index && self.disk.is_dir(&self.path(*at, *term));
        self.remove(found.into_iter().filter(is_set))
    }

    /// Indexes of the pinned snapshots, one for each pin.
    pub(super) fn pinned(&self) -> MutexGuard<'_, Vec<u64>> {
        self.pinned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn summary(&self, path: &Path) -> Result<SnapshotSummary, StateError> {
        SnapshotSummary::read(self.disk.as_ref(), path)
    }

    /// Computes the digest of a snapshot's records, as [`helios_state::snapshot_digest`].
    pub fn digest(&self, path: &Path, is_cancelled: impl Fn() -> bool) -> Result<Option<u64>, StateError> {
        helios_state::snapshot_digest(&self.disk, path, is_cancelled)
    }
}

#[cfg(test)]
mod tests {
    use helios_proto::v1::Membership;
    use helios_state::{EngineKind, Store, StoreOptions};
    use helios_storage::disk::{Disk, SimDisk};

    use super::*;

    #[test]
    fn pinned_snapshot_outlives_newer_ones_until_it_is_released() {
        for engine in [EngineKind::Memory, EngineKind::Runs] {
            let disk: Arc<dyn Disk> = Arc::new(SimDisk::new(0));
            let options = StoreOptions { engine, ..StoreOptions::default() };
            let store = Store::open_with(Arc::clone(&disk), Path::new("/state"), options).unwrap();
            let snapshots = Arc::new(Snapshots::open(disk, Path::new("/snapshots"), true).unwrap());
            let write = |index| {
                store.apply_membership(index, 1, Membership { voters: vec![index], ..Membership::default() });
                store.checkpoint().unwrap();
                snapshots.write(&store, true).unwrap();
            };
            assert!(snapshots.pin(1).is_none());
            write(1);
            let (pinned, twice) = (snapshots.pin(1).unwrap(), snapshots.pin(1).unwrap());
            (2..=6).for_each(write);
            snapshots.remove_before(6);
            drop(twice);
            write(7);
            assert_eq!(snapshots.verify(pinned.path()).unwrap().index, 1, "{engine:?}");
            assert!(snapshots.find(5).is_none());
            drop(pinned);
            write(8);
            assert!(snapshots.find(1).is_none(), "{engine:?}");

            let pinned = snapshots.pin(8).unwrap();
            snapshots.discard_set(8).unwrap();
            assert!(snapshots.find(8).is_some(), "{engine:?}: it is pinned");
            drop(pinned);
            snapshots.discard_set(8).unwrap();
            assert_eq!(snapshots.find(8).is_none(), engine == EngineKind::Runs);
        }
    }
}
