//! Replacement of the whole state: by a snapshot, or by a blank one.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use helios_runs::{Pending, Runs};

use super::engines::{Backend, RawWrite};
use super::meta::{Digest, Meta, Record};
use super::shared::State;
use super::snapshot::Reader;
use super::snapshot_set::SetReader;
use super::store::Image;
use super::value::{self, Value};
use super::{Applied, StateError, Store, recovery};
use crate::faults;
use helios_storage::disk::Disk;

impl Store {
    /// Replaces the whole state by the snapshot, and returns its position; durable when it returns. A crash before leaves
    /// the old state. Called by the apply thread only.
    ///
    /// Rejects a damaged file and one older than the applied index, changing nothing. The blocks of a set are checked
    /// when they are read.
    pub fn restore(&self, snapshot: &Path) -> Result<Applied, StateError> {
        self.check()?;
        let mut image = self.inner.image();
        let source = Source::open(self.inner.disk.as_ref(), snapshot)?;
        let applied = self.applied().index;
        let index = source.record().meta.applied.index;
        if index < applied {
            return Err(StateError::StaleSnapshot { snapshot: index, applied });
        }
        if source.record().meta.has_chunks {
            self.mark_chunks()?;
        }
        let (next, backend) = self.next_generation(&image)?;
        let record = source.load(&self.inner.disk, snapshot, &backend)?;

        let meta = record.meta.clone();
        let restored = meta.applied;
        self.commit(&mut image, next, backend, record)?;
        image.failure = None;
        self.replace(State::of(image.backend.reader(), meta));
        self.inner.history.restart(index);
        self.remove_replaced(&image);
        self.rebuild_machine()?;
        Ok(restored)
    }

    /// Sets the state aside and starts with a blank one: for an applied index beyond the end of the log
    /// (docs/design/node.md, pitfall 10). Called by the apply thread only.
    pub fn discard(&self, reason: &str) -> Result<(), StateError> {
        let mut image = self.inner.image();
        let (next, backend) = self.next_generation(&image)?;
        tracing::error!(reason, "discarding the state; rebuilding it from snapshot and log");
        if let Some(home) = &image.home {
            home.uncommit()?;
        }
        self.replace(State::of(backend.reader(), Meta::default()));
        image.backend = backend;
        self.inner.history.restart(0);
        self.inner.rebuilds.fetch_add(1, Ordering::Relaxed);
        let old = std::mem::replace(&mut image.generation, next);
        image.record = Record::default();
        image.written = 0;
        image.is_committed = image.home.is_none();
        image.failure = None;
        match &image.home {
            Some(home) => home.set_generation_aside(old),
            None => Ok(()),
        }
    }

