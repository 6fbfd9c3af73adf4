//! The shared handle: one lock, so that readers see an entry whole or not at all.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use helios_proto::v1::reply::Kind as Answer;
use helios_proto::v1::{Call, Command, ErrorCode, Member, Membership, Reply};

use super::calls;
use super::command::Failure;
use super::dedup;
use super::engines::{EngineError, EngineKind, MemoryEngine, StateEngine};
use super::home::Home;
use super::machine::Driven;
use super::meta::{Meta, Record};
use super::overlay::Overlay;
use super::recovery::{self, Recovered};
use super::txn::{Changes, Lookups, Txn, decode};
use super::value::{self, Value};
use super::view::View;
use super::watch::{Changed, History, Lost, Page};
use super::{Applied, StateError};
use crate::disk::{self, Disk};
use crate::error::Error;

#[derive(Debug, Clone)]
pub struct StoreOptions {
    pub engine: EngineKind,
    /// Bytes of pages that the engine keeps in memory.
    pub cache_bytes: u64,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self { engine: EngineKind::default(), cache_bytes: 64 << 20 }
    }
}

/// The applied state of this member; cheap to clone.
#[derive(Clone)]
pub struct Store {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub state: RwLock<State>,
    /// Held by whatever changes the engine: a checkpoint, a restore. Taken before `state`.
    pub image: Mutex<Image>,
    /// Of the state and of the snapshots.
    pub disk: Arc<dyn Disk>,
    pub options: StoreOptions,
    /// Set once the engine could not be read; nothing is answered after that.
    failure: OnceLock<String>,
    pub rebuilds: AtomicU64,
    /// Of the embedding program.
    pub machine: OnceLock<Arc<dyn Driven>>,
    pub history: History,
    records_events: AtomicBool,
}

/// What readers see.
pub(super) struct State {
    pub engine: Arc<dyn StateEngine>,
    pub frozen: Option<Frozen>,
    pub active: Overlay,
    pub meta: Meta,
    /// No expiry index key lies below this time; saves walking over removed ones.
    pub expiry_floor_ms: AtomicU64,
}

/// The overlay that a checkpoint is writing, and the record that belongs to it.
#[derive(Clone)]
pub(super) struct Frozen {
    pub overlay: Arc<Overlay>,
    pub meta: Meta,
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
            state: RwLock::new(state),
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

    /// Executes the entry at `index`; readers see all of it or nothing. Only the apply thread calls.
    ///
    /// A command that is refused comes back as an error in the reply. After an error of a fatal
    /// code (see [`Store::failure`]) the entry was not applied and the node must restart.
    pub fn apply(&self, index: u64, term: u64, command: &Command) -> Reply {
        self.execute(index, term, command).unwrap_or_else(|error| {
            let kind = Some(Answer::Error(error.into()));
            Reply { kind, term, index }
        })
    }

    fn execute(&self, index: u64, term: u64, command: &Command) -> Result<Reply, Error> {
        self.check()?;
        let (reply, mut changes) = {
            let state = self.inner.read();
            let meta = state.meta_at(index, term, command.now_ms)?;
            let floor_ms = state.expiry_floor_ms.load(Ordering::Relaxed);
            let machine = self.inner.machine.get().map(Arc::as_ref);
            let events = self.inner.records_events.load(Ordering::Relaxed);
            let new_txn =
                || Txn::new(state.view(), floor_ms, meta.clone()).with_machine(machine).with_events(events);
            dedup::execute_once(new_txn, command).map_err(|error| self.fail(error))?
        };
        let changed = Changed::of(index, &changes.overlay, std::mem::take(&mut changes.events));
        self.inner.write().commit(changes);
        self.inner.history.publish(changed);
        Ok(reply)
    }

    /// Advances over an entry that holds nothing. Only the apply thread calls.
    pub fn apply_empty(&self, index: u64, term: u64) {
        self.advance(index, term, |_| {});
    }

