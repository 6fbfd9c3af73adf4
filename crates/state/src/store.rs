//! The handle of the applied state that the rest of the node has: it reads, and it says how far the state is.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use helios_proto::v1::reply::Kind as Answer;
use helios_proto::v1::{Call, Membership, Transaction};

use super::budget::Limits;
use super::calls;
use super::command::Failure;
use super::engines::{EngineError, EngineKind, MemoryEngine, StateEngine};
use super::home::Home;
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
    /// Bytes of pages that the engine keeps in memory.
    pub cache_bytes: u64,
    /// What one read may cost.
    pub read_limits: Limits,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self { engine: EngineKind::default(), cache_bytes: 64 << 20, read_limits: Limits::DEFAULT_READ }
    }
}

/// Records that one call of [`Store::scan`] visits, and bytes that it reads.
const SCAN_RECORDS: usize = 16_384;
const SCAN_BYTES: usize = 1 << 20;

/// A part of the keys.
#[derive(Debug, Default)]
pub struct Scanned {
    pub pairs: Vec<(Bytes, Value)>,
    /// The key to go on with; `None`: there is none.
    pub next: Option<Bytes>,
}

/// The applied state of this member; cheap to clone.
#[derive(Clone)]
pub struct Store {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub published: Published,
    /// Held by whatever changes the engine: a checkpoint, a restore. Taken before the writer of `published`.
    pub image: Mutex<Image>,
    /// Of the state and of the snapshots.
    pub disk: Arc<dyn Disk>,
    pub options: StoreOptions,
    /// Set once the engine could not be read; nothing is answered after that.
    failure: OnceLock<String>,
    pub rebuilds: AtomicU64,
    /// State machine supplied by the embedding program.
    pub machine: OnceLock<Arc<dyn Driven>>,
    pub history: History,
    pub records_events: AtomicBool,
}

/// What the engine holds.
pub(super) struct Image {
    /// `None` for a store in memory.
    pub home: Option<Home>,
    pub generation: u64,
    /// Whether `generation` is the one that counts on disk.
    pub is_committed: bool,
    pub record: Record,
    /// Why a checkpoint failed: the engine may hold half of it, so none may follow.
    pub failure: Option<String>,
}

impl Store {
    /// [`Store::open_with`] on the disk of this machine.
    pub fn open(dir: &Path, engine: EngineKind) -> Result<Self, StateError> {
        Self::open_with(disk::real(), dir, StoreOptions { engine, ..StoreOptions::default() })
    }

    /// Opens the state in `dir`. A damaged one is set aside to `<dir>.broken-<unix secs>` and a
    /// blank one opened: [`Store::applied`] is then zero and [`Store::rebuilds`] one.
    pub fn open_with(disk: Arc<dyn Disk>, dir: &Path, options: StoreOptions) -> Result<Self, StateError> {
        if options.engine == EngineKind::Memory {
            return Ok(Self::blank(disk, options));
        }
        let Recovered { home, engine, generation, is_committed, record, was_rebuilt } =
            recovery::open(Arc::clone(&disk), dir, &options)?;
        let image = Image { home: Some(home), generation, is_committed, record, failure: None };
        Ok(Self::new(disk, engine, image, options, was_rebuilt.into()))
    }

    /// A blank store that ends with the process.
    pub fn in_memory() -> Self {
        let options = StoreOptions { engine: EngineKind::Memory, ..StoreOptions::default() };
        Self::blank(disk::real(), options)
    }

    /// As [`Store::in_memory`], with other limits of a read.
    pub fn in_memory_within(read_limits: Limits) -> Self {
        let options = StoreOptions { engine: EngineKind::Memory, read_limits, ..StoreOptions::default() };
        Self::blank(disk::real(), options)
    }

    fn blank(disk: Arc<dyn Disk>, options: StoreOptions) -> Self {
        let image =
            Image { home: None, generation: 1, is_committed: true, record: Record::default(), failure: None };
        Self::new(disk, Arc::new(MemoryEngine::default()), image, options, 0)
    }

