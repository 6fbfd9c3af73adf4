//! The handle of the applied state for the rest of the node: reads, and the applied position.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use helios_proto::v1::reply::Kind as Answer;
use helios_proto::v1::{Call, Membership, Transaction};

use super::budget::Limits;
use super::chunks;
use super::command::Failure;
use super::commands;
use super::engines::{Backend, EngineError, EngineKind};
use super::home::{self, Home};
use super::machine::Driven;
use super::meta::Record;
use super::recovery::{self, Recovered};
use super::shared::{Published, State};
use super::transaction;
use super::txn::{Lookups, decode};
use super::value::{self, Kind, Value};
use super::watch::{History, Lost, Page};
use super::{Applied, StateError};
use helios_proto::Error;
use helios_storage::disk::{self, Disk};

#[derive(Debug, Clone)]
pub struct StoreOptions {
    pub engine: EngineKind,
    /// Size of the engine's page cache, in bytes.
    pub cache_bytes: u64,
    /// Budget of one read.
    pub read_limits: Limits,
    /// Sizes of the engine `runs`; its cache and its seed are those above and below.
    pub runs: helios_runs::Options,
    /// Seed of the ids of runs: another one for every process of every member, see [`helios_runs::Options::seed`].
    pub seed: u64,
}

impl Default for StoreOptions {
    #[allow(clippy::disallowed_methods, reason = "the ids of runs are no part of the replicated state")]
    fn default() -> Self {
        Self {
            engine: EngineKind::default(),
            cache_bytes: 64 << 20,
            read_limits: Limits::DEFAULT_READ,
            runs: helios_runs::Options::default(),
            seed: rand::random(),
        }
    }
}

/// See [`Store::before_chunks`].
pub type BeforeChunks = Box<dyn Fn() -> Result<(), String> + Send + Sync>;

/// Maximum number of records that one call of [`Store::scan`] visits.
const SCAN_RECORDS: usize = 16_384;
/// Bytes after which one call of [`Store::scan`] stops.
const SCAN_BYTES: usize = 1 << 20;

/// A page of a scan over the keys.
#[derive(Debug, Default)]
pub struct Scanned {
    pub pairs: Vec<(Bytes, Value)>,
    /// First key of the next page; `None` after the last page.
    pub next: Option<Bytes>,
}

/// The applied state of this member; cheap to clone.
#[derive(Clone)]
pub struct Store {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub published: Published,
    /// Locked by every change of the engine: a checkpoint, a restore. Lock order: before the writer of
    /// `published`.
    pub image: Mutex<Image>,
    /// Disk of the state and of the snapshots.
    pub disk: Arc<dyn Disk>,
    pub options: StoreOptions,
    /// Set once a read of the engine failed; all later calls fail.
    failure: OnceLock<String>,
    /// Directory of the store; `None` for a store in memory.
    dir: Option<PathBuf>,
    pub rebuilds: AtomicU64,
    /// State machine supplied by the embedding application.
    pub machine: OnceLock<Arc<dyn Driven>>,
    /// See [`Store::before_chunks`].
    before_chunks: OnceLock<BeforeChunks>,
    pub history: History,
    pub records_events: AtomicBool,
    pub records_elements: AtomicBool,
}

/// The engine's generation and record.
pub(super) struct Image {
    /// Directory of the store; `None` for a store in memory.
    pub home: Option<Home>,
    pub generation: u64,
    /// Whether `CURRENT` on disk names `generation`.
    pub is_committed: bool,
    pub backend: Backend,
    pub record: Record,
    /// Index of the last checkpoint that this process wrote; 0 before it. An earlier process may have left one that is
    /// not durable.
    pub written: u64,
    /// Error of a failed checkpoint: the engine may hold a part of it, so no further checkpoint is allowed.
    pub failure: Option<String>,
}

impl Store {
    /// Opens the state on the disk of this machine; see [`Store::open_with`].
    pub fn open(dir: &Path, engine: EngineKind) -> Result<Self, StateError> {
        Self::open_with(disk::real(), dir, StoreOptions { engine, ..StoreOptions::default() })
    }

    /// Returns the engine of the state in `dir`; `None` if it has no checkpoint.
    pub fn engine_of(disk: &dyn Disk, dir: &Path) -> Option<EngineKind> {
        Home::engine(disk, dir)
    }

