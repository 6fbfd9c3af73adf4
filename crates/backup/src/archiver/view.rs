//! The view of the archiver for users: the document of /status, and the metrics. The owner writes it, requests read it.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use helios_archive::ArchiveError;
use serde::Serialize;
use serde_json::{Value, json};

use super::metrics::Metrics;

/// Time without contact to a member after which the lag counts from the last contact.
const CONTACT: Duration = Duration::from_secs(5);
/// Time after which an owner that does nothing is reported by /healthz.
const STUCK: Duration = Duration::from_secs(180);
const MAX_SAMPLES: usize = 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum State {
    // The first of several troubles is shown.
    Forked,
    WrongKey,
    Damaged,
    StoreRefused,
    StoreFull,
    StoreUnavailable,
    NoMember,
    TakingBase,
    Archiving,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Each variant is one word, as in the JSON of /status.
        fmt::Debug::fmt(self, f)
    }
}

impl State {
    pub fn of(error: &ArchiveError) -> Self {
        use ArchiveError::*;
        match error {
            Forked { .. } => Self::Forked,
            WrongKey { .. } => Self::WrongKey,
            Damaged { .. } | NewerFormat { .. } | Invalid(_) => Self::Damaged,
            Refused { .. } => Self::StoreRefused,
            Full { .. } => Self::StoreFull,
            Missing { .. } | Throttled { .. } | Unavailable { .. } | Source(_) => Self::StoreUnavailable,
        }
    }

    /// Whether an admin has to act, so that frequent retries are of no use.
    pub fn is_retried_slowly(self) -> bool {
        matches!(self, Self::WrongKey | Self::Damaged | Self::StoreRefused | Self::StoreFull)
    }
}

/// Work that can fail. Its trouble ends with its next success.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Work {
    Begin,
    Flush,
    Base,
    Collection,
    Members,
}

/// The owner's facts for users.
#[derive(Debug, Clone, Default)]
pub struct View {
    pub cluster_id: String,
    pub incarnation: u64,
    /// Address of the member that the log is read from.
    pub member: String,
    pub is_taking_base: bool,
    pub troubles: BTreeMap<Work, (State, String)>,
    pub archived_index: u64,
    pub archived_now_ms: u64,
    pub applied_index: u64,
    pub gaps: Vec<Value>,
    pub last_base: Option<Value>,
    pub last_verified_restore: Option<Value>,
    pub recoverable: Vec<Value>,
    pub last_gc_ms: Option<u64>,
    pub is_encrypted: bool,
}

impl View {
    pub fn state(&self) -> (State, String) {
        let worst = self.troubles.values().min_by_key(|(state, _)| *state);
        match worst {
            Some((state, message)) => (*state, message.clone()),
            None if self.is_taking_base => (State::TakingBase, String::new()),
            None => (State::Archiving, String::new()),
        }
    }
}

/// The lag: the time since the oldest entry that the store does not have was applied.
#[derive(Debug, Default)]
pub struct Lag {
    /// Applied indexes with the times at which they were reported first.
    samples: VecDeque<(u64, Instant)>,
    last_contact: Option<Instant>,
}

impl Lag {
    pub fn applied(&mut self, index: u64, now: Instant) {
        self.last_contact = Some(now);
        if self.samples.back().is_some_and(|(known, _)| *known >= index) {
            return;
        }
        if self.samples.len() >= MAX_SAMPLES {
            // The oldest stays: it is the lag.
            let mut number = 0;
            self.samples.retain(|_| {
                number += 1;
                number % 2 == 1
            });
        }
        self.samples.push_back((index, now));
    }

    pub fn archived(&mut self, index: u64) {
        while self.samples.front().is_some_and(|(applied, _)| *applied <= index) {
            self.samples.pop_front();
        }
    }

    pub fn seconds(&self, now: Instant) -> f64 {
        let oldest = self.samples.front().map(|(_, at)| now.saturating_duration_since(*at));
        let silent =
            self.last_contact.map(|at| now.saturating_duration_since(at)).filter(|time| *time > CONTACT);
        oldest.max(silent).unwrap_or_default().as_secs_f64()
    }
}

/// State that the owner and the HTTP server share.
pub struct Shared {
    view: Mutex<View>,
    lag: Mutex<Lag>,
    alive: Mutex<Instant>,
    pub metrics: Metrics,
}

impl Shared {
    pub fn new() -> Self {
        let alive = Mutex::new(Instant::now());
        Self { view: Mutex::default(), lag: Mutex::default(), alive, metrics: Metrics::new() }
    }

    pub fn view(&self) -> MutexGuard<'_, View> {
        lock(&self.view)
    }

    pub fn lag(&self) -> MutexGuard<'_, Lag> {
        lock(&self.lag)
    }

    /// Records that the owner acts.
    pub fn beat(&self) {
        *lock(&self.alive) = Instant::now();
    }

    pub fn is_alive(&self) -> bool {
        lock(&self.alive).elapsed() < STUCK
    }

    pub fn status(&self) -> Value {
        let lag = self.lag().seconds(Instant::now());
        let view = self.view();
        let (state, message) = view.state();
        json!({
            "clusterId": view.cluster_id,
            "incarnation": view.incarnation,
            "member": view.member,
            "state": state,
            "message": message,
            "archivedIndex": view.archived_index,
            "archivedNowMs": view.archived_now_ms,
            "appliedIndex": view.applied_index,
            "lagSeconds": (lag * 1000.0).round() / 1000.0,
            "gaps": view.gaps,
            "lastBase": view.last_base,
            "lastVerifiedRestore": view.last_verified_restore,
            "recoverable": view.recoverable,
            "lastGcMs": view.last_gc_ms,
            "encrypted": view.is_encrypted,
        })
    }

    pub fn metrics_text(&self) -> String {
        let (view, lag) = (self.view().clone(), self.lag().seconds(Instant::now()));
        self.metrics.text(&view, lag)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_is_the_age_of_the_oldest_entry_that_is_not_archived() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut lag = Lag::default();
        assert!(lag.seconds(at(9)) < 0.1);
        for (index, second) in [(10, 0), (10, 1), (11, 2), (15, 3)] {
            lag.applied(index, at(second));
        }
        assert_eq!(lag.seconds(at(4)), 4.0);
        lag.archived(10);
        assert_eq!(lag.seconds(at(4)), 2.0);
        lag.archived(15);
        assert_eq!(lag.seconds(at(4)), 0.0);
        // Without contact nobody knows that there were no writes.
        assert_eq!(lag.seconds(at(13)), 10.0);
    }

    #[test]
    fn samples_are_bounded_and_keep_the_oldest() {
        let start = Instant::now();
        let mut lag = Lag::default();
        for index in 1..=10_000 {
            lag.applied(index, start + Duration::from_secs(index));
        }
        assert!(lag.samples.len() <= MAX_SAMPLES);
        assert_eq!(lag.seconds(start + Duration::from_secs(10_000)), 9_999.0);
    }

    #[test]
    fn worst_trouble_is_the_state() {
        let mut view = View { is_taking_base: true, ..View::default() };
        assert_eq!(view.state().0, State::TakingBase);
        view.troubles.insert(Work::Members, (State::NoMember, "a".to_owned()));
        view.troubles.insert(Work::Flush, (State::StoreFull, "b".to_owned()));
        assert_eq!(view.state(), (State::StoreFull, "b".to_owned()));
        view.troubles.insert(Work::Base, (State::Forked, "c".to_owned()));
        assert_eq!(view.state(), (State::Forked, "c".to_owned()));
    }
}
