//! Checkpoint (overlay to engine), snapshot (engine to file) and restore (file to a new engine).

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::engines::{MemoryEngine, RawWrite, StateEngine};
use super::meta::{Digest, Meta, Record};
use super::overlay::Overlay;
use super::shared::{Frozen, State};
use super::snapshot::{Reader, Writer};
use super::store::Image;
use super::value::{self, META_KEY, Value};
use super::{Applied, SnapshotMeta, StateError, Store, journal, recovery};
use crate::faults;
use helios_storage::disk::SetApart;

/// Approximate size of the batches in which a restore writes to the engine.
const RESTORE_BATCH_BYTES: usize = 4 << 20;
/// Free space in bytes that a checkpoint needs beyond its writes: for the engine's overhead, and for the
/// few small files without which a node does not start.
const HEADROOM_BYTES: u64 = 8 << 20;

/// A checkpoint whose journal is on disk.
struct Planned {
    generation: u64,
    engine: Arc<dyn StateEngine>,
    record: Record,
    writes: Vec<RawWrite>,
}
/// Maximum number of records in a batch of a restore; a record has little more than a kilobyte.
const RESTORE_BATCH_REQUESTS: usize = 4_096;

impl Store {
    /// Writes the applied state to the engine and returns its applied index once it is durable. Called by
    /// the checkpoint thread only; entries are applied and read meanwhile.
    ///
    /// An error with [`StateError::is_disk_full`] changed nothing: call again when space is free. After any
    /// other error all further checkpoints fail until the node restarts; entries are still applied and read,
    /// and the log must be kept from the last successful checkpoint on.
    pub fn checkpoint(&self) -> Result<Applied, StateError> {
        self.check()?;
        let mut image = self.inner.image();
        if let Some(reason) = &image.failure {
            return Err(StateError::Stopped(reason.clone()));
        }
        if !self.is_behind(&image) {
            return Ok(image.record.meta.applied);
        }
        // Frozen before the space check, so that the overlay cannot grow after it.
        let frozen = self.freeze();
        let room = self.check_room(&image, &frozen)?;
        let _set_apart = SetApart::new(self.inner.disk.as_ref(), room);
        let planned = match self.plan(&image, frozen) {
            Ok(planned) => planned,
            Err(error) => {
                self.abandon(&mut image, &error);
                return Err(error);
            }
        };
        let result = self.write_out(&mut image, planned);
        if let Err(error) = &result {
            image.failure = Some(error.to_string());
        }
        result
    }

    fn is_behind(&self, image: &Image) -> bool {
        let state = self.inner.state();
        state.frozen.is_some() || state.meta.applied != image.record.meta.applied
    }

    /// Checks the disk space for a checkpoint and returns the bytes it needs: the journal is smaller than the
    /// overlay, and sled writes up to twice the overlay. Checked before either is written: an engine that
    /// meets a full disk in the middle of a write is unusable until a restart.
    fn check_room(&self, image: &Image, frozen: &Frozen) -> Result<u64, StateError> {
        let needed_bytes = 3 * frozen.overlay.bytes() as u64 + HEADROOM_BYTES;
        let Some(home) = &image.home else { return Ok(needed_bytes) };
        home.check_room("checkpoint the state", needed_bytes)?;
        Ok(needed_bytes)
    }

    /// Freezes the active overlay and returns it. An overlay whose checkpoint failed for lack of space is
    /// still frozen, and is returned first.
    fn freeze(&self) -> Frozen {
        let published = &self.inner.published;
        let writer = published.writer();
        let state = published.peek(State::clone);
        if let Some(frozen) = state.frozen {
            return frozen;
        }
        let frozen = Frozen { overlay: Arc::new(state.active), meta: state.meta.clone() };
        let next = State { active: Overlay::default(), frozen: Some(frozen.clone()), ..state };
        let earlier = published.publish_epoch(&writer, next);
        drop(writer);
        // The engine is modified in place: wait for all readers of a state without the frozen overlay.
        earlier.wait();
        frozen
    }

