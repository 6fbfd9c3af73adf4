//! The published state: immutable, replaced as a whole, read without a lock.
//!
//! A reader clones the [`Arc`] and keeps what it saw for as long as it needs. Entries are applied to a copy
//! ([`super::batch::Batch`]), which takes the place of the published one. An engine changes in place, so a checkpoint
//! has to wait for the readers of what came before the overlay that it writes was frozen: [`Epoch`].

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

/// How long a checkpoint waits for a reader before it logs that it does.
const SLOW_READER: Duration = Duration::from_secs(10);

/// What readers see.
#[derive(Clone)]
pub(super) struct State {
    pub engine: Arc<dyn StateEngine>,
    pub frozen: Option<Frozen>,
    pub active: Overlay,
    pub meta: Meta,
    /// Held by every state, and so by every reader, since `frozen` and `engine` last changed.
    pub epoch: Epoch,
}

/// The overlay that a checkpoint is writing, and the record that belongs to it.
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

    /// A transaction whose changes are dropped.
    #[allow(clippy::disallowed_methods, reason = "what a read draws is in no log")]
    pub fn query_txn(&self, wall_ms: u64, limits: Limits) -> Txn<'_> {
        Txn::new(self.view(), 0, self.meta_for_reading(wall_ms), limits).with_seed(rand::random())
    }

    pub fn meta_for_reading(&self, wall_ms: u64) -> Meta {
        Meta { clock_ms: self.meta.clock_ms.max(wall_ms), ..self.meta.clone() }
    }

    /// The record as the entry at `index` finds it; an error for an entry that was applied before.
    pub fn meta_at(&self, index: u64, term: u64, now_ms: u64) -> Result<Meta, Error> {
        let applied = self.meta.applied.index;
        debug_assert!(index > applied, "entry {index} after {applied}");
        if index <= applied {
            tracing::error!(index, applied, "an entry came twice; the second is ignored");
            let message = format!("entry {index} was applied before (applied index {applied})");
            return Err(Error::new(ErrorCode::Internal, message));
        }
        let clock_ms = faults::clock_before(self.meta.clock_ms).max(now_ms);
        Ok(Meta { applied: Applied { index, term }, clock_ms, ..self.meta.clone() })
    }
}

/// A token that all states of one span of time hold, so that [`EpochEnd::wait`] returns once the last of them is dropped.
/// The waiter must hold none of them.
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
    /// Gives up this token; the answer resolves when nobody has another.
    fn end(self) -> EpochEnd {
        let Self { token, ended } = self;
        drop(token);
        EpochEnd(ended)
    }
}

/// No state of an earlier epoch is published any more, but readers may still hold some.
#[must_use = "readers may still use what was replaced"]
pub(super) struct EpochEnd(Receiver<Infallible>);

impl EpochEnd {
    /// Returns once no reader holds a state of that epoch. A read ends at its budget, so this takes no longer than the
    /// longest read that is allowed.
    pub fn wait(self) {
        while let Err(RecvTimeoutError::Timeout) = self.0.recv_timeout(SLOW_READER) {
            tracing::warn!("a checkpoint waits for a read that has lasted more than {SLOW_READER:?}");
        }
    }
}

/// The state that is published now, and the lock of its writers.
pub(super) struct Published {
    current: ArcSwap<State>,
    /// Held from reading `current` to replacing it: by an apply batch, a freeze, the end of a checkpoint, a restore.
    writer: Mutex<()>,
    floor: Floor,
}

/// Keeps others from publishing.
pub(super) type Writer<'p> = MutexGuard<'p, ()>;

impl Published {
    pub fn new(state: State) -> Self {
        Self { current: ArcSwap::from_pointee(state), writer: Mutex::new(()), floor: Floor::default() }
    }

    pub fn get(&self) -> Arc<State> {
        self.current.load_full()
    }

    /// Looks at the published state for a moment, without counting references.
    pub fn peek<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.current.load())
    }

    // A panic of a writer cannot leave half a state behind: the published one is replaced whole.
    pub fn writer(&self) -> Writer<'_> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes `next`, which continues the published state in the same epoch.
    pub fn publish(&self, _writer: &Writer<'_>, next: State) {
        self.current.store(Arc::new(next));
    }

    /// Publishes `next` in a new epoch; answers the end of the one before.
    pub fn publish_epoch(&self, _writer: &Writer<'_>, next: State) -> EpochEnd {
        let epoch = self.peek(|state| state.epoch.clone());
        self.current.store(Arc::new(State { epoch: Epoch::default(), ..next }));
        epoch.end()
    }

    pub fn floor(&self) -> &Floor {
        &self.floor
    }
}

/// No expiry index key lies below this time; saves walking over removed ones.
///
/// Readers raise it and writers lower it. A reader looks at a state that may lack the newest write, so its result counts
/// only if no write has lowered the floor since before it took that state.
#[derive(Default)]
pub(super) struct Floor {
    at_ms: Mutex<u64>,
    lowered: AtomicU64,
}

impl Floor {
    pub fn at_ms(&self) -> u64 {
        *self.lock()
    }

    /// To be read before the state is taken.
    pub fn version(&self) -> u64 {
        self.lowered.load(Ordering::Acquire)
    }

    /// After a write that expires at `at_ms` was published.
    pub fn lower(&self, at_ms: u64) {
        let mut floor = self.lock();
        *floor = (*floor).min(at_ms);
        self.lowered.fetch_add(1, Ordering::AcqRel);
    }

    /// `version`: of before the state was taken in which the earliest expiry is `at_ms`.
    pub fn raise(&self, at_ms: u64, version: u64) {
        let mut floor = self.lock();
        if self.lowered.load(Ordering::Acquire) == version {
            *floor = at_ms;
        }
    }

    /// The state was replaced by another.
    pub fn reset(&self) {
        self.lower(0);
    }

    fn lock(&self) -> MutexGuard<'_, u64> {
        self.at_ms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