    /// Removes the states that were set aside: their space is needed for the one that replaces them.
    pub fn remove_set_aside(&self) {
        if let Some(home) = &self.inner.image().home {
            home.remove_set_aside(0);
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
    pub(super) fn next_generation(&self, image: &Image) -> Result<(u64, Backend), StateError> {
        let next = image.generation + 1;
        let backend = match &image.home {
            Some(home) => {
                home.remove_generations_but(Some(image.generation))?;
                recovery::open_generation(home, next, &self.inner.options)?
            }
            None => Backend::in_memory(),
        };
        Ok((next, backend))
    }

    /// Makes `generation` with the engine `backend`, whose content `record` describes, the current one.
    pub(super) fn commit(
        &self,
        image: &mut Image,
        generation: u64,
        backend: Backend,
        record: Record,
    ) -> Result<(), StateError> {
        if let Some(home) = &image.home
            && !(image.is_committed && generation == image.generation)
        {
            home.commit(generation)?;
        }
        image.generation = generation;
        image.is_committed = true;
        image.backend = backend;
        image.written = record.meta.applied.index;
        image.record = record;
        Ok(())
    }

    pub(super) fn remove_replaced(&self, image: &Image) {
        if let Some(home) = &image.home
            && let Err(error) =
                home.remove_journal().and_then(|()| home.remove_generations_but(Some(image.generation)))
        {
            tracing::warn!(%error, "cannot remove the files that a checkpoint replaced; the next one retries");
        }
    }
}

/// Approximate size of the batches in which a restore writes to an engine that is modified in place.
const BATCH_BYTES: usize = 4 << 20;
/// Maximum number of writes in such a batch.
const BATCH_WRITES: usize = 16_384;
/// Approximate size of the runs that a restore writes.
const RUN_BYTES: usize = 32 << 20;

/// A blank engine that is being filled.
pub(super) struct Loader {
    backend: Backend,
    writes: Vec<RawWrite>,
    /// Expiry keys for the engine `runs`: a snapshot has them out of order, between keys that are in order.
    expiries: Vec<RawWrite>,
    bytes: usize,
    runs: Vec<Pending>,
}

impl Loader {
    pub fn new(backend: Backend) -> Self {
        Self { backend, writes: Vec::new(), expiries: Vec::new(), bytes: 0, runs: Vec::new() }
    }

    /// Adds a pair; each key is added once.
    pub fn add(&mut self, key: Bytes, value: Bytes) -> Result<(), StateError> {
        self.bytes += key.len() + value.len();
        let is_apart = matches!(self.backend, Backend::Runs(_)) && value::split_expiry_key(&key).is_some();
        let writes = if is_apart { &mut self.expiries } else { &mut self.writes };
        writes.push((key, Some(value)));
        match &self.backend {
            Backend::InPlace(engine) if self.bytes >= BATCH_BYTES || self.writes.len() >= BATCH_WRITES => {
                engine.write(&self.writes).map_err(StateError::engine("write"))?;
            }
            Backend::Runs(runs) if self.bytes >= RUN_BYTES => {
                self.runs.push(write_run(runs, &mut self.writes)?);
                self.runs.push(write_run(runs, &mut self.expiries)?);
            }
            Backend::InPlace(_) | Backend::Runs(_) => return Ok(()),
        }
        self.bytes = 0;
        self.writes.clear();
        self.expiries.clear();
        Ok(())
    }

    /// Writes the rest and `record`; durable when it returns, apart from the generation's name.
    pub fn finish(mut self, record: &Record) -> Result<(), StateError> {
        match &self.backend {
            Backend::InPlace(engine) => {
                self.writes.push((Record::key(), Some(record.encode())));
                engine.write(&self.writes).map_err(StateError::engine("write"))?;
                engine.sync().map_err(StateError::engine("sync"))
            }
            Backend::Runs(runs) => {
                self.runs.push(write_run(runs, &mut self.writes)?);
                self.runs.push(write_run(runs, &mut self.expiries)?);
                let installed = runs.install_runs(self.runs, record.encode());
                installed.map(drop).map_err(|error| StateError::engine("write")(error.into()))
            }
        }
    }
}

fn write_run(runs: &Runs, writes: &mut [RawWrite]) -> Result<Pending, StateError> {
    writes.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    let slots = writes.iter().cloned();
    runs.write_run(slots).map_err(|error| StateError::engine("write")(error.into()))
}

/// A snapshot that is being restored.
enum Source {
    File(Box<Reader>),
    Set(SetReader),
}

impl Source {
    fn open(disk: &dyn Disk, path: &Path) -> Result<Self, StateError> {
        if disk.is_dir(path) {
            return SetReader::open(disk, path).map(Self::Set);
        }
        Reader::open(disk, path).map(Box::new).map(Self::File)
    }

    fn record(&self) -> &Record {
        match self {
            Self::File(reader) => reader.record(),
            Self::Set(reader) => reader.record(),
        }
    }

    /// Fills a blank engine with the content, and returns its record.
    fn load(self, disk: &Arc<dyn Disk>, path: &Path, backend: &Backend) -> Result<Record, StateError> {
        match self {
            Self::Set(reader) => reader.load(disk, path, backend),
            Self::File(reader) => {
                let record = reader.record().clone();
                load_pairs(*reader, Loader::new(backend.clone()), &record)?;
                Ok(record)
            }
        }
    }
}

/// Fills a blank engine with the content of a snapshot and the derived expiry index. The record is written last.
fn load_pairs(reader: Reader, mut loader: Loader, record: &Record) -> Result<(), StateError> {
    read_pairs(reader, |key, value| match faults::is_left_out(&key) {
        true => Ok(()),
        false => loader.add(key, value),
    })?;
    loader.finish(record)
}

/// Reads and checks a snapshot file: hands the raw pairs of its keys, with the derived expiry index, and of its records to
/// `each`. Returns their digest, which is that in its header.
pub(super) fn read_pairs(
    mut reader: Reader,
    mut each: impl FnMut(Bytes, Bytes) -> Result<(), StateError>,
) -> Result<Digest, StateError> {
    let expected = reader.record().digest;
    let mut digest = Digest::default();
    while let Some((key, raw)) = reader.next_pair()? {
        let value = Value::decode(raw.clone()).ok_or_else(|| reader.bad("a value has an unknown format"))?;
        let expiry = value.expire_at_ms.map(|at_ms| (value::expiry_key(at_ms, &key), Bytes::new()));
        for (key, value) in [(value::data_key(&key), raw)].into_iter().chain(expiry) {
            digest.add(&key, &value);
            each(key, value)?;
        }
    }
    while let Some((key, record)) = reader.next_record()? {
        digest.add(&key, &record);
        each(key, record)?;
    }
    if digest != expected {
        return Err(reader.bad("its content does not match the digest in its header"));
    }
    reader.finish()?;
    Ok(digest)
}
