//! Writing of a snapshot file from the last checkpoint.

use std::path::Path;
use std::sync::Arc;

use super::engines::{Backend, StateEngine};
use super::meta::{Digest, Record};
use super::snapshot::Writer;
use super::value::{self, META_KEY};
use super::{SnapshotMeta, StateError, Store};
use crate::faults;

impl Store {
    /// Writes the last checkpoint to the snapshot file `path`, completely or not at all. Called by the
    /// checkpoint thread only.
    pub fn write_snapshot(&self, path: &Path) -> Result<SnapshotMeta, StateError> {
        self.check()?;
        let image = self.inner.image();
        if let Some(reason) = &image.failure {
            return Err(StateError::Stopped(reason.clone()));
        }
        let engine = image.backend.reader();
        let mut record = image.record.clone();
        if matches!(image.backend, Backend::Runs(_)) {
            // The content of a view does not change, so merges continue meanwhile.
            drop(image);
            record.digest = digest(engine.as_ref()).map_err(|error| self.note_damage(error))?;
        }
        let mut writer = Writer::create(Arc::clone(&self.inner.disk), path)?;
        record.meta.applied.index = faults::snapshot_index(record.meta.applied.index);
        let written = (|| {
            let has_collections = has_any(engine.as_ref(), value::GARBAGE_START, value::GARBAGE_END)?
                || has_any(engine.as_ref(), value::ELEMENTS_START, value::ELEMENTS_END)?;
            writer.header(&record, has_collections)?;
            write_pairs(&mut writer, engine.as_ref(), &record)?;
            writer.finish()
        })();
        if let Err(error) = written {
            writer.abandon();
            return Err(self.note_damage(error));
        }
        SnapshotMeta::read(self.inner.disk.as_ref(), path)
    }
}

#[cfg(any(test, feature = "simulation"))]
impl Store {
    /// Returns a digest of the last checkpoint, the same on every member whatever its engine.
    pub fn checkpoint_digest(&self) -> Result<u64, StateError> {
        let (reader, meta) = {
            let image = self.inner.image();
            (image.backend.reader(), image.record.meta.clone())
        };
        let record = Record { meta, digest: digest(reader.as_ref())? };
        Ok(u64::from(crc32c::crc32c(&record.encode())))
    }
}

/// Computes the digest of all pairs but the record.
fn digest(engine: &dyn StateEngine) -> Result<Digest, StateError> {
    digest_until(engine, || Ok(()))
}

/// As `digest`; `each` is called for each pair, and ends it with an error.
pub(super) fn digest_until(
    engine: &dyn StateEngine,
    mut each: impl FnMut() -> Result<(), StateError>,
) -> Result<Digest, StateError> {
    let mut digest = Digest::default();
    for pair in engine.all() {
        let (key, value) = pair.map_err(StateError::engine("read"))?;
        each()?;
        if key != META_KEY {
            digest.add(&key, &value);
        }
    }
    Ok(digest)
}

fn has_any(engine: &dyn StateEngine, start: &[u8], end: &[u8]) -> Result<bool, StateError> {
    let first = engine.range(start, Some(end)).next().transpose();
    Ok(first.map_err(StateError::engine("read"))?.is_some())
}

/// Writes every key and record to the snapshot. Fails if the content does not match the digest in `record`: a
/// damaged engine must not be sent to other members.
fn write_pairs(writer: &mut Writer, engine: &dyn StateEngine, record: &Record) -> Result<(), StateError> {
    let mut digest = Digest::default();
    for pair in engine.all() {
        let (key, value) = pair.map_err(StateError::engine("read"))?;
        if key == META_KEY {
            continue;
        }
        digest.add(&key, &value);
        if value::is_data_key(&key) {
            writer.pair(&value::user_key(&key), &value)?;
        } else if value::is_record_key(&key) {
            // After all keys, because the prefixes of records sort after that of keys.
            writer.pair(&key, &value)?;
        }
    }
    if digest != record.digest {
        return Err(StateError::Damaged(
            "its content does not match the digest in its record; restart the node".to_owned(),
        ));
    }
    Ok(())
}
