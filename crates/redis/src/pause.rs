//! `CLIENT PAUSE`: the clients of this node wait for a while before their next command is executed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;

/// Maximum length of a pause, one year: an `Instant` cannot represent any length.
const MAX_LENGTH: Duration = Duration::from_secs(365 * 86_400);

#[derive(Debug, Default)]
pub struct Pause {
    /// False if there is no pause; spares every command a look at `current`.
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
    /// Starts a pause. A pause that is in effect is extended, never shortened, and stays a pause of all clients
    /// if it is one.
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

    /// Whether a pause holds a request now; `writes`: whether the request writes.
    pub fn holds(&self, writes: bool) -> bool {
        self.may_be_on.load(Ordering::Relaxed) && self.until(writes).is_some()
    }

    /// Resolves when no pause holds a request that writes, or does not, any more.
    pub async fn is_over(&self, writes: bool) {
        let mut changes = self.current.subscribe();
        while let Some(until) = self.until(writes) {
            tokio::select! {
                () = tokio::time::sleep_until(until.into()) => {}
                // The sender outlives this borrow.
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