    /// Opens the state in `dir`. A damaged state is renamed to `<dir>.broken-<unix secs>` and a blank one is
    /// opened: [`Store::applied`] is then zero and [`Store::rebuilds`] one.
    pub fn open_with(disk: Arc<dyn Disk>, dir: &Path, options: StoreOptions) -> Result<Self, StateError> {
        if options.engine == EngineKind::Memory {
            return Ok(Self::blank(disk, options));
        }
        let Recovered { home, backend, generation, is_committed, record, was_rebuilt } =
            recovery::open(Arc::clone(&disk), dir, &options)?;
        let image =
            Image { home: Some(home), generation, is_committed, backend, record, written: 0, failure: None };
        Ok(Self::new(disk, image, options, was_rebuilt.into()))
    }

    /// Creates a blank store in memory.
    pub fn in_memory() -> Self {
        let options = StoreOptions { engine: EngineKind::Memory, ..StoreOptions::default() };
        Self::blank(disk::real(), options)
    }

    /// Creates a blank store in memory with the given limits of a read.
    pub fn in_memory_within(read_limits: Limits) -> Self {
        let options = StoreOptions { engine: EngineKind::Memory, read_limits, ..StoreOptions::default() };
        Self::blank(disk::real(), options)
    }

    fn blank(disk: Arc<dyn Disk>, options: StoreOptions) -> Self {
        let image = Image {
            home: None,
            generation: 1,
            is_committed: true,
            backend: Backend::in_memory(),
            record: Record::default(),
            written: 0,
            failure: None,
        };
        Self::new(disk, image, options, 0)
    }

