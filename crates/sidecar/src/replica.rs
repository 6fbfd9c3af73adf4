//! The state of some keys in this process, which reads of the application are answered from
//! (docs/adr/0036-replica.md). `feed` and `link` keep it up to date, `gate` holds what the application has observed,
//! `pulse` finds out how old the state is.

pub mod feed;
pub mod gate;
pub mod link;
pub mod pulse;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use helios_proto::v1::{Call, Token};
use helios_redis::frame::Frame;
use helios_redis::replica::{answer, query};
use helios_state::{Selection, Store};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::{Notify, watch};

use crate::args::Offline;
use crate::level::Level;
use gate::{Closed, Gate, Observation};

/// Why a request goes to a member; the label of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    ProxyMode,
    /// It is no read of keys that the replica has.
    Command,
    /// The connection has a transaction, subscriptions, reads by lease, or unanswered requests.
    Connection,
    /// There is no state: it is loaded, or needs too much memory.
    NoState,
    /// The state is, or may be, older than the limit.
    Stale,
    /// The application may have observed more than the state has.
    Behind,
    /// The reply is an error, or costs more than a short read.
    Cost,
}

impl Reason {
    pub const ALL: [Self; 7] = [
        Self::ProxyMode,
        Self::Command,
        Self::Connection,
        Self::NoState,
        Self::Stale,
        Self::Behind,
        Self::Cost,
    ];

    pub fn label(self) -> &'static str {
        match self {
            Self::ProxyMode => "proxy_mode",
            Self::Command => "command",
            Self::Connection => "connection",
            Self::NoState => "no_state",
            Self::Stale => "stale",
            Self::Behind => "behind",
            Self::Cost => "cost",
        }
    }
}

impl From<Closed> for Reason {
    fn from(closed: Closed) -> Self {
        match closed {
            Closed::Behind => Self::Behind,
            Closed::Unknown => Self::Stale,
        }
    }
}

/// State of the link, as `INFO` and a metric show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Disconnected,
    Loading,
    Following,
    /// The keys need more memory than `--replica-memory-bytes`: nothing is held.
    OverMemory,
}

impl Phase {
    pub const ALL: [Self; 4] = [Self::Disconnected, Self::Loading, Self::Following, Self::OverMemory];

    pub fn label(self) -> &'static str {
        match self {
            Self::Disconnected => "disconnected",
            Self::Loading => "loading",
            Self::Following => "following",
            Self::OverMemory => "over_memory",
        }
    }
}

/// A state at `index` or later has all that any member had acknowledged `at_us` after the start, if it is of the history in
/// which the entry at `index` has the term `term`.
#[derive(Debug, Clone, Copy)]
struct Fresh {
    at_us: u64,
    index: u64,
    term: u64,
}

/// When a state is read, and when it is not.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Age above which a state is not read, unless it is served in a cut.
    pub max_staleness: Duration,
    /// Time without an answer of any member after which the sidecar counts as cut off.
    pub cut_off_after: Duration,
    /// Level of a read unless its connection has chosen one.
    pub level: Level,
    pub offline: Offline,
}

/// Requirements of a read.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    pub level: Level,
    /// Microseconds after the start.
    pub now_us: u64,
    /// When the request had arrived, microseconds after the start.
    pub received_us: u64,
}

/// A state that is served.
struct Held {
    store: Store,
    selection: Selection,
    cluster_id: String,
    /// The last moment whose acknowledged writes it has all; 0: not known.
    fresh_us: AtomicU64,
    /// A term that its last entry has at least; 0: the member is of an earlier release, and does not send it.
    term: AtomicU64,
}

impl Held {
    /// Whether the state may have an entry of the term `term`, or a later one: terms only grow along a log, so a state
    /// that is past the entry's index in an earlier term is of another history.
    fn has_reached(&self, term: u64) -> bool {
        let known = self.term.load(SeqCst);
        known == 0 || known >= term
    }
}

pub struct Replica {
    pub gate: Arc<Gate>,
    held: RwLock<Option<Arc<Held>>>,
    /// The first moment whose index the state has not reached, and the latest one. A later one does not replace the
    /// first: a state that is always a little behind would reach none.
    next: Mutex<[Option<Fresh>; 2]>,
    pub rules: Rules,
    /// Microseconds from the start to the linearizable read that was sent last; 0: none, or it was not answered.
    asked_us: AtomicU64,
    /// Requests a linearizable read now.
    demand: Notify,
    /// Microseconds from the start to the last linearizable read that a member answered.
    answered_us: AtomicU64,
    /// Whether all members were asked for one since, and none answered.
    has_asked_all: AtomicBool,
    /// Woken when a read that waits may be answered.
    progress: watch::Sender<()>,
    /// The members' clock for expiry minus the time since the start, milliseconds; 0: not known.
    clock_offset_ms: AtomicI64,
    /// The latest time that a read was answered at.
    served_ms: AtomicU64,
    phase: AtomicU8,
    bytes: AtomicU64,
    pub resyncs: Counter,
    pub reads: Counter,
    /// Reads that were answered because of [`Offline::ServeStale`].
    pub stale_reads: Counter,
}

