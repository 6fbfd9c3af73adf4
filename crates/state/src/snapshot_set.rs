//! Snapshots of the engine `runs`: a directory with the files of a checkpoint ([`helios_runs::Set`]), instead of the pairs
//! in one file. Making one writes nothing but the head, and installing one links the files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use helios_runs::{HEAD, Set, View};

use super::engines::{Backend, StateEngine};
use super::meta::{Digest, Record};
use super::restore::Loader;
use super::value::META_KEY;
use super::{Applied, SnapshotMeta, StateError, Store, recovery};
use crate::faults;
use helios_storage::disk::Disk;

/// Block cache for a set that is read once, bytes: its filters and indexes.
const CACHE_BYTES: u64 = 4 << 20;

impl SnapshotMeta {
    /// Version of a snapshot that is a directory of runs.
    pub const SET_VERSION: u32 = 4;

    pub fn is_set(&self) -> bool {
        self.version == Self::SET_VERSION
    }

    pub(super) fn read_set(disk: &dyn Disk, dir: &Path) -> Result<Self, StateError> {
        Self::of_set(dir, &read(disk, dir)?)
    }

    /// Reads and checks every block of every run.
    pub(super) fn verify_set(disk: &Arc<dyn Disk>, dir: &Path) -> Result<Self, StateError> {
        let set = read(disk.as_ref(), dir)?;
        let verified = set.open(disk, dir, CACHE_BYTES).and_then(|view| view.verify());
        match verified {
            Err(error) if faults::is_snapshot_damaged(true) => Err(bad(dir)(error)),
            _ => Self::of_set(dir, &set),
        }
    }

    fn of_set(dir: &Path, set: &Set) -> Result<Self, StateError> {
        let meta = record_of(dir, set)?.meta;
        let Applied { index, term } = meta.applied;
        Ok(Self {
            index,
            term,
            membership: meta.membership.as_ref().clone(),
            size_bytes: set.bytes(),
            crc32c: set.crc32c(),
            version: Self::SET_VERSION,
        })
    }
}

impl Store {
    /// Makes a snapshot of the last checkpoint in `dir`, which does not exist yet: links to its files. Durable when it
    /// returns, apart from the name of the directory. Called by the checkpoint thread only. `None` if the engine is not
    /// `runs`.
    ///
    /// With `verifies`, every block is read and checked before.
    pub fn link_snapshot(&self, dir: &Path, verifies: bool) -> Result<Option<SnapshotMeta>, StateError> {
        self.check()?;
        let (view, mut record) = {
            let image = self.inner.image();
            if let Some(reason) = &image.failure {
                return Err(StateError::Stopped(reason.clone()));
            }
            let Backend::Runs(runs) = &image.backend else { return Ok(None) };
            (runs.view(), image.record.clone())
        };
        let failed = |error: helios_runs::Error| self.note_damage(StateError::engine("read")(error.into()));
        if verifies {
            view.verify().map_err(failed)?;
        }
        record.meta.applied.index = faults::snapshot_index(record.meta.applied.index);
        let disk = self.inner.disk.as_ref();
        disk.create_dir_all(dir).map_err(|error| StateError::io("create", dir, error))?;
        let set = Set::create(disk, dir, &view, record.encode()).map_err(failed)?;
        SnapshotMeta::of_set(dir, &set).map(Some)
    }
}

fn read(disk: &dyn Disk, dir: &Path) -> Result<Set, StateError> {
    Set::read(disk, dir).map_err(bad(dir))
}

pub(super) fn record_of(dir: &Path, set: &Set) -> Result<Record, StateError> {
    recovery::decode(set.record()).map_err(|error| StateError::bad_snapshot(dir, error.to_string()))
}

/// Returns the files of the set in `dir` in the order of a transfer, with their lengths in bytes.
pub fn snapshot_files(disk: &dyn Disk, dir: &Path) -> Result<Vec<(PathBuf, u64)>, StateError> {
    let set = read(disk, dir)?;
    let head = (dir.join(HEAD), set.head().len() as u64);
    Ok(std::iter::once(head).chain(set.runs().map(|run| (dir.join(run.file_name()), run.len))).collect())
}

/// Converts an error of a set's files. A snapshot that cannot be read for a reason in the machine is not a bad one.
pub(super) fn bad(dir: &Path) -> impl Fn(helios_runs::Error) -> StateError {
    move |error| match error {
        helios_runs::Error::Io { doing, path, source } => StateError::io(doing, &path, source),
        error => StateError::bad_snapshot(dir, error.to_string()),
    }
}

/// A snapshot that is a set, for a restore.
pub(super) struct SetReader {
    set: Set,
    record: Record,
}

impl SetReader {
    pub fn open(disk: &dyn Disk, dir: &Path) -> Result<Self, StateError> {
        let set = read(disk, dir)?;
        Ok(Self { record: record_of(dir, &set)?, set })
    }

    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Opens the files of the set in `dir` to read each block once.
    pub fn view(&self, disk: &Arc<dyn Disk>, dir: &Path) -> Result<View, StateError> {
        self.set.open(disk, dir, CACHE_BYTES).map_err(bad(dir))
    }

    /// Fills a blank engine with the content; durable when it returns, apart from the generation's name. Returns the
    /// record of the new content.
    pub fn load(self, disk: &Arc<dyn Disk>, dir: &Path, backend: &Backend) -> Result<Record, StateError> {
        match backend {
            Backend::Runs(runs) => {
                runs.install_set(&self.set, dir).map_err(bad(dir))?;
                Ok(self.record)
            }
            Backend::InPlace(_) => {
                let view = self.view(disk, dir)?;
                let mut loader = Loader::new(backend.clone());
                let digest = copy_pairs(&view, &mut loader)?;
                let record = Record { digest, ..self.record };
                loader.finish(&record)?;
                Ok(record)
            }
        }
    }
}

/// Copies all pairs but the record; returns their digest.
pub(super) fn copy_pairs(source: &dyn StateEngine, loader: &mut Loader) -> Result<Digest, StateError> {
    let mut digest = Digest::default();
    for pair in source.range(b"", None) {
        let (key, value) = pair.map_err(StateError::engine("read"))?;
        if key != META_KEY {
            digest.add(&key, &value);
            loader.add(key, value)?;
        }
    }
    Ok(digest)
}
