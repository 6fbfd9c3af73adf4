//! Connection slots of one port. A connection holds its slot until it ends. When all are taken, the oldest connection
//! that has not proven to be a client's is evicted for the next one.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// Slots of one port; clones share them.
#[derive(Debug, Clone)]
pub struct Slots(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    free: Arc<Semaphore>,
    last_number: AtomicU64,
    /// Connections that have not proven yet to be a client's, the oldest first.
    newcomers: Mutex<BTreeMap<u64, CancellationToken>>,
}

/// A slot; dropping it frees it.
#[derive(Debug)]
pub struct Slot {
    inner: Arc<Inner>,
    number: u64,
    evicted: CancellationToken,
    _permit: OwnedSemaphorePermit,
}

impl Slots {
    pub fn new(count: usize) -> Self {
        let free = Arc::new(Semaphore::new(count.min(Semaphore::MAX_PERMITS)));
        Self(Arc::new(Inner { free, last_number: AtomicU64::new(0), newcomers: Mutex::default() }))
    }

    /// Takes a slot for an accepted connection. If all are taken, evicts the oldest unproven connection, and waits for
    /// one to end. `None` only if the slots were dropped.
    pub async fn take(&self) -> Option<Slot> {
        let free = Arc::clone(&self.0.free);
        let permit = match Arc::clone(&free).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                if let Some((_, oldest)) = self.0.newcomers().pop_first() {
                    oldest.cancel();
                }
                free.acquire_owned().await.ok()?
            }
        };
        let number = self.0.last_number.fetch_add(1, Ordering::Relaxed);
        let evicted = CancellationToken::new();
        self.0.newcomers().insert(number, evicted.clone());
        Some(Slot { inner: Arc::clone(&self.0), number, evicted, _permit: permit })
    }
}

impl Slot {
    /// Marks the connection as a client's: it is not evicted any more.
    pub fn prove(&self) {
        self.inner.newcomers().remove(&self.number);
    }

    /// Returns the token that is cancelled when the connection is evicted.
    pub fn evicted(&self) -> CancellationToken {
        self.evicted.clone()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.prove();
    }
}

impl Inner {
    // Poisoning is ignored: every critical section leaves a consistent map.
    fn newcomers(&self) -> MutexGuard<'_, BTreeMap<u64, CancellationToken>> {
        self.newcomers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures::poll;

    use super::*;

    #[tokio::test]
    async fn the_oldest_unproven_connection_is_evicted_and_a_proven_one_is_not() {
        let slots = Slots::new(2);
        let (proven, newcomer) = (slots.take().await.unwrap(), slots.take().await.unwrap());
        proven.prove();
        let evicted = newcomer.evicted();
        let mut next = Box::pin(slots.take());
        assert!(poll!(&mut next).is_pending() && evicted.is_cancelled() && !proven.evicted().is_cancelled());
        drop(newcomer);
        let next = next.await.unwrap();
        next.prove();
        let mut last = Box::pin(slots.take());
        assert!(poll!(&mut last).is_pending() && !next.evicted().is_cancelled());
        drop(proven);
        assert!(poll!(&mut last).is_ready());
    }
}