impl Replica {
    pub fn new(rules: Rules) -> Self {
        Self {
            gate: Arc::default(),
            held: RwLock::default(),
            next: Mutex::default(),
            rules,
            asked_us: AtomicU64::new(0),
            demand: Notify::new(),
            answered_us: AtomicU64::new(0),
            has_asked_all: AtomicBool::new(false),
            progress: watch::Sender::new(()),
            clock_offset_ms: AtomicI64::new(0),
            served_ms: AtomicU64::new(0),
            phase: AtomicU8::new(0),
            bytes: AtomicU64::new(0),
            resyncs: Counter::default(),
            reads: Counter::default(),
            stale_reads: Counter::default(),
        }
    }

    /// Answers a request of the client of `observation`.
    ///
    /// # Errors
    /// A member has to answer it; after [`Reason::Behind`], the same call may succeed within milliseconds.
    pub fn read(
        &self,
        words: &[Bytes],
        asked: Asked,
        observation: &mut Observation,
    ) -> Result<Frame, Reason> {
        let held = self.held().ok_or(Reason::NoState)?;
        let call = self.call(&held, words)?;
        let (applied, fresh_us) = (held.store.applied().index, held.fresh_us.load(SeqCst));
        let max_age = match asked.level {
            Level::Session => {
                self.gate.check(applied, fresh_us)?;
                Some(self.rules.max_staleness)
            }
            Level::Bounded => {
                observation.check(applied, fresh_us)?;
                Some(self.rules.max_staleness)
            }
            Level::Stale(max_age) => {
                observation.check(applied, fresh_us)?;
                max_age
            }
            // Within one microsecond, the order is not known.
            Level::Linearizable if fresh_us <= asked.received_us => {
                self.demand(asked.received_us);
                return Err(Reason::Behind);
            }
            Level::Linearizable => None,
            Level::Lease => return Err(Reason::Connection),
        };
        let age = Duration::from_micros(asked.now_us.saturating_sub(fresh_us));
        if max_age.is_some_and(|max_age| fresh_us == 0 || age > max_age) {
            return Err(Reason::Stale);
        }
        let frame = self.answer(&held, &call, asked.now_us, observation)?;
        self.reads.inc();
        Ok(frame)
    }

    /// Answers a request that no member answers, however old the state is, if the state has all that this one client has
    /// observed; `has_contact` says whether any reply of a member came within the limit. `None`: it is an error.
    pub fn read_offline(
        &self,
        words: &[Bytes],
        asked: Asked,
        has_contact: bool,
        observation: &mut Observation,
    ) -> Option<Frame> {
        if !asked.level.may_serve_stale() || !self.serves_stale(asked.now_us, has_contact) {
            return None;
        }
        let held = self.held()?;
        let call = self.call(&held, words).ok()?;
        observation.check(held.store.applied().index, held.fresh_us.load(SeqCst)).ok()?;
        let frame = self.answer(&held, &call, asked.now_us, observation).ok()?;
        self.stale_reads.inc();
        Some(frame)
    }

    fn call(&self, held: &Held, words: &[Bytes]) -> Result<Call, Reason> {
        query(words, |key| held.selection.contains(key)).ok_or(Reason::Command)
    }

    fn answer(
        &self,
        held: &Held,
        call: &Call,
        now_us: u64,
        observation: &mut Observation,
    ) -> Result<Frame, Reason> {
        let clock_ms = self.clock_ms(now_us).ok_or(Reason::Stale)?;
        let frame = answer(&held.store, call, clock_ms).ok_or(Reason::Cost)?;
        // At least the index of the state that was read.
        observation.read(held.store.applied().index);
        Ok(frame)
    }

    /// Requests a linearizable read at a member, unless one was sent after the moment `since_us`. All connections share it.
    fn demand(&self, since_us: u64) {
        if self.asked_us.load(SeqCst) <= since_us {
            self.demand.notify_one();
        }
    }

    /// Returns when a linearizable read is requested.
    pub async fn demanded(&self) {
        self.demand.notified().await;
    }

    /// Records that a linearizable read is about to be sent.
    pub fn asks(&self, at_us: u64) {
        self.asked_us.store(at_us, SeqCst);
    }

    /// Records that no member answered it.
    pub fn unanswered(&self) {
        self.asked_us.store(0, SeqCst);
    }

    /// Records that a member answered a linearizable read.
    pub fn answered(&self) {
        self.answered_us.store(self.gate.now_us(), SeqCst);
        self.has_asked_all.store(false, SeqCst);
    }

    /// Records that all members were asked for a linearizable read since the last answer.
    pub fn has_asked_all(&self) {
        self.has_asked_all.store(true, SeqCst);
    }

    /// Whether reads are answered from a state that is too old, because no member answers: none is in reach, or those that
    /// are have no quorum.
    pub fn serves_stale(&self, now_us: u64, has_contact: bool) -> bool {
        let unanswered = Duration::from_micros(now_us.saturating_sub(self.answered_us.load(SeqCst)));
        let is_without_quorum = self.has_asked_all.load(SeqCst) && unanswered >= self.rules.cut_off_after;
        let is_cut_off = !has_contact || is_without_quorum;
        is_cut_off && self.rules.offline == Offline::ServeStale && self.held().is_some()
    }

