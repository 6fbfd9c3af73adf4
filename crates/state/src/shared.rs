//! The published state: immutable, replaced as a whole, read without a lock.
//!
//! A reader clones the [`Arc`] and keeps its state for as long as it needs. Entries are applied to a copy
//! ([`super::batch::Batch`]), which replaces the published state. A checkpoint into an engine that is modified in place
//! must wait for all readers of states from before its overlay was frozen: [`Epoch`].

use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::Applied;
use super::budget::Limits;
use super::engines::StateEngine;
use super::meta::Meta;
use super::overlay::Overlay;
use super::txn::Txn;
use super::view::View;
use crate::faults;
use helios_proto::Error;
use helios_proto::v1::ErrorCode;

/// Time for which a checkpoint waits for a reader before it logs a warning.
const SLOW_READER: Duration = Duration::from_secs(10);

/// The applied state that readers see.
#[derive(Clone)]
pub(super) struct State {
    pub engine: Arc<dyn StateEngine>,
    pub frozen: Option<Frozen>,
    pub active: Overlay,
    pub meta: Meta,
    /// Token of all states, and so of all readers, since `frozen` and `engine` last changed.
    pub epoch: Epoch,
}

/// The overlay that a checkpoint is writing, and its record.
#[derive(Clone)]
pub(super) struct Frozen {
    pub overlay: Arc<Overlay>,
    pub meta: Meta,
}

impl State {
    pub fn of(engine: Arc<dyn StateEngine>, meta: Meta) -> Self {
        Self { engine, frozen: None, active: Overlay::default(), meta, epoch: Epoch::default() }
    }

    pub fn view(&self) -> View<'_> {
        View {
            top: None,
            active: &self.active,
            frozen: self.frozen.as_ref().map(|frozen| frozen.overlay.as_ref()),
            engine: self.engine.as_ref(),
        }
    }

    /// Creates a transaction for a read; its changes are dropped.
    #[allow(clippy::disallowed_methods, reason = "random numbers of a read are not in the log")]
    pub fn query_txn(&self, wall_ms: u64, limits: Limits) -> Txn<'_> {
        Txn::new(self.view(), 0, self.meta_for_reading(wall_ms), limits).with_seed(rand::random())
    }

    pub fn meta_for_reading(&self, wall_ms: u64) -> Meta {
        Meta { clock_ms: self.meta.clock_ms.max(wall_ms), ..self.meta.clone() }
    }

    /// Returns the record for the execution of the entry at `index`; an error if that entry was applied
    /// before.
    pub fn meta_at(&self, index: u64, term: u64, now_ms: u64) -> Result<Meta, Error> {
        let applied = self.meta.applied.index;
        debug_assert!(index > applied, "entry {index} after {applied}");
        if index <= applied {
            tracing::error!(index, applied, "an entry was delivered twice; the second is ignored");
            let message = format!("entry {index} was applied before (applied index {applied})");
            return Err(Error::new(ErrorCode::Internal, message));
        }
        let clock_ms = faults::clock_before(self.meta.clock_ms).max(now_ms);
        Ok(Meta { applied: Applied { index, term }, clock_ms, ..self.meta.clone() })
    }
}

/// A token that all states between two changes of `frozen` or `engine` hold. [`EpochEnd::wait`] returns once
/// the last of them is dropped; the waiter must hold none of them.
#[derive(Clone)]
pub(super) struct Epoch {
    token: Sender<Infallible>,
    ended: Receiver<Infallible>,
}

impl Default for Epoch {
    fn default() -> Self {
        let (token, ended) = bounded(0);
        Self { token, ended }
    }
}

impl Epoch {
    /// Drops this token; the returned [`EpochEnd`] waits for all others.
    fn end(self) -> EpochEnd {
        let Self { token, ended } = self;
        drop(token);
        EpochEnd(ended)
    }
}

