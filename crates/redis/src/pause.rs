//! `CLIENT PAUSE`: this node's clients wait for a while before their next command is run.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;

/// A year; what clocks can hold has an end.
const MAX_LENGTH: Duration = Duration::from_secs(365 * 86_400);

#[derive(Debug, Default)]
pub struct Pause {
    /// Spares every command a look at the rest.
    may_be_on: AtomicBool,
    current: watch::Sender<Option<Paused>>,
}

#[derive(Debug, Clone, Copy)]
struct Paused {
    until: Instant,
    whom: Whom,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whom {
    Writers,
    All,
}

impl Pause {
    /// A pause that is on already is made neither shorter nor milder.
    pub fn begin(&self, length: Duration, whom: Whom) {
        self.may_be_on.store(true, Ordering::Relaxed);
        self.current.send_modify(|current| {
            let now = Instant::now();
            let known = current.filter(|known| known.until > now);
            let until = now + length.min(MAX_LENGTH);
            *current = Some(Paused {
                until: known.map_or(until, |known| known.until.max(until)),
                whom: if known.is_some_and(|known| known.whom == Whom::All) { Whom::All } else { whom },
            });
        });
    }

    pub fn end(&self) {
        self.may_be_on.store(false, Ordering::Relaxed);
        self.current.send_replace(None);
    }

    /// A client that writes, or one that does not, has to wait now.
    pub fn holds(&self, writes: bool) -> bool {
        self.may_be_on.load(Ordering::Relaxed) && self.until(writes).is_some()
    }

    /// Resolves once it need not wait any more.
    pub async fn is_over(&self, writes: bool) {
        let mut changes = self.current.subscribe();
        while let Some(until) = self.until(writes) {
            tokio::select! {
                () = tokio::time::sleep_until(until.into()) => {}
                // The sender outlives this borrow of it.
                _ = changes.changed() => {}
            }
        }
    }

    fn until(&self, writes: bool) -> Option<Instant> {
        let current = *self.current.borrow();
        current
            .filter(|paused| paused.whom == Whom::All || writes)
            .map(|paused| paused.until)
            .filter(|until| *until > Instant::now())
    }
}