    /// Computes the writes of the checkpoint and makes their journal durable. Does not modify the engine.
    fn plan(&self, image: &Image, frozen: Frozen) -> Result<Planned, StateError> {
        let Frozen { overlay, meta } = frozen;
        let mut record = Record { meta, digest: image.record.digest };
        let mut generation = image.generation;
        let mut engine = self.inner.state().engine.clone();
        if faults::replaces_engine(overlay.is_cleared()) {
            // A new engine instead of a removal for every key: atomic, and it frees the disk space.
            (generation, engine) = self.next_generation(image)?;
            record.digest = Digest::default();
        }
        let mut writes = Vec::new();
        for (key, slot) in overlay.slots() {
            let old = engine.get(key).map_err(StateError::engine("read"))?;
            if old == *slot {
                continue;
            }
            if let Some(old) = &old {
                record.digest.remove(key, old);
            }
            if let Some(new) = slot {
                record.digest.add(key, new);
            }
            writes.push((key.clone(), slot.clone()));
        }
        record.meta.applied.index = faults::checkpoint_index(record.meta.applied.index);
        writes.push((Record::key(), Some(record.encode())));
        if let Some(home) = &image.home
            && faults::needs_journal(image.is_committed && generation == image.generation)
        {
            journal::write(home.disk().as_ref(), &home.journal(), generation, &writes)?;
            home.sync()?;
        }
        Ok(Planned { generation, engine, record, writes })
    }

    /// Cleans up after a failed plan. On a full disk the overlay stays frozen for the next attempt; any other
    /// error ends all checkpoints.
    fn abandon(&self, image: &mut Image, error: &StateError) {
        if !error.is_disk_full() {
            image.failure = Some(error.to_string());
        } else if let Some(home) = &image.home
            && let Err(error) = home.remove_journal()
        {
            tracing::warn!(%error, "cannot remove an incomplete journal; the next checkpoint overwrites it");
        }
    }

    fn write_out(&self, image: &mut Image, planned: Planned) -> Result<Applied, StateError> {
        let Planned { generation, engine, record, writes } = planned;
        engine.write(&writes).map_err(StateError::engine("write"))?;
        engine.sync().map_err(StateError::engine("sync"))?;

        let applied = record.meta.applied;
        self.commit(image, generation, record)?;
        let published = &self.inner.published;
        let writer = published.writer();
        let State { frozen, engine: written, .. } = published.peek(State::clone);
        let next = State { frozen: None, engine, ..published.peek(State::clone) };
        let earlier = published.publish_epoch(&writer, next);
        drop(writer);
        earlier.wait();
        // Tens of megabytes are freed; nothing waits for the checkpoint thread.
        drop((frozen, written));
        self.remove_replaced(image);
        Ok(applied)
    }

    /// Writes the last checkpoint to the snapshot file `path`, completely or not at all. Called by the
    /// checkpoint thread only.
    pub fn write_snapshot(&self, path: &Path) -> Result<SnapshotMeta, StateError> {
        self.check()?;
        let image = self.inner.image();
        if let Some(reason) = &image.failure {
            return Err(StateError::Stopped(reason.clone()));
        }
        let engine = self.inner.state().engine.clone();
        let mut writer = Writer::create(Arc::clone(&self.inner.disk), path)?;
        let mut record = image.record.clone();
        record.meta.applied.index = faults::snapshot_index(record.meta.applied.index);
        let has_collections = has_any(engine.as_ref(), value::GARBAGE_START, value::GARBAGE_END)?
            || has_any(engine.as_ref(), value::ELEMENTS_START, value::ELEMENTS_END)?;
        let written = writer
            .header(&record, has_collections)
            .and_then(|()| write_pairs(&mut writer, engine.as_ref(), &record))
            .and_then(|()| writer.finish());
        if let Err(error) = written {
            writer.abandon();
            return Err(error);
        }
        SnapshotMeta::read(self.inner.disk.as_ref(), path)
    }

    /// Replaces the whole state by the snapshot file; durable when it returns. A crash before leaves the
    /// old state. Called by the apply thread only.
    ///
    /// Rejects a damaged file and one older than the applied index, changing nothing.
    pub fn restore(&self, snapshot: &Path) -> Result<SnapshotMeta, StateError> {
        self.check()?;
        let mut image = self.inner.image();
        let reader = Reader::open(self.inner.disk.as_ref(), snapshot)?;
        let applied = self.applied().index;
        let index = reader.record().meta.applied.index;
        if index < applied {
            return Err(StateError::StaleSnapshot { snapshot: index, applied });
        }
        let record = reader.record().clone();
        let (next, engine) = self.next_generation(&image)?;
        let loaded = load_pairs(reader, engine.as_ref(), &record)?;
        engine.sync().map_err(StateError::engine("sync"))?;

        let meta = record.meta.clone();
        self.commit(&mut image, next, record)?;
        image.failure = None;
        self.replace(State::of(engine, meta));
        self.inner.history.restart(index);
        self.remove_replaced(&image);
        self.rebuild_machine()?;
        Ok(loaded)
    }