    /// Records a membership whose change is the entry at `index`. Only the apply thread calls.
    ///
    /// Of a member already known, what was registered through the log outlives an older copy of
    /// it in `membership`.
    pub fn apply_membership(&self, index: u64, term: u64, mut membership: Membership) {
        self.advance(index, term, |meta| {
            for member in &mut membership.members {
                let known = meta.membership.members.iter().find(|known| known.id == member.id);
                if let Some(known) = known {
                    keep_registration(member, known);
                }
            }
            membership.index = index;
            meta.membership = Arc::new(membership);
        });
    }

    fn advance(&self, index: u64, term: u64, change: impl FnOnce(&mut Meta)) {
        // Past an entry that could not be applied nothing may be, not even an empty one.
        if self.check().is_err() {
            return;
        }
        let mut state = self.inner.write();
        if let Ok(mut meta) = state.meta_at(index, term, 0) {
            change(&mut meta);
            state.meta = meta;
            drop(state);
            self.inner.history.publish_none(index);
        }
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
        let state = self.inner.read();
        state.query_txn(wall_ms).load(key).map_err(|error| self.fail(error))
    }

    /// What a command that writes nothing answers, as of one applied index, and how many keys it found
    /// and missed. Keeps entries from being applied while it runs.
    pub fn query(&self, call: &Call, wall_ms: u64) -> Result<(Answer, Lookups), Error> {
        self.check()?;
        let state = self.inner.read();
        let mut txn = state.query_txn(wall_ms);
        match calls::query(&mut txn, call) {
            Ok(answer) => Ok((answer, txn.lookups())),
            Err(Failure::Refused(error)) => Err(error),
            Err(Failure::Engine(error)) => Err(self.fail(error).into()),
        }
    }

    /// At most `limit` live keys in order, from `start` (inclusive) to `end` (exclusive), as of one
    /// applied index. Keeps entries from being applied while it runs: keep `limit` small.
    pub fn scan(
        &self,
        start: &[u8],
        end: Option<&[u8]>,
        limit: usize,
        wall_ms: u64,
    ) -> Result<Vec<(Bytes, Value)>, StateError> {
        self.check()?;
        let raw_end = end.map_or(Bytes::from_static(value::DATA_END), value::data_key);
        let state = self.inner.read();
        let now_ms = state.meta.clock_ms.max(wall_ms);
        let mut found = Vec::new();
        let mut pairs = state.view().range(&value::data_key(start), Some(&raw_end));
        while found.len() < limit
            && let Some(pair) = pairs.next()
        {
            let pair = pair.and_then(|(key, raw)| Ok((value::user_key(&key), decode(&key, raw)?)));
            let (key, value) = pair.map_err(|error| self.fail(error))?;
            if !value.is_expired(now_ms) {
                found.push((key, value));
            }
        }
        Ok(found)
    }

    /// Whether a PurgeExpired proposed at `wall_ms` would remove anything.
    pub fn has_expired(&self, wall_ms: u64) -> Result<bool, StateError> {
        self.check()?;
        let state = self.inner.read();
        let garbage = state.view().range(value::GARBAGE_START, Some(value::GARBAGE_END)).next().transpose();
        if garbage.map_err(|error| self.fail(error))?.is_some() {
            return Ok(true);
        }
        let floor_ms = state.expiry_floor_ms.load(Ordering::Relaxed);
        let start = value::expiry_key(floor_ms, b"");
        let first = state.view().range(&start, Some(value::EXPIRY_END)).next().transpose();
        let first = first.map_err(|error| self.fail(error))?;
        let earliest_ms = first.and_then(|(key, _)| value::split_expiry_key(&key)).map(|(at_ms, _)| at_ms);
        state.expiry_floor_ms.store(earliest_ms.unwrap_or(u64::MAX), Ordering::Relaxed);
        Ok(earliest_ms.is_some_and(|at_ms| at_ms <= state.meta.clock_ms.max(wall_ms)))
    }

    /// Keys held, expired ones that were not purged yet included.
    pub fn key_count(&self) -> u64 {
        self.inner.read().meta.key_count
    }

