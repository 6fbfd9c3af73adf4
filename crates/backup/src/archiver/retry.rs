//! When a call that failed is repeated, and when a write to the store is given up.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::pace::backoff;
use crate::time::millis;

/// Calls that failed in a row.
#[derive(Debug, Default)]
pub struct Retry {
    pub failures: u32,
    /// No call before this time, milliseconds.
    pub at: u64,
}

impl Retry {
    /// `slow`: the pause after an error that only an admin can end.
    pub fn failed(&mut self, now: u64, slow: Option<Duration>) {
        self.failures = self.failures.saturating_add(1);
        let pause = slow.unwrap_or_else(|| backoff(self.failures, rand::random()));
        self.at = now.saturating_add(millis(pause));
    }

    pub fn succeeded(&mut self) {
        *self = Self::default();
    }
}

/// Awaits a write to the store. Returns `None` if it is cancelled: by the shutdown or, during the shutdown, by the timeout `limit`.
/// The client of a store retries a request for up to 20 s, and longer without a response.
pub async fn unless_stopped<T>(
    write: impl Future<Output = T>,
    stop: &CancellationToken,
    limit: Option<Duration>,
) -> Option<T> {
    let given_up = async {
        match limit {
            Some(limit) => tokio::time::sleep(limit).await,
            None => stop.cancelled().await,
        }
    };
    tokio::select! {
        biased;
        written = write => Some(written),
        () = given_up => None,
    }
}