    fn new(disk: Arc<dyn Disk>, image: Image, options: StoreOptions, rebuilds: u64) -> Self {
        let state = State::of(image.backend.reader(), image.record.meta.clone());
        let dir = image.home.as_ref().map(|home| home.dir().to_owned());
        let history = History::new(state.meta.applied.index);
        let inner = Inner {
            published: Published::new(state),
            image: Mutex::new(image),
            disk,
            options,
            failure: OnceLock::new(),
            dir,
            rebuilds: AtomicU64::new(rebuilds),
            machine: OnceLock::new(),
            before_chunks: OnceLock::new(),
            history,
            records_events: AtomicBool::new(false),
            records_elements: AtomicBool::new(false),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Sets the state machine that executes `Apply` commands, and rebuilds it from its records in the state.
    /// Called before any entry is applied; a second call only rebuilds the machine.
    pub fn drive(&self, machine: Arc<dyn Driven>) -> Result<(), StateError> {
        drop(self.inner.machine.set(machine));
        self.rebuild_machine()
    }

    /// Returns the changes of keys after `revision`; [`Lost`] if they are not kept any more.
    pub fn changes_after(&self, revision: u64) -> Result<Page, Lost> {
        self.inner.history.after(revision)
    }

    /// Turns the recording of keyspace events on or off for the entries applied from now on.
    pub fn record_events(&self, wanted: bool) {
        self.inner.records_events.store(wanted, Ordering::Relaxed);
    }

    /// Calls `mark` before the log or the state has what builds from before log format 8 cannot read, possibly more than
    /// once: it records durably that they must not open this disk.
    pub fn before_chunks(&self, mark: BeforeChunks) {
        drop(self.inner.before_chunks.set(mark));
    }

    /// Calls the function of [`Store::before_chunks`], if there is one.
    pub fn mark_chunks(&self) -> Result<(), StateError> {
        let mark = self.inner.before_chunks.get();
        mark.map_or(Ok(()), |mark| mark().map_err(StateError::NotMarked))
    }

    /// Returns a receiver of the last revision that changed a key.
    pub fn watch_changes(&self) -> tokio::sync::watch::Receiver<u64> {
        self.inner.history.subscribe()
    }

    /// Returns the index of the last entry that [`Store::changes_after`] covers.
    pub fn changes_through(&self) -> u64 {
        self.inner.history.through()
    }

    /// Returns the value of `key`, a string whole; `None` if its expiry is at or before the log's clock or `wall_ms`.
    pub fn get(&self, key: &[u8], wall_ms: u64) -> Result<Option<Value>, StateError> {
        self.check()?;
        let state = self.inner.state();
        let raw_key = value::data_key(key);
        let view = state.view();
        let found = view.get(&raw_key).and_then(|raw| raw.map(|raw| decode(&raw_key, raw)).transpose());
        let live =
            found.map(|found| found.filter(|value| !value.is_expired(state.meta.clock_ms.max(wall_ms))));
        let whole = live.and_then(|live| live.map(|value| chunks::whole_of(&view, value)).transpose());
        whole.map_err(|error| self.fail(error))
    }

    /// Returns the revision of `key`; 0 if [`Store::get`] finds none.
    pub fn revision(&self, key: &[u8], wall_ms: u64) -> Result<u64, StateError> {
        self.check()?;
        let state = self.inner.state();
        let revision = state.query_txn(wall_ms, Limits::DEFAULT_READ).revision_now(key);
        revision.map_err(|error| self.fail(error))
    }

    /// Returns the type of each of `keys`, all at one applied index. Fails with `BUDGET_EXCEEDED` beyond
    /// `limits`.
    pub fn kinds(&self, keys: &[Bytes], wall_ms: u64, limits: Limits) -> Result<Vec<Option<Kind>>, Error> {
        self.check()?;
        let state = self.inner.state();
        let mut txn = state.query_txn(wall_ms, limits);
        let kinds = keys.iter().map(|key| Ok(txn.load(key)?.map(|value| value.kind.as_seen())));
        kinds.collect::<Result<_, Failure>>().map_err(|failure| self.error_of(failure))
    }

    /// Executes a read-only command at one applied index. Returns its answer, and the numbers of keys found
    /// and missed. Fails with `BUDGET_EXCEEDED` beyond `limits`.
    pub fn query(&self, call: &Call, wall_ms: u64, limits: Limits) -> Result<(Answer, Lookups), Error> {
        self.check()?;
        let state = self.inner.state();
        let mut txn = state.query_txn(wall_ms, limits);
        match commands::query(&mut txn, call) {
            Ok(answer) => Ok((answer, txn.lookups())),
            Err(failure) => Err(self.error_of(failure)),
        }
    }

    /// Executes a read-only transaction, with its guards, at one applied index; see `transaction::execute`.
    /// Rejects a step that writes.
    pub fn read_transaction(
        &self,
        transaction: &Transaction,
        wall_ms: u64,
        limits: Limits,
    ) -> Result<Answer, Error> {
        self.check()?;
        let state = self.inner.state();
        let mut txn = state.query_txn(wall_ms, limits);
        transaction::read(&mut txn, transaction).map_err(|failure| self.error_of(failure))
    }

    /// Returns the live keys in order from `start` (inclusive) to `end` (exclusive), at one applied index, strings whole: at
    /// most `limit`, and fewer if values are large or many keys have expired.
    pub fn scan(
        &self,
        start: &[u8],
        end: Option<&[u8]>,
        limit: usize,
        wall_ms: u64,
    ) -> Result<Scanned, StateError> {
        self.check()?;
        let raw_end = end.map_or(Bytes::from_static(value::DATA_END), value::data_key);
        let state = self.inner.state();
        let now_ms = state.meta.clock_ms.max(wall_ms);
        let mut scanned = Scanned::default();
        let (mut visited, mut bytes) = (0, 0);
        let view = state.view();
        for pair in view.range(&value::data_key(start), Some(&raw_end)) {
            let pair = pair.and_then(|(key, raw)| Ok((value::user_key(&key), decode(&key, raw)?)));
            let (key, value) = pair.map_err(|error| self.fail(error))?;
            if scanned.pairs.len() >= limit || visited >= SCAN_RECORDS || bytes >= SCAN_BYTES {
                scanned.next = Some(key);
                break;
            }
            visited += 1;
            if value.is_expired(now_ms) {
                bytes += key.len() + value.data.len();
                continue;
            }
            let value = chunks::whole_of(&view, value).map_err(|error| self.fail(error))?;
            bytes += key.len() + value.data.len();
            scanned.pairs.push((key, value));
        }
        Ok(scanned)
    }

    /// Returns all live keys, for tests.
    #[cfg(any(test, feature = "simulation"))]
    pub fn scan_all(&self) -> Result<Vec<(Bytes, Value)>, StateError> {
        let (mut found, mut next) = (Vec::new(), Some(Bytes::new()));
        while let Some(start) = next {
            let scanned = self.scan(&start, None, usize::MAX, 0)?;
            found.extend(scanned.pairs);
            next = scanned.next;
        }
        Ok(found)
    }

    /// Whether a `PurgeExpired` that is proposed at `wall_ms` would remove anything.
    pub fn has_expired(&self, wall_ms: u64) -> Result<bool, StateError> {
        self.check()?;
        let floor = self.inner.published.floor();
        let version = floor.version();
        let state = self.inner.state();
        let garbage = state.view().range(value::GARBAGE_START, Some(value::GARBAGE_END)).next().transpose();
        if garbage.map_err(|error| self.fail(error))?.is_some() {
            return Ok(true);
        }
        let start = value::expiry_key(floor.at_ms(), b"");
        let first = state.view().range(&start, Some(value::EXPIRY_END)).next().transpose();
        let first = first.map_err(|error| self.fail(error))?;
        let earliest_ms = first.and_then(|(key, _)| value::split_expiry_key(&key)).map(|(at_ms, _)| at_ms);
        floor.raise(earliest_ms.unwrap_or(u64::MAX), version);
        Ok(earliest_ms.is_some_and(|at_ms| at_ms <= state.meta.clock_ms.max(wall_ms)))
    }

    /// Returns the budget of one read on this node.
    pub fn read_limits(&self) -> Limits {
        self.inner.options.read_limits
    }

    /// Returns the number of keys, including expired ones that are not purged yet.
    pub fn key_count(&self) -> u64 {
        self.inner.published.peek(|state| state.meta.key_count)
    }

    /// Whether a checkpoint is a copy of the state that can be trusted: then it, and not a snapshot, lets the log be
    /// purged.
    pub fn is_trusted(&self) -> bool {
        matches!(self.inner.image().backend, Backend::Runs(_))
    }

    /// Returns the index of the last checkpoint; 0 before the first.
    pub fn checkpointed(&self) -> u64 {
        self.inner.image().record.meta.applied.index
    }

    /// Returns the index up to which the log is not needed any more; 0 if no trusted checkpoint was written yet.
    pub fn durable_index(&self) -> u64 {
        let image = self.inner.image();
        if matches!(image.backend, Backend::Runs(_)) { image.written } else { 0 }
    }

    pub fn applied(&self) -> Applied {
        self.inner.published.peek(|state| state.meta.applied)
    }

    pub fn membership(&self) -> Arc<Membership> {
        self.inner.published.peek(|state| Arc::clone(&state.meta.membership))
    }

    /// Returns the log's clock, milliseconds since the Unix epoch.
    pub fn clock_ms(&self) -> u64 {
        self.inner.published.peek(|state| state.meta.clock_ms)
    }

    /// Returns the estimated memory, in bytes, of the changes that are not in the engine yet.
    pub fn overlay_bytes(&self) -> usize {
        self.inner.published.peek(|state| {
            state.active.bytes() + state.frozen.as_ref().map_or(0, |frozen| frozen.overlay.bytes())
        })
    }

    /// Returns the estimated size of the state in bytes: the engine and the overlays.
    pub fn bytes(&self) -> u64 {
        let state = self.inner.state();
        state.engine.size_bytes() + self.overlay_bytes() as u64
    }

    pub fn engine(&self) -> EngineKind {
        self.inner.options.engine
    }

    /// Returns the sizes of the engine on disk, and those of its block cache.
    pub fn engine_stats(&self) -> helios_runs::Stats {
        self.inner.state().engine.stats()
    }

    /// Returns the number of times that the state was discarded to be rebuilt, since the process started.
    pub fn rebuilds(&self) -> u64 {
        self.inner.rebuilds.load(Ordering::Relaxed)
    }

    /// Returns the error that stopped the store, if any; the node must then restart.
    pub fn failure(&self) -> Option<StateError> {
        self.check().err()
    }

    pub(super) fn check(&self) -> Result<(), StateError> {
        match self.inner.failure.get() {
            Some(reason) => Err(StateError::Stopped(reason.clone())),
            None => Ok(()),
        }
    }

    /// Converts a failure. An engine failure stops the store; a refusal is returned as it is.
    pub(super) fn error_of(&self, failure: Failure) -> Error {
        match failure {
            Failure::Refused(error) => error,
            Failure::Engine(error) => self.fail(error).into(),
        }
    }

    /// Stops the store if `error` is damage of the engine, as after a read that finds it: the next start repairs the state.
    pub fn note_damage(&self, error: StateError) -> StateError {
        match error {
            StateError::Engine { source: source @ EngineError::Corrupt(_), .. } => self.fail(source),
            error => error,
        }
    }

    /// Stops the store: after one failure the engine is not trusted with another read.
    pub(super) fn fail(&self, error: EngineError) -> StateError {
        if self.inner.failure.set(error.to_string()).is_ok() {
            tracing::error!(%error, "the state engine failed; the node must restart to rebuild its state");
            if let (EngineError::Corrupt(reason), Some(dir)) = (&error, &self.inner.dir) {
                home::note_damage(self.inner.disk.as_ref(), dir, reason);
            }
        }
        StateError::Engine { doing: "read", source: error }
    }
}

impl Inner {
    pub fn state(&self) -> Arc<State> {
        self.published.get()
    }

    /// Changes the published state outside of any entry.
    #[cfg(test)]
    pub fn edit<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let writer = self.published.writer();
        let mut state = self.published.peek(State::clone);
        let result = change(&mut state);
        self.published.publish(&writer, state);
        result
    }

    pub fn image(&self) -> MutexGuard<'_, Image> {
        self.image.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
