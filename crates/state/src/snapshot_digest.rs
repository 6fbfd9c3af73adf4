//! The content of a snapshot, or of the last checkpoint, in figures: its clock, its number of keys, and a digest of its records.

use std::path::Path;
use std::sync::Arc;

use helios_storage::disk::Disk;

use super::engines::{Backend, StateEngine};
use super::meta::Digest;
use super::restore::read_pairs;
use super::snapshot::Reader;
use super::snapshot_set::SetReader;
use super::snapshot_write;
use super::{StateError, Store};

/// Pairs between two checks whether the digest is still wanted.
const PAIRS_PER_CHECK: u64 = 4_096;

/// Figures of a snapshot's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotSummary {
    /// The log's clock, milliseconds since the Unix epoch.
    pub clock_ms: u64,
    /// Number of keys, including expired ones that are not purged yet.
    pub keys: u64,
}

impl SnapshotSummary {
    /// Reads the header of a snapshot, which alone is checked.
    pub fn read(disk: &dyn Disk, path: &Path) -> Result<Self, StateError> {
        let record = match disk.is_dir(path) {
            true => SetReader::open(disk, path)?.record().clone(),
            false => Reader::open(disk, path)?.record().clone(),
        };
        Ok(Self { clock_ms: record.meta.clock_ms, keys: record.meta.key_count })
    }
}

/// Reads and checks the whole snapshot; returns the digest of its records, the same on every member at one index
/// whatever its engine. `None` once `is_cancelled` returns true.
///
/// # Errors
/// The snapshot is damaged or cannot be read.
pub fn snapshot_digest(
    disk: &Arc<dyn Disk>,
    path: &Path,
    is_cancelled: impl Fn() -> bool,
) -> Result<Option<u64>, StateError> {
    digest_unless(is_cancelled, |each| {
        if disk.is_dir(path) {
            let view = SetReader::open(disk.as_ref(), path)?.view(disk, path)?;
            snapshot_write::digest_until(&view, each)
        } else {
            read_pairs(Reader::open(disk.as_ref(), path)?, |_, _| each())
        }
    })
}

/// Computes a digest by `compute`, which calls its argument for each pair. `None` once `is_cancelled` returns true.
fn digest_unless(
    is_cancelled: impl Fn() -> bool,
    compute: impl FnOnce(&mut dyn FnMut() -> Result<(), StateError>) -> Result<Digest, StateError>,
) -> Result<Option<u64>, StateError> {
    let (mut pairs, mut was_cancelled) = (0u64, false);
    let mut each = || {
        pairs += 1;
        was_cancelled = pairs.is_multiple_of(PAIRS_PER_CHECK) && is_cancelled();
        match was_cancelled {
            true => Err(StateError::Stopped("the digest is not wanted any more".to_owned())),
            false => Ok(()),
        }
    };
    match compute(&mut each) {
        Err(_) if was_cancelled => Ok(None),
        digest => digest.map(|digest| Some(digest.value())),
    }
}

/// All records of one checkpoint. They stay as they are while the state changes.
pub struct Records {
    store: Store,
    content: Content,
}

enum Content {
    /// An engine that is modified in place counts the digest.
    Digest(Digest),
    View(Arc<dyn StateEngine>),
}

impl Store {
    /// Returns the records of the last checkpoint.
    pub fn checkpoint_records(&self) -> Result<Records, StateError> {
        self.check()?;
        let image = self.inner.image();
        let content = match &image.backend {
            Backend::InPlace(_) => Content::Digest(image.record.digest),
            Backend::Runs(_) => Content::View(image.backend.reader()),
        };
        Ok(Records { store: self.clone(), content })
    }

    /// Returns the digest of all records of the last checkpoint, the same on every member at its index whatever the
    /// engine. With the engine `runs` it reads the whole state.
    pub fn state_digest(&self) -> Result<u64, StateError> {
        let digest = self.checkpoint_records()?.digest(|| false)?;
        digest.ok_or_else(|| StateError::Stopped("the digest was not computed".to_owned()))
    }
}

impl Records {
    /// Returns the digest of the records; `None` once `is_cancelled` returns true. With the engine `runs` it reads the whole
    /// state.
    pub fn digest(&self, is_cancelled: impl Fn() -> bool) -> Result<Option<u64>, StateError> {
        let computed = match &self.content {
            Content::Digest(digest) => Ok(Some(digest.value())),
            Content::View(view) => {
                digest_unless(is_cancelled, |each| snapshot_write::digest_until(view.as_ref(), each))
            }
        };
        computed.map_err(|error| self.store.note_damage(error))
    }
}

#[cfg(test)]
mod tests {
    use helios_proto::v1::{Command, Set, command::Op};
    use helios_storage::disk;

    use super::*;
    use crate::{EngineKind, StoreOptions};

    fn set(key: &str, value: &str, expire_at_ms: Option<u64>) -> Command {
        let set = Set {
            key: key.to_owned().into(),
            value: value.to_owned().into(),
            expire_at_ms,
            ..Set::default()
        };
        Command { now_ms: 77, op: Some(Op::Set(set)), ..Command::default() }
    }

    /// Snapshots of the same state by each engine, and as a set.
    fn snapshots(disk: &Arc<dyn Disk>, dir: &Path, last: &str) -> Vec<std::path::PathBuf> {
        let engines = [EngineKind::Runs, EngineKind::Sled, EngineKind::Redb, EngineKind::Memory];
        let mut found = Vec::new();
        for engine in engines {
            let home = dir.join(format!("{engine:?}-{last}"));
            let options = StoreOptions { engine, ..StoreOptions::default() };
            let store = Store::open_with(Arc::clone(disk), &home, options).unwrap();
            for (index, command) in
                (1..).zip([set("a", "1", None), set("b", "2", Some(5_000)), set("c", last, None)])
            {
                store.apply(index, 1, &command);
            }
            store.checkpoint().unwrap();
            let file = dir.join(format!("{engine:?}-{last}.snap"));
            store.write_snapshot(&file).unwrap();
            found.push(file);
            let set = dir.join(format!("{engine:?}-{last}.set"));
            found.extend(store.link_snapshot(&set, false).unwrap().map(|_| set));
        }
        found
    }

    #[test]
    fn digest_is_the_same_for_all_engines_and_differs_between_states() {
        let (disk, dir) = (disk::real(), tempfile::tempdir().unwrap());
        let digests = |last| {
            let found = snapshots(&disk, dir.path(), last);
            assert_eq!(found.len(), 5, "{found:?}");
            let summary = SnapshotSummary { clock_ms: 77, keys: 3 };
            assert!(found.iter().all(|path| SnapshotSummary::read(disk.as_ref(), path).unwrap() == summary));
            let mut digests: Vec<_> =
                found.iter().map(|path| snapshot_digest(&disk, path, || false).unwrap().unwrap()).collect();
            digests.dedup();
            assert_eq!(digests.len(), 1, "{digests:x?}");
            digests[0]
        };
        assert_ne!(digests("3"), digests("4"));
    }

    #[test]
    fn digest_of_a_damaged_snapshot_is_an_error() {
        let (disk, dir) = (disk::real(), tempfile::tempdir().unwrap());
        for path in snapshots(&disk, dir.path(), "3").into_iter().filter(|path| path.is_file()) {
            let mut bytes = std::fs::read(&path).unwrap();
            let middle = bytes.len() - 20;
            bytes[middle] ^= 1;
            std::fs::write(&path, bytes).unwrap();
            assert!(snapshot_digest(&disk, &path, || false).is_err(), "{}", path.display());
        }
    }
}
