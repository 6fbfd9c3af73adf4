//! The limit of idle connections, which can change while connections wait under it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

/// The limit, shared by clones; `None`: none.
#[derive(Debug, Clone, Default)]
pub struct IdleTimeout(Arc<watch::Sender<Option<Duration>>>);

impl IdleTimeout {
    pub fn new(limit: Option<Duration>) -> Self {
        Self(Arc::new(watch::Sender::new(limit)))
    }

    pub fn get(&self) -> Option<Duration> {
        *self.0.borrow()
    }

    /// Sets the limit, also for connections that are idle already.
    pub fn set(&self, limit: Option<Duration>) {
        self.0.send_replace(limit);
    }

    /// Resolves when a connection that is idle since `since` has reached the limit.
    pub async fn passed(&self, since: Instant) {
        let mut limit = self.0.subscribe();
        loop {
            let end = limit.borrow_and_update().map(|limit| since + limit);
            tokio::select! {
                () = until(end) => return,
                // `self` holds the sender, so that this ends with a change only.
                changed = limit.changed() => if changed.is_err() { return std::future::pending().await },
            }
        }
    }
}

/// Resolves at `end`; never, if there is none.
pub async fn until(end: Option<Instant>) {
    match end {
        Some(end) => tokio::time::sleep_until(end.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use futures::poll;

    use super::*;

    const LONG: Duration = Duration::from_secs(600);

    #[tokio::test]
    async fn a_limit_that_is_set_later_counts_for_who_waits_already() {
        let limit = IdleTimeout::default();
        let mut waiting = std::pin::pin!(limit.passed(Instant::now() - LONG));
        assert!(poll!(&mut waiting).is_pending(), "cut off though there is no limit");
        limit.set(Some(2 * LONG));
        assert!(poll!(&mut waiting).is_pending(), "cut off before its time");
        limit.set(Some(LONG / 2));
        waiting.await;
    }
}
