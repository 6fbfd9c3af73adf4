//! The state that the application has observed, and that a read of the replica must have at least. The whole process is one
//! session, since an application writes on one connection of its pool and reads on another; [`Observation`] has the part of
//! one connection.
//!
//! The index of a state is known for local reads at once, and for what a member did by a request that the sidecar
//! sends after it. Until that is answered, the member's reply is observed and its index is not known: no read is local.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::time::Instant;

#[derive(Debug)]
pub struct Gate {
    started: Instant,
    /// Highest index that the application has observed.
    floor: AtomicU64,
    /// Number of connections that have observed a state whose index is not known yet.
    open: AtomicUsize,
    /// Microseconds from `started` to the last observation whose index will not be known.
    unknown_us: AtomicU64,
    /// Number of histories before the present one.
    history: AtomicU64,
}

/// Why the replica does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// Its index is too low, or that of the last reply is not known yet: it may open within milliseconds.
    Behind,
    /// Its state has to be known to be of a later moment.
    Unknown,
}

impl Default for Gate {
    /// Requires a state of a moment after the start: observations through an earlier process are not known.
    fn default() -> Self {
        let (floor, open, unknown_us) = (AtomicU64::new(0), AtomicUsize::new(0), AtomicU64::new(0));
        Self { started: Instant::now(), floor, open, unknown_us, history: AtomicU64::new(0) }
    }
}

impl Gate {
    /// Returns the time since the start, microseconds: at least 1.
    pub fn now_us(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX).max(1)
    }

    /// Records that the application observes the state at `index`; called before it does.
    pub fn observed(&self, index: u64) {
        self.floor.fetch_max(index, SeqCst);
    }

    /// Records that the application observes something whose index will not be known, as the outcome of a write on a
    /// lost connection, or a message.
    pub fn unknown(&self, now_us: u64) {
        self.unknown_us.fetch_max(now_us, SeqCst);
    }

    /// Forgets all indexes: those of another history mean nothing.
    pub fn new_history(&self, now_us: u64) {
        self.unknown(now_us);
        self.history.fetch_add(1, SeqCst);
        self.floor.store(0, SeqCst);
    }

    /// Whether a state at `applied`, which has all that was acknowledged `fresh_us` after the start, has all that the
    /// application has observed.
    pub fn check(&self, applied: u64, fresh_us: u64) -> Result<(), Closed> {
        // Before the others: a connection changes them first, and this number last.
        let is_open = self.open.load(SeqCst) > 0;
        if fresh_us <= self.unknown_us.load(SeqCst) {
            return Err(Closed::Unknown);
        }
        if is_open || applied < self.floor.load(SeqCst) {
            return Err(Closed::Behind);
        }
        Ok(())
    }
}

/// Observations of the client of one connection.
#[derive(Debug)]
pub struct Observation {
    gate: Arc<Gate>,
    /// Whether the index of the last reply of a member is not known yet.
    is_open: bool,
    /// Highest index that the client has observed; `None` before the first one.
    floor: Option<u64>,
    /// Microseconds from the gate's start to the last observation whose index will not be known.
    unknown_us: Option<u64>,
    /// The gate's number of the history that was observed last.
    history: u64,
}

impl Observation {
    pub fn new(gate: Arc<Gate>) -> Self {
        Self { gate, is_open: false, floor: None, unknown_us: None, history: 0 }
    }

    /// Records that the client is about to get the reply of a member.
    pub fn begin(&mut self) {
        if !std::mem::replace(&mut self.is_open, true) {
            self.gate.open.fetch_add(1, SeqCst);
        }
    }

    /// Records that the client observes the state at `index`; called before it does.
    pub fn read(&mut self, index: u64) {
        self.enter_history();
        self.gate.observed(index);
        self.floor = self.floor.max(Some(index));
    }

    /// Records that the client observes something whose index will not be known.
    pub fn unknown(&mut self) {
        self.enter_history();
        let now_us = self.gate.now_us();
        self.gate.unknown(now_us);
        self.unknown_us = Some(now_us);
    }

    /// Forgets what was observed of an earlier history: the client observes the present one now.
    fn enter_history(&mut self) {
        let history = self.gate.history.load(SeqCst);
        if std::mem::replace(&mut self.history, history) != history {
            (self.floor, self.unknown_us) = (None, None);
        }
    }