    /// Sets the state aside and starts with a blank one: for an applied index beyond the end of the log
    /// (docs/design/node.md, pitfall 10). Called by the apply thread only.
    pub fn discard(&self, reason: &str) -> Result<(), StateError> {
        let mut image = self.inner.image();
        let (next, engine) = self.next_generation(&image)?;
        tracing::error!(reason, "discarding the state; rebuilding it from snapshot and log");
        if let Some(home) = &image.home {
            home.uncommit()?;
        }
        self.replace(State::of(engine, Meta::default()));
        self.inner.history.restart(0);
        self.inner.rebuilds.fetch_add(1, Ordering::Relaxed);
        let old = std::mem::replace(&mut image.generation, next);
        image.record = Record::default();
        image.is_committed = image.home.is_none();
        image.failure = None;
        match &image.home {
            Some(home) => home.set_generation_aside(old),
            None => Ok(()),
        }
    }

    /// Publishes a different state, and drops the previous one once no reader holds it.
    fn replace(&self, next: State) {
        let published = &self.inner.published;
        let writer = published.writer();
        let State { engine, frozen, active, .. } = published.peek(State::clone);
        let earlier = published.publish_epoch(&writer, next);
        published.floor().reset();
        drop(writer);
        earlier.wait();
        drop((engine, frozen, active));
    }

    /// Opens a blank engine in the generation after that of `image`.
    fn next_generation(&self, image: &Image) -> Result<(u64, Arc<dyn StateEngine>), StateError> {
        let next = image.generation + 1;
        let engine: Arc<dyn StateEngine> = match &image.home {
            Some(home) => {
                home.remove_generations_but(Some(image.generation))?;
                recovery::open_generation(home, next, &self.inner.options)?
            }
            None => Arc::new(MemoryEngine::default()),
        };
        Ok((next, engine))
    }

    /// Makes `generation`, whose content `record` describes, the current one.
    fn commit(&self, image: &mut Image, generation: u64, record: Record) -> Result<(), StateError> {
        if let Some(home) = &image.home
            && !(image.is_committed && generation == image.generation)
        {
            home.commit(generation)?;
        }
        image.generation = generation;
        image.is_committed = true;
        image.record = record;
        Ok(())
    }

    fn remove_replaced(&self, image: &Image) {
        if let Some(home) = &image.home
            && let Err(error) =
                home.remove_journal().and_then(|()| home.remove_generations_but(Some(image.generation)))
        {
            tracing::warn!(%error, "cannot remove the files that a checkpoint replaced; the next one retries");
        }
    }
}

fn has_any(engine: &dyn StateEngine, start: &[u8], end: &[u8]) -> Result<bool, StateError> {
    let first = engine.range(start, Some(end)).next().transpose();
    Ok(first.map_err(StateError::engine("read"))?.is_some())
}

/// Writes every key and record to the snapshot. Fails if the content does not match the digest in `record`: a
/// damaged engine must not be sent to other members.
fn write_pairs(writer: &mut Writer, engine: &dyn StateEngine, record: &Record) -> Result<(), StateError> {
    let mut digest = Digest::default();
    for pair in engine.range(b"", None) {
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

/// Fills a blank engine with the content of a snapshot and the derived expiry index. The record is written
/// last.
fn load_pairs(
    mut reader: Reader,
    engine: &dyn StateEngine,
    record: &Record,
) -> Result<SnapshotMeta, StateError> {
    let mut digest = Digest::default();
    let mut writes: Vec<RawWrite> = Vec::new();
    let mut bytes = 0;
    let flush = |writes: &mut Vec<RawWrite>| {
        let written = engine.write(writes).map_err(StateError::engine("write"));
        writes.clear();
        written
    };
    while let Some((key, raw)) = reader.next_pair()? {
        let value = Value::decode(raw.clone()).ok_or_else(|| reader.bad("a value has an unknown format"))?;
        let expiry = value.expire_at_ms.map(|at_ms| (value::expiry_key(at_ms, &key), Bytes::new()));
        for (key, value) in [(value::data_key(&key), raw)].into_iter().chain(expiry) {
            digest.add(&key, &value);
            bytes += key.len() + value.len();
            writes.push((key, Some(value)));
        }
        if bytes >= RESTORE_BATCH_BYTES {
            flush(&mut writes)?;
            bytes = 0;
        }
    }
    while let Some((key, record)) = reader.next_record()? {
        digest.add(&key, &record);
        if faults::is_left_out(&key) {
            continue;
        }
        bytes += key.len() + record.len();
        writes.push((key, Some(record)));
        if writes.len() >= RESTORE_BATCH_REQUESTS || bytes >= RESTORE_BATCH_BYTES {
            flush(&mut writes)?;
            bytes = 0;
        }
    }
    if digest != record.digest {
        return Err(reader.bad("its content does not match the digest in its header"));
    }
    let meta = reader.finish()?;
    writes.push((Record::key(), Some(record.encode())));
    flush(&mut writes)?;
    Ok(meta)
}
