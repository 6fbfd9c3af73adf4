//! The idle limit of connections, which may change while connections wait under it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

/// Idle limit; clones share it. `None`: no limit.
#[derive(Debug, Clone, Default)]
pub struct IdleTimeout(Arc<watch::Sender<Option<Duration>>>);

impl IdleTimeout {
    pub fn new(limit: Option<Duration>) -> Self {
        Self(Arc::new(watch::Sender::new(limit)))
    }

    pub fn get(&self) -> Option<Duration> {
        *self.0.borrow()
    }

    /// Sets the limit, which applies at once, also to connections that are idle already.
    pub fn set(&self, limit: Option<Duration>) {
        self.0.send_replace(limit);
    }

    /// Resolves once a connection that is idle since `since` exceeds the limit.
    pub async fn passed(&self, since: Instant) {
        let mut limit = self.0.subscribe();
        loop {
            let end = limit.borrow_and_update().map(|limit| since + limit);
            tokio::select! {
                () = until(end) => return,
                // `self` holds the sender, so that there is no error.
                changed = limit.changed() => if changed.is_err() { return std::future::pending().await },
            }
        }
    }
}

/// Resolves at `end`; never if it is `None`.
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
    async fn a_changed_idle_limit_applies_to_connections_that_are_idle_already() {
        let limit = IdleTimeout::default();
        let mut waiting = std::pin::pin!(limit.passed(Instant::now() - LONG));
        assert!(poll!(&mut waiting).is_pending(), "timed out although there is no limit");
        limit.set(Some(2 * LONG));
        assert!(poll!(&mut waiting).is_pending(), "timed out too early");
        limit.set(Some(LONG / 2));
        waiting.await;
    }
}