    fn new(
        disk: Arc<dyn Disk>,
        engine: Arc<dyn StateEngine>,
        image: Image,
        options: StoreOptions,
        rebuilds: u64,
    ) -> Self {
        let state = State::of(engine, image.record.meta.clone());
        let history = History::new(state.meta.applied.index);
        let inner = Inner {
            published: Published::new(state),
            image: Mutex::new(image),
            disk,
            options,
            failure: OnceLock::new(),
            rebuilds: AtomicU64::new(rebuilds),
            machine: OnceLock::new(),
            history,
            records_events: AtomicBool::new(false),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Gives the store the state machine that commands of the kind `Apply` are for, and makes it what they
    /// have made of it so far. To be called once, before any entry is applied.
    pub fn drive(&self, machine: Arc<dyn Driven>) -> Result<(), StateError> {
        if self.inner.machine.set(machine).is_err() {
            return Err(StateError::Machine("the store drives one already".to_owned()));
        }
        self.rebuild_machine()
    }

    /// What was done to keys after `revision`, as far as it is kept.
    pub fn changes_after(&self, revision: u64) -> Result<Page, Lost> {
        self.inner.history.after(revision)
    }

    /// Whether the entries applied from now on come with their keyspace events.
    pub fn record_events(&self, wanted: bool) {
        self.inner.records_events.store(wanted, Ordering::Relaxed);
    }

    /// Holds the last revision that changed a key.
    pub fn watch_changes(&self) -> tokio::sync::watch::Receiver<u64> {
        self.inner.history.subscribe()
    }

    /// The last entry whose changes [`Store::changes_after`] knows.
    pub fn changes_through(&self) -> u64 {
        self.inner.history.through()
    }

    /// What `key` holds; nothing once its expiry is at or before the log's clock or `wall_ms`.
    pub fn get(&self, key: &[u8], wall_ms: u64) -> Result<Option<Value>, StateError> {
        self.check()?;
        let state = self.inner.state();
        let raw_key = value::data_key(key);
        let found =
            state.view().get(&raw_key).and_then(|raw| raw.map(|raw| decode(&raw_key, raw)).transpose());
        let found = found.map_err(|error| self.fail(error))?;
        Ok(found.filter(|value| !value.is_expired(state.meta.clock_ms.max(wall_ms))))
    }

    /// What each of `keys` holds, as of one applied index. `BUDGET_EXCEEDED` if they are more than `limits` allow.
    pub fn kinds(&self, keys: &[Bytes], wall_ms: u64, limits: Limits) -> Result<Vec<Option<Kind>>, Error> {
        self.check()?;
        let state = self.inner.state();
        let mut txn = state.query_txn(wall_ms, limits);
        let kinds = keys.iter().map(|key| Ok(txn.load(key)?.map(|value| value.kind)));
        kinds.collect::<Result<_, Failure>>().map_err(|failure| self.error_of(failure))
    }

    /// What a command that writes nothing answers, as of one applied index, and how many keys it found
    /// and missed. `BUDGET_EXCEEDED` if it would cost more than `limits`.
    pub fn query(&self, call: &Call, wall_ms: u64, limits: Limits) -> Result<(Answer, Lookups), Error> {
        self.check()?;
        let state = self.inner.state();
        let mut txn = state.query_txn(wall_ms, limits);
        match calls::query(&mut txn, call) {
            Ok(answer) => Ok((answer, txn.lookups())),
            Err(failure) => Err(self.error_of(failure)),
        }
    }

    /// Guards and reads as of one applied index; see `transaction::execute`. Refuses a step that would write.
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

    /// Live keys in order, from `start` (inclusive) to `end` (exclusive), as of one applied index: at most `limit`, and
    /// fewer where values are large or many keys have expired.
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
        for pair in state.view().range(&value::data_key(start), Some(&raw_end)) {
            let pair = pair.and_then(|(key, raw)| Ok((value::user_key(&key), decode(&key, raw)?)));
            let (key, value) = pair.map_err(|error| self.fail(error))?;
            if scanned.pairs.len() >= limit || visited >= SCAN_RECORDS || bytes >= SCAN_BYTES {
                scanned.next = Some(key);
                break;
            }
            visited += 1;
            bytes += key.len() + value.data.len();
            if !value.is_expired(now_ms) {
                scanned.pairs.push((key, value));
            }
        }
        Ok(scanned)
    }

    /// All live keys, for a test to compare.
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

    /// Whether a PurgeExpired proposed at `wall_ms` would remove anything.
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

    /// What one read may cost on this node.
    pub fn read_limits(&self) -> Limits {
        self.inner.options.read_limits
    }

    /// Keys held, expired ones that were not purged yet included.
    pub fn key_count(&self) -> u64 {
        self.inner.published.peek(|state| state.meta.key_count)
    }

    pub fn applied(&self) -> Applied {
        self.inner.published.peek(|state| state.meta.applied)
    }

    pub fn membership(&self) -> Arc<Membership> {
        self.inner.published.peek(|state| Arc::clone(&state.meta.membership))
    }

    /// The log's clock, milliseconds since the Unix epoch.
    pub fn clock_ms(&self) -> u64 {
        self.inner.published.peek(|state| state.meta.clock_ms)
    }

    /// Estimated memory of what is not in the engine yet.
    pub fn overlay_bytes(&self) -> usize {
        self.inner.published.peek(|state| {
            state.active.bytes() + state.frozen.as_ref().map_or(0, |frozen| frozen.overlay.bytes())
        })
    }

    /// Estimated bytes of the whole state, on disk and not yet there.
    pub fn bytes(&self) -> u64 {
        let state = self.inner.state();
        state.engine.size_bytes() + self.overlay_bytes() as u64
    }

    /// How often, since the process started, the state was thrown away to be rebuilt.
    pub fn rebuilds(&self) -> u64 {
        self.inner.rebuilds.load(Ordering::Relaxed)
    }

    /// Why the store stopped, if it did: the node must restart.
    pub fn failure(&self) -> Option<StateError> {
        self.check().err()
    }

    pub(super) fn check(&self) -> Result<(), StateError> {
        match self.inner.failure.get() {
            Some(reason) => Err(StateError::Stopped(reason.clone())),
            None => Ok(()),
        }
    }

    /// A failed engine stops the store; a refusal is the caller's.
    pub(super) fn error_of(&self, failure: Failure) -> Error {
        match failure {
            Failure::Refused(error) => error,
            Failure::Engine(error) => self.fail(error).into(),
        }
    }

    /// Stops the store: an engine that failed once cannot be trusted with the next read.
    pub(super) fn fail(&self, error: EngineError) -> StateError {
        if self.inner.failure.set(error.to_string()).is_ok() {
            tracing::error!(%error, "the state engine failed; the node must restart to rebuild its state");
        }
        StateError::Engine { doing: "read", source: error }
    }
}

impl Inner {
    pub fn state(&self) -> Arc<State> {
        self.published.get()
    }

    /// Changes what is published, outside of any entry.
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