/// The end of an epoch: none of its states is published any more, but readers may still hold some.
#[must_use = "readers may still use the replaced state"]
pub(super) struct EpochEnd(Receiver<Infallible>);

impl EpochEnd {
    /// Waits until no reader holds a state of the epoch. The budget limits every read, so this takes no
    /// longer than the longest read.
    pub fn wait(self) {
        while let Err(RecvTimeoutError::Timeout) = self.0.recv_timeout(SLOW_READER) {
            tracing::warn!("a checkpoint is waiting for a read that has taken more than {SLOW_READER:?}");
        }
    }
}

/// The published state, and the lock of its writers.
pub(super) struct Published {
    current: ArcSwap<State>,
    /// Held from the read of `current` to its replacement: by an apply batch, a freeze, the end of a
    /// checkpoint, a restore.
    writer: Mutex<()>,
    floor: Floor,
}

/// The lock of the writers of the published state.
pub(super) type Writer<'p> = MutexGuard<'p, ()>;

impl Published {
    pub fn new(state: State) -> Self {
        Self { current: ArcSwap::from_pointee(state), writer: Mutex::new(()), floor: Floor::default() }
    }

    pub fn get(&self) -> Arc<State> {
        self.current.load_full()
    }

    /// Calls `read` with the published state, without a reference count.
    pub fn peek<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        read(&self.current.load())
    }

    // A poisoned lock is harmless: the published state is always replaced as a whole.
    pub fn writer(&self) -> Writer<'_> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes `next` in the same epoch.
    pub fn publish(&self, _writer: &Writer<'_>, next: State) {
        next.active.publish();
        self.current.store(Arc::new(next));
    }

    /// Publishes `next` in a new epoch; returns the end of the previous one.
    pub fn publish_epoch(&self, _writer: &Writer<'_>, next: State) -> EpochEnd {
        next.active.publish();
        let epoch = self.peek(|state| state.epoch.clone());
        self.current.store(Arc::new(State { epoch: Epoch::default(), ..next }));
        epoch.end()
    }

    pub fn floor(&self) -> &Floor {
        &self.floor
    }
}

/// A lower bound of all times in the expiry index, milliseconds since the Unix epoch. It avoids iterating
/// over removed index keys.
///
/// Readers raise it and writers lower it. A reader's state may lack the newest write, so it raises the floor
/// only if no write has lowered it since before the reader took its state.
#[derive(Default)]
pub(super) struct Floor {
    at_ms: Mutex<u64>,
    lowered: AtomicU64,
}

impl Floor {
    pub fn at_ms(&self) -> u64 {
        *self.lock()
    }

    /// Returns the version for [`Floor::raise`]; called before the reader takes its state.
    pub fn version(&self) -> u64 {
        self.lowered.load(Ordering::Acquire)
    }

    /// Lowers the floor to `at_ms`; called after a write with that expiry was published.
    pub fn lower(&self, at_ms: u64) {
        let mut floor = self.lock();
        *floor = (*floor).min(at_ms);
        self.lowered.fetch_add(1, Ordering::AcqRel);
    }

    /// Raises the floor to `at_ms`, before which a purge left no key; called after the purge was published, and before
    /// [`Floor::lower`] for the expiries that were written with it. Followers have no other way to raise it.
    pub fn advance(&self, at_ms: u64) {
        let mut floor = self.lock();
        *floor = (*floor).max(at_ms);
    }

    /// Raises the floor to `at_ms`, the earliest expiry in a state, unless it was lowered since `version`,
    /// which was read before that state was taken.
    pub fn raise(&self, at_ms: u64, version: u64) {
        let mut floor = self.lock();
        if self.lowered.load(Ordering::Acquire) == version {
            *floor = at_ms;
        }
    }

    /// Resets the floor to 0; called when the whole state was replaced.
    pub fn reset(&self) {
        self.lower(0);
    }

    fn lock(&self) -> MutexGuard<'_, u64> {
        self.at_ms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