    /// Returns a receiver that is woken when a read that waits may be answered.
    pub fn progress(&self) -> watch::Receiver<()> {
        self.progress.subscribe()
    }

    /// Wakes the reads that wait.
    pub fn wake(&self) {
        self.progress.send_replace(());
    }

    /// Serves `store` from now on. How old it is is not known yet.
    fn publish(&self, store: Store, selection: Selection, cluster_id: &str, term: u64) {
        let (cluster_id, fresh_us, term) = (cluster_id.to_owned(), AtomicU64::new(0), AtomicU64::new(term));
        *self.held.write().unwrap_or_else(PoisonError::into_inner) =
            Some(Arc::new(Held { store, selection, cluster_id, fresh_us, term }));
        self.settle(None);
    }

    /// Serves nothing from now on.
    fn forget(&self) {
        *self.held.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn new_history(&self) {
        *self.next() = [None; 2];
        self.gate.new_history(self.gate.now_us());
    }

    /// Records a term that the last entry of the state has at least; 0: the member does not send it.
    fn at_term(&self, term: u64) {
        match self.held() {
            Some(held) if term == 0 => held.term.store(0, SeqCst),
            Some(held) => {
                held.term.fetch_max(term, SeqCst);
            }
            None => {}
        }
    }

    /// Records that the state has advanced, and the memory that all records take.
    fn advanced(&self, bytes: u64) {
        self.bytes.store(bytes, SeqCst);
        self.settle(None);
        self.wake();
    }

    /// Records the members' clock for expiry. It is at least as late when this is called.
    fn heard(&self, now_ms: u64) {
        let elapsed_ms = (self.gate.now_us() / 1_000).cast_signed();
        self.clock_offset_ms.store(now_ms.cast_signed() - elapsed_ms, SeqCst);
    }

    /// Returns the time that decides about expiry, milliseconds since the Unix epoch: it never goes back. `None` before
    /// the members' clock was heard.
    fn clock_ms(&self, now_us: u64) -> Option<u64> {
        let offset_ms = self.clock_offset_ms.load(SeqCst);
        let now_ms = u64::try_from(offset_ms + (now_us / 1_000).cast_signed()).ok()?;
        (offset_ms != 0).then(|| self.served_ms.fetch_max(now_ms, SeqCst).max(now_ms))
    }

    /// Records that the state at `token` has all that was acknowledged `at_us` after the start.
    pub fn confirm(&self, at_us: u64, token: &Token) {
        let is_of_state = self.held().is_some_and(|held| held.cluster_id == token.cluster_id);
        if is_of_state {
            self.settle(Some(Fresh { at_us, index: token.index, term: token.term }));
            self.wake();
        }
    }

    fn settle(&self, latest: Option<Fresh>) {
        let mut next = self.next();
        let Some(held) = self.held() else { return };
        let applied = held.store.applied().index;
        if let Some(latest) = latest {
            let at = usize::from(next[0].is_some());
            next[at] = Some(latest);
        }
        for waiting in next.iter_mut() {
            if let Some(reached) =
                waiting.take_if(|fresh| fresh.index <= applied && held.has_reached(fresh.term))
            {
                held.fresh_us.fetch_max(reached.at_us, SeqCst);
            }
        }
        if next[0].is_none() {
            next.swap(0, 1);
        }
    }

    /// Returns the index that the token of a connection stands for; `None` if it is of another cluster, or may be of another
    /// history than the state.
    pub fn index_of(&self, token: &Token) -> Option<u64> {
        match self.held() {
            Some(held) if held.cluster_id != token.cluster_id || !held.has_reached(token.term) => None,
            _ => Some(token.index),
        }
    }

    /// Returns a key that the user may read; `None` while there is no state.
    pub fn any_key(&self) -> Option<Bytes> {
        let held = self.held()?;
        Some(held.selection.prefixes().first().cloned().unwrap_or_else(|| Bytes::from_static(b"helios")))
    }

    /// Returns how old the state may be; `None` if there is none, or its age is not known.
    pub fn staleness(&self) -> Option<Duration> {
        let fresh_us = self.held()?.fresh_us.load(SeqCst);
        (fresh_us > 0).then(|| Duration::from_micros(self.gate.now_us().saturating_sub(fresh_us)))
    }

    /// Returns the index of the state, and the number of its keys.
    pub fn size(&self) -> (u64, u64) {
        self.held().map_or((0, 0), |held| (held.store.applied().index, held.store.key_count()))
    }

    pub fn bytes(&self) -> u64 {
        self.bytes.load(SeqCst)
    }

    pub fn phase(&self) -> Phase {
        Phase::ALL.get(usize::from(self.phase.load(SeqCst))).copied().unwrap_or(Phase::Disconnected)
    }

    fn set_phase(&self, phase: Phase) -> bool {
        self.phase.swap(phase as u8, SeqCst) != phase as u8
    }

    fn held(&self) -> Option<Arc<Held>> {
        self.held.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn next(&self) -> MutexGuard<'_, [Option<Fresh>; 2]> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