    pub fn applied(&self) -> Applied {
        self.inner.read().meta.applied
    }

    pub fn membership(&self) -> Arc<Membership> {
        self.inner.read().meta.membership.clone()
    }

    /// The log's clock, milliseconds since the Unix epoch.
    pub fn clock_ms(&self) -> u64 {
        self.inner.read().meta.clock_ms
    }

    /// Estimated memory of what is not in the engine yet.
    pub fn overlay_bytes(&self) -> usize {
        let state = self.inner.read();
        state.active.bytes() + state.frozen.as_ref().map_or(0, |frozen| frozen.overlay.bytes())
    }

    /// Estimated bytes of the whole state, on disk and not yet there.
    pub fn bytes(&self) -> u64 {
        let engine = self.inner.read().engine.clone();
        engine.size_bytes() + self.overlay_bytes() as u64
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

    /// Stops the store: an engine that failed once cannot be trusted with the next read.
    pub(super) fn fail(&self, error: EngineError) -> StateError {
        if self.inner.failure.set(error.to_string()).is_ok() {
            tracing::error!(%error, "the state engine failed; the node must restart to rebuild its state");
        }
        StateError::Engine { doing: "read", source: error }
    }
}

impl Inner {
    // A panic under the lock cannot leave half an entry behind: commits only move finished parts.
    pub fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn image(&self) -> MutexGuard<'_, Image> {
        self.image.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    pub fn of(engine: Arc<dyn StateEngine>, meta: Meta) -> Self {
        let active = Overlay::default();
        Self { engine, frozen: None, active, meta, expiry_floor_ms: AtomicU64::new(0) }
    }

    pub fn view(&self) -> View<'_> {
        View {
            top: None,
            active: &self.active,
            frozen: self.frozen.as_ref().map(|frozen| frozen.overlay.as_ref()),
            engine: self.engine.as_ref(),
        }
    }

    /// For looking only: what it changes is dropped with it.
    pub fn query_txn(&self, wall_ms: u64) -> Txn<'_> {
        let meta = self.meta_for_reading(wall_ms);
        Txn::new(self.view(), self.expiry_floor_ms.load(Ordering::Relaxed), meta).with_seed(rand::random())
    }

    pub fn meta_for_reading(&self, wall_ms: u64) -> Meta {
        Meta { clock_ms: self.meta.clock_ms.max(wall_ms), ..self.meta.clone() }
    }

    /// The record as the entry at `index` finds it; an error for an entry that was applied before.
    fn meta_at(&self, index: u64, term: u64, now_ms: u64) -> Result<Meta, Error> {
        let applied = self.meta.applied.index;
        debug_assert!(index > applied, "entry {index} after {applied}");
        if index <= applied {
            tracing::error!(index, applied, "an entry came twice; the second is ignored");
            let message = format!("entry {index} was applied before (applied index {applied})");
            return Err(Error::new(ErrorCode::Internal, message));
        }
        let clock_ms = self.meta.clock_ms.max(now_ms);
        Ok(Meta { applied: Applied { index, term }, clock_ms, ..self.meta.clone() })
    }

    fn commit(&mut self, changes: Changes) {
        let Changes { overlay, meta, earliest_expiry_ms, events: _ } = changes;
        self.active.absorb(overlay);
        self.meta = meta;
        if let Some(at_ms) = earliest_expiry_ms {
            self.expiry_floor_ms.fetch_min(at_ms, Ordering::Relaxed);
        }
    }
}

/// Ids are never reused, so `known` of the same id is the same member, and a later boot knows better.
fn keep_registration(member: &mut Member, known: &Member) {
    if known.boot_epoch < member.boot_epoch {
        return;
    }
    member.boot_epoch = known.boot_epoch;
    if !known.disk_id.is_empty() {
        member.disk_id.clone_from(&known.disk_id);
    }
    if !known.client_addr.is_empty() {
        member.client_addr.clone_from(&known.client_addr);
    }
    if known.format != 0 {
        member.format = known.format;
    }
}