    /// Whether a state at `applied`, which has all that was acknowledged `fresh_us` after the start, has all that this
    /// client has observed, whatever others have.
    pub fn check(&self, applied: u64, fresh_us: u64) -> Result<(), Closed> {
        let has_observed = self.floor.is_some() || self.unknown_us.is_some();
        let is_of_lost_history = has_observed && self.history != self.gate.history.load(SeqCst);
        if is_of_lost_history || self.unknown_us.is_some_and(|unknown_us| fresh_us <= unknown_us) {
            return Err(Closed::Unknown);
        }
        if self.is_open || self.floor.is_some_and(|floor| applied < floor) {
            return Err(Closed::Behind);
        }
        Ok(())
    }

    /// Whether the index of what was observed is not known yet.
    pub fn is_open(&self) -> bool {
        self.is_open
    }

    /// Records the index of a state that has all that was observed so far; `None`: it will not be known.
    pub fn end(&mut self, index: Option<u64>) {
        match index {
            Some(index) => self.read(index),
            None => self.unknown(),
        }
        if std::mem::take(&mut self.is_open) {
            self.gate.open.fetch_sub(1, SeqCst);
        }
    }
}

impl Drop for Observation {
    fn drop(&mut self) {
        if self.is_open {
            self.end(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replica_answers_once_it_has_all_that_was_observed() {
        let gate = Arc::new(Gate::default());
        assert_eq!(gate.check(9, 0), Err(Closed::Unknown), "the age is not known");
        assert_eq!(gate.check(9, 1), Ok(()));
        let mut observation = Observation::new(Arc::clone(&gate));
        observation.begin();
        observation.begin();
        assert_eq!(gate.check(9, 1), Err(Closed::Behind), "the index is not known");
        observation.end(Some(10));
        assert_eq!(gate.check(9, 1), Err(Closed::Behind));
        assert_eq!(gate.check(10, 1), Ok(()));
        gate.observed(7);
        assert_eq!(gate.check(9, 1), Err(Closed::Behind), "the floor never falls");
        gate.unknown(50);
        assert_eq!((gate.check(10, 50), gate.check(10, 51)), (Err(Closed::Unknown), Ok(())));
        gate.new_history(60);
        assert_eq!((gate.check(1, 60), gate.check(1, 61)), (Err(Closed::Unknown), Ok(())));
    }

    #[test]
    fn one_connection_is_checked_by_what_its_client_has_observed() {
        let gate = Arc::new(Gate::default());
        let [mut reader, mut writer] = [(); 2].map(|()| Observation::new(Arc::clone(&gate)));
        assert_eq!(reader.check(0, 0), Ok(()), "nothing was observed");
        writer.begin();
        assert_eq!(writer.check(9, 1), Err(Closed::Behind), "the index is not known");
        writer.end(Some(10));
        reader.read(5);
        assert_eq!((writer.check(9, 1), reader.check(9, 1)), (Err(Closed::Behind), Ok(())));
        assert_eq!(reader.check(4, 1), Err(Closed::Behind), "reads do not go back");
        assert_eq!(gate.check(9, 1), Err(Closed::Behind), "the process has observed what each client has");
        writer.unknown();
        let later_us = gate.now_us() + 1;
        assert_eq!((writer.check(10, 1), writer.check(10, later_us)), (Err(Closed::Unknown), Ok(())));
        assert_eq!(reader.check(10, 1), Ok(()));
        gate.new_history(later_us);
        assert_eq!(reader.check(10, later_us + 1), Err(Closed::Unknown), "of another history");
        assert_eq!(Observation::new(Arc::clone(&gate)).check(1, 1), Ok(()));
    }

    #[test]
    fn connection_that_ends_before_the_index_is_known_leaves_it_unknown() {
        let gate = Arc::new(Gate::default());
        let mut observation = Observation::new(Arc::clone(&gate));
        observation.begin();
        let began = gate.now_us();
        drop(observation);
        assert_eq!(gate.check(u64::MAX, began), Err(Closed::Unknown));
        assert_eq!(gate.check(u64::MAX, gate.now_us() + 1), Ok(()));
        let after = gate.now_us() + 1;
        drop(Observation::new(Arc::clone(&gate)));
        assert_eq!(gate.check(u64::MAX, after), Ok(()), "nothing was observed");
    }
}
